//! A replica's state that tests drive by hand, without Raft.

use std::ops::Range;
use std::sync::Arc;

use holdfast_log::run::{Matches, write_run};
use holdfast_log::{Disk, RealDisk, ReplicaKey, SimRng};
use holdfast_proto::batch::BatchBuilder;
use holdfast_proto::ids::{Epoch, Incarnation, Namespace, Position, ReplicaId, ShardId};
use holdfast_proto::record::{NEVER_EXPIRES, RecordDraft};
use holdfast_proto::shard::{Entry, RunRow};
use holdfast_proto::topic;
use holdfast_shard::{LAYOUT_TOPIC, Request, Shard};

use super::cell::{Cell, RUNS_DIR, run_id};
use crate::state_store::{ReplicaStore, StateStore};

/// A replica's state, and what it stores.
pub(crate) struct Replica {
    pub(crate) cell: Cell,
    /// The leader's clock.
    pub(crate) now_ms: u64,
    entries: u64,
    stored: Vec<(u64, u32, String)>,
    _dir: tempfile::TempDir,
}

impl Replica {
    pub(crate) fn new() -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path()).unwrap());
        disk.create_dir(RUNS_DIR).unwrap();
        let key = ReplicaKey { shard: ShardId(0), replica: ReplicaId(1) };
        let store = StateStore::open(&dir.path().join("state")).unwrap().replica(key).unwrap();
        let shard: Shard<ReplicaStore> = Shard::open(store.clone(), key.shard, 1).unwrap();
        let cell = Cell::new(key, 1, store, disk, shard);
        Replica { cell, now_ms: 1_000, entries: 0, stored: Vec::new(), _dir: dir }
    }

    fn run(&mut self, request: Request) -> holdfast_shard::Applied {
        let mut shard = self.cell.shard.lock();
        let entry = shard.decide(&[request], self.now_ms).unwrap().entry.unwrap();
        self.entries += 1;
        shard.apply(self.entries, Entry { term: 1, ..entry }).unwrap()
    }

    /// Stores some messages.
    pub(crate) fn append(&mut self, rng: &mut SimRng, sequence: u64) {
        let messages = (0..rng.below(60)).map(|_| {
            let namespace = u32::from(rng.one_in(10));
            (namespace, format!("{}/{}", ["a", "b", "$c"][rng.below(3) as usize], rng.below(9)))
        });
        let messages = messages.collect();
        self.store(sequence, messages);
    }

    /// Stores a message to each topic.
    pub(crate) fn append_to(&mut self, sequence: u64, topics: &[&str]) {
        self.store(sequence, topics.iter().map(|topic| (0, (*topic).to_owned())).collect());
    }

    fn store(&mut self, sequence: u64, messages: Vec<(u32, String)>) {
        let mut batch = BatchBuilder::default();
        let next = self.cell.shard.lock().next_position().0;
        for (position, (namespace, topic)) in (next..).zip(messages) {
            batch.push(&RecordDraft {
                namespace: Namespace(namespace),
                topic: &topic,
                client_id: "p",
                epoch: Epoch(0),
                qos: 1,
                retain: false,
                will: false,
                packet_id: 0,
                expiry_interval_s: NEVER_EXPIRES,
                properties: &[],
                payload: b"payload",
            });
            self.stored.push((position, namespace, topic));
        }
        self.run(Request::Append(batch.seal(Incarnation(1), sequence, u64::MAX)));
    }

    /// Ends a run; it is readable at once, or its file is missing.
    pub(crate) fn cut(&mut self, seals: bool, is_missing: bool) {
        let roll = Request::Roll { layout: LAYOUT_TOPIC.into() };
        let cut = self.run(if seals { roll } else { Request::Cut }).cut.unwrap();
        let mut shard = self.cell.shard.lock();
        let records = shard.tail().below(cut.end);
        if records.is_empty() {
            return;
        }
        let mut row = RunRow {
            generation: cut.generation.0,
            first_position: cut.first.0,
            end_position: cut.end.0,
            ..RunRow::default()
        };
        let id = run_id(ShardId(0), &row);
        let info = write_run(self.cell.disk.as_ref(), RUNS_DIR, id, &records).unwrap();
        (row.checksum, row.bytes) = (info.checksum, info.bytes);
        assert!(shard.run_written(row));
        if is_missing {
            self.cell.disk.remove(&id.path(RUNS_DIR)).unwrap();
        }
        self.cell.run_ready(row);
        shard.trim_tail(cut.end);
    }

    /// What a count has to find.
    pub(crate) fn expected(
        &self,
        namespace: u32,
        filters: &[String],
        range: &Range<Position>,
    ) -> Matches {
        let mut matches = Matches::default();
        for (position, of, name) in &self.stored {
            if range.contains(&Position(*position))
                && *of == namespace
                && filters.iter().any(|filter| topic::matches(filter, name))
            {
                matches.note(Position(*position));
            }
        }
        matches
    }
}
