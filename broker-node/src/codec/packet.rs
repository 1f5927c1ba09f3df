//! Packets after CONNECT.

use std::borrow::Cow;

use holdfast_proto::record::NEVER_EXPIRES;
use holdfast_proto::topic;
use holdfast_session::{AckKind, InboundPublish, Protocol, SubscribeFilter, SubscribePacket};

use super::reader::{Reader, once};
use super::{DecodeError, Frame, property};

/// What a client may send.
#[derive(Debug)]
pub(crate) enum Packet<'a> {
    Publish(InboundPublish<'a>),
    Ack { kind: AckKind, packet_id: u16, reason: u8 },
    Subscribe(SubscribePacket),
    Unsubscribe { packet_id: u16, filters: Vec<String> },
    Ping,
    Disconnect { reason: u8, expiry_interval_s: Option<u32> },
    Auth,
    Connect,
}

/// Reads a packet of a connection that has had its CONNECT.
pub(crate) fn decode<'a>(frame: Frame<'a>, protocol: Protocol) -> Result<Packet<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let packet = match frame.first >> 4 {
        3 => return publish(frame.first, reader, protocol).map(Packet::Publish),
        4 => ack(AckKind::Puback, &mut reader, protocol)?,
        5 => ack(AckKind::Pubrec, &mut reader, protocol)?,
        6 => ack(AckKind::Pubrel, &mut reader, protocol)?,
        7 => ack(AckKind::Pubcomp, &mut reader, protocol)?,
        8 => Packet::Subscribe(subscribe(&mut reader, protocol)?),
        10 => unsubscribe(&mut reader, protocol)?,
        12 => Packet::Ping,
        14 => disconnect(&mut reader, protocol)?,
        15 if protocol == Protocol::V5 => return Ok(Packet::Auth),
        1 => return Ok(Packet::Connect),
        _ => return Err(DecodeError::Protocol("unknown packet type")),
    };
    reader.end()?;
    Ok(packet)
}

fn publish<'a>(
    first: u8,
    mut reader: Reader<'a>,
    protocol: Protocol,
) -> Result<InboundPublish<'a>, DecodeError> {
    let qos = first >> 1 & 0b11;
    let topic = reader.text()?;
    let packet_id = if qos > 0 { reader.packet_id()? } else { 0 };
    let mut publish = InboundPublish {
        qos,
        retain: first & 1 == 1,
        packet_id,
        topic,
        topic_alias: 0,
        has_subscription_id: false,
        expiry_interval_s: NEVER_EXPIRES,
        properties: Cow::Borrowed(&[]),
        payload: &[],
    };
    let mut is_text = false;
    if protocol == Protocol::V5 {
        let properties = reader.properties()?;
        if !properties.is_empty() {
            is_text = publish_properties(properties, &mut publish)?;
        }
    }
    publish.payload = reader.rest();
    if is_text && std::str::from_utf8(publish.payload).is_err() {
        return Err(DecodeError::PayloadFormat);
    }
    Ok(publish)
}

/// Returns whether the payload is said to be text.
fn publish_properties<'a>(
    mut reader: Reader<'a>,
    publish: &mut InboundPublish<'a>,
) -> Result<bool, DecodeError> {
    let all = reader.rest();
    let mut kept: Cow<'a, [u8]> = Cow::Borrowed(&[]);
    let mut seen = 0;
    let mut is_text = false;
    while !reader.is_empty() {
        let start = all.len() - reader.rest().len();
        let id = reader.u8()?;
        let travels = match id {
            property::MESSAGE_EXPIRY => {
                once(&mut seen, id)?;
                // The largest interval (136 years) stands for never.
                publish.expiry_interval_s = reader.u32()?;
                false
            }
            property::TOPIC_ALIAS => {
                once(&mut seen, id)?;
                publish.topic_alias = reader.u16()?;
                if publish.topic_alias == 0 {
                    return Err(DecodeError::TopicAlias);
                }
                false
            }
            property::SUBSCRIPTION_ID => {
                reader.varint()?;
                publish.has_subscription_id = true;
                false
            }
            _ => {
                is_text |= message_property(id, &mut reader, &mut seen)?;
                true
            }
        };
        if travels {
            keep(&mut kept, all, start, all.len() - reader.rest().len());
        }
    }
    publish.properties = kept;
    Ok(is_text)
}

/// Adds `all[start..end]`, without a copy as long as what is kept is one piece.
fn keep<'a>(kept: &mut Cow<'a, [u8]>, all: &'a [u8], start: usize, end: usize) {
    match kept {
        Cow::Borrowed([]) => *kept = Cow::Borrowed(&all[start..end]),
        Cow::Borrowed(piece) => {
            let from = piece.as_ptr() as usize - all.as_ptr() as usize;
            if from + piece.len() == start {
                *kept = Cow::Borrowed(&all[from..end]);
            } else {
                kept.to_mut().extend_from_slice(&all[start..end]);
            }
        }
        Cow::Owned(bytes) => bytes.extend_from_slice(&all[start..end]),
    }
}

/// A property that travels with a message, of a PUBLISH or a will. Returns whether it says that the
/// payload is text.
pub(super) fn message_property(
    id: u8,
    reader: &mut Reader<'_>,
    seen: &mut u64,
) -> Result<bool, DecodeError> {
    if id != property::USER {
        once(seen, id)?;
    }
    match id {
        property::PAYLOAD_FORMAT => return reader.flag(),
        property::CONTENT_TYPE => {
            reader.text()?;
        }
        property::RESPONSE_TOPIC => {
            if topic::check_name(reader.text()?).is_err() {
                return Err(DecodeError::TopicName);
            }
        }
        property::CORRELATION_DATA => {
            reader.binary()?;
        }
        property::USER => user_property(reader)?,
        _ => return Err(DecodeError::Malformed("unknown property")),
    }
    Ok(false)
}

pub(super) fn user_property(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.text()?;
    reader.text()?;
    Ok(())
}

fn ack<'a>(
    kind: AckKind,
    reader: &mut Reader<'a>,
    protocol: Protocol,
) -> Result<Packet<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut reason = 0;
    if protocol == Protocol::V5 && !reader.is_empty() {
        reason = reader.u8()?;
        if !ack_reason_fits(kind, reason) {
            return Err(DecodeError::Protocol("reason code of an acknowledgement"));
        }
        if !reader.is_empty() {
            reason_properties(reader.properties()?)?;
        }
    }
    Ok(Packet::Ack { kind, packet_id, reason })
}

fn ack_reason_fits(kind: AckKind, reason: u8) -> bool {
    match kind {
        AckKind::Puback | AckKind::Pubrec => {
            matches!(reason, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        AckKind::Pubrel | AckKind::Pubcomp => matches!(reason, 0 | 0x92),
    }
}

fn reason_properties(mut reader: Reader<'_>) -> Result<(), DecodeError> {
    let mut seen = 0;
    while !reader.is_empty() {
        match reader.u8()? {
            property::USER => user_property(&mut reader)?,
            property::REASON_STRING => {
                once(&mut seen, property::REASON_STRING)?;
                reader.text()?;
            }
            _ => return Err(DecodeError::Malformed("unknown property")),
        }
    }
    Ok(())
}

fn subscribe(reader: &mut Reader<'_>, protocol: Protocol) -> Result<SubscribePacket, DecodeError> {
    let packet_id = reader.packet_id()?;
    let mut identifier = 0;
    if protocol == Protocol::V5 {
        let mut properties = reader.properties()?;
        let mut seen = 0;
        while !properties.is_empty() {
            match properties.u8()? {
                property::USER => user_property(&mut properties)?,
                property::SUBSCRIPTION_ID => {
                    once(&mut seen, property::SUBSCRIPTION_ID)?;
                    identifier = properties.varint()?;
                    if identifier == 0 {
                        return Err(DecodeError::Protocol("subscription identifier 0"));
                    }
                }
                _ => return Err(DecodeError::Malformed("unknown property")),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.text()?.to_owned();
        let options = reader.u8()?;
        let reserved = if protocol == Protocol::V5 { 0b1100_0000 } else { 0b1111_1100 };
        if options & reserved != 0 || options & 0b11 == 3 {
            return Err(DecodeError::Malformed("subscription options"));
        }
        if options & 0b0011_0000 == 0b0011_0000 {
            return Err(DecodeError::Protocol("retain handling 3"));
        }
        filters.push(SubscribeFilter { filter, options });
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    Ok(SubscribePacket { packet_id, identifier, filters })
}

fn unsubscribe<'a>(reader: &mut Reader<'a>, protocol: Protocol) -> Result<Packet<'a>, DecodeError> {
    let packet_id = reader.packet_id()?;
    if protocol == Protocol::V5 {
        let mut properties = reader.properties()?;
        while !properties.is_empty() {
            match properties.u8()? {
                property::USER => user_property(&mut properties)?,
                _ => return Err(DecodeError::Malformed("unknown property")),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.text()?.to_owned());
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Packet::Unsubscribe { packet_id, filters })
}

fn disconnect<'a>(reader: &mut Reader<'a>, protocol: Protocol) -> Result<Packet<'a>, DecodeError> {
    let mut reason = 0;
    let mut expiry_interval_s = None;
    if protocol == Protocol::V5 && !reader.is_empty() {
        reason = reader.u8()?;
        if !matches!(reason, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99) {
            return Err(DecodeError::Protocol("reason code of DISCONNECT"));
        }
        if !reader.is_empty() {
            let mut properties = reader.properties()?;
            let mut seen = 0;
            while !properties.is_empty() {
                match properties.u8()? {
                    property::USER => user_property(&mut properties)?,
                    property::REASON_STRING => {
                        once(&mut seen, property::REASON_STRING)?;
                        properties.text()?;
                    }
                    property::SESSION_EXPIRY => {
                        once(&mut seen, property::SESSION_EXPIRY)?;
                        expiry_interval_s = Some(properties.u32()?);
                    }
                    _ => return Err(DecodeError::Malformed("unknown property")),
                }
            }
        }
    }
    Ok(Packet::Disconnect { reason, expiry_interval_s })
}
