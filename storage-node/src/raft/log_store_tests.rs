//! The log store on a disk that loses what was not synced: kill -9 of a process keeps the page cache, so
//! only this shows an acknowledgement that comes too early.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_log::{LogOptions, ReplicaKey, SimDisk, SimRng, SiteLog};
use holdfast_proto::ids::{ReplicaId, ShardId};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};

use super::log_store::LogStore;
use super::{LogId, RaftEntry, ShardEntry, Vote};

const KEY: ReplicaKey = ReplicaKey { shard: ShardId(1), replica: ReplicaId(2) };

fn open(disk: &SimDisk) -> (SiteLog, LogStore) {
    let options =
        LogOptions { segment_bytes: 16 << 10, bytes_max: 256 << 10, ..LogOptions::default() };
    // A sync that fails because the power went ends nothing here.
    let (log, recovered) =
        SiteLog::open(Arc::new(disk.clone()), "log", options, Box::new(|_| {})).unwrap();
    assert!(recovered.iter().all(|replica| replica.damaged.is_none()), "{recovered:?}");
    log.add_replica(KEY);
    (log.clone(), LogStore::new(log, KEY, 1 << 20))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 2), index)
}

fn entry(term: u64, index: u64) -> RaftEntry {
    let payload = Bytes::from(vec![(term * 31 + index) as u8; 200]);
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Normal(ShardEntry(payload)) }
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    vote: Option<Vote>,
    entries: BTreeMap<u64, RaftEntry>,
    purged: Option<LogId>,
}

impl Acknowledged {
    fn next(&self) -> u64 {
        self.entries.keys().next_back().map_or(self.purged.map_or(1, |id| id.index + 1), |i| i + 1)
    }

    async fn step(&mut self, store: &mut LogStore, rng: &mut SimRng, term: u64) {
        let next = self.next();
        match rng.below(10) {
            0 => {
                let vote = Vote::new(term, rng.below(3));
                store.save_vote(&vote).await.unwrap();
                self.vote = Some(vote);
            }
            1 if self.entries.len() > 2 => {
                let from = log_id(term, next - 1 - rng.below(2));
                store.truncate(from).await.unwrap();
                self.entries.split_off(&from.index);
            }
            2 if self.entries.len() > 8 => {
                let upto = self.entries.values().nth(3).unwrap().log_id;
                store.purge(upto).await.unwrap();
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            _ => {
                let count = 1 + rng.below(4);
                let new: Vec<_> = (next..next + count).map(|index| entry(term, index)).collect();
                store.blocking_append(new.clone()).await.unwrap();
                self.entries.extend(new.into_iter().map(|entry| (entry.log_id.index, entry)));
            }
        }
    }

    async fn check(&self, store: &mut LogStore, seed: u64) {
        assert_eq!(store.read_vote().await.unwrap(), self.vote, "seed {seed}");
        let state = store.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, self.purged, "seed {seed}");
        let last = self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged);
        assert_eq!(state.last_log_id, last, "seed {seed}");
        let read = store.try_get_log_entries(..).await.unwrap();
        assert!(read.iter().eq(self.entries.values()), "seed {seed}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    for seed in 0..60 {
        let mut rng = SimRng::new(seed);
        let disk = SimDisk::new();
        let mut acknowledged = Acknowledged::default();
        for term in 1..=3 {
            let (log, mut store) = open(&disk);
            acknowledged.check(&mut store, seed).await;
            for _ in 0..rng.below(30) {
                acknowledged.step(&mut store, &mut rng, term).await;
            }
            disk.crash(&mut rng);
            log.close();
        }
        let (_log, mut store) = open(&disk);
        acknowledged.check(&mut store, seed).await;
    }
}

/// Runs a write while no sync returns, and shows that it ends only after the sync.
async fn waits_for_the_sync<W>(disk: &SimDisk, write: W)
where
    W: Future<Output = Result<(), super::StorageError>> + Send + 'static,
{
    disk.stall();
    let write = tokio::spawn(write);
    let stalled = disk.clone();
    tokio::task::spawn_blocking(move || stalled.wait_stalled()).await.unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let early = write.is_finished();
    // Before a panic: a log is closed only when its sync has returned.
    disk.release();
    assert!(!early, "acknowledged before it was synced");
    write.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_synced() {
    let disk = SimDisk::new();
    let (_log, store) = open(&disk);
    let mut one = store.clone();
    waits_for_the_sync(&disk, async move {
        one.blocking_append((1..=9).map(|index| entry(1, index))).await
    })
    .await;
    let mut one = store.clone();
    waits_for_the_sync(&disk, async move { one.save_vote(&Vote::new(2, 2)).await }).await;
    let mut one = store.clone();
    waits_for_the_sync(&disk, async move { one.truncate(log_id(1, 8)).await }).await;
    let mut one = store.clone();
    waits_for_the_sync(&disk, async move { one.purge(log_id(1, 3)).await }).await;
}

#[tokio::test]
async fn an_append_waits_until_a_full_disk_has_room() {
    let disk = SimDisk::new();
    disk.set_budget(Some(80 << 10));
    let (log, mut store) = open(&disk);
    let mut next = 1;
    while log.stats().room_bytes > 8 << 10 {
        store.blocking_append([entry(1, next)]).await.unwrap();
        next += 1;
    }
    // More than the rest of the budget, however the log divides it.
    let many: Vec<_> = (next..next + 200).map(|index| entry(1, index)).collect();
    let (mut other, entries) = (store.clone(), many.clone());
    let append = tokio::spawn(async move { other.blocking_append(entries).await });
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!append.is_finished(), "there is no room");
    disk.set_budget(None);
    append.await.unwrap().unwrap();
    assert_eq!(store.try_get_log_entries(next..).await.unwrap(), many);
}
