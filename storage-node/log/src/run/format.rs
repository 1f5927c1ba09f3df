//! Owner of a run's bytes.
//!
//! ```text
//! header   64 B: u64 magic, u32 layout, u16 shard, u16 0, u64 generation, u64 first, u64 end,
//!                u32 records, u32 streams, 12 B 0, u32 crc32c of 0..60
//! data     for every stream (in order of namespace, topic), for every record (in order of position):
//!          u32 crc32c of the next 16 B and the record's own crc, u64 position, u64 time, record
//! order    for every record in order of position: u32 position - first, u32 offset in data, u32 length
//!          (of the record's item in data); chunks of 512, each followed by its crc32c
//! lists    for every stream: u32 crc32c, then for every record: varint position - the one before
//!          (the first: - run's first), varint length of its item
//! streams  for every stream: u32 offset in data, u32 bytes in data, u32 records, u32 offset in lists,
//!          u32 bytes in lists, u32 crc32c of these
//! topics   fst map: namespace (big-endian) and topic -> number of the stream
//! sparse   u32 position - first of every 512th record in order
//! footer   80 B: u64 magic, u64 offset of order, lists, streams, topics, sparse, footer, u32 crc32c of
//!          topics, u32 crc32c of sparse, u32 crc32c of the file up to here, 8 B 0, u32 crc32c of 0..76
//! ```
//! Little-endian.

use holdfast_proto::ids::{Generation, Position, ShardId};

use super::RunId;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FOOTER_BYTES: usize = 80;
pub(crate) const STREAM_BYTES: usize = 24;
pub(crate) const ORDER_BYTES: usize = 12;
/// Records in a chunk of the order.
pub(crate) const ORDER_CHUNK: usize = 512;
/// Bytes before a record's placed form in data.
pub(crate) const ITEM_PREFIX_BYTES: usize = 4;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"HFRUN\x01\0\0");
const FOOTER_MAGIC: u64 = u64::from_le_bytes(*b"HFRUNEND");
/// Layout `topic`.
const LAYOUT_TOPIC: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: RunId,
    pub(crate) records: u32,
    pub(crate) streams: u32,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&LAYOUT_TOPIC.to_le_bytes());
        out[12..14].copy_from_slice(&self.id.shard.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.generation.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.id.first.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.id.end.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.records.to_le_bytes());
        out[44..48].copy_from_slice(&self.streams.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let good = u64_at(bytes, 0) == HEADER_MAGIC
            && u32_at(bytes, 8) == LAYOUT_TOPIC
            && u32_at(bytes, 60) == crc32c::crc32c(&bytes[..60]);
        let id = RunId {
            shard: ShardId(u16::from_le_bytes([bytes[12], bytes[13]])),
            generation: Generation(u64_at(bytes, 16)),
            first: Position(u64_at(bytes, 24)),
            end: Position(u64_at(bytes, 32)),
        };
        good.then(|| Header { id, records: u32_at(bytes, 40), streams: u32_at(bytes, 44) })
    }
}

/// Where the parts of the file are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) order: u64,
    pub(crate) lists: u64,
    pub(crate) streams: u64,
    pub(crate) topics: u64,
    pub(crate) sparse: u64,
    pub(crate) footer: u64,
    pub(crate) topics_crc: u32,
    pub(crate) sparse_crc: u32,
    pub(crate) checksum: u32,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        let parts = [
            FOOTER_MAGIC,
            self.order,
            self.lists,
            self.streams,
            self.topics,
            self.sparse,
            self.footer,
        ];
        for (at, part) in parts.iter().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&part.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.topics_crc.to_le_bytes());
        out[60..64].copy_from_slice(&self.sparse_crc.to_le_bytes());
        out[64..68].copy_from_slice(&self.checksum.to_le_bytes());
        let crc = crc32c::crc32c(&out[..76]);
        out[76..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Option<Footer> {
        let footer = Footer {
            order: u64_at(bytes, 8),
            lists: u64_at(bytes, 16),
            streams: u64_at(bytes, 24),
            topics: u64_at(bytes, 32),
            sparse: u64_at(bytes, 40),
            footer: u64_at(bytes, 48),
            topics_crc: u32_at(bytes, 56),
            sparse_crc: u32_at(bytes, 60),
            checksum: u32_at(bytes, 64),
        };
        let good = u64_at(bytes, 0) == FOOTER_MAGIC
            && u32_at(bytes, 76) == crc32c::crc32c(&bytes[..76])
            && (HEADER_BYTES as u64) <= footer.order
            && footer.order <= footer.lists
            && footer.lists <= footer.streams
            && footer.streams <= footer.topics
            && footer.topics <= footer.sparse
            && footer.sparse <= footer.footer;
        good.then_some(footer)
    }
}

/// Where a stream's records and its list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) data: u32,
    pub(crate) data_bytes: u32,
    pub(crate) records: u32,
    pub(crate) list: u32,
    pub(crate) list_bytes: u32,
}

impl Stream {
    pub(crate) fn encode(&self) -> [u8; STREAM_BYTES] {
        let mut out = [0; STREAM_BYTES];
        let parts = [self.data, self.data_bytes, self.records, self.list, self.list_bytes];
        for (at, part) in parts.iter().enumerate() {
            out[at * 4..at * 4 + 4].copy_from_slice(&part.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..20]);
        out[20..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Stream> {
        if bytes.len() < STREAM_BYTES || u32_at(bytes, 20) != crc32c::crc32c(&bytes[..20]) {
            return None;
        }
        Some(Stream {
            data: u32_at(bytes, 0),
            data_bytes: u32_at(bytes, 4),
            records: u32_at(bytes, 8),
            list: u32_at(bytes, 12),
            list_bytes: u32_at(bytes, 16),
        })
    }
}

/// Where one record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) position: Position,
    pub(crate) data: u32,
    pub(crate) bytes: u32,
}

impl Item {
    pub(crate) fn encode(&self, first: Position) -> [u8; ORDER_BYTES] {
        let mut out = [0; ORDER_BYTES];
        out[0..4].copy_from_slice(&((self.position.0 - first.0) as u32).to_le_bytes());
        out[4..8].copy_from_slice(&self.data.to_le_bytes());
        out[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    pub(crate) fn decode(first: Position, bytes: &[u8]) -> Item {
        Item {
            position: Position(first.0 + u64::from(u32_at(bytes, 0))),
            data: u32_at(bytes, 4),
            bytes: u32_at(bytes, 8),
        }
    }

    /// The placed record in the bytes of its item, if they are what was written.
    pub(crate) fn placed<'a>(&self, item: &'a [u8]) -> Option<&'a [u8]> {
        let (placed, record) = (item.get(ITEM_PREFIX_BYTES..)?, item.get(PLACED_AT..)?);
        let good = item.len() == self.bytes as usize
            && record.len() >= 8
            && u64_at(placed, 0) == self.position.0
            && u32_at(record, 0) as usize == record.len()
            && u32_at(item, 0) == item_crc(&placed[..16], &record[4..8])
            && u32_at(record, 4) == crc32c::crc32c(&record[8..]);
        good.then_some(placed)
    }
}

const PLACED_AT: usize = ITEM_PREFIX_BYTES + 16;

/// Checksum over a placed record's prefix and its record's own checksum.
pub(crate) fn item_crc(prefix: &[u8], record_crc: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(prefix), record_crc)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A topic's key in the dictionary.
pub(crate) fn topic_key(namespace: u32, topic: &str, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&namespace.to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
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
