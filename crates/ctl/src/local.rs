//! A cluster on this machine: its processes, ports and data folder.

pub(crate) mod config_file;
pub(crate) mod data_dir;
pub(crate) mod down;
pub(crate) mod halt;
pub(crate) mod plan;
mod ports;
mod probe;
pub(crate) mod process;
mod programs;
pub(crate) mod request;
pub(crate) mod role;
pub(crate) mod scale;
mod sites;
pub(crate) mod status;
pub(crate) mod supervisor;
pub(crate) mod up;
