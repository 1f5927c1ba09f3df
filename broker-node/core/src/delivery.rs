//! An outbound PUBLISH and its size.

use holdfast_proto::record::Record;

use crate::limits::Protocol;

/// A message on its way to the client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// Granted QoS.
    pub qos: u8,
    /// Sent before on an earlier connection.
    pub dup: bool,
    /// RETAIN as it is sent.
    pub retain: bool,
    /// The message.
    pub record: Record,
    /// Seconds left, if the message expires.
    pub expiry_left_s: Option<u32>,
    /// Identifiers of the matching subscriptions.
    pub subscription_ids: Box<[u32]>,
    /// When it was stored or received, ms since the Unix epoch: for measuring.
    pub since_ms: u64,
}

impl Delivery {
    /// Length of the MQTT 5 properties, without their length field.
    #[must_use]
    pub fn properties_bytes(&self) -> usize {
        let ids: usize =
            self.subscription_ids.iter().map(|id| 1 + varint_bytes(*id as usize)).sum();
        ids + if self.expiry_left_s.is_some() { 5 } else { 0 } + self.record.properties().len()
    }
}

/// Bytes of the whole PUBLISH packet.
#[must_use]
pub fn publish_bytes(delivery: &Delivery, protocol: Protocol) -> usize {
    let remaining = publish_remaining(delivery, protocol);
    1 + varint_bytes(remaining) + remaining
}

pub(crate) fn publish_remaining(delivery: &Delivery, protocol: Protocol) -> usize {
    let record = &delivery.record;
    let mut bytes = 2 + record.topic().len() + record.payload().len();
    if delivery.qos > 0 {
        bytes += 2;
    }
    if protocol == Protocol::V5 {
        let properties = delivery.properties_bytes();
        bytes += varint_bytes(properties) + properties;
    }
    bytes
}

pub(crate) fn varint_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
