//! Packets that we send, straight into the output buffer.

use bytes::{BufMut, BytesMut};
use holdfast_session::{AckKind, Delivery, Effect, Protocol, reason};

use super::property;

/// An accepting CONNACK.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connack<'a> {
    pub(crate) session_present: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) topic_alias_maximum: u16,
    /// Told if it is not what the client asked for.
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) assigned_client_id: Option<&'a str>,
    pub(crate) server_keep_alive_s: Option<u16>,
}

/// Writes an accepting CONNACK.
pub(crate) fn encode_connack(out: &mut BytesMut, connack: &Connack<'_>, protocol: Protocol) {
    let present = u8::from(connack.session_present);
    if protocol == Protocol::V3 {
        out.put_slice(&[0x20, 2, present, 0]);
        return;
    }
    let mut properties = BytesMut::with_capacity(64);
    properties.put_u8(property::RECEIVE_MAXIMUM);
    properties.put_u16(connack.receive_maximum);
    properties.put_u8(property::MAXIMUM_PACKET_SIZE);
    properties.put_u32(connack.packet_bytes_max);
    properties.put_u8(property::TOPIC_ALIAS_MAXIMUM);
    properties.put_u16(connack.topic_alias_maximum);
    properties.put_slice(&[property::WILDCARDS_AVAILABLE, 1]);
    properties.put_slice(&[property::SUBSCRIPTION_IDS_AVAILABLE, 1]);
    properties.put_slice(&[property::SHARED_AVAILABLE, 0]);
    if let Some(expiry) = connack.session_expiry_s {
        properties.put_u8(property::SESSION_EXPIRY);
        properties.put_u32(expiry);
    }
    if let Some(keep_alive) = connack.server_keep_alive_s {
        properties.put_u8(property::SERVER_KEEP_ALIVE);
        properties.put_u16(keep_alive);
    }
    if let Some(client_id) = connack.assigned_client_id {
        properties.put_u8(property::ASSIGNED_CLIENT_ID);
        properties.put_u16(client_id.len() as u16);
        properties.put_slice(client_id.as_bytes());
    }
    out.put_u8(0x20);
    put_varint(out, 2 + varint_bytes(properties.len()) + properties.len());
    out.put_slice(&[present, reason::SUCCESS]);
    put_varint(out, properties.len());
    out.put_slice(&properties);
}

/// Writes a refusing CONNACK of MQTT 3.1.1 with this return code.
pub(crate) fn connack_refused_v3(out: &mut BytesMut, code: u8) {
    out.put_slice(&[0x20, 2, 0, code]);
}

/// Writes a DISCONNECT of MQTT 5. The server reference is left out if the packet would be larger than
/// the client takes.
pub(crate) fn encode_disconnect(
    out: &mut BytesMut,
    code: u8,
    server_reference: Option<&str>,
    packet_bytes_max: u32,
) {
    let properties = server_reference.map(server_reference_property).unwrap_or_default();
    let remaining = 1 + varint_bytes(properties.len()) + properties.len();
    if 1 + varint_bytes(remaining) + remaining > packet_bytes_max as usize {
        out.put_slice(&[0xE0, 2, code, 0]);
        return;
    }
    out.put_u8(0xE0);
    put_varint(out, remaining);
    out.put_u8(code);
    put_varint(out, properties.len());
    out.put_slice(&properties);
}

/// Writes a refusing CONNACK of MQTT 5.
pub(crate) fn connack_refused_v5(out: &mut BytesMut, code: u8, server_reference: Option<&str>) {
    let properties = server_reference.map(server_reference_property).unwrap_or_default();
    out.put_u8(0x20);
    put_varint(out, 2 + varint_bytes(properties.len()) + properties.len());
    out.put_slice(&[0, code]);
    put_varint(out, properties.len());
    out.put_slice(&properties);
}

fn server_reference_property(reference: &str) -> BytesMut {
    let mut property = BytesMut::with_capacity(3 + reference.len());
    property.put_u8(property::SERVER_REFERENCE);
    property.put_u16(reference.len() as u16);
    property.put_slice(reference.as_bytes());
    property
}

/// Writes the packet of an effect that sends one; others write nothing and give `false`.
pub(crate) fn encode_effect(out: &mut BytesMut, effect: &Effect, protocol: Protocol) -> bool {
    match effect {
        Effect::Deliver(delivery) => encode_publish(out, delivery, protocol),
        Effect::Ack { kind, packet_id, reason } => {
            encode_ack(out, *kind, *packet_id, *reason, protocol);
        }
        Effect::Suback { packet_id, codes } => {
            encode_codes(out, 0x90, *packet_id, codes, protocol);
        }
        Effect::Unsuback { packet_id, codes } => {
            let codes = if protocol == Protocol::V3 { &[] } else { codes.as_slice() };
            encode_codes(out, 0xB0, *packet_id, codes, protocol);
        }
        Effect::Pong => out.put_slice(&[0xD0, 0]),
        _ => return false,
    }
    true
}

fn encode_publish(out: &mut BytesMut, delivery: &Delivery, protocol: Protocol) {
    let record = &delivery.record;
    let (topic, payload) = (record.topic(), record.payload());
    let v5 = protocol == Protocol::V5;
    let properties_bytes = if v5 { delivery.properties_bytes() } else { 0 };
    let mut remaining = 2 + topic.len() + payload.len();
    if delivery.qos > 0 {
        remaining += 2;
    }
    if v5 {
        remaining += varint_bytes(properties_bytes) + properties_bytes;
    }
    out.reserve(5 + remaining);
    let flags = u8::from(delivery.dup) << 3 | delivery.qos << 1 | u8::from(delivery.retain);
    out.put_u8(0x30 | flags);
    put_varint(out, remaining);
    out.put_u16(topic.len() as u16);
    out.put_slice(topic.as_bytes());
    if delivery.qos > 0 {
        out.put_u16(delivery.packet_id);
    }
    if v5 {
        put_varint(out, properties_bytes);
        if properties_bytes > 0 {
            if let Some(left) = delivery.expiry_left_s {
                out.put_u8(property::MESSAGE_EXPIRY);
                out.put_u32(left);
            }
            for id in &delivery.subscription_ids {
                out.put_u8(property::SUBSCRIPTION_ID);
                put_varint(out, *id as usize);
            }
            out.put_slice(&record.properties());
        }
    }
    out.put_slice(&payload);
}

fn encode_ack(out: &mut BytesMut, kind: AckKind, packet_id: u16, code: u8, protocol: Protocol) {
    let first = match kind {
        AckKind::Puback => 0x40,
        AckKind::Pubrec => 0x50,
        AckKind::Pubrel => 0x62,
        AckKind::Pubcomp => 0x70,
    };
    let [high, low] = packet_id.to_be_bytes();
    if protocol == Protocol::V3 || code == reason::SUCCESS {
        out.put_slice(&[first, 2, high, low]);
    } else {
        out.put_slice(&[first, 3, high, low, code]);
    }
}

fn encode_codes(out: &mut BytesMut, first: u8, packet_id: u16, codes: &[u8], protocol: Protocol) {
    let v5 = protocol == Protocol::V5;
    out.put_u8(first);
    put_varint(out, 2 + usize::from(v5) + codes.len());
    out.put_u16(packet_id);
    if v5 {
        out.put_u8(0);
    }
    out.put_slice(codes);
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_bytes(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
