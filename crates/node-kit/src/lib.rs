//! What every Holdfast process needs to run as a process: configuration, logs and metrics, health,
//! shutdown, and the settings of gRPC and sockets.

pub mod clock;
pub mod config;
pub mod described;
pub mod grpc;
pub mod health;
pub mod http;
pub mod meta_addresses;
pub mod net;
mod process;
pub mod runtime;
pub mod shutdown;
pub mod telemetry;
