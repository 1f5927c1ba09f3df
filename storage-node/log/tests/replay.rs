//! The site log against a model: whatever crashes, what was acknowledged is there, and what is there is a
//! first part of what was submitted.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use holdfast_log::{
    LogCore, LogEntry, LogOptions, RecoveredReplica, ReplicaKey, ReplicaLogState, SimDisk, SimRng,
};
use holdfast_proto::ids::{ReplicaId, ShardId};

const DIR: &str = "site/log";

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 8 << 10,
        bytes_max: 96 << 10,
        cache_bytes_max: 6 << 10,
        round_bytes_max: 4 << 10,
        log_id_if_new: 77,
        ..LogOptions::default()
    }
}

fn key(shard: u16, replica: u64) -> ReplicaKey {
    ReplicaKey { shard: ShardId(shard), replica: ReplicaId(replica) }
}

/// One frame's worth of change.
#[derive(Debug, Clone)]
enum Change {
    Added(ReplicaKey),
    Entry(ReplicaKey, u64, Bytes),
    Vote(ReplicaKey, Bytes),
    Truncate(ReplicaKey, u64),
    Purge(ReplicaKey, u64, Bytes),
    Removed(ReplicaKey),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Replica {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
}

type Replicas = BTreeMap<ReplicaKey, Replica>;

fn apply(replicas: &mut Replicas, change: &Change) {
    match change {
        Change::Added(key) => drop(replicas.entry(*key).or_default()),
        Change::Removed(key) => drop(replicas.remove(key)),
        Change::Entry(key, index, bytes) => {
            replicas.get_mut(key).unwrap().entries.insert(*index, bytes.clone());
        }
        Change::Vote(key, vote) => replicas.get_mut(key).unwrap().vote = Some(vote.clone()),
        Change::Truncate(key, from) => {
            replicas.get_mut(key).unwrap().entries.split_off(from);
        }
        Change::Purge(key, to, marker) => {
            let replica = replicas.get_mut(key).unwrap();
            if replica.purged.as_ref().is_none_or(|(purged, _)| purged <= to) {
                replica.entries = replica.entries.split_off(&(to + 1));
                replica.purged = Some((*to, marker.clone()));
            }
        }
    }
}

fn shown(replicas: &Replicas) -> String {
    let one = |(key, replica): (&ReplicaKey, &Replica)| {
        let mark = |bytes: &Bytes| format!("{:x}", crc32c::crc32c(bytes));
        let entries: Vec<String> = replica
            .entries
            .iter()
            .map(|(index, bytes)| format!("{index}:{}", mark(bytes)))
            .collect();
        let purged = replica.purged.as_ref().map(|(index, bytes)| (*index, mark(bytes)));
        format!("{key} vote {:?} purged {purged:?} {entries:?}\n", replica.vote.as_ref().map(mark))
    };
    replicas.iter().map(one).collect()
}

/// The model: what was surely there, and what was submitted since.
struct Model {
    base: Replicas,
    changes: Vec<Change>,
    now: Replicas,
    acked: Arc<AtomicUsize>,
    committed: BTreeMap<ReplicaKey, BTreeSet<Bytes>>,
}

impl Model {
    fn submit(&mut self, change: Change) {
        apply(&mut self.now, &change);
        self.changes.push(change);
    }

    fn rebase(&mut self, now: Replicas) {
        self.base = now.clone();
        self.now = now;
        self.changes.clear();
        self.acked = Arc::default();
    }

    /// A callback for everything submitted so far; it must come in order.
    fn done(&self) -> Box<dyn FnOnce(io::Result<()>) + Send> {
        let (acked, count) = (Arc::clone(&self.acked), self.changes.len());
        Box::new(move |result| {
            if result.is_ok() {
                assert!(acked.fetch_max(count, Ordering::SeqCst) <= count, "out of order");
            }
        })
    }

    /// What was recovered is what some first part of the changes gives, all acknowledged ones included.
    fn check_recovered(&mut self, found: Replicas, seed: u64) {
        let acked = self.acked.load(Ordering::SeqCst);
        let mut state = self.base.clone();
        for change in &self.changes[..acked] {
            apply(&mut state, change);
        }
        let mut rest: VecDeque<&Change> = self.changes[acked..].iter().collect();
        loop {
            if state == found {
                break;
            }
            let Some(next) = rest.pop_front() else {
                panic!(
                    "seed {seed}: recovered\n{}is no first part of\n{}after {acked} acknowledged of {}",
                    shown(&found),
                    shown(&self.now),
                    self.changes.len()
                )
            };
            apply(&mut state, next);
        }
        self.rebase(found);
    }
}

struct Run {
    disk: SimDisk,
    log: LogCore,
    model: Model,
    rng: SimRng,
    seed: u64,
    next_replica: u64,
    fatal: Arc<AtomicUsize>,
    cuts: usize,
    copied: u64,
    refused: usize,
}

fn open(disk: &SimDisk, fatal: &Arc<AtomicUsize>) -> (LogCore, Vec<RecoveredReplica>) {
    let fatal = Arc::clone(fatal);
    let on_fatal = Box::new(move |_| {
        fatal.fetch_add(1, Ordering::SeqCst);
    });
    LogCore::open(Arc::new(disk.clone()), DIR, options(), on_fatal).unwrap()
}

fn content(log: &LogCore, recovered: &[RecoveredReplica]) -> Replicas {
    let of = |r: &RecoveredReplica| {
        let entries = log.read(r.key, 0, u64::MAX, usize::MAX).unwrap();
        let entries: BTreeMap<u64, Bytes> =
            entries.into_iter().map(|e| (e.index, e.bytes)).collect();
        assert_eq!(entries.keys().next().copied(), r.first_index);
        assert_eq!(entries.keys().next_back().copied(), r.last_index);
        (r.key, Replica { entries, vote: r.vote.clone(), purged: r.purged.clone() })
    };
    recovered.iter().map(of).collect()
}

impl Run {
    fn new(seed: u64) -> Run {
        let (disk, fatal) = (SimDisk::new(), Arc::default());
        let (log, recovered) = open(&disk, &fatal);
        assert!(recovered.is_empty());
        let model = Model {
            base: Replicas::new(),
            changes: Vec::new(),
            now: Replicas::new(),
            acked: Arc::default(),
            committed: BTreeMap::new(),
        };
        let rng = SimRng::new(seed);
        let (cuts, copied, refused, next_replica) = (0, 0, 0, 1);
        Run { disk, log, model, rng, seed, next_replica, fatal, cuts, copied, refused }
    }

    fn bytes(&mut self, max: u64) -> Bytes {
        let length = self.rng.below(max) as usize;
        let mut bytes = self.rng.next_u64().to_le_bytes().to_vec();
        bytes.resize(8 + length, self.rng.next_u64() as u8);
        bytes.into()
    }

    fn step(&mut self) {
        let keys: Vec<ReplicaKey> = self.model.now.keys().copied().collect();
        if keys.is_empty() || (keys.len() < 5 && self.rng.one_in(40)) {
            let key = key(self.rng.below(3) as u16, self.next_replica);
            self.next_replica += 1;
            self.log.add_replica(key);
            return self.model.submit(Change::Added(key));
        }
        // The first replica is idle most of the time: it must not pin the log.
        let mut which = self.rng.below(keys.len() as u64) as usize;
        if which == 0 && !self.rng.one_in(50) {
            which = keys.len() - 1;
        }
        let key = keys[which];
        match self.rng.below(100) {
            0..40 => self.append(key),
            40..50 => {
                let vote = self.bytes(30);
                self.model.submit(Change::Vote(key, vote.clone()));
                self.log.save_vote(key, vote, self.model.done());
            }
            50..58 => {
                let mark = self.bytes(20);
                self.model.committed.entry(key).or_default().insert(mark.clone());
                self.log.save_committed(key, mark);
            }
            58..63 => self.truncate(key),
            63..73 => self.purge(key),
            73 if self.rng.one_in(5) => {
                self.model.submit(Change::Removed(key));
                self.log.remove_replica(key, self.model.done());
            }
            74..80 => self.read(key),
            _ => drop(self.log.commit()),
        }
    }

    fn append(&mut self, key: ReplicaKey) {
        let replica = &self.model.now[&key];
        let after = replica.purged.as_ref().map_or(0, |(index, _)| *index);
        let next = replica.entries.keys().next_back().copied().unwrap_or(after) + 1;
        let entries: Vec<LogEntry> = (0..1 + self.rng.below(4))
            .map(|n| LogEntry { index: next + n, bytes: self.bytes(900) })
            .collect();
        let room = self.log.stats().room_bytes;
        let before = self.model.changes.len();
        for entry in &entries {
            self.model.changes.push(Change::Entry(key, entry.index, entry.bytes.clone()));
        }
        let refused = Arc::new(AtomicUsize::new(0));
        let done = self.model.done();
        let result = Arc::clone(&refused);
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len() + 40).sum();
        self.log.append(
            key,
            entries.clone(),
            Box::new(move |outcome| {
                if let Err(error) = &outcome {
                    result.store(
                        1 + usize::from(error.kind() != io::ErrorKind::StorageFull),
                        Ordering::SeqCst,
                    );
                }
                done(outcome);
            }),
        );
        if refused.load(Ordering::SeqCst) == 0 {
            for change in &self.model.changes[before..] {
                apply(&mut self.model.now, change);
            }
            return;
        }
        assert_eq!(refused.load(Ordering::SeqCst), 1, "seed {}", self.seed);
        assert!(bytes as u64 + 200 > room, "seed {}: refused {bytes} of {room}", self.seed);
        self.refused += 1;
        self.model.changes.truncate(before);
        self.purge(key);
        while self.log.commit() {}
    }

    fn truncate(&mut self, key: ReplicaKey) {
        let replica = &self.model.now[&key];
        let Some((last, _)) = replica.entries.last_key_value() else { return };
        let from = last + 1 - self.rng.below(4).min(replica.entries.len() as u64);
        self.model.submit(Change::Truncate(key, from));
        self.log.truncate(key, from, self.model.done());
    }

    fn purge(&mut self, key: ReplicaKey) {
        let replica = &self.model.now[&key];
        let entries: Vec<u64> = replica.entries.keys().copied().collect();
        let Some(last) = entries.last().copied() else { return };
        let to = match self.rng.below(4) {
            0 => last,
            1 => last + self.rng.below(3),
            _ => entries[self.rng.below(entries.len() as u64) as usize],
        };
        let marker = self.bytes(16);
        self.model.submit(Change::Purge(key, to, marker.clone()));
        self.log.purge(key, to, marker, self.model.done());
    }

    fn read(&mut self, key: ReplicaKey) {
        let replica = &self.model.now[&key];
        let (from, max) = (self.rng.below(200), self.rng.below(4_000) as usize);
        let read = self.log.read(key, from, from + 40, max).unwrap();
        let expected: Vec<(u64, Bytes)> =
            replica.entries.range(from..from + 40).map(|(i, b)| (*i, b.clone())).collect();
        assert!(read.len() <= expected.len());
        assert!(!read.is_empty() || expected.is_empty(), "seed {}", self.seed);
        for (entry, (index, bytes)) in read.iter().zip(expected) {
            assert_eq!((entry.index, &entry.bytes), (index, &bytes), "seed {}", self.seed);
        }
        let state = self.log.state(key).unwrap();
        let expected = ReplicaLogState {
            purged: replica.purged.clone(),
            first_index: replica.entries.keys().next().copied(),
            last_index: replica.entries.keys().next_back().copied(),
            vote: replica.vote.clone(),
            committed: state.committed.clone(),
        };
        assert_eq!(state, expected);
    }

    /// Power is cut in the middle of a round, or the process is killed, or it ends well.
    fn end_of_life(&mut self) {
        let clean = self.rng.one_in(4);
        self.copied += self.log.stats().copied_bytes;
        if clean {
            self.log.finish();
            assert_eq!(
                self.model.acked.load(Ordering::SeqCst),
                self.last_with_done(),
                "seed {}",
                self.seed
            );
            self.disk.crash(&mut self.rng);
        } else if self.rng.one_in(4) {
            self.disk.kill();
        } else {
            self.disk.fail_syncs(true);
            self.log.commit();
            self.disk.crash(&mut self.rng);
        }
    }

    fn last_with_done(&self) -> usize {
        let without = |change: &Change| matches!(change, Change::Added(_));
        self.model.changes.iter().rposition(|change| !without(change)).map_or(0, |at| at + 1)
    }

    fn restart(&mut self) {
        self.end_of_life();
        let (log, recovered) = open(&self.disk, &self.fatal);
        self.log = log;
        self.cuts += usize::from(self.log.stats().tail_was_cut);
        for replica in &recovered {
            assert_eq!(replica.damaged, None, "seed {}", self.seed);
            if let Some(mark) = &replica.committed {
                assert!(self.model.committed[&replica.key].contains(mark), "seed {}", self.seed);
            }
        }
        self.model.check_recovered(content(&self.log, &recovered), self.seed);
    }
}

#[test]
fn what_is_acknowledged_survives_and_nothing_else_appears() {
    let (mut cuts, mut copied, mut refused) = (0, 0, 0);
    for seed in 0..60 {
        let mut run = Run::new(seed);
        for _ in 0..25 {
            for _ in 0..run.rng.below(120) {
                run.step();
            }
            run.restart();
        }
        (cuts, copied, refused) = (cuts + run.cuts, copied + run.copied, refused + run.refused);
    }
    assert!(cuts > 0 && copied > 0, "cuts {cuts} copied {copied} refused {refused}");
}

#[test]
fn one_long_life_recycles_its_segments() {
    for seed in 1_000..1_006 {
        let mut run = Run::new(seed);
        for _ in 0..4_000 {
            run.step();
            let stats = run.log.stats();
            assert!(stats.bytes_on_disk <= (96 + 32) << 10, "seed {seed}: {stats:?}");
        }
        let stats = run.log.stats();
        assert!(stats.bytes_written > 10 * stats.bytes_on_disk, "{stats:?}");
        assert!(stats.copied_bytes > 0);
        run.restart();
    }
}

#[test]
fn a_flipped_bit_damages_or_changes_nothing() {
    let (mut found, mut harmless) = (0, 0);
    for seed in 2_000..2_400 {
        let mut run = Run::new(seed);
        for _ in 0..100 + run.rng.below(250) {
            run.step();
        }
        run.log.finish();
        run.model.rebase(run.model.now.clone());
        let names = holdfast_log::Disk::list(&run.disk, DIR).unwrap();
        let segments: Vec<&String> = names.iter().filter(|name| name.ends_with(".seg")).collect();
        let path = format!("{DIR}/{}", segments[run.rng.below(segments.len() as u64) as usize]);
        run.disk.flip_bit(&path, run.rng.below(8 << 10), run.rng.next_u64() as u8).unwrap();
        run.disk.crash(&mut run.rng);
        let (log, recovered) = open(&run.disk, &run.fatal);
        let damaged: Vec<ReplicaKey> =
            recovered.iter().filter(|r| r.damaged.is_some()).map(|r| r.key).collect();
        if damaged.is_empty() {
            harmless += 1
        } else {
            found += 1
        }
        let good: Vec<RecoveredReplica> =
            recovered.into_iter().filter(|r| r.damaged.is_none()).collect();
        let mut expected = run.model.now.clone();
        expected.retain(|key, _| !damaged.contains(key));
        assert_eq!(content(&log, &good), expected, "seed {seed} {path}");
        check_quarantine(&run, log, &damaged, expected);
    }
    assert!(found > 50 && harmless > 50, "{found} {harmless}");
}

/// Damage is remembered until the replica is removed; a new replica is not touched by the old damage.
fn check_quarantine(run: &Run, log: LogCore, damaged: &[ReplicaKey], expected: Replicas) {
    for key in damaged {
        assert!(log.read(*key, 0, 9, 9).is_err());
        log.save_vote(*key, Bytes::new(), Box::new(|result| assert!(result.is_err())));
    }
    log.finish();
    let (log, recovered) = open(&run.disk, &run.fatal);
    let again: Vec<ReplicaKey> =
        recovered.iter().filter(|r| r.damaged.is_some()).map(|r| r.key).collect();
    assert_eq!(again, damaged, "seed {}", run.seed);
    for old in damaged {
        log.remove_replica(*old, Box::new(|result| result.unwrap()));
        let new = key(old.shard.0, old.replica.0 + 1_000);
        log.add_replica(new);
        let entry = LogEntry { index: 1, bytes: Bytes::from_static(b"new") };
        log.append(new, vec![entry], Box::new(|result| result.unwrap()));
    }
    log.finish();
    let (log, recovered) = open(&run.disk, &run.fatal);
    assert!(recovered.iter().all(|r| r.damaged.is_none()), "seed {}: {recovered:?}", run.seed);
    let now = content(&log, &recovered);
    assert_eq!(now.len(), expected.len() + damaged.len());
    assert!(expected.iter().all(|(key, replica)| now[key] == *replica));
}
