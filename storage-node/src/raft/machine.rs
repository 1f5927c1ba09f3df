//! The state machine of one replica, as openraft drives it: applies entries to the cell and makes
//! checkpoints at cuts.
//!
//! A checkpoint at a cut goes in this order: the run is written and synced; the state with its log id
//! is written and synced; only then Raft is told and may purge the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_log::run::{RunError, remove_run, write_run};
use holdfast_proto::ids::Position;
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::{Entry, Outcome, RunRow, Status};
use holdfast_proto::storage::SnapshotMeta as MetaRow;
use holdfast_shard::{Applied, CutInfo, Shard};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    StorageIOError, StoredMembership,
};
use prost::Message;
use tokio::sync::{Mutex as Lane, OwnedMutexGuard};

use super::{LogId, Member, Outcomes, RaftEntry, ShardRaft, StorageError, codec};
use crate::fatal::Fatal;
use crate::feed::FeedQueue;
use crate::metrics;
use crate::replica::cell::{Cell, RUNS_DIR, run_id};
use crate::state_store::{Pair, parse_dump};

/// The state machine of one replica.
pub(crate) struct Machine {
    cell: Arc<Cell>,
    feed: Arc<FeedQueue>,
    fatal: Fatal,
    last_applied: Option<LogId>,
    membership: StoredMembership<u64, Member>,
    /// One checkpoint, install or dump at a time.
    lane: Arc<Lane<()>>,
}

/// Pause before a checkpoint that found the disk full is tried again.
const DISK_FULL_PAUSE: Duration = Duration::from_secs(1);

impl Machine {
    /// The machine at the state of its last checkpoint.
    pub(crate) fn open(
        cell: Arc<Cell>,
        feed: Arc<FeedQueue>,
        fatal: Fatal,
    ) -> Result<Machine, crate::state_store::StoreError> {
        let applied = cell.store.applied()?.unwrap_or_default();
        let membership = codec::stored_membership_from(
            applied.membership_log_id.as_ref(),
            applied.membership.as_ref(),
        );
        cell.set_voters(&membership);
        Ok(Machine {
            cell,
            feed,
            fatal,
            last_applied: applied.last.as_ref().map(codec::log_id_from),
            membership,
            lane: Arc::new(Lane::new(())),
        })
    }

    fn meta(&self) -> MetaRow {
        let last = self.last_applied.as_ref().map(codec::log_id_to);
        MetaRow {
            snapshot_id: last.as_ref().map_or_else(String::new, snapshot_id),
            last,
            membership_log_id: self.membership.log_id().as_ref().map(codec::log_id_to),
            membership: Some(codec::membership_to(self.membership.membership())),
        }
    }

    async fn apply_entry(&mut self, log_id: LogId, data: Bytes) -> Result<Outcomes, StorageError> {
        self.cell.since_cut_bytes.fetch_add(data.len(), Ordering::Relaxed);
        let entry = Entry::decode(data).map_err(|error| apply_failed(log_id, &error))?;
        if entry.term != log_id.leader_id.term {
            // Decided by a leader that was replaced before it could propose.
            let unavailable = Outcome { status: Status::Unavailable.into(), ..Outcome::default() };
            return Ok(Outcomes(vec![unavailable; entry.ops.len()]));
        }
        // The next checkpoint is frozen only when the one before is done.
        let lane = match entry.ops.iter().any(is_cut) {
            true => Some(self.lane.clone().lock_owned().await),
            false => None,
        };
        let mut shard = self.cell.shard.lock();
        let applied =
            shard.apply(log_id.index, entry).map_err(|error| apply_failed(log_id, &error))?;
        let head = shard.next_position();
        let cut = match (&applied.cut, lane) {
            (Some(cut), Some(lane)) => {
                self.cell.since_cut_bytes.store(0, Ordering::Relaxed);
                Some((freeze(&mut shard, cut), lane))
            }
            _ => None,
        };
        drop(shard);
        self.publish(log_id, head, &applied);
        if let Some((frozen, lane)) = cut {
            self.start_checkpoint(frozen, lane);
        }
        Ok(Outcomes(applied.outcomes))
    }

    fn publish(&self, log_id: LogId, head: Position, applied: &Applied) {
        self.cell.head.send_if_modified(|known| {
            let moved = *known != head;
            *known = head;
            moved
        });
        for row in &applied.dropped {
            self.cell.drop_generation(row.generation);
        }
        if self.cell.is_leading() {
            self.feed.push(log_id.index, &applied.changed);
        }
    }

    fn start_checkpoint(&self, frozen: Frozen, lane: OwnedMutexGuard<()>) {
        let cell = self.cell.clone();
        let fatal = self.fatal.clone();
        let meta = self.meta();
        tokio::task::spawn_blocking(move || {
            let _lane = lane;
            if let Err(error) = checkpoint(&cell, frozen, &meta) {
                fatal.stop("checkpoint", &error);
            }
        });
    }
}

fn is_cut(op: &holdfast_proto::shard::Op) -> bool {
    use holdfast_proto::shard::op::Op;
    matches!(op.op, Some(Op::Cut(_) | Op::Roll(_)))
}

fn apply_failed(log_id: LogId, error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIOError::apply(log_id, AnyError::new(error)).into()
}

fn snapshot_id(last: &holdfast_proto::storage::RaftLogId) -> String {
    format!("{}-{}-{}", last.term, last.replica_id, last.index)
}

/// Everything a checkpoint writes, as of its cut.
struct Frozen {
    cut: CutInfo,
    records: Vec<Placed>,
    pairs: Vec<Pair>,
}

fn freeze(shard: &mut Shard<crate::state_store::ReplicaStore>, cut: &CutInfo) -> Frozen {
    Frozen { records: shard.tail().below(cut.end), pairs: shard.freeze().pairs, cut: *cut }
}

fn checkpoint(
    cell: &Cell,
    mut frozen: Frozen,
    meta: &MetaRow,
) -> Result<(), Box<dyn std::error::Error>> {
    let started = std::time::Instant::now();
    let mut written = None;
    if !frozen.records.is_empty() {
        let row = write_the_run(cell, &frozen)?;
        let kept = cell.shard.lock().run_written(row);
        if kept {
            frozen.pairs.push(holdfast_shard::keys::run_pair(&row));
            written = Some(row);
        } else {
            // Its generation was dropped meanwhile.
            remove_run(cell.disk.as_ref(), RUNS_DIR, run_id(cell.key.shard, &row))?;
        }
    }
    cell.store.checkpoint(&frozen.pairs, meta)?;
    let mut shard = cell.shard.lock();
    if let Some(row) = &written {
        if shard.runs().contains(row) {
            // Readable before the records leave the tail.
            cell.run_ready(*row);
        } else {
            // Its generation was dropped while the state was written.
            remove_run(cell.disk.as_ref(), RUNS_DIR, run_id(cell.key.shard, row))?;
        }
    }
    shard.thaw();
    shard.trim_tail(frozen.cut.end);
    drop(shard);
    metrics::checkpoint(started.elapsed(), written.map_or(0, |row| row.bytes));
    cell.checkpointed.notify_one();
    Ok(())
}

fn write_the_run(cell: &Cell, frozen: &Frozen) -> Result<RunRow, RunError> {
    let mut row = RunRow {
        generation: frozen.cut.generation.0,
        first_position: frozen.cut.first.0,
        end_position: frozen.cut.end.0,
        checksum: 0,
        bytes: 0,
    };
    loop {
        match write_run(cell.disk.as_ref(), RUNS_DIR, run_id(cell.key.shard, &row), &frozen.records)
        {
            Ok(info) => {
                row.checksum = info.checksum;
                row.bytes = info.bytes;
                return Ok(row);
            }
            Err(RunError::Disk { source, .. }) if source.kind() == io::ErrorKind::StorageFull => {
                // The log keeps everything meanwhile; appends are refused at the disk's mark.
                tracing::warn!(shard = cell.key.shard.0, error = %source, "no room for a run");
                std::thread::sleep(DISK_FULL_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

impl RaftStateMachine<ShardRaft> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembership<u64, Member>), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.last_applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(data) => self.apply_entry(entry.log_id, data.0).await?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    self.cell.set_voters(&self.membership);
                    Outcomes::default()
                }
            });
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { cell: self.cell.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Bytes>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Member>,
        snapshot: Box<Bytes>,
    ) -> Result<(), StorageError> {
        let _lane = self.lane.lock().await;
        let row = MetaRow {
            last: meta.last_log_id.as_ref().map(codec::log_id_to),
            membership_log_id: meta.last_membership.log_id().as_ref().map(codec::log_id_to),
            membership: Some(codec::membership_to(meta.last_membership.membership())),
            snapshot_id: meta.snapshot_id.clone(),
        };
        let cell = self.cell.clone();
        let installed = tokio::task::spawn_blocking(move || {
            let pairs = parse_dump(*snapshot)?;
            cell.store.install(&pairs, &row)?;
            let shard = Shard::open(cell.store.clone(), cell.key.shard, cell.shards)?;
            cell.replace(shard);
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
        let failed = match installed.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = failed {
            let error = AnyError::error(reason);
            return Err(StorageIOError::write_snapshot(Some(meta.signature()), error).into());
        }
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.cell.set_voters(&self.membership);
        tracing::info!(
            shard = self.cell.key.shard.0,
            snapshot = meta.snapshot_id,
            "snapshot installed"
        );
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<ShardRaft>>, StorageError> {
        let lane = self.lane.clone().lock_owned().await;
        let cell = self.cell.clone();
        let dumped = tokio::task::spawn_blocking(move || {
            let _lane = lane;
            let Some(meta) = cell.store.applied()? else { return Ok(None) };
            Ok(Some((meta, cell.store.dump()?)))
        });
        match dumped.await.map_err(|error| read_snapshot_failed(&error))? {
            Ok(None) => Ok(None),
            Ok(Some((meta, data))) => {
                Ok(Some(Snapshot { meta: meta_from(&meta), snapshot: Box::new(data) }))
            }
            Err(error) => {
                let error: crate::state_store::StoreError = error;
                Err(read_snapshot_failed(&error))
            }
        }
    }
}

fn read_snapshot_failed(error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIOError::read_snapshot(None, AnyError::new(error)).into()
}

fn meta_from(row: &MetaRow) -> SnapshotMeta<u64, Member> {
    SnapshotMeta {
        last_log_id: row.last.as_ref().map(codec::log_id_from),
        last_membership: codec::stored_membership_from(
            row.membership_log_id.as_ref(),
            row.membership.as_ref(),
        ),
        snapshot_id: row.snapshot_id.clone(),
    }
}

/// Reports the newest checkpoint to openraft as a snapshot. Its data is read only when a replica
/// needs it.
pub(crate) struct Builder {
    cell: Arc<Cell>,
}

impl RaftSnapshotBuilder<ShardRaft> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<ShardRaft>, StorageError> {
        let meta = self.cell.store.applied().map_err(|error| read_snapshot_failed(&error))?;
        let meta = meta_from(&meta.unwrap_or_default());
        Ok(Snapshot { meta, snapshot: Box::default() })
    }
}
