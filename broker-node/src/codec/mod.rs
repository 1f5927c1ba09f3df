//! MQTT packets on the wire: strict reading of what a client may send, writing of what we send.
//!
//! Reading borrows the socket's buffer: a PUBLISH goes from there into the record format without a
//! copy in between, with its properties as they were received.

mod connect;
mod encode;
mod frame;
mod packet;
mod reader;

use holdfast_session::reason;
use thiserror::Error;

pub(crate) use connect::{Connect, ConnectError, Will, decode_connect};
pub(crate) use encode::{
    Connack, connack_refused_v3, connack_refused_v5, encode_connack, encode_disconnect,
    encode_effect,
};
pub(crate) use frame::{Frame, next_frame};
pub(crate) use packet::{Packet, decode};

/// Why a packet is refused; every kind ends the connection.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// It does not follow its format.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// It follows its format, and is not allowed.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// It is larger than allowed.
    #[error("packet too large")]
    TooLarge,
    /// A topic breaks the rules for names.
    #[error("invalid topic name")]
    TopicName,
    /// The topic alias cannot be.
    #[error("invalid topic alias")]
    TopicAlias,
    /// The payload is not the text that it says to be.
    #[error("payload is not UTF-8")]
    PayloadFormat,
}

impl DecodeError {
    /// Reason code of MQTT 5.
    pub(crate) fn reason(self) -> u8 {
        match self {
            DecodeError::Malformed(_) => reason::MALFORMED,
            DecodeError::Protocol(_) => reason::PROTOCOL_ERROR,
            DecodeError::TooLarge => reason::TOO_LARGE,
            DecodeError::TopicName => reason::TOPIC_INVALID,
            DecodeError::TopicAlias => reason::ALIAS_INVALID,
            DecodeError::PayloadFormat => reason::PAYLOAD_FORMAT,
        }
    }

    /// For logs and counters.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            DecodeError::Malformed(cause) | DecodeError::Protocol(cause) => cause,
            DecodeError::TooLarge => "packet too large",
            DecodeError::TopicName => "invalid topic name",
            DecodeError::TopicAlias => "invalid topic alias",
            DecodeError::PayloadFormat => "payload is not UTF-8",
        }
    }
}

/// Property identifiers of MQTT 5 (§2.2.2.2).
mod property {
    pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(super) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(super) const CONTENT_TYPE: u8 = 0x03;
    pub(super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(super) const CORRELATION_DATA: u8 = 0x09;
    pub(super) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(super) const SESSION_EXPIRY: u8 = 0x11;
    pub(super) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(super) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(super) const AUTH_METHOD: u8 = 0x15;
    pub(super) const AUTH_DATA: u8 = 0x16;
    pub(super) const REQUEST_PROBLEM: u8 = 0x17;
    pub(super) const WILL_DELAY: u8 = 0x18;
    pub(super) const REQUEST_RESPONSE: u8 = 0x19;
    pub(super) const SERVER_REFERENCE: u8 = 0x1C;
    pub(super) const REASON_STRING: u8 = 0x1F;
    pub(super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(super) const TOPIC_ALIAS: u8 = 0x23;
    pub(super) const USER: u8 = 0x26;
    pub(super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(super) const WILDCARDS_AVAILABLE: u8 = 0x28;
    pub(super) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(super) const SHARED_AVAILABLE: u8 = 0x2A;
}

#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod tests;
