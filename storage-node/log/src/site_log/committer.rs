//! Rounds: take what is queued, write it, sync it, complete it; and the thread that does so.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::core::{LogCore, ROSTERS, State, Writer};
use super::frame::{Kind, NOBODY, Place, ROUND_HEADER_BYTES, Seed, encode_roster, frame_bytes};
use super::round::{Frame, Frames};
use super::spot::Spot;
use super::table::{Copied, Item, Table};
use super::{LogError, LogOptions, RecoveredReplica};
use crate::disk::Disk;

/// Segments in use below which nothing is copied to free them.
const SEGMENTS_EASY: u64 = 4;
/// Bytes copied with a round to free the oldest segment, plus four times the round's own.
const COPY_BYTES: usize = 64 << 10;
/// Bytes copied in a round of their own when room is short.
const COPY_ALONE_BYTES: usize = 1 << 20;

enum Taken {
    /// Nothing to do.
    Nothing,
    /// The next frame does not fit the segment.
    NoRoom,
    Round {
        frames: Vec<Frame>,
        copies: Vec<Copied>,
    },
}

impl LogCore {
    /// One round. `proof`: also an empty one, if the last round's sync is not on the disk's own record.
    pub(crate) fn step(
        &self,
        writer: &mut Writer,
        proof: bool,
        on_fatal: &dyn Fn(LogError),
    ) -> bool {
        match self.take(writer, proof) {
            Taken::Nothing => false,
            Taken::NoRoom => match self.switch(writer) {
                Ok(()) => true,
                Err(LogError::Full) => {
                    self.refuse_queue();
                    false
                }
                Err(error) => {
                    self.fail(error, Vec::new(), on_fatal);
                    false
                }
            },
            Taken::Round { mut frames, copies } => {
                let fresh = frames.len();
                match self.write_round(writer, &mut frames, copies) {
                    Ok(took) => match self.complete(writer, frames, fresh, took) {
                        Ok(more) => more,
                        Err(error) => {
                            self.fail(error, Vec::new(), on_fatal);
                            false
                        }
                    },
                    Err(error) => {
                        self.fail(error, frames, on_fatal);
                        false
                    }
                }
            }
        }
    }

    fn take(&self, writer: &mut Writer, proof: bool) -> Taken {
        let mut state = self.state.lock();
        if state.failed {
            return Taken::Nothing;
        }
        if std::mem::take(&mut state.look_for_room) {
            drop(state);
            self.refresh_room(writer);
            state = self.state.lock();
        }
        let segment_room = (writer.current.bytes - writer.offset) as usize;
        if segment_room < ROUND_HEADER_BYTES {
            let idle = state.queue.is_empty() && !proof;
            return if idle { Taken::Nothing } else { Taken::NoRoom };
        }
        let mut room = segment_room - ROUND_HEADER_BYTES;
        let mut frames = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            let more = next.bytes();
            if more > room || (bytes + more > self.options.round_bytes_max && bytes > 0) {
                break;
            }
            (room, bytes) = (room - more, bytes + more);
            state.queued_bytes -= more as u64;
            frames.extend(state.queue.pop_front());
        }
        if frames.is_empty() && !state.queue.is_empty() {
            return Taken::NoRoom;
        }
        let alone = frames.is_empty();
        if !alone || proof {
            take_committed(&mut state, &mut frames, &mut room);
        }
        let copies = self.take_copies(writer, &state, alone, bytes, room);
        let say_dead =
            alone && room_is_short(&self.options, &state) && !writer.segments.dead.is_empty();
        if frames.is_empty() && copies.is_empty() && !say_dead && !(proof && writer.unproved) {
            return Taken::Nothing;
        }
        let copied: usize = copies.iter().map(|copied| frame_bytes(copied.bytes)).sum();
        take_roster(writer, &state, &mut frames, room - copied);
        Taken::Round { frames, copies }
    }

    /// What of the oldest segment is appended again with this round.
    fn take_copies(
        &self,
        writer: &mut Writer,
        state: &State,
        alone: bool,
        fresh_bytes: usize,
        room: usize,
    ) -> Vec<Copied> {
        let used = writer.segments.used.len() as u64;
        let segment = u64::from(self.options.segment_bytes);
        let live = state.table.live_bytes;
        let short = room_is_short(&self.options, state);
        let limit = (self.options.bytes_max / segment * 3 / 4).max(2);
        let target = (2 * live.div_ceil(segment) + 2).max(SEGMENTS_EASY).min(limit);
        let gains = live + 2 * segment < used * segment;
        let wanted = if alone { short && gains } else { used > target || (short && gains) };
        let oldest = writer.segments.used.front().map(|segment| segment.sequence);
        let Some(oldest) = oldest.filter(|oldest| wanted && *oldest != writer.current.sequence)
        else {
            return Vec::new();
        };
        let bytes_max =
            if alone || short { COPY_ALONE_BYTES } else { COPY_BYTES } + 4 * fresh_bytes;
        state.table.copies(oldest, &mut writer.cursor, bytes_max, room)
    }

    fn write_round(
        &self,
        writer: &mut Writer,
        frames: &mut Vec<Frame>,
        copies: Vec<Copied>,
    ) -> Result<Duration, LogError> {
        for copied in copies {
            frames.push(self.copy(writer, copied)?);
        }
        let clock = &self.options.clock;
        let began = clock.monotonic();
        let since = u64::try_from(began.as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        self.busy_since_ns.store(since, Ordering::Relaxed);
        let path = writer.segments.path(writer.current.sequence);
        let file = &*writer.current.file;
        self.frames(writer, frames).write(file).map_err(LogError::disk("write", &path))?;
        let written = clock.monotonic();
        file.sync_data().map_err(LogError::disk("sync", &path))?;
        self.busy_since_ns.store(0, Ordering::Relaxed);
        Ok(clock.monotonic().saturating_sub(written))
    }

    fn frames<'a>(&self, writer: &Writer, frames: &'a [Frame]) -> Frames<'a> {
        let sequence = writer.current.sequence;
        Frames {
            frames,
            seed: Seed::new(self.log_id, sequence),
            start: Place { sequence, offset: writer.offset },
            synced: writer.synced,
            previous: writer.previous,
            oldest: writer.segments.used.front().map_or(sequence, |segment| segment.sequence),
        }
    }

    /// A frame that is appended again; its payload comes from the cache or from its segment.
    fn copy(&self, writer: &Writer, copied: Copied) -> Result<Frame, LogError> {
        let Copied { key, item, index, from, bytes, cached } = copied;
        let kind = match item {
            Item::Entry(_) => Kind::Entry,
            Item::Mark(kind) => kind,
        };
        let payload = match cached {
            Some(payload) => payload,
            None => {
                let segment = writer.segments.used.iter().find(|s| s.sequence == from.sequence);
                let Some(segment) = segment else {
                    return Err(self.corrupt(from, "the segment is not there"));
                };
                let block = self.read_block(&*segment.file, from, frame_bytes(bytes))?;
                self.payload(kind, key, index, &block, 0, bytes, from.sequence)
                    .ok_or_else(|| self.corrupt(from, "a live frame does not match"))?
            }
        };
        Ok(Frame { key, kind, index, payload, sent: Spot::at(from), done: None })
    }

    /// Everything of the round is durable: accounts for it, tells everybody.
    fn complete(
        &self,
        writer: &mut Writer,
        mut frames: Vec<Frame>,
        fresh: usize,
        sync: Duration,
    ) -> Result<bool, LogError> {
        let round = self.frames(writer, &frames);
        let (bytes, declared) = (round.bytes(), round.oldest);
        let places: Vec<Place> = round.places().collect();
        writer.offset += bytes as u32;
        writer.synced = Place { sequence: writer.current.sequence, offset: writer.offset };
        let said = frames.iter().filter(|frame| frame.kind != Kind::Roster).count();
        writer.unproved = said > 0;
        if frames.iter().any(|frame| frame.kind == Kind::Added) {
            writer.roster_due = ROSTERS;
        }
        let mut state = self.state.lock();
        for (frame, place) in frames.iter().zip(places) {
            if let Some(item) = frame.item() {
                state.table.landed(frame.key, item, frame.sent, place);
            }
        }
        state.table.evict();
        // Everything before the queue's first frame is durable now.
        writer.durable_stamp = match state.queue.is_empty() {
            true => state.stamp,
            false => writer.durable_stamp.max(newest_stamp(&frames[..fresh])),
        };
        bury_oldest(writer, &mut state);
        let copied: usize = frames[fresh..].iter().map(Frame::bytes).sum();
        state.stats.syncs += 1;
        state.stats.frames += said as u64;
        state.stats.bytes_written += bytes;
        state.stats.copied_bytes += copied as u64;
        drop(state);
        let freed = writer.segments.free_below(declared)?;
        self.refresh_room(writer);
        if let Some(observer) = &self.options.observer {
            observer.round(said, bytes, sync);
        }
        let copying = copied > 0;
        for done in frames.iter_mut().filter_map(|frame| frame.done.take()) {
            done(Ok(()));
        }
        self.prepare_early(writer)?;
        let state = self.state.lock();
        Ok(!state.queue.is_empty() || copying || freed || !writer.segments.dead.is_empty())
    }

    /// Has the next segment ready before it is needed, once half of this one is full.
    fn prepare_early(&self, writer: &mut Writer) -> Result<(), LogError> {
        if writer.offset > writer.current.bytes / 2 {
            match writer.segments.prepare() {
                Ok(()) => self.refresh_room(writer),
                // Refused to the writers, when they need it.
                Err(LogError::Full) => self.refresh_room(writer),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn switch(&self, writer: &mut Writer) -> Result<(), LogError> {
        let next = writer.segments.switch()?;
        let mut state = self.state.lock();
        state.files.insert(next.sequence, Arc::clone(&next.file));
        state.table.segments.entry(next.sequence).or_default();
        drop(state);
        writer.previous = Place { sequence: writer.current.sequence, offset: writer.offset };
        writer.current = next;
        writer.offset = 0;
        writer.roster_due = ROSTERS;
        self.refresh_room(writer);
        Ok(())
    }

    /// The disk had no room for what was accepted: tells so, and takes nothing more for these replicas.
    fn refuse_queue(&self) {
        let mut state = self.state.lock();
        state.queued_bytes = 0;
        let queue = std::mem::take(&mut state.queue);
        state.refused.extend(queue.iter().map(|frame| frame.key));
        drop(state);
        for done in queue.into_iter().filter_map(|frame| frame.done) {
            done(Err(LogError::Full.into()));
        }
    }

    /// Says how much can still be appended. One segment stays for votes and copies.
    pub(crate) fn refresh_room(&self, writer: &Writer) {
        let segment = u64::from(self.options.segment_bytes);
        let on_disk = writer.segments.bytes_on_disk();
        let grow = self.options.bytes_max.saturating_sub(on_disk);
        let grow = grow.min(writer.segments.disk_free_bytes()) / segment * segment;
        let here = u64::from(writer.current.bytes - writer.offset);
        let room = here + writer.segments.ready_bytes() + grow;
        let mut state = self.state.lock();
        state.room_bytes = room.saturating_sub(segment);
        state.stats.segments = writer.segments.used.len();
        state.stats.bytes_on_disk = on_disk;
    }
}

fn newest_stamp(frames: &[Frame]) -> u64 {
    // Committed marks do not wait in the queue: theirs say nothing about what is still in it.
    let queued = frames.iter().filter(|frame| frame.kind != Kind::Committed);
    queued.filter_map(|frame| frame.sent.stamp()).max().unwrap_or(0)
}

fn room_is_short(options: &LogOptions, state: &State) -> bool {
    state.room_bytes < 2 * u64::from(options.segment_bytes)
}

/// Adds the committed marks that wait, as far as they fit; a mark never overtakes what was submitted before
/// it (it may name an entry that is still queued).
fn take_committed(state: &mut State, frames: &mut Vec<Frame>, room: &mut usize) {
    let queued = state.queue.front().and_then(|frame| frame.sent.stamp()).unwrap_or(u64::MAX);
    let Table { committed_waiting, replicas, .. } = &mut state.table;
    committed_waiting.retain(|key| {
        let Some(replica) = replicas.get_mut(key) else { return false };
        if let Some(frame) = replica.committed_frame(*key) {
            if frame.bytes() > *room || frame.sent.stamp() > Some(queued) {
                return true;
            }
            *room -= frame.bytes();
            frames.push(frame);
        }
        replica.committed_waits = false;
        false
    });
}

/// Adds who there is, if that is due and fits: those whose beginning is on the disk.
fn take_roster(writer: &mut Writer, state: &State, frames: &mut Vec<Frame>, room: usize) {
    if writer.roster_due == 0 {
        return;
    }
    let there = state.table.replicas.iter().filter(|(_, replica)| {
        replica.mark(Kind::Added).is_some_and(|mark| mark.spot.place().is_some())
    });
    let payload = encode_roster(there.map(|(key, _)| *key));
    if frame_bytes(payload.len()) <= room {
        writer.roster_due -= 1;
        let (key, sent) = (NOBODY, Spot::pending(0));
        frames.push(Frame { key, kind: Kind::Roster, index: 0, payload, sent, done: None });
    }
}

/// Takes the oldest segments out of use that nothing can need any more.
fn bury_oldest(writer: &mut Writer, state: &mut State) {
    while let Some(oldest) = writer.segments.used.front().map(|segment| segment.sequence) {
        let live = state.table.segments.get(&oldest).map_or(0, |segment| segment.live_bytes);
        if oldest == writer.current.sequence || live > 0 {
            writer.barrier = None;
            return;
        }
        let barrier = *writer.barrier.get_or_insert(state.stamp);
        if writer.durable_stamp < barrier {
            return;
        }
        writer.segments.used.pop_front();
        writer.segments.dead.push(oldest);
        state.table.segments.remove(&oldest);
        state.files.remove(&oldest);
        writer.cursor = 0;
        writer.barrier = None;
    }
}

/// The site log with its committer thread. Clones are the same log.
#[derive(Clone)]
pub struct SiteLog {
    running: Arc<Running>,
}

struct Running {
    core: Arc<LogCore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Deref for SiteLog {
    type Target = LogCore;

    fn deref(&self) -> &LogCore {
        &self.running.core
    }
}

impl SiteLog {
    /// As [`LogCore::open`], and starts the thread that commits.
    ///
    /// # Errors
    /// As [`LogCore::open`], or the thread cannot be started.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &str,
        options: LogOptions,
        on_fatal: Box<dyn Fn(LogError) + Send + Sync>,
    ) -> Result<(SiteLog, Vec<RecoveredReplica>), LogError> {
        let (core, recovered) = LogCore::open(disk, dir, options, on_fatal)?;
        let core = Arc::new(core);
        let thread = std::thread::Builder::new()
            .name("site-log".into())
            .spawn({
                let core = Arc::clone(&core);
                move || run(&core)
            })
            .map_err(|error: io::Error| LogError::Invalid(format!("no thread: {error}")))?;
        let running = Running { core, thread: Mutex::new(Some(thread)) };
        Ok((SiteLog { running: Arc::new(running) }, recovered))
    }

    /// Refuses what comes from now on, writes what is queued and ends the thread.
    pub fn close(&self) {
        self.running.close();
    }
}

impl Running {
    fn close(&self) {
        self.core.state.lock().closing = true;
        self.core.work.notify_one();
        let thread = self.thread.lock().take();
        // A callback may hold the last clone: the thread cannot wait for itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            // A panic there has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(core: &LogCore) {
    loop {
        while core.commit() {}
        let mut state = core.state.lock();
        if state.closing || state.failed {
            break;
        }
        if state.queue.is_empty() && !state.look_for_room {
            core.work.wait(&mut state);
        }
    }
    core.finish();
}
