//! The Raft log of one replica, kept in the site log that all replicas of the site share.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_log::{Done, LogEntry, ReplicaKey, SiteLog};
use holdfast_proto::storage as pb;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
};
use prost::Message;
use tokio::sync::oneshot;

use super::codec::{self, CodecError};
use super::{LogId, RaftEntry, ShardRaft, StorageError, Vote};

/// Pause before an append that found no room is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// How long that goes on. Then the replica ends, and the process with it: a start frees what it can.
const ROOM_WITHIN: Duration = Duration::from_secs(60);

/// The site log as openraft sees it: one replica's part.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: SiteLog,
    key: ReplicaKey,
    /// Bound on what one AppendEntries carries.
    read_bytes_max: usize,
}

impl LogStore {
    pub(crate) fn new(log: SiteLog, key: ReplicaKey, read_bytes_max: usize) -> LogStore {
        LogStore { log, key, read_bytes_max }
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<RaftEntry>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let entries = self.log.read(self.key, from, to, bytes_max).map_err(read_failed)?;
        entries
            .into_iter()
            .map(|entry| codec::entry_from_bytes(entry.bytes).map_err(read_failed))
            .collect()
    }

    /// Appends; waits for room if the disk is full. A refusal would end the replica for good, and room
    /// comes back: generations are dropped, other shards purge, somebody removes a file.
    async fn append_when_there_is_room(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        let mut waited = Duration::ZERO;
        loop {
            let (done, flushed) = Flushed::new();
            self.log.append(self.key, entries.clone(), done);
            match flushed.answer().await {
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull && waited < ROOM_WITHIN =>
                {
                    if waited.is_zero() {
                        let shard = self.key.shard.0;
                        tracing::warn!(
                            shard,
                            "no room for entries that are to be followed: waiting"
                        );
                    }
                    self.log.look_for_room();
                    tokio::time::sleep(ROOM_PAUSE).await;
                    waited += ROOM_PAUSE;
                }
                answer => return answer,
            }
        }
    }

    /// Log id of the entry at `index`, if the log holds it.
    fn log_id_at(&self, index: u64) -> Result<Option<LogId>, StorageError> {
        Ok(self.read(index, index + 1, 0)?.pop().map(|entry| entry.log_id))
    }
}

fn read_failed(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::read_logs(AnyError::new(&error)).into()
}

fn write_failed(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::new(ErrorSubject::Logs, ErrorVerb::Write, AnyError::new(&error)).into()
}

fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(message.encoded_len());
    // A BytesMut grows: encoding into it cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// Waits for a write's completion.
struct Flushed(oneshot::Receiver<io::Result<()>>);

impl Flushed {
    fn new() -> (Done, Flushed) {
        let (tx, rx) = oneshot::channel();
        let done = move |result| {
            // The waiter may be gone when the group has ended.
            let _ = tx.send(result);
        };
        (Box::new(done), Flushed(rx))
    }

    async fn answer(self) -> io::Result<()> {
        self.0.await.unwrap_or_else(|_| Err(io::Error::other("the site log has stopped")))
    }

    async fn wait(self) -> Result<(), StorageError> {
        self.answer().await.map_err(write_failed)
    }
}

impl RaftLogReader<ShardRaft> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => to + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let Some(state) = self.log.state(self.key) else { return Ok(Vec::new()) };
        let (Some(first), Some(last)) = (state.first_index, state.last_index) else {
            return Ok(Vec::new());
        };
        self.read(from.max(first), to.min(last + 1), usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        self.read(start, end, self.read_bytes_max)
    }
}

impl RaftLogStorage<ShardRaft> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<ShardRaft>, StorageError> {
        let Some(state) = self.log.state(self.key) else {
            return Ok(LogState::default());
        };
        let purged = match state.purged {
            None => None,
            Some((_, marker)) => Some(codec::log_id_from(
                &pb::RaftLogId::decode(marker).map_err(CodecError::from).map_err(read_failed)?,
            )),
        };
        let last = match state.last_index {
            Some(last) => self.log_id_at(last)?,
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (done, flushed) = Flushed::new();
        self.log.save_vote(self.key, encode(&codec::vote_to(vote)), done);
        flushed.wait().await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let Some(bytes) = self.log.state(self.key).and_then(|state| state.vote) else {
            return Ok(None);
        };
        let vote = pb::RaftVote::decode(bytes).map_err(CodecError::from).map_err(read_failed)?;
        let mut vote = codec::vote_from(Some(&vote)).map_err(read_failed)?;
        if vote.leader_id.node_id == self.key.replica.0 {
            // This replica led. It may have handed over since (see `replica::voting`), so it does not
            // lead on as if nothing had been.
            vote.committed = false;
        }
        Ok(Some(vote))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(committed) = committed {
            self.log.save_committed(self.key, encode(&codec::log_id_to(&committed)));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let Some(bytes) = self.log.state(self.key).and_then(|state| state.committed) else {
            return Ok(None);
        };
        let id = pb::RaftLogId::decode(bytes).map_err(CodecError::from).map_err(read_failed)?;
        Ok(Some(codec::log_id_from(&id)))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<ShardRaft>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| LogEntry { index: entry.log_id.index, bytes: codec::entry_bytes(&entry) })
            .collect();
        // openraft waits for the callback before it does anything else, so waiting here is the same.
        callback.log_io_completed(self.append_when_there_is_room(entries).await);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (done, flushed) = Flushed::new();
        self.log.truncate(self.key, log_id.index, done);
        flushed.wait().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let (done, flushed) = Flushed::new();
        self.log.purge(self.key, log_id.index, encode(&codec::log_id_to(&log_id)), done);
        flushed.wait().await
    }
}
