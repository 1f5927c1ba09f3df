//! The MQTT side of the command: a quick look with publish and subscribe, and a check of the promises.

pub(crate) mod check;
pub(crate) mod gateway;
pub(crate) mod link;
pub(crate) mod outbox;
pub(crate) mod publish;
mod reason;
pub(crate) mod subscribe;

use rumqttc::v5::mqttbytes::QoS;

use crate::amount;

/// QoS of the command line.
pub(crate) fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// A client id that nobody else has.
pub(crate) fn fresh_id(purpose: &str) -> String {
    format!("holdfast-{purpose}-{:x}-{:x}", std::process::id(), amount::now_ms())
}
