//! Configuration reference and table of metrics, made from what the programs say of themselves, so
//! that they cannot be wrong: `deploy/CONFIG.md` and `deploy/METRICS.md`.

pub mod config_page;
pub mod metrics_page;
pub mod pages;
pub mod program;
pub mod schema;
