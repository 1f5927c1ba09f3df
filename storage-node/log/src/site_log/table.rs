//! What the site log keeps, in memory: every replica's index and marks, the cache of recent entries,
//! and how much of every segment is live. Pure.
//!
//! Invariants: a replica's entries are dense; a thing counts as live in a segment exactly while its
//! spot is a place in it; a cached entry that is not on the disk yet is never dropped from the cache.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::frame::{Kind, Place, frame_bytes};
use super::round::Frame;
use super::spot::Spot;
use super::{LogEntry, LogError, ReplicaKey, ReplicaLogState};

/// Something that can be live in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    Entry(u64),
    Mark(Kind),
}

#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) spot: Spot,
    pub(crate) bytes: u32,
    pub(crate) cached: Option<Bytes>,
}

/// The last vote, purge mark, ... of a replica.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) bytes: Bytes,
    pub(crate) spot: Spot,
}

#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub(crate) entries: VecDeque<Slot>,
    /// Index of the first of `entries`.
    pub(crate) first: u64,
    /// Vote, Purge, Committed, Added, Damaged.
    marks: [Option<Mark>; 5],
    pub(crate) committed_waits: bool,
    entry_bytes: u64,
}

fn slot_of(kind: Kind) -> Option<usize> {
    match kind {
        Kind::Vote => Some(0),
        Kind::Purge => Some(1),
        Kind::Committed => Some(2),
        Kind::Added => Some(3),
        Kind::Damaged => Some(4),
        _ => None,
    }
}

impl Replica {
    pub(crate) fn mark(&self, kind: Kind) -> Option<&Mark> {
        slot_of(kind).and_then(|at| self.marks[at].as_ref())
    }

    pub(crate) fn last(&self) -> Option<u64> {
        (!self.entries.is_empty()).then(|| self.first + self.entries.len() as u64 - 1)
    }

    pub(crate) fn slot(&self, index: u64) -> Option<&Slot> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.entries.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn spot_mut(&mut self, item: Item) -> Option<(&mut Spot, usize)> {
        match item {
            Item::Entry(index) => {
                self.slot_mut(index).map(|slot| (&mut slot.spot, slot.bytes as usize))
            }
            Item::Mark(kind) => {
                let mark = self.marks[slot_of(kind)?].as_mut()?;
                Some((&mut mark.spot, mark.bytes.len()))
            }
        }
    }

    /// The committed mark as a frame, unless it is on the disk.
    pub(crate) fn committed_frame(&self, key: ReplicaKey) -> Option<Frame> {
        let mark = self.mark(Kind::Committed)?;
        let (kind, sent, payload) = (Kind::Committed, mark.spot, mark.bytes.clone());
        sent.stamp()?;
        Some(Frame { key, kind, index: 0, payload, sent, done: None })
    }

    /// The index that the next entry must have; `None`: any.
    fn expected(&self) -> Option<u64> {
        match self.last() {
            Some(last) => Some(last + 1),
            None => self.mark(Kind::Purge).map(|mark| mark.index + 1),
        }
    }
}

/// What is known of a segment's content.
#[derive(Debug, Default)]
pub(crate) struct SegmentUse {
    pub(crate) live_bytes: u64,
    /// What was live in it when it came; what still is, is found by its spot.
    pub(crate) items: Vec<(ReplicaKey, Item)>,
}

/// A thing to be appended again.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) key: ReplicaKey,
    pub(crate) item: Item,
    pub(crate) index: u64,
    pub(crate) from: Place,
    pub(crate) bytes: usize,
    pub(crate) cached: Option<Bytes>,
}

/// All replicas of a site.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) replicas: HashMap<ReplicaKey, Replica>,
    pub(crate) segments: BTreeMap<u32, SegmentUse>,
    /// Frame bytes of everything live, on the disk or on its way.
    pub(crate) live_bytes: u64,
    cache_order: VecDeque<(ReplicaKey, u64)>,
    cached_bytes: u64,
    cached_entries: usize,
    cache_bytes_max: u64,
    /// Replicas whose committed mark waits for the next round.
    pub(crate) committed_waiting: Vec<ReplicaKey>,
}

impl Table {
    pub(crate) fn new(cache_bytes_max: u64) -> Table {
        Table {
            replicas: HashMap::new(),
            segments: BTreeMap::new(),
            live_bytes: 0,
            cache_order: VecDeque::new(),
            cached_bytes: 0,
            cached_entries: 0,
            cache_bytes_max,
            committed_waiting: Vec::new(),
        }
    }

    /// The replica, if it may be changed.
    pub(crate) fn usable(&self, key: ReplicaKey) -> Result<&Replica, LogError> {
        let replica = self.replicas.get(&key).ok_or(LogError::UnknownReplica(key))?;
        match replica.mark(Kind::Damaged) {
            Some(_) => Err(LogError::Damaged(key)),
            None => Ok(replica),
        }
    }

    /// Whether the entries follow one another and what is there.
    pub(crate) fn check_append(
        &self,
        key: ReplicaKey,
        entries: &[LogEntry],
    ) -> Result<(), LogError> {
        let mut expected = self.usable(key)?.expected();
        for entry in entries {
            if let Some(expected) = expected
                && expected != entry.index
            {
                return Err(LogError::NotContiguous { key, expected, got: entry.index });
            }
            expected = Some(entry.index + 1);
        }
        Ok(())
    }

    pub(crate) fn push_entry(&mut self, key: ReplicaKey, entry: &LogEntry, stamp: u64) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        if replica.entries.is_empty() {
            replica.first = entry.index;
        }
        let bytes = entry.bytes.len();
        replica.entries.push_back(Slot {
            spot: Spot::pending(stamp),
            bytes: bytes as u32,
            cached: Some(entry.bytes.clone()),
        });
        replica.entry_bytes += frame_bytes(bytes) as u64;
        self.live_bytes += frame_bytes(bytes) as u64;
        self.cached_bytes += bytes as u64;
        self.cached_entries += 1;
        self.cache_order.push_back((key, entry.index));
    }

    /// Sets a mark; what it replaces is dead.
    pub(crate) fn set_mark(
        &mut self,
        key: ReplicaKey,
        kind: Kind,
        index: u64,
        bytes: Bytes,
        spot: Spot,
    ) {
        let Some(at) = slot_of(kind) else { return };
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        self.live_bytes += frame_bytes(bytes.len()) as u64;
        if let Some(old) = replica.marks[at].replace(Mark { index, bytes, spot }) {
            self.bury(old.spot, old.bytes.len());
        }
    }

    /// Keeps a committed mark for the next round.
    pub(crate) fn set_committed(&mut self, key: ReplicaKey, bytes: Bytes, stamp: u64) {
        self.set_mark(key, Kind::Committed, 0, bytes, Spot::pending(stamp));
        if let Some(replica) = self.replicas.get_mut(&key)
            && !replica.committed_waits
        {
            replica.committed_waits = true;
            self.committed_waiting.push(key);
        }
    }

    /// Accounts for something that nobody needs any more.
    fn bury(&mut self, spot: Spot, payload: usize) {
        let bytes = frame_bytes(payload) as u64;
        self.live_bytes -= bytes;
        if let Some(place) = spot.place()
            && let Some(segment) = self.segments.get_mut(&place.sequence)
        {
            segment.live_bytes -= bytes;
        }
    }

    fn bury_slot(&mut self, slot: Slot) {
        if slot.cached.is_some() {
            self.cached_bytes -= u64::from(slot.bytes);
            self.cached_entries -= 1;
        }
        self.bury(slot.spot, slot.bytes as usize);
    }

    /// Voids the entries from `from` on.
    pub(crate) fn truncate(&mut self, key: ReplicaKey, from: u64) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let mut gone = Vec::new();
        while replica.last().is_some_and(|last| last >= from) {
            gone.extend(replica.entries.pop_back());
        }
        replica.entry_bytes -=
            gone.iter().map(|s| frame_bytes(s.bytes as usize) as u64).sum::<u64>();
        for slot in gone {
            self.bury_slot(slot);
        }
    }

    /// Drops the entries up to `up_to`; an older purge mark than the one that is there changes nothing.
    pub(crate) fn purge(&mut self, key: ReplicaKey, up_to: u64, marker: Bytes, spot: Spot) -> bool {
        let Some(replica) = self.replicas.get_mut(&key) else { return false };
        if replica.mark(Kind::Purge).is_some_and(|mark| mark.index > up_to) {
            return false;
        }
        let mut gone = Vec::new();
        while !replica.entries.is_empty() && replica.first <= up_to {
            gone.extend(replica.entries.pop_front());
            replica.first += 1;
        }
        replica.entry_bytes -=
            gone.iter().map(|s| frame_bytes(s.bytes as usize) as u64).sum::<u64>();
        for slot in gone {
            self.bury_slot(slot);
        }
        self.set_mark(key, Kind::Purge, up_to, marker, spot);
        true
    }

    /// Forgets a replica. Returns whether there was one.
    pub(crate) fn remove(&mut self, key: ReplicaKey) -> bool {
        let Some(mut replica) = self.replicas.remove(&key) else { return false };
        for slot in std::mem::take(&mut replica.entries) {
            self.bury_slot(slot);
        }
        for mark in replica.marks.into_iter().flatten() {
            self.bury(mark.spot, mark.bytes.len());
        }
        true
    }

    /// A thing reached the disk: if it is still the one that was sent from `sent`, it is live there.
    pub(crate) fn landed(&mut self, key: ReplicaKey, item: Item, sent: Spot, place: Place) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        let Some((spot, payload)) = replica.spot_mut(item) else { return };
        if *spot != sent {
            return;
        }
        *spot = Spot::at(place);
        let bytes = frame_bytes(payload) as u64;
        let segment = self.segments.entry(place.sequence).or_default();
        segment.live_bytes += bytes;
        segment.items.push((key, item));
        if let Some(old) = sent.place()
            && let Some(segment) = self.segments.get_mut(&old.sequence)
        {
            segment.live_bytes -= bytes;
        }
    }

    /// The next live things of a segment from the `cursor`-th item on, as many as fit `bytes_max` (one
    /// at least if it fits `room`). Moves the cursor.
    pub(crate) fn copies(
        &self,
        sequence: u32,
        cursor: &mut usize,
        bytes_max: usize,
        room: usize,
    ) -> Vec<Copied> {
        let mut copies = Vec::new();
        let Some(segment) = self.segments.get(&sequence) else { return copies };
        let mut total = 0;
        while let Some((key, item)) = segment.items.get(*cursor).copied() {
            if let Some(copied) = self.live_in(sequence, key, item) {
                total += frame_bytes(copied.bytes);
                if total > room || (total > bytes_max && !copies.is_empty()) {
                    break;
                }
                copies.push(copied);
            }
            *cursor += 1;
        }
        copies
    }

    fn live_in(&self, sequence: u32, key: ReplicaKey, item: Item) -> Option<Copied> {
        let replica = self.replicas.get(&key)?;
        let (spot, index, bytes, cached) = match item {
            Item::Entry(index) => {
                let slot = replica.slot(index)?;
                (slot.spot, index, slot.bytes as usize, slot.cached.clone())
            }
            Item::Mark(kind) => {
                let mark = replica.mark(kind)?;
                (mark.spot, mark.index, mark.bytes.len(), Some(mark.bytes.clone()))
            }
        };
        let from = spot.place().filter(|place| place.sequence == sequence)?;
        Some(Copied { key, item, index, from, bytes, cached })
    }

    /// Drops the oldest cached entries until the cache fits its limit.
    pub(crate) fn evict(&mut self) {
        while self.cached_bytes > self.cache_bytes_max {
            let Some((key, index)) = self.cache_order.front().copied() else { break };
            let slot = self.replicas.get_mut(&key).and_then(|replica| replica.slot_mut(index));
            if let Some(slot) = slot
                && slot.cached.is_some()
            {
                if slot.spot.place().is_none() {
                    break;
                }
                slot.cached = None;
                self.cached_bytes -= u64::from(slot.bytes);
                self.cached_entries -= 1;
            }
            self.cache_order.pop_front();
        }
        // Entries that were purged leave their place in the order behind.
        if self.cache_order.len() > 2 * self.cached_entries + 1_024 {
            let replicas = &self.replicas;
            self.cache_order.retain(|(key, index)| {
                let slot = replicas.get(key).and_then(|replica| replica.slot(*index));
                slot.is_some_and(|slot| slot.cached.is_some())
            });
        }
    }

    pub(crate) fn state(&self, key: ReplicaKey) -> Option<ReplicaLogState> {
        let replica = self.replicas.get(&key)?;
        let bytes = |kind| replica.mark(kind).map(|mark| mark.bytes.clone());
        Some(ReplicaLogState {
            purged: replica.mark(Kind::Purge).map(|mark| (mark.index, mark.bytes.clone())),
            first_index: replica.last().map(|_| replica.first),
            last_index: replica.last(),
            vote: bytes(Kind::Vote),
            committed: bytes(Kind::Committed),
        })
    }

    pub(crate) fn entry_bytes(&self, key: ReplicaKey) -> u64 {
        self.replicas.get(&key).map_or(0, |replica| replica.entry_bytes)
    }

    /// Puts a recovered entry where it belongs.
    pub(crate) fn restore_entries(
        &mut self,
        key: ReplicaKey,
        entries: &BTreeMap<u64, (Place, u32)>,
    ) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        replica.first = entries.keys().next().copied().unwrap_or(0);
        for (index, (place, bytes)) in entries {
            let frame = frame_bytes(*bytes as usize) as u64;
            replica.entries.push_back(Slot { spot: Spot::at(*place), bytes: *bytes, cached: None });
            replica.entry_bytes += frame;
            self.live_bytes += frame;
            let segment = self.segments.entry(place.sequence).or_default();
            segment.live_bytes += frame;
            segment.items.push((key, Item::Entry(*index)));
        }
    }

    /// Puts a recovered mark where it belongs.
    pub(crate) fn restore_mark(
        &mut self,
        key: ReplicaKey,
        kind: Kind,
        index: u64,
        bytes: Bytes,
        place: Place,
    ) {
        let frame = frame_bytes(bytes.len()) as u64;
        self.set_mark(key, kind, index, bytes, Spot::at(place));
        let segment = self.segments.entry(place.sequence).or_default();
        segment.live_bytes += frame;
        segment.items.push((key, Item::Mark(kind)));
    }
}
