//! The record: one published message, in the one format that is sent, replicated, written and read.
//!
//! ```text
//! 0  u32 length of the whole record      20 u64 epoch of the publisher's session
//! 4  u32 crc32c of bytes 8..             28 u32 length of the properties
//! 8  u16 flags                           32 u16 length of the topic
//! 10 u16 QoS 2 packet id, else 0         34 u16 length of the client id
//! 12 u32 namespace                       36 topic, client id, properties, payload
//! 16 u32 expiry interval, s
//! ```
//! Integers are little-endian. Properties are MQTT 5 properties as they stood in the PUBLISH
//! (identifier and value, §2.2.2), without topic alias, subscription id and message expiry.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::ids::{Epoch, Namespace};

/// Length of the fixed part of a record, in bytes.
pub const HEADER_BYTES: usize = 36;

/// Expiry interval of a message that never expires.
pub const NEVER_EXPIRES: u32 = u32::MAX;

const QOS_MASK: u16 = 0b11;
const RETAIN: u16 = 1 << 2;
const WILL: u16 = 1 << 3;

/// Why bytes are not a record.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the lengths announce.
    #[error("record is cut short")]
    Short,
    /// The checksum does not fit the bytes.
    #[error("record checksum does not match")]
    Checksum,
    /// Lengths, flags or text break the format.
    #[error("record is malformed")]
    Malformed,
}

/// A message on its way into the record format.
#[derive(Debug, Clone, Copy)]
pub struct RecordDraft<'a> {
    /// Tenant.
    pub namespace: Namespace,
    /// Valid topic name.
    pub topic: &'a str,
    /// The publisher.
    pub client_id: &'a str,
    /// Epoch of the publisher's session.
    pub epoch: Epoch,
    /// 0, 1 or 2.
    pub qos: u8,
    /// RETAIN as published.
    pub retain: bool,
    /// A will: it is delivered by the log to every gateway.
    pub will: bool,
    /// Packet id of a QoS 2 message, else 0.
    pub packet_id: u16,
    /// Message expiry interval in s, or [`NEVER_EXPIRES`].
    pub expiry_interval_s: u32,
    /// Encoded MQTT 5 properties.
    pub properties: &'a [u8],
    /// Application message.
    pub payload: &'a [u8],
}

impl RecordDraft<'_> {
    /// Length of the encoded record, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES
            + self.topic.len()
            + self.client_id.len()
            + self.properties.len()
            + self.payload.len()
    }

    /// Appends the encoded record to `out`. Topic and client id must fit 16-bit lengths, which MQTT
    /// guarantees.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        let length = self.encoded_len();
        out.reserve(length);
        let flags = u16::from(self.qos) & QOS_MASK
            | if self.retain { RETAIN } else { 0 }
            | if self.will { WILL } else { 0 };
        out.put_u32_le(length as u32);
        out.put_u32_le(0);
        out.put_u16_le(flags);
        out.put_u16_le(self.packet_id);
        out.put_u32_le(self.namespace.0);
        out.put_u32_le(self.expiry_interval_s);
        out.put_u64_le(self.epoch.0);
        out.put_u32_le(self.properties.len() as u32);
        out.put_u16_le(self.topic.len() as u16);
        out.put_u16_le(self.client_id.len() as u16);
        out.put_slice(self.topic.as_bytes());
        out.put_slice(self.client_id.as_bytes());
        out.put_slice(self.properties);
        out.put_slice(self.payload);
        let crc = crc32c::crc32c(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A record in its encoded form; cheap to clone. Its lengths and text were checked when it was made.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Bytes);

impl Record {
    /// Takes the first record off `block`, checking lengths and text but not the checksum: use it for
    /// bytes whose checksum this process has checked or that came over a checked transport.
    ///
    /// # Errors
    /// [`RecordError::Short`] or [`RecordError::Malformed`]; `block` is unchanged then.
    pub fn split_from(block: &mut Bytes) -> Result<Record, RecordError> {
        let length = Self::check_layout(block)?;
        Ok(Record(block.split_to(length)))
    }

    /// As [`Record::split_from`], and checks the checksum.
    ///
    /// # Errors
    /// As [`Record::split_from`], or [`RecordError::Checksum`].
    pub fn split_checked_from(block: &mut Bytes) -> Result<Record, RecordError> {
        let length = Self::check_layout(block)?;
        if crc32c::crc32c(&block[8..length]) != u32_at(block, 4) {
            return Err(RecordError::Checksum);
        }
        Ok(Record(block.split_to(length)))
    }

    /// Length of the record at the start of `bytes`, after checking its lengths and text.
    fn check_layout(bytes: &[u8]) -> Result<usize, RecordError> {
        if bytes.len() < HEADER_BYTES {
            return Err(RecordError::Short);
        }
        let length = u32_at(bytes, 0) as usize;
        if length < HEADER_BYTES {
            return Err(RecordError::Malformed);
        }
        if bytes.len() < length {
            return Err(RecordError::Short);
        }
        let (topic, client) = (usize::from(u16_at(bytes, 32)), usize::from(u16_at(bytes, 34)));
        let text = topic + client;
        if text + u32_at(bytes, 28) as usize > length - HEADER_BYTES
            || u16_at(bytes, 8) & QOS_MASK == QOS_MASK
        {
            return Err(RecordError::Malformed);
        }
        let text = &bytes[HEADER_BYTES..HEADER_BYTES + text];
        if std::str::from_utf8(&text[..topic]).is_err()
            || std::str::from_utf8(&text[topic..]).is_err()
        {
            return Err(RecordError::Malformed);
        }
        Ok(length)
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    fn flags(&self) -> u16 {
        u16_at(&self.0, 8)
    }

    /// QoS at which it was published.
    #[must_use]
    pub fn qos(&self) -> u8 {
        (self.flags() & QOS_MASK) as u8
    }

    /// RETAIN as published.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.flags() & RETAIN != 0
    }

    /// Whether it is a will.
    #[must_use]
    pub fn is_will(&self) -> bool {
        self.flags() & WILL != 0
    }

    /// Packet id of a QoS 2 message, else 0.
    #[must_use]
    pub fn packet_id(&self) -> u16 {
        u16_at(&self.0, 10)
    }

    /// Tenant.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace(u32_at(&self.0, 12))
    }

    /// Message expiry interval in s, or [`NEVER_EXPIRES`].
    #[must_use]
    pub fn expiry_interval_s(&self) -> u32 {
        u32_at(&self.0, 16)
    }

    /// Epoch of the publisher's session.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(u64_at(&self.0, 20))
    }

    fn topic_end(&self) -> usize {
        HEADER_BYTES + usize::from(u16_at(&self.0, 32))
    }

    fn client_end(&self) -> usize {
        self.topic_end() + usize::from(u16_at(&self.0, 34))
    }

    fn properties_end(&self) -> usize {
        self.client_end() + u32_at(&self.0, 28) as usize
    }

    /// Topic name.
    #[must_use]
    pub fn topic(&self) -> &str {
        // Checked when the record was made; an impossible failure shows as an empty topic.
        std::str::from_utf8(&self.0[HEADER_BYTES..self.topic_end()]).unwrap_or_default()
    }

    /// Topic name, sharing the record's memory.
    #[must_use]
    pub fn topic_bytes(&self) -> Bytes {
        self.0.slice(HEADER_BYTES..self.topic_end())
    }

    /// The publisher.
    #[must_use]
    pub fn client_id(&self) -> &str {
        std::str::from_utf8(&self.0[self.topic_end()..self.client_end()]).unwrap_or_default()
    }

    /// Encoded MQTT 5 properties.
    #[must_use]
    pub fn properties(&self) -> Bytes {
        self.0.slice(self.client_end()..self.properties_end())
    }

    /// Application message.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.0.slice(self.properties_end()..)
    }

    /// Seconds left of the message at `now_ms` if it was stored at `stored_ms` (both shard time):
    /// `None` if it never expires, `Some(0)` if it has expired.
    #[must_use]
    pub fn expiry_left_s(&self, stored_ms: u64, now_ms: u64) -> Option<u32> {
        let interval = self.expiry_interval_s();
        if interval == NEVER_EXPIRES {
            return None;
        }
        let held_s = now_ms.saturating_sub(stored_ms) / 1000;
        Some(u32::try_from(u64::from(interval).saturating_sub(held_s)).unwrap_or(0))
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("topic", &self.topic())
            .field("client_id", &self.client_id())
            .field("qos", &self.qos())
            .field("payload_bytes", &(self.0.len() - self.properties_end()))
            .finish()
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(
            topic in "[a-zß/]{1,20}", client_id in "[a-z]{0,20}", epoch: u64, qos in 0u8..3,
            retain: bool, will: bool, packet_id: u16, expiry_interval_s: u32,
            properties in prop::collection::vec(any::<u8>(), 0..40),
            payload in prop::collection::vec(any::<u8>(), 0..200),
            namespace: u32, flipped in 0usize..400,
        ) {
            let draft = RecordDraft {
                namespace: Namespace(namespace), topic: &topic, client_id: &client_id,
                epoch: Epoch(epoch), qos, retain, will, packet_id, expiry_interval_s,
                properties: &properties, payload: &payload,
            };
            let mut out = BytesMut::new();
            draft.encode(&mut out);
            draft.encode(&mut out);
            prop_assert_eq!(out.len(), 2 * draft.encoded_len());
            let mut damaged = out[..draft.encoded_len()].to_vec();
            let mut block = out.freeze();
            let record = Record::split_checked_from(&mut block)?;
            prop_assert_eq!(&record, &Record::split_from(&mut block)?);
            prop_assert!(block.is_empty());
            prop_assert_eq!(record.topic(), topic);
            prop_assert_eq!(record.client_id(), client_id);
            prop_assert_eq!(record.qos(), qos);
            prop_assert_eq!((record.retain(), record.is_will()), (retain, will));
            prop_assert_eq!(record.packet_id(), packet_id);
            prop_assert_eq!(record.epoch(), Epoch(epoch));
            prop_assert_eq!(record.namespace(), Namespace(namespace));
            prop_assert_eq!(record.expiry_interval_s(), expiry_interval_s);
            prop_assert_eq!(&record.properties()[..], &properties[..]);
            prop_assert_eq!(&record.payload()[..], &payload[..]);
            let at = flipped % damaged.len();
            damaged[at] ^= 1;
            prop_assert!(Record::split_checked_from(&mut Bytes::from(damaged)).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_safe(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(record) = Record::split_from(&mut Bytes::from(bytes)) {
                let _ = (record.topic(), record.client_id(), record.properties(), record.payload());
            }
        }
    }

    #[test]
    fn expiry_counts_from_the_time_of_the_entry() {
        let draft = RecordDraft {
            namespace: Namespace(0),
            topic: "t",
            client_id: "",
            epoch: Epoch(0),
            qos: 1,
            retain: false,
            will: false,
            packet_id: 0,
            expiry_interval_s: 10,
            properties: &[],
            payload: &[],
        };
        let mut out = BytesMut::new();
        draft.encode(&mut out);
        let record = Record::split_checked_from(&mut out.freeze()).unwrap();
        assert_eq!(record.expiry_left_s(5_000, 5_000), Some(10));
        assert_eq!(record.expiry_left_s(5_000, 8_999), Some(7));
        assert_eq!(record.expiry_left_s(5_000, 15_000), Some(0));
        assert_eq!(record.expiry_left_s(5_000, 1_000), Some(10));
    }
}
