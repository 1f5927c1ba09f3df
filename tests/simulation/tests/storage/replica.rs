//! One replica on a site that is up: its log as far as it was submitted, its state, its checkpoints.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Bytes, BytesMut};
use holdfast_log::{
    Disk, Done, LogCore, LogEntry, OpenOptions, RecoveredReplica, ReplicaKey, Run, RunError, RunId,
    SimDisk, remove_run, write_run,
};
use holdfast_proto::ids::{Generation, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::op::Op;
use holdfast_proto::shard::{Entry, Outcome, RunRow, Status};
use holdfast_shard::{Applied, CutInfo, Shard, keys};
use prost::Message;

use crate::base::{DiskBase, LogId, Pairs};
use crate::model::{Model, Trace};
use crate::requests::{Gateways, SHARDS};

pub(crate) const RUNS_DIR: &str = "runs";

const WAITING: u8 = 0;
const DONE: u8 = 1;
const FULL: u8 = 2;
const FAILED: u8 = 3;

/// The site must stop: something accepted was not written.
#[derive(Debug)]
pub(crate) struct Stop;

/// What is true once a write is durable.
#[derive(Debug, Clone, Copy)]
enum Effect {
    /// The log up to this index is durable.
    Durable(u64),
    Vote(u64),
    Nothing,
}

/// What of a replica was durable for certain when its site went down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promised {
    pub(crate) durable: u64,
    pub(crate) terms: BTreeMap<u64, u64>,
    pub(crate) vote: u64,
}

/// A checkpoint under way.
struct Writing {
    at: LogId,
    cut: CutInfo,
    records: Vec<Placed>,
    pairs: Vec<(Vec<u8>, Option<Bytes>)>,
    /// The run that was written.
    run: Option<RunRow>,
    run_done: bool,
}

pub(crate) struct Replica {
    pub(crate) key: ReplicaKey,
    disk: SimDisk,
    pub(crate) base: DiskBase,
    pub(crate) shard: Shard<DiskBase>,
    pub(crate) applied: LogId,
    /// Terms of the entries in the log.
    terms: BTreeMap<u64, u64>,
    pub(crate) purged: LogId,
    /// Highest vote, durable or on its way.
    pub(crate) vote: u64,
    promised_vote: u64,
    pub(crate) durable: u64,
    waiting: VecDeque<(Arc<AtomicU8>, Effect)>,
    /// Known to be committed.
    pub(crate) committed: u64,
    /// The log is the leader's of this term up to this index.
    pub(crate) agreed: LogId,
    writing: Option<Writing>,
    runs: BTreeMap<u64, (RunRow, Option<Run>)>,
    previous_checkpoint: u64,
}

fn done() -> (Arc<AtomicU8>, Done) {
    let flag = Arc::new(AtomicU8::new(WAITING));
    let set = Arc::clone(&flag);
    let done = move |result: io::Result<()>| {
        let value = match result {
            Ok(()) => DONE,
            Err(error) if error.kind() == io::ErrorKind::StorageFull => FULL,
            Err(_) => FAILED,
        };
        set.store(value, Ordering::SeqCst);
    };
    (flag, Box::new(done))
}

pub(crate) fn run_id(key: ReplicaKey, row: &RunRow) -> RunId {
    RunId {
        shard: key.shard,
        generation: Generation(row.generation),
        first: Position(row.first_position),
        end: Position(row.end_position),
    }
}

/// An entry of the log: its term, then what was proposed; nothing for a leader's first.
pub(crate) fn log_bytes(term: u64, entry: Option<&Entry>) -> Bytes {
    let mut bytes = term.to_le_bytes().to_vec();
    if let Some(entry) = entry {
        entry.encode(&mut bytes).unwrap();
    }
    bytes.into()
}

fn term_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

impl Replica {
    /// The replica as its site finds it at a start; checks that nothing promised is gone.
    pub(crate) fn open(
        disk: &SimDisk,
        log: &LogCore,
        key: ReplicaKey,
        found: Option<&RecoveredReplica>,
        promised: &Promised,
        model: &Model,
    ) -> Replica {
        let base = DiskBase::open(disk, key);
        let shard = Shard::open(base.clone(), key.shard, SHARDS).unwrap();
        let applied = base.applied();
        let mut replica = Replica {
            key,
            disk: disk.clone(),
            base,
            shard,
            applied,
            terms: BTreeMap::new(),
            purged: LogId::default(),
            vote: 0,
            promised_vote: 0,
            durable: 0,
            waiting: VecDeque::new(),
            committed: applied.index,
            agreed: LogId::default(),
            writing: None,
            runs: BTreeMap::new(),
            previous_checkpoint: applied.index,
        };
        match found {
            Some(found) => replica.recover(log, found, model),
            None => log.add_replica(key),
        }
        assert!(replica.vote >= promised.vote, "{key}: a vote went back");
        assert!(replica.last().index >= promised.durable, "{key}: synced entries are gone");
        let kept = promised.terms.range(replica.purged.index + 1..);
        for (index, term) in kept.take_while(|(index, _)| **index <= promised.durable) {
            assert_eq!(replica.terms.get(index), Some(term), "{key}: entry {index} is another");
        }
        assert!(
            replica.purged.index <= applied.index,
            "{key}: purged to {} but the state is of {}",
            replica.purged.index,
            applied.index
        );
        assert!(applied.index <= model.commit_index());
        replica.durable = replica.last().index;
        replica.promised_vote = replica.vote;
        if replica.last().index < applied.index {
            replica.purge(log, applied);
        }
        replica.reload_runs();
        replica
    }

    fn recover(&mut self, log: &LogCore, found: &RecoveredReplica, model: &Model) {
        let entries = log.read(self.key, 0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(entries.first().map(|entry| entry.index), found.first_index);
        assert_eq!(entries.last().map(|entry| entry.index), found.last_index);
        for entry in entries {
            let id = LogId { term: term_of(&entry.bytes), index: entry.index };
            assert_eq!(model.written.get(&id), Some(&entry.bytes), "{}: {id:?}", self.key);
            self.terms.insert(id.index, id.term);
        }
        if let Some((index, marker)) = &found.purged {
            self.purged = LogId::decode(marker);
            assert_eq!(self.purged.index, *index);
            assert_eq!(model.committed(*index), self.purged);
        }
        self.vote = found.vote.as_ref().map_or(0, |vote| LogId::decode(vote).term);
        if let Some(committed) = &found.committed {
            let committed = LogId::decode(committed);
            assert_eq!(model.committed(committed.index), committed);
            assert!(self.last().index.max(self.applied.index) >= committed.index);
            self.committed = self.committed.max(committed.index);
        }
    }

    /// What survives a crash that is about to come.
    pub(crate) fn promised(&mut self) -> Promised {
        let _ = self.poll(&mut |_| {});
        let (durable, vote) = (self.durable, self.promised_vote);
        Promised { durable, terms: std::mem::take(&mut self.terms), vote }
    }

    /// For a failure's message.
    pub(crate) fn state(&self) -> String {
        format!(
            "{} vote {} purged {} last {:?} durable {} committed {} applied {} checkpoint {} missing runs {}",
            self.key,
            self.vote,
            self.purged.index,
            self.last(),
            self.durable,
            self.committed,
            self.applied.index,
            self.base.applied().index,
            self.missing_runs().len()
        )
    }

    // ---- the log -------------------------------------------------------------------------------------

    /// The newest entry, or what is purged.
    pub(crate) fn last(&self) -> LogId {
        let last = self.terms.last_key_value();
        last.map_or(self.purged, |(index, term)| LogId { term: *term, index: *index })
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == 0 || index == self.purged.index {
            return Some(self.purged.term).filter(|_| index == self.purged.index);
        }
        self.terms.get(&index).copied()
    }

    pub(crate) fn read(&self, log: &LogCore, from: u64, to: u64) -> Vec<LogEntry> {
        let entries = log.read(self.key, from, to, usize::MAX).unwrap();
        assert_eq!(entries.len() as u64, to - from, "{}: {from}..{to}", self.key);
        entries
    }

    /// Appends entries; false if they were refused, which changes nothing.
    pub(crate) fn append(&mut self, log: &LogCore, entries: Vec<LogEntry>) -> Result<bool, Stop> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(true) };
        let terms: Vec<(u64, u64)> =
            entries.iter().map(|entry| (entry.index, term_of(&entry.bytes))).collect();
        let before = log.state(self.key);
        let (flag, done) = done();
        log.append(self.key, entries, done);
        match flag.load(Ordering::SeqCst) {
            FULL => {
                assert_eq!(log.state(self.key), before, "a refused append changes nothing");
                return Ok(false);
            }
            FAILED => return Err(Stop),
            _ => {}
        }
        self.terms.extend(terms);
        self.waiting.push_back((flag, Effect::Durable(last)));
        Ok(true)
    }

    pub(crate) fn truncate(&mut self, log: &LogCore, from: u64) {
        assert!(from > self.applied.index.max(self.committed), "{}: {from}", self.key);
        let (flag, done) = done();
        log.truncate(self.key, from, done);
        self.terms.split_off(&from);
        self.durable = self.durable.min(from - 1);
        for (_, effect) in &mut self.waiting {
            if let Effect::Durable(index) = effect {
                *index = (*index).min(from - 1);
            }
        }
        self.waiting.push_back((flag, Effect::Nothing));
    }

    fn purge(&mut self, log: &LogCore, up_to: LogId) {
        if up_to.index <= self.purged.index {
            return;
        }
        assert!(up_to.index <= self.base.applied().index, "purged at most what a checkpoint has");
        let (flag, done) = done();
        log.purge(self.key, up_to.index, up_to.encode(), done);
        self.terms = self.terms.split_off(&(up_to.index + 1));
        self.purged = up_to;
        self.waiting.push_back((flag, Effect::Durable(up_to.index)));
    }

    pub(crate) fn save_vote(&mut self, log: &LogCore, term: u64) {
        assert!(term > self.vote);
        self.vote = term;
        let (flag, done) = done();
        log.save_vote(self.key, LogId { term, index: 0 }.encode(), done);
        self.waiting.push_back((flag, Effect::Vote(term)));
    }

    pub(crate) fn save_committed(&mut self, log: &LogCore, committed: LogId) {
        if committed.index > self.committed {
            self.committed = committed.index;
            log.save_committed(self.key, committed.encode());
        }
    }

    /// Takes note of what became durable; tells votes.
    pub(crate) fn poll(&mut self, voted: &mut dyn FnMut(u64)) -> Result<(), Stop> {
        while let Some((flag, effect)) = self.waiting.front() {
            match (flag.load(Ordering::SeqCst), effect) {
                (WAITING, _) => return Ok(()),
                (DONE, Effect::Durable(index)) => self.durable = self.durable.max(*index),
                (DONE, Effect::Vote(term)) => {
                    self.promised_vote = *term;
                    voted(*term);
                }
                (DONE, Effect::Nothing) => {}
                _ => return Err(Stop),
            }
            self.waiting.pop_front();
        }
        Ok(())
    }

    // ---- the state -----------------------------------------------------------------------------------

    /// Applies the next committed entry; false if there is none or it has to wait.
    pub(crate) fn apply_next(
        &mut self,
        log: &LogCore,
        model: &mut Model,
        gateways: &mut Gateways,
    ) -> bool {
        let index = self.applied.index + 1;
        if index > self.committed || index > self.last().index {
            return false;
        }
        let bytes = self.read(log, index, index + 1).remove(0).bytes;
        let id = LogId { term: term_of(&bytes), index };
        assert_eq!(model.committed(index), id, "{}: a committed entry is another", self.key);
        assert_eq!(model.written[&id], bytes);
        if bytes.len() == 8 {
            self.applied = id;
            model.applied(id, self.nothing(Vec::new()), true, gateways);
            return true;
        }
        let entry = Entry::decode(bytes.slice(8..)).unwrap();
        if entry.term != id.term {
            self.applied = id;
            let unavailable = Outcome { status: Status::Unavailable.into(), outcome: None };
            let trace = self.nothing(vec![unavailable; entry.ops.len()]);
            model.applied(id, trace, true, gateways);
            return true;
        }
        let cuts = entry.ops.iter().any(|op| matches!(op.op, Some(Op::Cut(_) | Op::Roll(_))));
        if cuts && self.writing.is_some() {
            return false;
        }
        let applied = self.shard.apply(index, entry).unwrap();
        assert!(!applied.void, "one entry is in flight at a time");
        self.applied = id;
        for row in &applied.dropped {
            self.drop_generation(row.generation);
        }
        let trace = self.trace(applied);
        model.applied(id, trace, false, gateways);
        true
    }

    fn nothing(&self, outcomes: Vec<Outcome>) -> Trace {
        let next_position = self.shard.next_position().0;
        Trace { outcomes, stored: Vec::new(), dropped: Vec::new(), next_position, frozen: None }
    }

    fn trace(&mut self, applied: Applied) -> Trace {
        let frozen = applied.cut.map(|cut| {
            let records = self.shard.tail().below(cut.end);
            assert_eq!(self.shard.tail().first(), cut.first, "earlier runs are written");
            let pairs = self.shard.freeze().pairs;
            let mut all = self.base.with(&pairs);
            all.retain(|key, _| key[0] != keys::RUN);
            let run_done = records.is_empty();
            let at = self.applied;
            self.writing = Some(Writing { at, cut, records, pairs, run: None, run_done });
            all
        });
        let plain =
            |placed: &Placed| (placed.position.0, placed.time_ms, placed.record.as_bytes().clone());
        Trace {
            outcomes: applied.outcomes,
            stored: applied.stored_records.iter().map(plain).collect(),
            dropped: applied.dropped.iter().map(|row| row.generation).collect(),
            next_position: self.shard.next_position().0,
            frozen,
        }
    }

    fn drop_generation(&mut self, generation: u64) {
        let dropped: Vec<RunRow> = self.runs.values().map(|(row, _)| *row).collect();
        for row in dropped.into_iter().filter(|row| row.generation == generation) {
            self.runs.remove(&row.first_position);
            remove_run(&self.disk, RUNS_DIR, run_id(self.key, &row)).unwrap();
        }
    }

    /// The next part of the checkpoint under way: the run, or the state and the purge. False if there is
    /// none, or the disk had no room or failed.
    pub(crate) fn checkpoint(&mut self, log: &LogCore, model: &mut Model, eager: bool) -> bool {
        let Some(mut writing) = self.writing.take() else { return false };
        if !writing.run_done {
            let written = self.write_run(&mut writing, model);
            self.writing = Some(writing);
            return written;
        }
        if self.base.replace(writing.at, self.base.with(&writing.pairs)).is_err() {
            self.writing = Some(writing);
            return false;
        }
        if let Some(row) = writing.run
            && self.shard.runs().contains(&row)
        {
            let run = self.open_run(&row);
            assert!(run.is_some(), "a run that was written is there");
            self.runs.insert(row.first_position, (row, run));
        }
        self.shard.thaw();
        self.shard.trim_tail(writing.cut.end);
        let up_to = if eager { writing.at.index } else { self.previous_checkpoint };
        self.previous_checkpoint = writing.at.index;
        if up_to > 0 {
            self.purge(log, model.committed(up_to));
        }
        true
    }

    fn write_run(&mut self, writing: &mut Writing, model: &mut Model) -> bool {
        let mut row = RunRow {
            generation: writing.cut.generation.0,
            first_position: writing.cut.first.0,
            end_position: writing.cut.end.0,
            checksum: 0,
            bytes: 0,
        };
        let id = run_id(self.key, &row);
        match write_run(&self.disk, RUNS_DIR, id, &writing.records) {
            Ok(info) => (row.checksum, row.bytes) = (info.checksum, info.bytes),
            Err(RunError::Disk { .. }) => return false,
            Err(error) => panic!("{}: {error}", self.key),
        }
        model.run(id, self.disk.content(&id.path(RUNS_DIR)).unwrap());
        writing.run_done = true;
        if self.shard.run_written(row) {
            writing.pairs.push(keys::run_pair(&row));
            writing.run = Some(row);
        } else {
            remove_run(&self.disk, RUNS_DIR, id).unwrap();
        }
        true
    }

    pub(crate) fn is_checkpointing(&self) -> bool {
        self.writing.is_some()
    }

    /// Takes over the state of a snapshot. Durable when it returns; false if the disk had no room.
    pub(crate) fn install(&mut self, log: &LogCore, at: LogId, pairs: Pairs) -> Result<bool, Stop> {
        if self.term_at(at.index).is_some_and(|term| term != at.term) {
            self.truncate(log, at.index);
            while log.commit() {}
            self.poll(&mut |_| {})?;
        }
        if self.base.replace(at, pairs).is_err() {
            return Ok(false);
        }
        self.writing = None;
        self.shard = Shard::open(self.base.clone(), self.key.shard, SHARDS).unwrap();
        self.applied = at;
        self.committed = self.committed.max(at.index);
        self.previous_checkpoint = at.index;
        self.reload_runs();
        self.purge(log, at);
        Ok(true)
    }

    // ---- runs ----------------------------------------------------------------------------------------

    fn reload_runs(&mut self) {
        let rows = self.shard.runs().to_vec();
        self.runs =
            rows.into_iter().map(|row| (row.first_position, (row, self.open_run(&row)))).collect();
    }

    fn open_run(&self, row: &RunRow) -> Option<Run> {
        let run = Run::open(&self.disk, RUNS_DIR, run_id(self.key, row)).ok()?;
        (run.info().checksum == row.checksum).then_some(run)
    }

    pub(crate) fn missing_runs(&self) -> Vec<RunRow> {
        self.runs.values().filter(|(_, run)| run.is_none()).map(|(row, _)| *row).collect()
    }

    /// The file of a run that this replica has.
    pub(crate) fn run_file(&self, row: &RunRow) -> Option<Vec<u8>> {
        let (own, run) = self.runs.get(&row.first_position)?;
        if own != row {
            return None;
        }
        run.as_ref()?;
        self.disk.content(&run_id(self.key, row).path(RUNS_DIR)).ok()
    }

    /// Stores a run that came from another holder and verifies it. False if the disk had no room.
    pub(crate) fn store_run(&mut self, row: RunRow, file: &[u8]) -> bool {
        let path = run_id(self.key, &row).path(RUNS_DIR);
        let temporary = format!("{path}.fetched");
        let store = || {
            self.disk.create_dir(RUNS_DIR)?;
            let out = self.disk.open(&temporary, OpenOptions::CREATE)?;
            out.truncate(0)?;
            out.write_all_at(&mut [io::IoSlice::new(file)], 0)?;
            out.sync_data()?;
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(RUNS_DIR)
        };
        if store().is_err() {
            return false;
        }
        let run = self.open_run(&row);
        run.as_ref().unwrap().verify().unwrap();
        self.runs.insert(row.first_position, (row, run));
        true
    }

    /// Everything that is kept, in order; `None` while runs are missing.
    pub(crate) fn read_all(&self) -> Option<(u64, Vec<Placed>)> {
        let first = self.shard.generations()[0].first_position;
        let mut all = Vec::new();
        for (_, run) in self.runs.values() {
            let run = run.as_ref()?;
            let before = all.len();
            all.extend(run.scan().map(Result::unwrap));
            read_topic(run, &all[before..]);
        }
        all.extend(self.shard.tail().from(self.shard.tail().first()).cloned());
        // The tail may still have records of a generation that was dropped before its last run.
        all.retain(|placed| placed.position.0 >= first);
        Some((first, all))
    }
}

/// A narrow read finds the records of its topic and no other.
fn read_topic(run: &Run, all: &[Placed]) {
    let mut block = BytesMut::new();
    let id = run.info().id;
    let namespace = holdfast_proto::ids::Namespace(0);
    run.read(namespace, &["t/3"], id.first, usize::MAX, &mut block).unwrap();
    let read = Placed::decode_all(block.freeze()).unwrap();
    let expected: Vec<Placed> =
        all.iter().filter(|placed| placed.record.topic() == "t/3").cloned().collect();
    assert_eq!(read, expected);
}
