//! What a start finds in the segments.
//!
//! Rounds name the segment before theirs and where it ends, so the segments in use form a chain, newest
//! first. The largest synced place that any round names divides what is bad: at or behind it the first
//! bad place is where the tail was torn, and the log is cut there; before it, something that was synced
//! is lost. Then, if the frame's header is good, only what the frame says is lost (and that may be dead
//! by now); if it is not, every replica that can have a frame there is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{
    FLAG_COPY, HEADER_BYTES, Header, Kind, Place, ROUND_ALIGN, ROUND_HEADER_BYTES, RoundHeader,
    Seed, decode_roster, frame_bytes, member_bit,
};
use super::{LogError, ReplicaKey, segment};
use crate::disk::{Disk, DiskFile, OpenOptions};

const EVERYBODY: u64 = u64::MAX;

/// A segment that is in use.
pub(crate) struct FoundSegment {
    pub(crate) sequence: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) bytes: u32,
}

/// A mark and where it stands; `good` if its payload is as it was written.
#[derive(Debug, Clone)]
pub(crate) struct FoundMark {
    pub(crate) index: u64,
    pub(crate) bytes: Bytes,
    pub(crate) place: Place,
    good: bool,
}

/// What the log says of a replica.
#[derive(Debug, Default)]
pub(crate) struct FoundReplica {
    pub(crate) entries: BTreeMap<u64, (Place, u32)>,
    bad_entries: BTreeMap<u64, Place>,
    pub(crate) marks: BTreeMap<u8, (Kind, FoundMark)>,
    born: Option<Place>,
    /// Why it may not be used.
    pub(crate) damaged: Option<String>,
    /// Whether an earlier start found that.
    pub(crate) damage_is_marked: bool,
}

/// All that a start needs.
pub(crate) struct Found {
    /// In use, oldest first.
    pub(crate) segments: Vec<FoundSegment>,
    /// Files that are not needed.
    pub(crate) free: Vec<u32>,
    pub(crate) replicas: BTreeMap<ReplicaKey, FoundReplica>,
    /// Where the log ends.
    pub(crate) end: Place,
    pub(crate) sequence_max: u32,
    /// Whether a torn tail was cut.
    pub(crate) cut: bool,
}

enum Event {
    Frame {
        place: Place,
        header: Header,
        payload: Bytes,
        good: bool,
    },
    /// Unknown frames of some of `members` are lost.
    Lost {
        place: Place,
        members: u64,
    },
}

impl Event {
    fn place(&self) -> Place {
        match self {
            Event::Frame { place, .. } | Event::Lost { place, .. } => *place,
        }
    }

    fn is_bad(&self) -> bool {
        matches!(self, Event::Lost { .. } | Event::Frame { good: false, .. })
    }
}

/// One segment, read.
struct Scan {
    rounds: Vec<RoundHeader>,
    events: Vec<Event>,
    end: u32,
}

/// Reads the log in `dir`, whose segment files have the given sequence numbers.
pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &str,
    log_id: u64,
    mut sequences: Vec<u32>,
) -> Result<Found, LogError> {
    sequences.sort_unstable();
    let sequence_max = sequences.last().copied().unwrap_or(0);
    let mut segments = Vec::new();
    let mut scans: Vec<Vec<Event>> = Vec::new();
    let (mut synced, mut oldest) = (Place::default(), 0);
    let mut end = Place::default();
    // The segment of the chain to look at: its number and, if known, where it ends.
    let mut next = sequences.last().map(|sequence| (*sequence, None));
    while let Some((sequence, limit)) = next {
        let found = sequences.contains(&sequence);
        let read = if found { Some(read_segment(disk, dir, sequence)?) } else { None };
        let scan = match &read {
            Some((_, bytes)) => scan_segment(Seed::new(log_id, sequence), sequence, bytes, limit),
            None => Scan { rounds: Vec::new(), events: Vec::new(), end: 0 },
        };
        if segments.is_empty() && scan.rounds.is_empty() {
            // Never used, or torn before its first round was synced.
            sequences.pop();
            next = sequences.last().map(|sequence| (*sequence, None));
            continue;
        }
        for round in &scan.rounds {
            synced = synced.max(round.synced);
            oldest = oldest.max(round.oldest);
        }
        let mut events = scan.events;
        if let Some(limit) = limit
            && scan.end < limit
        {
            let place = Place { sequence, offset: scan.end };
            events.push(Event::Lost { place, members: EVERYBODY });
        }
        if segments.is_empty() {
            end = Place { sequence, offset: scan.end };
        }
        let previous = match scan.rounds.first() {
            Some(round) => round.previous,
            None => {
                events
                    .push(Event::Lost { place: Place { sequence, offset: 0 }, members: EVERYBODY });
                let before = sequences.iter().rev().find(|known| **known < sequence);
                Place { sequence: before.copied().unwrap_or(0), offset: u32::MAX }
            }
        };
        scans.push(events);
        if let Some((file, bytes)) = read {
            segments.push(FoundSegment { sequence, file, bytes: bytes.len() as u32 });
        }
        if previous.sequence == 0 || previous.sequence < oldest {
            break;
        }
        next = Some((previous.sequence, (previous.offset != u32::MAX).then_some(previous.offset)));
    }
    segments.reverse();
    let used: Vec<u32> = segments.iter().map(|segment| segment.sequence).collect();
    let free = all_free(disk, dir, &used)?;
    let mut replay = Replay { replicas: BTreeMap::new(), lost: Vec::new() };
    let mut cut = false;
    for event in scans.into_iter().rev().flatten() {
        if event.is_bad() && event.place() >= synced {
            end = end.min(event.place());
            cut = true;
            break;
        }
        replay.apply(event);
    }
    Ok(Found { segments, free, replicas: replay.finish(), end, sequence_max, cut })
}

fn all_free(disk: &dyn Disk, dir: &str, used: &[u32]) -> Result<Vec<u32>, LogError> {
    let mut all = segment::list(disk, dir)?;
    all.retain(|sequence| !used.contains(sequence));
    Ok(all)
}

fn read_segment(
    disk: &dyn Disk,
    dir: &str,
    sequence: u32,
) -> Result<(Arc<dyn DiskFile>, Bytes), LogError> {
    let path = segment::path(dir, sequence);
    let file = disk.open(&path, OpenOptions::WRITE).map_err(LogError::disk("open", &path))?;
    let length = file.length().map_err(LogError::disk("measure", &path))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(LogError::disk("read", &path))?;
    Ok((file, bytes.into()))
}

fn scan_segment(seed: Seed, sequence: u32, bytes: &Bytes, limit: Option<u32>) -> Scan {
    let length = bytes.len() as u32;
    let limit = limit.unwrap_or(length).min(length);
    let mut scan = Scan { rounds: Vec::new(), events: Vec::new(), end: 0 };
    while scan.end < limit {
        let offset = scan.end;
        match RoundHeader::decode(seed, bytes, offset) {
            Some(round) if round_fits(&round, offset, length) => {
                scan_round(seed, sequence, bytes, offset, &round, limit, &mut scan.events);
                scan.rounds.push(round);
                scan.end = offset + round.bytes;
            }
            _ => {
                let step = ROUND_ALIGN as usize;
                let found = (offset as usize + step..limit as usize)
                    .step_by(step)
                    .find(|at| RoundHeader::decode(seed, bytes, *at as u32).is_some());
                let Some(found) = found else { break };
                let place = Place { sequence, offset };
                scan.events.push(Event::Lost { place, members: EVERYBODY });
                scan.end = found as u32;
            }
        }
    }
    scan
}

fn round_fits(round: &RoundHeader, offset: u32, length: u32) -> bool {
    round.bytes >= ROUND_ALIGN as u32
        && u64::from(round.bytes).is_multiple_of(ROUND_ALIGN)
        && round.bytes <= length - offset
        && round.end >= ROUND_HEADER_BYTES as u32
        && round.end <= round.bytes
}

fn scan_round(
    seed: Seed,
    sequence: u32,
    bytes: &Bytes,
    offset: u32,
    round: &RoundHeader,
    limit: u32,
    events: &mut Vec<Event>,
) {
    let end = (offset + round.end) as usize;
    let mut at = offset as usize + ROUND_HEADER_BYTES;
    for _ in 0..round.frames {
        if at >= limit as usize {
            return;
        }
        let place = Place { sequence, offset: at as u32 };
        let header = Header::decode(seed, &bytes[..end][at.min(end)..]);
        let payload = header.and_then(|header| {
            let start = at + HEADER_BYTES;
            let payload_end = start.checked_add(header.payload_bytes as usize)?;
            (payload_end <= end).then(|| (header, bytes.slice(start..payload_end)))
        });
        let Some((header, payload)) = payload else {
            events.push(Event::Lost { place, members: round.members });
            return;
        };
        let good = header.payload_is_good(seed, &payload);
        // An entry stays on the disk; everything else is small and must not pin the whole segment.
        let payload = match header.kind {
            Kind::Entry => Bytes::new(),
            _ => Bytes::copy_from_slice(&payload),
        };
        events.push(Event::Frame { place, header, payload, good });
        at += frame_bytes(header.payload_bytes as usize);
    }
}

struct Replay {
    replicas: BTreeMap<ReplicaKey, FoundReplica>,
    lost: Vec<(Place, u64)>,
}

impl Replay {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Lost { place, members } => self.lost.push((place, members)),
            Event::Frame { header, .. } if header.kind == Kind::Removed => {
                self.replicas.remove(&header.key);
            }
            Event::Frame { header, payload, good, .. } if header.kind == Kind::Roster => {
                // A bad one is of no harm: the next round has it again.
                for key in decode_roster(&payload).filter(|_| good) {
                    self.replicas.entry(key).or_default();
                }
            }
            Event::Frame { place, header, payload, good } => {
                let replica = self.replicas.entry(header.key).or_default();
                replica.apply(place, &header, payload, good);
            }
        }
    }

    fn finish(mut self) -> BTreeMap<ReplicaKey, FoundReplica> {
        for (key, replica) in &mut self.replicas {
            replica.finish();
            for (place, members) in &self.lost {
                let can_be = members & member_bit(*key) != 0;
                let born_later = replica.born.is_some_and(|born| born > *place);
                if can_be && !born_later && replica.damaged.is_none() {
                    replica.damaged = Some(format!(
                        "synced frames are lost in segment {} at {}",
                        place.sequence, place.offset
                    ));
                }
            }
        }
        self.replicas
    }
}

impl FoundReplica {
    fn apply(&mut self, place: Place, header: &Header, payload: Bytes, good: bool) {
        let index = header.index;
        match header.kind {
            Kind::Entry => {
                if self.purged().is_some_and(|purged| index <= purged) {
                    return;
                }
                self.entries.insert(index, (place, header.payload_bytes));
                self.bad_entries.remove(&index);
                if !good {
                    self.bad_entries.insert(index, place);
                }
            }
            Kind::Truncate => {
                self.entries.split_off(&index);
                self.bad_entries.split_off(&index);
            }
            Kind::Round | Kind::Removed | Kind::Roster => {}
            kind => {
                if kind == Kind::Purge {
                    self.entries = self.entries.split_off(&(index + 1));
                    self.bad_entries = self.bad_entries.split_off(&(index + 1));
                }
                if kind == Kind::Added && header.flags & FLAG_COPY == 0 {
                    self.born = Some(place);
                }
                let mark = FoundMark { index, bytes: payload, place, good };
                self.marks.insert(kind as u8, (kind, mark));
            }
        }
    }

    fn purged(&self) -> Option<u64> {
        self.mark(Kind::Purge).map(|mark| mark.index)
    }

    pub(crate) fn mark(&self, kind: Kind) -> Option<&FoundMark> {
        self.marks.get(&(kind as u8)).map(|(_, mark)| mark)
    }

    fn finish(&mut self) {
        let bad = self.marks.values().find(|(_, mark)| !mark.good).map(|(_, mark)| mark.place);
        let bad = bad.or_else(|| self.bad_entries.values().next().copied());
        if let Some(mark) = self.mark(Kind::Damaged) {
            self.damaged = Some(String::from_utf8_lossy(&mark.bytes).into_owned());
            self.damage_is_marked = true;
        } else if let Some(place) = bad {
            self.damaged = Some(format!(
                "a frame is damaged in segment {} at {}",
                place.sequence, place.offset
            ));
        } else if self.mark(Kind::Added).is_none() {
            self.damaged = Some("its beginning is missing".into());
        } else if self.has_hole() {
            self.damaged = Some("entries are missing".into());
        }
        self.marks.retain(|_, (_, mark)| mark.good);
    }

    fn has_hole(&self) -> bool {
        let (Some((first, _)), Some((last, _))) =
            (self.entries.first_key_value(), self.entries.last_key_value())
        else {
            return false;
        };
        last - first + 1 != self.entries.len() as u64
            || self.purged().is_some_and(|purged| purged + 1 != *first)
    }
}
