//! One replica's state: the applied shard in memory, its runs, and where both are kept on disk.
//!
//! Readers and tails look at the cell; only the state machine changes it.

mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;
use holdfast_log::run::RunError;
use holdfast_log::{Disk, ReplicaKey};
use holdfast_proto::ids::{Namespace, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::Status;
use holdfast_shard::Shard;
use openraft::StoredMembership;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use self::runs::RunSlot;
pub(crate) use self::runs::{RUNS_DIR, run_id};
use super::retention::Retention;
use crate::clocks::Clocks;
use crate::raft::Member;
use crate::state_store::{ReplicaStore, StoreError};

/// One replica's state.
pub(crate) struct Cell {
    pub(crate) key: ReplicaKey,
    /// How many shards the cluster has.
    pub(crate) shards: u16,
    pub(crate) store: ReplicaStore,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shard: Mutex<Shard<ReplicaStore>>,
    runs: RwLock<BTreeMap<Position, RunSlot>>,
    /// Head of the shard as applied; moves after the records are readable.
    pub(crate) head: watch::Sender<Position>,
    /// Bytes of entries that were applied since the last cut: what a checkpoint would free in the log.
    pub(crate) since_cut_bytes: AtomicUsize,
    /// A checkpoint was completed.
    pub(crate) checkpointed: Notify,
    /// Wakes the site's fetching: a run that the state names is not on this disk, or wanted at once.
    fetching: Arc<Notify>,
    /// The site's time.
    pub(crate) clocks: Arc<Clocks>,
    /// Missing runs that readers wait for.
    wanted: Mutex<BTreeSet<Position>>,
    /// What is to be removed.
    pub(crate) retention: Retention,
    /// Replica ids that vote by the last membership that was applied; while it changes, of both sets.
    voters: Mutex<Vec<u64>>,
    /// This replica leads: it serves tails and feeds the registry.
    leading: AtomicBool,
    /// How far sessions of this shard are behind, as measured last while this replica leads.
    lag: Mutex<Lag>,
}

/// How far the durable sessions of a home shard are behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// The most messages that one of them has not read, in all shards together.
    pub(crate) messages: u64,
    /// Shard time at which the oldest message was stored that one of them has not read; 0: none.
    pub(crate) oldest_ms: u64,
}

/// What a read found.
pub(crate) struct Page {
    pub(crate) status: Status,
    pub(crate) records: BytesMut,
    pub(crate) next: Position,
    pub(crate) head: bool,
    pub(crate) time_ms: u64,
    pub(crate) dropped_below: u64,
}

impl Cell {
    pub(crate) fn new(
        key: ReplicaKey,
        shards: u16,
        store: ReplicaStore,
        disk: Arc<dyn Disk>,
        shard: Shard<ReplicaStore>,
    ) -> Cell {
        let head = watch::Sender::new(shard.next_position());
        let cell = Cell {
            key,
            shards,
            store,
            disk,
            shard: Mutex::new(shard),
            runs: RwLock::default(),
            head,
            since_cut_bytes: AtomicUsize::new(0),
            checkpointed: Notify::new(),
            fetching: Arc::default(),
            clocks: Arc::default(),
            wanted: Mutex::default(),
            retention: Retention::default(),
            voters: Mutex::default(),
            leading: AtomicBool::new(false),
            lag: Mutex::default(),
        };
        cell.reload_runs();
        cell
    }

    /// Who is woken when a run is missing.
    pub(crate) fn fetched_by(mut self, fetching: Arc<Notify>) -> Cell {
        fetching.notify_one();
        self.fetching = fetching;
        self
    }

    /// Whose time is stamped and told.
    pub(crate) fn timed_by(mut self, clocks: Arc<Clocks>) -> Cell {
        self.clocks = clocks;
        self
    }

    /// The shard's time now: the leader's own, as the shard's stands still while nothing is stored.
    pub(crate) fn time_ms(&self, shard: &Shard<ReplicaStore>) -> u64 {
        self.clocks.now_ms().max(shard.time_ms())
    }

    pub(crate) fn set_voters(&self, membership: &StoredMembership<u64, Member>) {
        *self.voters.lock() = membership.voter_ids().collect();
    }

    /// Who votes by the membership that is committed.
    pub(crate) fn voters(&self) -> Vec<u64> {
        self.voters.lock().clone()
    }

    pub(crate) fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }

    pub(crate) fn set_leading(&self, leading: bool) {
        self.set_lag(Lag::default());
        self.leading.store(leading, Ordering::Release);
    }

    /// How far sessions are behind; nothing unless this replica leads.
    pub(crate) fn lag(&self) -> Lag {
        if self.is_leading() { *self.lag.lock() } else { Lag::default() }
    }

    pub(crate) fn set_lag(&self, lag: Lag) {
        *self.lag.lock() = lag;
    }

    /// Records from `from` on that match one of the filters. Reads files: call it off the reactor if
    /// [`Cell::needs_disk`] says so.
    pub(crate) fn read(
        &self,
        namespace: Namespace,
        filters: &[String],
        from: Position,
        bytes_max: usize,
    ) -> Result<Page, RunError> {
        let mut page = Page {
            status: Status::Ok,
            records: BytesMut::new(),
            next: from,
            head: false,
            time_ms: 0,
            dropped_below: 0,
        };
        loop {
            {
                let shard = self.shard.lock();
                page.time_ms = self.time_ms(&shard);
                let oldest = shard
                    .generations()
                    .first()
                    .map_or(Position::FIRST, |row| Position(row.first_position));
                if page.next < oldest {
                    page.dropped_below = oldest.0;
                    page.next = oldest;
                }
                if !shard.last_positions().may_have_news(namespace, filters, page.next) {
                    page.next = page.next.max(shard.next_position());
                    page.head = true;
                    return Ok(page);
                }
                if page.next >= shard.tail().first() {
                    let room = bytes_max.saturating_sub(page.records.len());
                    let (next, _) =
                        shard.tail().read(namespace, filters, page.next, room, &mut page.records);
                    page.next = next;
                    page.head = next >= shard.next_position();
                    return Ok(page);
                }
            }
            if !self.read_run(namespace, filters, bytes_max, &mut page)? {
                return Ok(page);
            }
        }
    }

    /// Reads on in the run at `page.next`; false when the page is full or the run is missing.
    fn read_run(
        &self,
        namespace: Namespace,
        filters: &[String],
        bytes_max: usize,
        page: &mut Page,
    ) -> Result<bool, RunError> {
        let until = self.shard.lock().tail().first();
        let run = match self.run_at(page.next, until) {
            // Nothing is kept between here and the tail.
            None => {
                page.next = page.next.max(until);
                return Ok(true);
            }
            Some(Err(())) => {
                page.status = Status::Unavailable;
                return Ok(false);
            }
            Some(Ok(run)) => run,
        };
        let room = bytes_max.saturating_sub(page.records.len());
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let from = page.next.max(run.info().id.first);
        let end = run
            .read(namespace, &filters, from, room, &mut page.records)
            .inspect_err(|error| self.note_damage(&run, error))?;
        page.next = end.next;
        Ok(page.records.len() < bytes_max && end.next >= run.info().id.end)
    }

    /// The records at these positions, as far as they are still kept.
    pub(crate) fn at(&self, positions: &[u64]) -> Result<Page, RunError> {
        let mut records = BytesMut::new();
        let mut below = Vec::new();
        let (tail_first, next, time_ms) = {
            let shard = self.shard.lock();
            for position in positions.iter().copied().map(Position) {
                match shard.tail().at(position) {
                    Some(placed) => {
                        Placed::encode(&mut records, position, placed.time_ms, &placed.record);
                    }
                    None => below.push(position),
                }
            }
            (shard.tail().first(), shard.next_position(), self.time_ms(&shard))
        };
        let mut status = Status::Ok;
        for position in below {
            match self.run_at(position, tail_first) {
                Some(Ok(run)) => {
                    run.at(&[position], &mut records)
                        .inspect_err(|error| self.note_damage(&run, error))?;
                }
                Some(Err(())) => status = Status::Unavailable,
                None => {}
            }
        }
        Ok(Page { status, records, next, head: false, time_ms, dropped_below: 0 })
    }

    /// Whether a read from `from` on will open files.
    pub(crate) fn needs_disk(
        &self,
        namespace: Namespace,
        filters: &[String],
        from: Position,
    ) -> bool {
        let shard = self.shard.lock();
        from < shard.tail().first()
            && shard.last_positions().may_have_news(namespace, filters, from)
    }

    /// Replaces the state by that of an installed snapshot.
    pub(crate) fn replace(&self, shard: Shard<ReplicaStore>) {
        let head = shard.next_position();
        *self.shard.lock() = shard;
        self.reload_runs();
        self.head.send_replace(head);
    }

    /// Forgets everything on disk.
    pub(crate) fn erase(&self) -> Result<(), StoreError> {
        self.runs.write().clear();
        self.sweep();
        self.store.clear()
    }
}
