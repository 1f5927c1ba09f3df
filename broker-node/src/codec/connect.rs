//! CONNECT (§3.1).

use holdfast_proto::record::NEVER_EXPIRES;
use holdfast_proto::topic;
use holdfast_session::Protocol;

use super::packet::{message_property, user_property};
use super::reader::{Reader, once};
use super::{DecodeError, property};

/// Why a first packet does not open a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectError {
    /// Not MQTT, or not CONNECT: say nothing.
    NotMqtt,
    /// A protocol level of before MQTT 3.1.1.
    LevelTooOld,
    /// A protocol level that we do not know.
    LevelUnknown,
    /// It breaks the rules of its level.
    Refused(Protocol, DecodeError),
}

/// A CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) protocol: Protocol,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) client_id: String,
    pub(crate) will: Option<Will>,
    /// Absent in MQTT 3.1.1.
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: u32,
    pub(crate) has_auth_method: bool,
}

/// A will message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) delay_s: u32,
    pub(crate) expiry_interval_s: u32,
    pub(crate) properties: Vec<u8>,
}

const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

/// Reads the body of a CONNECT.
pub(crate) fn decode_connect(body: &[u8]) -> Result<Connect, ConnectError> {
    let mut reader = Reader::new(body);
    let name = reader.binary().map_err(|_| ConnectError::NotMqtt)?;
    let level = reader.u8().map_err(|_| ConnectError::NotMqtt)?;
    let protocol = match (name, level) {
        (b"MQTT", 4) => Protocol::V3,
        (b"MQTT", 5) => Protocol::V5,
        (b"MQTT", 0..4) | (b"MQIsdp", _) => return Err(ConnectError::LevelTooOld),
        (b"MQTT", _) => return Err(ConnectError::LevelUnknown),
        _ => return Err(ConnectError::NotMqtt),
    };
    connect(reader, protocol).map_err(|error| ConnectError::Refused(protocol, error))
}

fn connect(mut reader: Reader<'_>, protocol: Protocol) -> Result<Connect, DecodeError> {
    let flags = reader.u8()?;
    check_flags(flags, protocol)?;
    let mut connect = Connect {
        protocol,
        clean_start: flags & CLEAN_START != 0,
        keep_alive_s: reader.u16()?,
        client_id: String::new(),
        will: None,
        session_expiry_s: None,
        receive_maximum: u16::MAX,
        packet_bytes_max: u32::MAX,
        has_auth_method: false,
    };
    if protocol == Protocol::V5 {
        connect.session_expiry_s = Some(0);
        properties(reader.properties()?, &mut connect)?;
    }
    reader.text()?.clone_into(&mut connect.client_id);
    if flags & WILL != 0 {
        connect.will = Some(will(&mut reader, flags, protocol)?);
    }
    if flags & USER_NAME != 0 {
        reader.text()?;
    }
    if flags & PASSWORD != 0 {
        reader.binary()?;
    }
    reader.end()?;
    Ok(connect)
}

fn check_flags(flags: u8, protocol: Protocol) -> Result<(), DecodeError> {
    let will_qos = flags >> 3 & 0b11;
    if flags & 1 != 0
        || will_qos == 3
        || (flags & WILL == 0 && (will_qos != 0 || flags & WILL_RETAIN != 0))
        || (protocol == Protocol::V3 && flags & PASSWORD != 0 && flags & USER_NAME == 0)
    {
        return Err(DecodeError::Malformed("connect flags"));
    }
    Ok(())
}

fn properties(mut reader: Reader<'_>, connect: &mut Connect) -> Result<(), DecodeError> {
    let mut seen = 0;
    while !reader.is_empty() {
        let id = reader.u8()?;
        if id != property::USER {
            once(&mut seen, id)?;
        }
        match id {
            property::USER => user_property(&mut reader)?,
            property::SESSION_EXPIRY => connect.session_expiry_s = Some(reader.u32()?),
            property::RECEIVE_MAXIMUM => {
                connect.receive_maximum = reader.u16()?;
                if connect.receive_maximum == 0 {
                    return Err(DecodeError::Protocol("receive maximum 0"));
                }
            }
            property::MAXIMUM_PACKET_SIZE => {
                connect.packet_bytes_max = reader.u32()?;
                if connect.packet_bytes_max == 0 {
                    return Err(DecodeError::Protocol("maximum packet size 0"));
                }
            }
            property::TOPIC_ALIAS_MAXIMUM => {
                reader.u16()?;
            }
            property::REQUEST_PROBLEM | property::REQUEST_RESPONSE => {
                reader.flag()?;
            }
            property::AUTH_METHOD => {
                reader.text()?;
                connect.has_auth_method = true;
            }
            property::AUTH_DATA => {
                reader.binary()?;
            }
            _ => return Err(DecodeError::Malformed("unknown property")),
        }
    }
    if seen >> property::AUTH_DATA & 1 == 1 && !connect.has_auth_method {
        return Err(DecodeError::Protocol("authentication data without a method"));
    }
    Ok(())
}

fn will(reader: &mut Reader<'_>, flags: u8, protocol: Protocol) -> Result<Will, DecodeError> {
    let mut will = Will {
        topic: String::new(),
        payload: Vec::new(),
        qos: flags >> 3 & 0b11,
        retain: flags & WILL_RETAIN != 0,
        delay_s: 0,
        expiry_interval_s: NEVER_EXPIRES,
        properties: Vec::new(),
    };
    let mut is_text = false;
    if protocol == Protocol::V5 {
        let mut properties = reader.properties()?;
        let mut seen = 0;
        while !properties.is_empty() {
            let whole = properties.rest();
            let id = properties.u8()?;
            match id {
                property::WILL_DELAY => {
                    once(&mut seen, id)?;
                    will.delay_s = properties.u32()?;
                }
                property::MESSAGE_EXPIRY => {
                    once(&mut seen, id)?;
                    will.expiry_interval_s = properties.u32()?;
                }
                _ => {
                    is_text |= message_property(id, &mut properties, &mut seen)?;
                    let bytes = whole.len() - properties.rest().len();
                    will.properties.extend_from_slice(&whole[..bytes]);
                }
            }
        }
    }
    let name = reader.text()?;
    if topic::check_name(name).is_err() {
        return Err(DecodeError::TopicName);
    }
    name.clone_into(&mut will.topic);
    will.payload = reader.binary()?.to_vec();
    if is_text && std::str::from_utf8(&will.payload).is_err() {
        return Err(DecodeError::PayloadFormat);
    }
    Ok(will)
}
