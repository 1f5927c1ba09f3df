//! What the site log does when the disk is full, fails, or stalls.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use bytes::Bytes;
use holdfast_log::{
    Done, LogEntry, LogObserver, LogOptions, RealDisk, ReplicaKey, SimClock, SimDisk, SimRng,
    SiteLog,
};
use holdfast_proto::ids::{ReplicaId, ShardId};
use parking_lot::Mutex;

const KEY: ReplicaKey = ReplicaKey { shard: ShardId(1), replica: ReplicaId(2) };

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 8 << 10,
        bytes_max: 128 << 10,
        log_id_if_new: 5,
        ..LogOptions::default()
    }
}

fn open(disk: &SimDisk, options: LogOptions) -> (SiteLog, Arc<AtomicUsize>) {
    let fatal = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fatal);
    let on_fatal = Box::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let (log, _) = SiteLog::open(Arc::new(disk.clone()), "log", options, on_fatal).unwrap();
    log.add_replica(KEY);
    (log, fatal)
}

fn entry(index: u64, bytes: usize) -> LogEntry {
    LogEntry { index, bytes: vec![index as u8; bytes].into() }
}

fn done() -> (Done, Receiver<io::Result<()>>) {
    let (sender, receiver) = channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn append(log: &SiteLog, index: u64, bytes: usize) -> Receiver<io::Result<()>> {
    let (done, receiver) = done();
    log.append(KEY, vec![entry(index, bytes)], done);
    receiver
}

fn vote(log: &SiteLog) -> io::Result<()> {
    let (done, receiver) = done();
    log.save_vote(KEY, Bytes::from_static(b"vote"), done);
    receiver.recv().unwrap()
}

/// Appends until an entry is refused; returns how many were accepted.
fn fill(log: &SiteLog, from: u64) -> u64 {
    for index in from.. {
        if let Err(error) = append(log, index, 1_000).recv().unwrap() {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            return index - from;
        }
    }
    0
}

#[test]
fn a_full_disk_refuses_entries_and_takes_votes_and_is_usable_after_a_purge() {
    let disk = SimDisk::new();
    disk.set_budget(Some(60 << 10));
    let (log, fatal) = open(&disk, options());
    let mut next = 1;
    for _ in 0..20 {
        let accepted = fill(&log, next);
        assert!(accepted > 15, "{accepted} {:?}", log.stats());
        next += accepted;
        vote(&log).unwrap();
        assert_eq!(log.state(KEY).unwrap().last_index, Some(next - 1));
        assert_eq!(log.read(KEY, next - 1, next + 1, 9_999).unwrap(), [entry(next - 1, 1_000)]);
        let (done, receiver) = done();
        log.purge(KEY, next - 2, Bytes::new(), done);
        receiver.recv().unwrap().unwrap();
        // Room comes back while the log does nothing else.
        while log.stats().room_bytes < 20 << 10 {
            std::thread::yield_now();
        }
    }
    assert_eq!(fatal.load(Ordering::SeqCst), 0);
}

#[test]
fn a_disk_that_fills_up_behind_our_back_is_refused_before_writing() {
    let disk = SimDisk::new();
    let (log, fatal) = open(&disk, options());
    append(&log, 1, 1_000).recv().unwrap().unwrap();
    disk.set_budget(Some(20 << 10));
    let mut refused = None;
    for index in 2..40 {
        if let Err(error) = append(&log, index, 1_000).recv().unwrap() {
            refused = Some((index, error.kind()));
            break;
        }
    }
    let (index, kind) = refused.unwrap();
    assert_eq!(kind, io::ErrorKind::StorageFull);
    assert_eq!(fatal.load(Ordering::SeqCst), 0);
    assert_eq!(log.read(KEY, 1, index, usize::MAX).unwrap().len() as u64, index - 1);
    drop(log);
    disk.set_budget(None);
    let on_fatal = Box::new(|_| panic!("the disk works"));
    let (_, recovered) = SiteLog::open(Arc::new(disk.clone()), "log", options(), on_fatal).unwrap();
    assert_eq!((recovered[0].last_index, recovered[0].damaged.clone()), (Some(index - 1), None));
}

#[test]
fn a_failed_sync_ends_the_log_and_is_never_retried() {
    let disk = SimDisk::new();
    let (log, fatal) = open(&disk, options());
    append(&log, 1, 10).recv().unwrap().unwrap();
    disk.fail_syncs(true);
    assert!(append(&log, 2, 10).recv().unwrap().is_err());
    disk.fail_syncs(false);
    let syncs = disk.syncs();
    assert_eq!(append(&log, 3, 10).recv().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(vote(&log).is_err());
    log.close();
    assert_eq!((fatal.load(Ordering::SeqCst), disk.syncs()), (1, syncs));
    assert!(log.stats().failed);
}

#[test]
fn a_failed_write_ends_the_log() {
    let disk = SimDisk::new();
    let (log, fatal) = open(&disk, options());
    append(&log, 1, 10).recv().unwrap().unwrap();
    disk.fail_writes(true);
    assert!(vote(&log).is_err());
    assert!(vote(&log).is_err());
    log.close();
    assert_eq!(fatal.load(Ordering::SeqCst), 1);
}

#[derive(Default)]
struct Rounds(Mutex<Vec<usize>>);

impl LogObserver for Rounds {
    fn round(&self, frames: usize, _bytes: u64, _sync: Duration) {
        self.0.lock().push(frames);
    }
}

#[test]
fn a_stalled_disk_shows_and_what_waits_becomes_one_round() {
    let disk = SimDisk::new();
    let (clock, rounds) = (Arc::new(SimClock::new(0)), Arc::new(Rounds::default()));
    let observer: Arc<dyn LogObserver> = Arc::clone(&rounds) as Arc<dyn LogObserver>;
    let options =
        LogOptions { clock: Arc::clone(&clock) as _, observer: Some(observer), ..options() };
    let (log, _) = open(&disk, options);
    vote(&log).unwrap();
    disk.stall();
    let mut waiting = vec![append(&log, 1, 10)];
    disk.wait_stalled();
    waiting.extend((2..50).map(|index| append(&log, index, 10)));
    clock.advance(Duration::from_secs(3));
    assert_eq!(log.stats().stalled_for, Duration::from_secs(3));
    assert_eq!(log.read(KEY, 1, 50, usize::MAX).unwrap().len(), 49);
    for receiver in &waiting {
        assert!(matches!(receiver.try_recv(), Err(TryRecvError::Empty)));
    }
    disk.release();
    for receiver in waiting {
        receiver.recv().unwrap().unwrap();
    }
    log.close();
    assert_eq!(rounds.0.lock().last_chunk::<3>(), Some(&[1, 48, 0]));
    assert_eq!(log.stats().stalled_for, Duration::ZERO);
}

#[test]
fn power_loss_during_a_stall_keeps_what_was_acknowledged() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let (log, fatal) = open(&disk, options());
        vote(&log).unwrap();
        append(&log, 1, 700).recv().unwrap().unwrap();
        disk.stall();
        let unheard = append(&log, 2, 3_000);
        disk.wait_stalled();
        disk.crash(&mut SimRng::new(seed));
        assert!(unheard.recv().unwrap().is_err());
        log.close();
        assert_eq!(fatal.load(Ordering::SeqCst), 1);
        let on_fatal = Box::new(|_| panic!("the disk works"));
        let (log, recovered) =
            SiteLog::open(Arc::new(disk.clone()), "log", options(), on_fatal).unwrap();
        assert!(recovered[0].last_index >= Some(1) && recovered[0].damaged.is_none());
        assert_eq!(recovered[0].vote.as_deref(), Some(&b"vote"[..]));
        assert_eq!(log.read(KEY, 1, 2, 1).unwrap(), [entry(1, 700)]);
    }
}

#[test]
fn entries_that_do_not_follow_or_do_not_fit_are_refused() {
    let disk = SimDisk::new();
    let (log, _) = open(&disk, options());
    append(&log, 5, 10).recv().unwrap().unwrap();
    for (index, bytes) in [(5, 10), (7, 10), (6, 8 << 10)] {
        let error = append(&log, index, bytes).recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    append(&log, 6, 10).recv().unwrap().unwrap();
    assert_eq!(log.state(KEY).unwrap().last_index, Some(6));
}

#[test]
fn it_works_on_the_machines_own_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(dir.path()).unwrap());
    for life in 0..3 {
        let on_fatal = Box::new(|error| panic!("{error}"));
        let (log, recovered) = SiteLog::open(disk.clone(), "log", options(), on_fatal).unwrap();
        let last = recovered.first().and_then(|replica| replica.last_index).unwrap_or(0);
        assert_eq!(last, life * 60);
        log.add_replica(KEY);
        let waiting: Vec<_> =
            (last + 1..=last + 60).map(|index| append(&log, index, 500)).collect();
        for receiver in waiting {
            receiver.recv().unwrap().unwrap();
        }
        let all = log.read(KEY, last + 1, u64::MAX, usize::MAX).unwrap();
        assert_eq!(all.last(), Some(&entry(last + 60, 500)));
        log.close();
    }
}
