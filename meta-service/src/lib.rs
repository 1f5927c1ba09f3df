//! Holdfast's metadata service: what `holdfast-control` decides, made durable in a store and served over
//! gRPC. `DESIGN.md` beside this crate tells how its parts fit.

mod admin;
mod certificates;
pub mod config;
mod controller;
mod election;
mod filters;
mod leading;
mod metrics;
mod rows;
pub mod server;
mod service;
mod sessions;
mod standby;
pub mod store;
pub mod stores;
mod streams;
mod sweep;

pub use controller::ControllerError;
pub use election::Lost;
pub use metrics::describe as describe_metrics;
pub use rows::BadRow;
