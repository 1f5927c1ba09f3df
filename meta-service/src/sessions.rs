//! The session registry: rows that shard leaders feed, for looking at and for sweeping durable filters.

mod listing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_control::{
    registry::{Feed, FeedId, Registry, Verdict},
    routes::{self, Filter, Limits},
};
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::{
    ids::{Namespace, ShardId},
    meta::{SessionChange, SessionFeed, SessionFeedDone},
    shard::SessionRow,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::{
    controller::ControllerError,
    metrics, rows,
    store::{Entry, OPS_MAX, Op, Range, Store, StoreError, Txn, all},
};

pub(crate) use self::listing::{ListError, Listed, Wanted};

/// Messages of one feed that are written together.
const MESSAGES_MAX: usize = 64;
/// Bytes of one transaction, unless a single row has more.
const TXN_BYTES_MAX: usize = 512 << 10;
/// Transactions of one feed that are in flight.
const IN_FLIGHT_MAX: usize = 8;
/// Rows that are read at once.
const PAGE_ROWS: usize = 1000;

/// Rows of all sessions, in the store.
pub(crate) struct Sessions {
    store: Arc<dyn Store>,
    registry: Mutex<Registry>,
    cluster_id: Arc<str>,
    shards: u16,
    next_feed: AtomicU64,
    changes: AtomicU64,
}

impl Sessions {
    /// The registry as it is in the store.
    pub(crate) async fn load(
        store: Arc<dyn Store>,
        cluster_id: Arc<str>,
        shards: u16,
    ) -> Result<Sessions, ControllerError> {
        let mut feeds = Vec::new();
        for entry in all(store.as_ref(), rows::FEEDS).await? {
            feeds.push(rows::read_feed(&entry.key, &entry.value)?);
        }
        Ok(Sessions {
            store,
            registry: Mutex::new(Registry::new(feeds)),
            cluster_id,
            shards,
            next_feed: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        })
    }

    /// Rows that were written since the start; a mark to see that nothing changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether the rows of all shards are whole and being fed.
    pub(crate) fn is_complete(&self) -> bool {
        self.registry.lock().is_complete(self.shards)
    }

    /// Serves one feed until either end closes.
    pub(crate) async fn serve(
        &self,
        feed: Streaming<SessionFeed>,
        answers: mpsc::Sender<Result<SessionFeedDone, Status>>,
        shutdown: Shutdown,
    ) {
        let by = FeedId(self.next_feed.fetch_add(1, Ordering::Relaxed));
        let ended = tokio::select! {
            ended = self.take(by, feed, &answers) => ended,
            () = shutdown.wait() => Ok(()),
        };
        self.registry.lock().closed(by);
        if let Err(status) = ended {
            tracing::warn!(%status, "session feed refused");
            // The feeder may have gone.
            let _ = answers.send(Err(status)).await;
        }
    }

    async fn take(
        &self,
        by: FeedId,
        feed: Streaming<SessionFeed>,
        answers: &mpsc::Sender<Result<SessionFeedDone, Status>>,
    ) -> Result<(), Status> {
        let mut feed = feed.ready_chunks(MESSAGES_MAX);
        let mut asked = BTreeSet::new();
        while let Some(messages) = feed.next().await {
            let mut round = Round::default();
            for message in messages {
                let Ok(message) = message else { return Ok(()) };
                self.judge(by, message, &mut round, &mut asked).await?;
            }
            self.write(&mut round).await.map_err(unavailable)?;
            for done in round.answers.into_values() {
                if answers.send(Ok(done)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn judge(
        &self,
        by: FeedId,
        message: SessionFeed,
        round: &mut Round,
        asked: &mut BTreeSet<ShardId>,
    ) -> Result<(), Status> {
        let shard = self.check(&message)?;
        let verdict = self.registry.lock().judge(shard, by, &message);
        let (index, resync) = match verdict {
            Verdict::Known { index } => (index, false),
            Verdict::Resync => {
                // What was on its way already need not ask again.
                if asked.insert(shard) {
                    metrics::session_resync();
                    round.answer(shard, 0, true);
                }
                return Ok(());
            }
            Verdict::Apply { feed, replace } => {
                asked.remove(&shard);
                round.add(shard, feed, message.changes);
                if replace {
                    self.write(round).await.map_err(unavailable)?;
                    self.remove_older(shard, feed.resync).await.map_err(unavailable)?;
                }
                round.feeds.insert(shard, feed);
                (feed.index.unwrap_or_default(), false)
            }
        };
        round.answer(shard, index, resync);
        Ok(())
    }

    fn check(&self, message: &SessionFeed) -> Result<ShardId, Status> {
        if message.cluster_id != *self.cluster_id {
            let text = format!("this is cluster {}, not {:?}", self.cluster_id, message.cluster_id);
            return Err(Status::failed_precondition(text));
        }
        let shard = u16::try_from(message.shard).ok().filter(|shard| *shard < self.shards);
        shard
            .map(ShardId)
            .ok_or_else(|| Status::invalid_argument(format!("no shard {}", message.shard)))
    }

    /// Rows first, then the indexes that say that they are there.
    async fn write(&self, round: &mut Round) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut round.rows);
        metrics::session_changes(rows.len());
        self.changes.fetch_add(rows.len() as u64, Ordering::Relaxed);
        let op = |(key, value): (Vec<u8>, Option<Vec<u8>>)| match value {
            Some(value) => Op::put(key, value),
            None => Op::Delete(key.into()),
        };
        self.commit_all(rows.into_iter().map(op).collect()).await?;
        let feeds = std::mem::take(&mut round.feeds).into_iter();
        let put = |(shard, feed)| {
            let (key, value) = rows::write_feed(shard, feed);
            Op::put(key, value)
        };
        self.commit_all(feeds.map(put).collect()).await
    }

    async fn commit_all(&self, ops: Vec<Op>) -> Result<(), StoreError> {
        let commit = |ops: Vec<Op>| self.store.commit(Txn { compares: Vec::new(), ops });
        let commits: Vec<_> = parts(ops).into_iter().map(commit).collect();
        stream::iter(commits)
            .buffer_unordered(IN_FLIGHT_MAX)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    async fn remove_older(&self, shard: ShardId, resync: u64) -> Result<(), StoreError> {
        let mut pages = Pages::new(rows::sessions_prefix(shard));
        while let Some(entries) = pages.next(self.store.as_ref()).await? {
            let older = |entry: &Entry| {
                rows::split_session(&entry.key, &entry.value).is_ok_and(|(_, by, _)| by < resync)
            };
            let gone =
                entries.into_iter().filter(older).map(|entry| Op::Delete(entry.key)).collect();
            self.commit_all(gone).await?;
        }
        Ok(())
    }

    /// One page of sessions.
    pub(crate) async fn list(&self, wanted: Wanted) -> Result<Listed, ListError> {
        listing::list(self.store.as_ref(), self.shards, wanted).await
    }

    /// The filters of all durable sessions, summarised.
    pub(crate) async fn wanted(&self, limits: &Limits) -> Result<routes::Wanted, ControllerError> {
        let mut wanted = routes::Wanted::default();
        for shard in (0..self.shards).map(ShardId) {
            let mut pages = Pages::new(rows::sessions_prefix(shard));
            while let Some(entries) = pages.next(self.store.as_ref()).await? {
                for entry in entries {
                    let (client, _, row) = rows::split_session(&entry.key, &entry.value)?;
                    let row = rows::read_session(&entry.key, row)?;
                    if row.expiry_interval_s == 0 {
                        continue;
                    }
                    let namespace = Namespace(client.namespace);
                    for subscription in &row.subscriptions {
                        if let Some(filter) =
                            Filter::of_subscription(namespace, &subscription.filter)
                        {
                            wanted.insert(&filter, limits);
                        }
                    }
                }
            }
        }
        Ok(wanted)
    }
}

/// What some messages of a feed come to.
#[derive(Default)]
struct Round {
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    feeds: BTreeMap<ShardId, Feed>,
    answers: BTreeMap<ShardId, SessionFeedDone>,
}

impl Round {
    fn add(&mut self, shard: ShardId, feed: Feed, changes: Vec<SessionChange>) {
        for change in changes {
            let Some(client) = change.client else { continue };
            let row = change.row.map(|row| rows::write_session(feed.resync, &metadata(row)));
            self.rows.insert(rows::session_key(shard, &client), row);
        }
    }

    fn answer(&mut self, shard: ShardId, index: u64, resync: bool) {
        self.answers.insert(shard, SessionFeedDone { shard: u32::from(shard.0), index, resync });
    }
}

/// What is kept of a row: what is in flight is the home shard's alone.
fn metadata(mut row: SessionRow) -> SessionRow {
    row.in_flight.clear();
    row.received.clear();
    row.will = None;
    row.subscriptions.iter_mut().for_each(|subscription| subscription.since.clear());
    row
}

/// Parts that are each small enough for one transaction.
fn parts(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut parts: Vec<Vec<Op>> = Vec::new();
    let mut bytes = usize::MAX;
    for op in ops {
        let size = match &op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(key) => key.len(),
        };
        bytes = bytes.saturating_add(size);
        match parts.last_mut() {
            Some(part) if part.len() < OPS_MAX && bytes <= TXN_BYTES_MAX => part.push(op),
            _ => {
                bytes = size;
                parts.push(vec![op]);
            }
        }
    }
    parts
}

struct Pages {
    range: Range,
    ended: bool,
}

impl Pages {
    fn new(prefix: Vec<u8>) -> Pages {
        let range = Range { prefix: prefix.into(), after: Bytes::new(), limit: PAGE_ROWS };
        Pages { range, ended: false }
    }

    async fn next(&mut self, store: &dyn Store) -> Result<Option<Vec<Entry>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let page = store.range(self.range.clone()).await?;
        self.ended = !page.more;
        if let Some(last) = page.entries.last() {
            self.range.after = last.key.clone();
        }
        Ok(Some(page.entries))
    }
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::{InFlight, Received, Subscription, Will};

    use super::*;

    #[test]
    fn only_metadata_is_kept() {
        let subscription =
            Subscription { filter: "a".into(), since: vec![7], ..Subscription::default() };
        let row = SessionRow {
            epoch: 3,
            subscriptions: vec![subscription.clone()],
            in_flight: vec![InFlight::default()],
            received: vec![Received::default()],
            will: Some(Will::default()),
            ..SessionRow::default()
        };
        let subscriptions = vec![Subscription { since: Vec::new(), ..subscription }];
        assert_eq!(metadata(row), SessionRow { epoch: 3, subscriptions, ..SessionRow::default() });
    }

    #[test]
    fn rows_are_parted_by_number_and_by_bytes() {
        let rows = |count: usize, bytes: usize| -> Vec<usize> {
            let row = |n: usize| Op::put(n.to_string(), vec![0; bytes]);
            parts((0..count).map(row).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(rows(300, 10), [128, 128, 44]);
        assert_eq!(rows(5, 200 << 10), [2, 2, 1]);
        assert_eq!(rows(2, TXN_BYTES_MAX + 1), [1, 1], "one alone may have more");
        assert!(rows(0, 0).is_empty());
    }
}
