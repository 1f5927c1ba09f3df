//! Placed records: records with their positions, as tails push them and reads answer them.
//!
//! Each is `u64 position, u64 time of its entry in ms, record`, little-endian, one after the other.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::Position;
use crate::record::{Record, RecordError};

/// A record and where and when its shard stored it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Position in the shard.
    pub position: Position,
    /// Shard time of its entry, ms since the Unix epoch.
    pub time_ms: u64,
    /// The message.
    pub record: Record,
}

impl Placed {
    /// Bytes before the record.
    pub const PREFIX_BYTES: usize = 16;

    /// Appends the placed record to a block.
    pub fn encode(out: &mut BytesMut, position: Position, time_ms: u64, record: &Record) {
        out.reserve(Self::PREFIX_BYTES + record.as_bytes().len());
        out.put_u64_le(position.0);
        out.put_u64_le(time_ms);
        out.put_slice(record.as_bytes());
    }

    /// Reads a whole block; the records share its memory.
    ///
    /// # Errors
    /// The first placed record that is cut short or malformed.
    pub fn decode_all(mut block: Bytes) -> Result<Vec<Placed>, RecordError> {
        let mut all = Vec::new();
        while !block.is_empty() {
            if block.len() < Self::PREFIX_BYTES {
                return Err(RecordError::Short);
            }
            let position = Position(block.get_u64_le());
            let time_ms = block.get_u64_le();
            let record = Record::split_from(&mut block)?;
            all.push(Placed { position, time_ms, record });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Namespace};
    use crate::record::RecordDraft;

    #[test]
    fn a_block_is_read_back_and_a_cut_one_is_refused() {
        let mut record = BytesMut::new();
        RecordDraft {
            namespace: Namespace(3),
            topic: "t/1",
            client_id: "c",
            epoch: Epoch(4),
            qos: 2,
            retain: true,
            will: false,
            packet_id: 7,
            expiry_interval_s: 60,
            properties: &[],
            payload: b"hello",
        }
        .encode(&mut record);
        let record = Record::split_checked_from(&mut record.freeze()).unwrap();
        let mut block = BytesMut::new();
        for n in 1..=3 {
            Placed::encode(&mut block, Position(n), 1_000 + n, &record);
        }
        let block = block.freeze();
        let all = Placed::decode_all(block.clone()).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all[2], Placed { position: Position(3), time_ms: 1_003, record });
        assert!(Placed::decode_all(block.slice(..block.len() - 1)).is_err());
    }
}
