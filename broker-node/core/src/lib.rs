//! The session core: everything MQTT about one session on one connection, from CONNACK to the end.
//!
//! Pure: it knows no clock, socket or RPC. The shell tells it what came (packets, events, the time)
//! and runs the effects that it answers with, in order. `DESIGN.md` beside this crate explains how.

mod commit;
mod delivery;
mod effect;
mod feed;
mod in_flight;
mod limits;
mod log;
mod matched;
mod operations;
mod outbound;
mod receiving;
mod resume;
mod session;
mod staged;
mod subscriptions;

pub use delivery::{Delivery, publish_bytes};
pub use effect::{AckKind, Close, Counter, Effect, Leave};
pub use limits::{Limits, Protocol, reason};
pub use log::Page;
pub use operations::{SubscribeFilter, SubscribePacket};
pub use receiving::{Decision, InboundPublish, Routing, TopicName};
pub use session::{Opening, Session, Turn};

#[cfg(test)]
mod tests;
