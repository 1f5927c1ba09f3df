//! Reading entries back: from the cache, else from the segments, neighbours with one read.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::core::LogCore;
use super::frame::{HEADER_BYTES, Header, Kind, Place, Seed, frame_bytes};
use super::{LogEntry, LogError, ReplicaKey};
use crate::disk::DiskFile;

/// Neighbours on the disk are read together up to this.
const READ_BYTES: usize = 1 << 20;
/// Frames of others between two neighbours are read along up to this.
const GAP_BYTES: usize = 16 << 10;
/// A segment may be recycled while it is being read; its entries have been copied then.
const ATTEMPTS: usize = 8;

struct Wanted {
    index: u64,
    bytes: usize,
    place: Option<Place>,
    cached: Option<Bytes>,
}

struct Plan {
    wanted: Vec<Wanted>,
    files: HashMap<u32, Arc<dyn DiskFile>>,
}

impl LogCore {
    /// Reads entries from `from` up to (not including) `to`, as far as they are there: at least one if
    /// any, then as many as fit `bytes_max`.
    ///
    /// # Errors
    /// [`LogError::UnknownReplica`], [`LogError::Damaged`], or what the disk did: then the replica is
    /// damaged.
    pub fn read(
        &self,
        key: ReplicaKey,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let mut last = LogError::UnknownReplica(key);
        for _ in 0..ATTEMPTS {
            match self.fetch(key, self.plan(key, from, to, bytes_max)?) {
                Ok(entries) => return Ok(entries),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn plan(
        &self,
        key: ReplicaKey,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Plan, LogError> {
        let state = self.state.lock();
        let replica = state.table.usable(key)?;
        let mut plan = Plan { wanted: Vec::new(), files: HashMap::new() };
        let Some(last) = replica.last() else { return Ok(plan) };
        let mut total = 0;
        for index in from.max(replica.first)..to.min(last + 1) {
            let Some(slot) = replica.slot(index) else { break };
            total += slot.bytes as usize;
            if total > bytes_max && !plan.wanted.is_empty() {
                break;
            }
            let place = slot.spot.place();
            if let Some(place) = place
                && slot.cached.is_none()
                && let Some(file) = state.files.get(&place.sequence)
            {
                plan.files.entry(place.sequence).or_insert_with(|| Arc::clone(file));
            }
            let (bytes, cached) = (slot.bytes as usize, slot.cached.clone());
            plan.wanted.push(Wanted { index, bytes, place, cached });
        }
        Ok(plan)
    }

    fn fetch(&self, key: ReplicaKey, plan: Plan) -> Result<Vec<LogEntry>, LogError> {
        let mut entries = Vec::with_capacity(plan.wanted.len());
        let mut rest = &plan.wanted[..];
        while let Some(first) = rest.first() {
            if let Some(bytes) = &first.cached {
                entries.push(LogEntry { index: first.index, bytes: bytes.clone() });
                rest = &rest[1..];
                continue;
            }
            let Some(place) = first.place else { return Err(LogError::UnknownReplica(key)) };
            let (count, length) = neighbours(rest, place);
            let Some(file) = plan.files.get(&place.sequence) else {
                return Err(self.corrupt(place, "the segment is not there"));
            };
            let block = self.read_block(&**file, place, length)?;
            for wanted in &rest[..count] {
                entries.push(self.entry_in(key, &block, place, wanted)?);
            }
            rest = &rest[count..];
        }
        Ok(entries)
    }

    fn entry_in(
        &self,
        key: ReplicaKey,
        block: &Bytes,
        start: Place,
        wanted: &Wanted,
    ) -> Result<LogEntry, LogError> {
        let place = wanted.place.unwrap_or(start);
        let at = (place.offset - start.offset) as usize;
        let bytes =
            self.payload(Kind::Entry, key, wanted.index, block, at, wanted.bytes, place.sequence);
        match bytes {
            Some(bytes) => Ok(LogEntry { index: wanted.index, bytes }),
            None => Err(self.corrupt(place, "an entry's frame does not match")),
        }
    }

    /// The payload of a frame in a block that was read, if it is what it should be.
    #[expect(clippy::too_many_arguments, reason = "each says what the frame should be")]
    pub(crate) fn payload(
        &self,
        kind: Kind,
        key: ReplicaKey,
        index: u64,
        block: &Bytes,
        at: usize,
        bytes: usize,
        sequence: u32,
    ) -> Option<Bytes> {
        let seed = Seed::new(self.log_id, sequence);
        let header = Header::decode(seed, block.get(at..)?)?;
        let start = at + HEADER_BYTES;
        let payload = block.get(start..start + bytes)?;
        let good = header.kind == kind
            && header.key == key
            && header.index == index
            && header.payload_is_good(seed, payload);
        good.then(|| block.slice(start..start + bytes))
    }

    pub(crate) fn read_block(
        &self,
        file: &dyn DiskFile,
        place: Place,
        length: usize,
    ) -> Result<Bytes, LogError> {
        let mut block = vec![0; length];
        let path = super::segment::path(&self.dir, place.sequence);
        file.read_exact_at(&mut block, u64::from(place.offset))
            .map_err(LogError::disk("read", &path))?;
        Ok(block.into())
    }

    pub(crate) fn corrupt(&self, place: Place, what: &'static str) -> LogError {
        let path = super::segment::path(&self.dir, place.sequence);
        LogError::Corrupt { path, offset: u64::from(place.offset), what }
    }
}

/// How many of the wanted entries, from the first on, one read gets, and its length.
fn neighbours(wanted: &[Wanted], start: Place) -> (usize, usize) {
    let (mut count, mut end) = (0, start.offset as usize);
    for next in wanted {
        let Some(place) = next.place.filter(|place| place.sequence == start.sequence) else {
            break;
        };
        let at = place.offset as usize;
        let after = at + frame_bytes(next.bytes);
        let near =
            at >= end && at - end <= GAP_BYTES && after - start.offset as usize <= READ_BYTES;
        if next.cached.is_some() || (count > 0 && !near) {
            break;
        }
        (count, end) = (count + 1, after);
    }
    (count.max(1), end - start.offset as usize)
}
