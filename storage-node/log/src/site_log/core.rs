//! The log without its thread: what was submitted is known and readable at once, and [`LogCore::commit`]
//! makes it durable, one round at a time.
//!
//! Invariants: rounds are written in the order of submission; at most one round is not synced; a segment
//! is dead only when nothing in it is live *and* everything submitted until that was seen is durable
//! (else a crash could void the purge or the vote that made it dead); it is free only when a later synced
//! round says so. After the first error of the disk nothing is written any more.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::frame::{Kind, Place, ROUND_HEADER_BYTES, frame_bytes};
use super::recovery::{self, Found, FoundReplica};
use super::round::Frame;
use super::segment::{self, Segment, Segments};
use super::spot::Spot;
use super::table::Table;
use super::{
    Done, LogEntry, LogError, LogOptions, LogStats, RecoveredReplica, ReplicaKey, ReplicaLogState,
};
use crate::disk::{Disk, DiskFile};

/// After a change of who there is, and at the start of a segment, this many rounds say who there is: then no
/// single bad place makes a replica unknown.
pub(crate) const ROSTERS: u8 = 2;

/// What everybody sees, under one lock that is never held over a disk call.
pub(crate) struct State {
    pub(crate) table: Table,
    pub(crate) queue: VecDeque<Frame>,
    pub(crate) queued_bytes: u64,
    /// Of the newest frame in or before the queue.
    pub(crate) stamp: u64,
    /// Files of the segments that can hold something live.
    pub(crate) files: BTreeMap<u32, Arc<dyn DiskFile>>,
    /// Bytes of entries that are still accepted, queued ones included.
    pub(crate) room_bytes: u64,
    /// Room was refused: ask the disk again.
    pub(crate) look_for_room: bool,
    /// Replicas of which something was refused after it had been accepted: their log in memory is ahead.
    pub(crate) refused: HashSet<ReplicaKey>,
    pub(crate) failed: bool,
    pub(crate) closing: bool,
    pub(crate) stats: LogStats,
}

/// What only the committer touches.
pub(crate) struct Writer {
    pub(crate) segments: Segments,
    pub(crate) current: Segment,
    pub(crate) offset: u32,
    /// End of the segment before.
    pub(crate) previous: Place,
    /// Up to where the log is synced.
    pub(crate) synced: Place,
    /// Stamp of the newest durable frame.
    pub(crate) durable_stamp: u64,
    /// The oldest segment has nothing live; it is dead when this is durable.
    pub(crate) barrier: Option<u64>,
    /// How far the oldest segment's items were copied.
    pub(crate) cursor: usize,
    /// Frames were written since the last round that says all before it is synced.
    pub(crate) unproved: bool,
    /// Rounds to come that say who there is.
    pub(crate) roster_due: u8,
}

type OnFatal = Box<dyn Fn(LogError) + Send + Sync>;

/// The site log, driven by its user. See the module.
pub struct LogCore {
    pub(crate) dir: String,
    pub(crate) log_id: u64,
    pub(crate) options: LogOptions,
    pub(crate) state: Mutex<State>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) work: Condvar,
    on_fatal: OnFatal,
    /// Monotonic time in ns + 1 at which the write under way began; 0: none.
    pub(crate) busy_since_ns: AtomicU64,
}

impl LogCore {
    /// Opens the log in `dir`, making it if there is none, and tells what it holds. What is torn is cut;
    /// which replicas are damaged is told and remembered.
    ///
    /// # Errors
    /// The disk failed, has no room for a segment, or holds no log that can be read.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        options: LogOptions,
        on_fatal: OnFatal,
    ) -> Result<(LogCore, Vec<RecoveredReplica>), LogError> {
        options.validate()?;
        let log_id = segment::log_id(&*disk, dir, options.log_id_if_new)?;
        let sequences = segment::list(&*disk, dir)?;
        let found = recovery::recover(&*disk, dir, log_id, sequences)?;
        let Found { segments, free, replicas, end, sequence_max, cut } = found;
        // What was found unsynced is reported as kept, so it must be.
        if let Some(newest) = segments.last() {
            let path = segment::path(dir, newest.sequence);
            newest.file.sync_data().map_err(LogError::disk("sync", &path))?;
        }
        disk.sync_dir(dir).map_err(LogError::disk("sync", dir))?;
        let mut table = Table::new(options.cache_bytes_max);
        let used: Vec<Segment> = segments
            .into_iter()
            .map(|s| Segment { sequence: s.sequence, file: s.file, bytes: s.bytes })
            .collect();
        let mut files: BTreeMap<u32, Arc<dyn DiskFile>> =
            used.iter().map(|s| (s.sequence, Arc::clone(&s.file))).collect();
        for segment in &used {
            table.segments.entry(segment.sequence).or_default();
        }
        let segment_bytes = options.segment_bytes;
        let mut segments = Segments::new(disk, dir, segment_bytes, used, free, sequence_max)?;
        let current = segments.switch()?;
        files.insert(current.sequence, Arc::clone(&current.file));
        table.segments.entry(current.sequence).or_default();
        let recovered: Vec<RecoveredReplica> =
            replicas.iter().map(|(key, found)| told(*key, found)).collect();
        let state = State {
            table,
            queue: VecDeque::new(),
            queued_bytes: 0,
            stamp: 0,
            files,
            room_bytes: 0,
            look_for_room: false,
            refused: HashSet::new(),
            failed: false,
            closing: false,
            stats: LogStats { tail_was_cut: cut, ..LogStats::default() },
        };
        let writer = Writer {
            segments,
            current,
            offset: 0,
            previous: end,
            synced: end,
            durable_stamp: 0,
            barrier: None,
            cursor: 0,
            // The first round says where the log before it ends.
            unproved: true,
            roster_due: ROSTERS,
        };
        let core = LogCore {
            dir: dir.into(),
            log_id,
            options,
            state: Mutex::new(state),
            writer: Mutex::new(writer),
            work: Condvar::new(),
            on_fatal,
            busy_since_ns: AtomicU64::new(0),
        };
        core.restore(replicas)?;
        Ok((core, recovered))
    }

    /// Fills the table, marks new damage and writes the first round.
    fn restore(&self, replicas: BTreeMap<ReplicaKey, FoundReplica>) -> Result<(), LogError> {
        let mut state = self.state.lock();
        for (key, found) in replicas {
            state.table.replicas.entry(key).or_default();
            for (kind, mark) in found.marks.values() {
                state.table.restore_mark(key, *kind, mark.index, mark.bytes.clone(), mark.place);
            }
            match found.damaged {
                None => state.table.restore_entries(key, &found.entries),
                Some(_) if found.damage_is_marked => {}
                Some(why) => state.submit_mark(key, Kind::Damaged, 0, why.into(), None),
            }
        }
        drop(state);
        let (sender, receiver) = std::sync::mpsc::channel();
        let failed = move |error| drop(sender.send(error));
        let mut writer = self.writer.lock();
        while self.step(&mut writer, true, &failed) {}
        self.refresh_room(&writer);
        match receiver.try_recv() {
            Ok(error) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Starts a replica with an empty log; nothing if it is there.
    pub fn add_replica(&self, key: ReplicaKey) {
        let mut state = self.state.lock();
        if state.failed || state.closing || state.table.replicas.contains_key(&key) {
            return;
        }
        state.refused.remove(&key);
        state.table.replicas.entry(key).or_default();
        state.submit_mark(key, Kind::Added, 0, Bytes::new(), None);
        self.work.notify_one();
    }

    /// Appends entries that follow the last one. They can be read at once; `done` is called when they are
    /// durable. If they are refused, `done` gets the reason before this returns and nothing has changed.
    pub fn append(&self, key: ReplicaKey, entries: Vec<LogEntry>, done: Done) {
        let mut state = self.state.lock();
        let refusal = state.admit(key).and_then(|()| self.admit_entries(&mut state, key, &entries));
        if let Err(error) = refusal {
            self.work.notify_one();
            drop(state);
            return done(Err(error.into()));
        }
        let Some(last) = entries.len().checked_sub(1) else {
            // Nothing to write: durable with what was submitted before, which is not worth a wait.
            drop(state);
            return done(Ok(()));
        };
        let mut done = Some(done);
        for (at, entry) in entries.into_iter().enumerate() {
            let stamp = state.next_stamp();
            state.table.push_entry(key, &entry, stamp);
            let done = if at == last { done.take() } else { None };
            let sent = Spot::pending(stamp);
            let (index, payload) = (entry.index, entry.bytes);
            state.enqueue(Frame { key, kind: Kind::Entry, index, payload, sent, done });
        }
        self.work.notify_one();
    }

    fn admit_entries(
        &self,
        state: &mut State,
        key: ReplicaKey,
        entries: &[LogEntry],
    ) -> Result<(), LogError> {
        state.table.check_append(key, entries)?;
        let room = self.options.segment_bytes as usize - ROUND_HEADER_BYTES;
        if let Some(entry) = entries.iter().find(|entry| frame_bytes(entry.bytes.len()) > room) {
            return Err(LogError::TooLarge { bytes: entry.bytes.len() });
        }
        let bytes: u64 = entries.iter().map(|entry| frame_bytes(entry.bytes.len()) as u64).sum();
        if state.table.live_bytes + bytes > self.live_bytes_max()
            || state.queued_bytes + bytes > state.room_bytes
        {
            state.look_for_room = true;
            return Err(LogError::Full);
        }
        Ok(())
    }

    /// Entries may be live up to this; the rest of the log is room to move them and for votes.
    pub(crate) fn live_bytes_max(&self) -> u64 {
        let segment = u64::from(self.options.segment_bytes);
        self.options.bytes_max.saturating_sub(3 * segment).max(segment)
    }

    /// Counts anew how much is accepted, soon: for callers that refuse before the log would.
    pub fn look_for_room(&self) {
        self.state.lock().look_for_room = true;
        self.work.notify_one();
    }

    /// Saves the replica's vote.
    pub fn save_vote(&self, key: ReplicaKey, vote: Bytes, done: Done) {
        self.change(key, done, |state, done| {
            state.submit_mark(key, Kind::Vote, 0, vote, Some(done));
        });
    }

    /// Keeps what is committed: written with the next round, whenever that is.
    pub fn save_committed(&self, key: ReplicaKey, committed: Bytes) {
        let mut state = self.state.lock();
        if state.admit(key).is_ok() {
            let stamp = state.next_stamp();
            state.table.set_committed(key, committed, stamp);
        }
    }

    /// Voids the entries from `from_index` on.
    pub fn truncate(&self, key: ReplicaKey, from_index: u64, done: Done) {
        self.change(key, done, |state, done| {
            state.table.truncate(key, from_index);
            let sent = Spot::pending(state.next_stamp());
            let (index, payload, done) = (from_index, Bytes::new(), Some(done));
            state.enqueue(Frame { key, kind: Kind::Truncate, index, payload, sent, done });
        });
    }

    /// Drops the entries up to `up_to_index` and keeps the marker. A purge that an earlier one includes
    /// changes nothing, but `done` still waits for its turn.
    pub fn purge(&self, key: ReplicaKey, up_to_index: u64, marker: Bytes, done: Done) {
        self.change(key, done, |state, done| {
            let sent = Spot::pending(state.next_stamp());
            let marker = match state.table.purge(key, up_to_index, marker.clone(), sent) {
                true => (up_to_index, marker),
                false => {
                    let mark = state.table.replicas.get(&key).and_then(|r| r.mark(Kind::Purge));
                    mark.map_or((up_to_index, marker), |mark| (mark.index, mark.bytes.clone()))
                }
            };
            let (index, payload) = marker;
            state.enqueue(Frame { key, kind: Kind::Purge, index, payload, sent, done: Some(done) });
        });
    }

    /// Forgets a replica and all it had, damaged or not.
    pub fn remove_replica(&self, key: ReplicaKey, done: Done) {
        let mut state = self.state.lock();
        if state.failed || state.closing {
            drop(state);
            return done(Err(LogError::Stopped.into()));
        }
        state.refused.remove(&key);
        state.table.remove(key);
        let sent = Spot::pending(state.next_stamp());
        let (index, payload, done) = (0, Bytes::new(), Some(done));
        state.enqueue(Frame { key, kind: Kind::Removed, index, payload, sent, done });
        self.work.notify_one();
    }

    fn change(&self, key: ReplicaKey, done: Done, act: impl FnOnce(&mut State, Done)) {
        let mut state = self.state.lock();
        if let Err(error) = state.admit(key) {
            drop(state);
            return done(Err(error.into()));
        }
        act(&mut state, done);
        self.work.notify_one();
    }

    /// What the log holds of a replica, what is on its way included.
    #[must_use]
    pub fn state(&self, key: ReplicaKey) -> Option<ReplicaLogState> {
        self.state.lock().table.state(key)
    }

    /// Bytes of a replica's entries.
    #[must_use]
    pub fn live_bytes(&self, key: ReplicaKey) -> u64 {
        self.state.lock().table.entry_bytes(key)
    }

    /// Figures of the whole log.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let state = self.state.lock();
        let mut stats = state.stats.clone();
        stats.live_bytes = state.table.live_bytes;
        stats.queued_bytes = state.queued_bytes;
        let by_live = self.live_bytes_max().saturating_sub(stats.live_bytes);
        stats.room_bytes = state.room_bytes.saturating_sub(state.queued_bytes).min(by_live);
        stats.failed = state.failed;
        let since = self.busy_since_ns.load(Ordering::Relaxed);
        if since > 0 {
            let since = Duration::from_nanos(since - 1);
            stats.stalled_for = self.options.clock.monotonic().saturating_sub(since);
        }
        stats
    }

    /// Writes and syncs one round of what is queued. Returns whether there may be more to do.
    pub fn commit(&self) -> bool {
        let mut writer = self.writer.lock();
        self.step(&mut writer, false, &|error| (self.on_fatal)(error))
    }

    /// Refuses what comes from now on, writes all that is queued, and proves it with a last round.
    pub fn finish(&self) {
        self.state.lock().closing = true;
        let mut writer = self.writer.lock();
        let failed = |error| (self.on_fatal)(error);
        while self.step(&mut writer, false, &failed) {}
        // The proof may need a new segment first, and there may be no room for it.
        for _ in 0..3 {
            if writer.unproved {
                self.step(&mut writer, true, &failed);
            }
        }
    }

    /// Lets everything queued and to come fail.
    pub(crate) fn fail(&self, error: LogError, extra: Vec<Frame>, on_fatal: &dyn Fn(LogError)) {
        let mut state = self.state.lock();
        let first = !std::mem::replace(&mut state.failed, true);
        state.queued_bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        let kind = error.kind();
        let text = error.to_string();
        if first {
            on_fatal(error);
        }
        for done in extra.into_iter().chain(queue).filter_map(|frame| frame.done) {
            done(Err(io::Error::new(kind, text.clone())));
        }
    }
}

impl State {
    /// Whether the replica may be changed now.
    fn admit(&self, key: ReplicaKey) -> Result<(), LogError> {
        if self.failed || self.closing || self.refused.contains(&key) {
            return Err(LogError::Stopped);
        }
        self.table.usable(key).map(drop)
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn submit_mark(
        &mut self,
        key: ReplicaKey,
        kind: Kind,
        index: u64,
        payload: Bytes,
        done: Option<Done>,
    ) {
        let sent = Spot::pending(self.next_stamp());
        self.table.set_mark(key, kind, index, payload.clone(), sent);
        self.enqueue(Frame { key, kind, index, payload, sent, done });
    }

    fn enqueue(&mut self, frame: Frame) {
        self.queued_bytes += frame.bytes() as u64;
        self.queue.push_back(frame);
    }
}

fn told(key: ReplicaKey, found: &FoundReplica) -> RecoveredReplica {
    let bytes = |kind| found.mark(kind).map(|mark| mark.bytes.clone());
    RecoveredReplica {
        key,
        vote: bytes(Kind::Vote),
        committed: bytes(Kind::Committed),
        purged: found.mark(Kind::Purge).map(|mark| (mark.index, mark.bytes.clone())),
        first_index: found.entries.keys().next().copied(),
        last_index: found.entries.keys().next_back().copied(),
        damaged: found.damaged.clone(),
    }
}
