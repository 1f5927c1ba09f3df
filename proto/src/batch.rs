//! The batch: records of one gateway for one shard, in one block.
//!
//! ```text
//! 0  u32 magic "HFB\x01"     12 u32 count
//! 4  u32 length of the whole 16 u64 producer incarnation
//! 8  u32 crc32c of 12..40    24 u64 producer sequence
//!                            32 u64 deadline, ms since the Unix epoch in the shard's time
//! 40 records
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::Incarnation;
use crate::record::{Record, RecordDraft, RecordError, u32_at, u64_at};

/// Length of a batch's header, in bytes.
pub const HEADER_BYTES: usize = 40;

/// The format's name and version.
const MAGIC: u32 = u32::from_le_bytes(*b"HFB\x01");

/// Collects records for one shard until the batch is sealed.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    block: BytesMut,
    count: u32,
}

impl BatchBuilder {
    /// Adds a record and returns its index in the batch.
    pub fn push(&mut self, draft: &RecordDraft<'_>) -> u32 {
        if self.block.is_empty() {
            self.block.put_bytes(0, HEADER_BYTES);
        }
        draft.encode(&mut self.block);
        self.count += 1;
        self.count - 1
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.block.len()
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes the header and returns the batch; the builder is empty again.
    pub fn seal(&mut self, incarnation: Incarnation, sequence: u64, deadline_ms: u64) -> Batch {
        if self.block.is_empty() {
            self.block.put_bytes(0, HEADER_BYTES);
        }
        let mut block = self.block.split();
        let header = BatchHeader { count: self.count, incarnation, sequence, deadline_ms };
        let length = block.len() as u32;
        header.write(&mut block[..HEADER_BYTES], length);
        self.count = 0;
        Batch { header, block: block.freeze() }
    }
}

/// What a batch says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// How many records follow.
    pub count: u32,
    /// The gateway's process life.
    pub incarnation: Incarnation,
    /// Contiguous per (incarnation, shard), from 1.
    pub sequence: u64,
    /// After this shard time the leader refuses the batch; ms since the Unix epoch.
    pub deadline_ms: u64,
}

impl BatchHeader {
    fn write(&self, out: &mut [u8], length: u32) {
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&length.to_le_bytes());
        out[12..16].copy_from_slice(&self.count.to_le_bytes());
        out[16..24].copy_from_slice(&self.incarnation.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.deadline_ms.to_le_bytes());
        let crc = crc32c::crc32c(&out[12..HEADER_BYTES]);
        out[8..12].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A sealed batch.
#[derive(Debug, Clone)]
pub struct Batch {
    header: BatchHeader,
    block: Bytes,
}

impl Batch {
    /// Reads a batch that came from another process or a disk: checks the header and every record.
    ///
    /// # Errors
    /// What is wrong with the first part that is wrong.
    pub fn check(block: Bytes) -> Result<Batch, RecordError> {
        let batch = Batch::trust(block)?;
        let mut rest = batch.block.slice(HEADER_BYTES..);
        for _ in 0..batch.header.count {
            Record::split_checked_from(&mut rest)?;
        }
        if rest.is_empty() { Ok(batch) } else { Err(RecordError::Malformed) }
    }

    /// Reads a batch whose records were checked when it entered the log: checks the header only.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn trust(block: Bytes) -> Result<Batch, RecordError> {
        if block.len() < HEADER_BYTES {
            return Err(RecordError::Short);
        }
        if u32_at(&block, 0) != MAGIC || u32_at(&block, 4) as usize != block.len() {
            return Err(RecordError::Malformed);
        }
        if crc32c::crc32c(&block[12..HEADER_BYTES]) != u32_at(&block, 8) {
            return Err(RecordError::Checksum);
        }
        let header = BatchHeader {
            count: u32_at(&block, 12),
            incarnation: Incarnation(u64_at(&block, 16)),
            sequence: u64_at(&block, 24),
            deadline_ms: u64_at(&block, 32),
        };
        Ok(Batch { header, block })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> BatchHeader {
        self.header
    }

    /// A copy with another sequence, for a producer whose earlier sequences the shard never took or has
    /// forgotten.
    #[must_use]
    pub fn with_sequence(&self, sequence: u64) -> Batch {
        let mut block = BytesMut::from(&self.block[..]);
        let header = BatchHeader { sequence, ..self.header };
        let length = block.len() as u32;
        header.write(&mut block[..HEADER_BYTES], length);
        Batch { header, block: block.freeze() }
    }

    /// The encoded bytes, header included.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.block
    }

    /// Its records, in order; they share the batch's memory. Ends early at a malformed record, which
    /// [`Batch::check`] excludes.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let mut rest = self.block.slice(HEADER_BYTES..);
        (0..self.header.count).map_while(move |_| Record::split_from(&mut rest).ok())
    }
}

/// Reads one bit of a bitmap (least significant first); bits past its end are 0.
#[must_use]
pub fn bit(bitmap: &[u8], index: u32) -> bool {
    bitmap.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Sets one bit of a bitmap, growing it as needed.
pub fn set_bit(bitmap: &mut Vec<u8>, index: u32) {
    let at = index as usize / 8;
    if bitmap.len() <= at {
        bitmap.resize(at + 1, 0);
    }
    bitmap[at] |= 1 << (index % 8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{Epoch, Namespace};

    fn draft<'a>(topic: &'a str, payload: &'a [u8]) -> RecordDraft<'a> {
        RecordDraft {
            namespace: Namespace(0),
            topic,
            client_id: "c",
            epoch: Epoch(1),
            qos: 1,
            retain: false,
            will: false,
            packet_id: 0,
            expiry_interval_s: u32::MAX,
            properties: &[],
            payload,
        }
    }

    proptest! {
        #[test]
        fn a_batch_is_read_back_and_damage_is_found(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            sequence: u64, deadline_ms: u64, flipped: usize,
        ) {
            let mut builder = BatchBuilder::default();
            for payload in &payloads {
                builder.push(&draft("a/b", payload));
            }
            let sealed = builder.seal(Incarnation(9), sequence, deadline_ms);
            prop_assert!(builder.is_empty());
            let batch = Batch::check(sealed.as_bytes().clone())?;
            prop_assert_eq!(batch.header(), sealed.header());
            let read: Vec<Vec<u8>> = batch.records().map(|r| r.payload().to_vec()).collect();
            prop_assert_eq!(&read, &payloads);
            let mut damaged = sealed.as_bytes().to_vec();
            let at = flipped % damaged.len();
            damaged[at] ^= 0x10;
            prop_assert!(Batch::check(damaged.into()).is_err());
            let moved = Batch::check(batch.with_sequence(sequence ^ 1).as_bytes().clone())?;
            prop_assert_eq!(moved.header().sequence, sequence ^ 1);
            prop_assert_eq!(moved.records().count(), payloads.len());
        }
    }

    #[test]
    fn bits_are_kept() {
        let mut bitmap = Vec::new();
        set_bit(&mut bitmap, 11);
        assert!(bit(&bitmap, 11) && !bit(&bitmap, 10) && !bit(&bitmap, 400));
    }
}
