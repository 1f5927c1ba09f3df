//! The service over loopback, with fake sites and gateways that speak the real protocol.

mod cluster;
mod filters;
mod peers;
mod sessions;
