//! The session feed: what changed in session rows at the leader, sent to meta-service for listing.
//!
//! Nothing waits for it. A leader starts with a resync of its whole shard; a gap asks for another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::grpc;
use holdfast_node_kit::meta_addresses::MetaAddresses;
use holdfast_proto::meta::{SessionChange, SessionFeed, meta_client::MetaClient};
use holdfast_proto::shard::{ClientKey, SessionRow};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use holdfast_shard::ShardError;

use crate::replica::Replica;
use crate::site::Site;

/// Changes of one shard that were not fed yet.
#[derive(Default)]
pub(crate) struct FeedQueue(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    from_index: u64,
    to_index: u64,
    changed: HashSet<(u32, String)>,
    resync: bool,
}

/// Pause between two looks at what changed.
const FEED_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after meta-service could not be reached.
const RECONNECT: Duration = Duration::from_secs(1);
/// Changed sessions after which a resync is cheaper than remembering them.
const CHANGED_MAX: usize = 50_000;
/// Sessions in one message of a resync, or a few more.
const PART_SESSIONS: usize = 1_000;
/// Sessions that are read under one lock of a shard: a millisecond or less.
const ROWS_AT_ONCE: usize = 128;

impl FeedQueue {
    /// Notes the sessions that an entry changed.
    pub(crate) fn push(&self, index: u64, changed: &[ClientKey]) {
        if changed.is_empty() {
            return;
        }
        let mut pending = self.0.lock();
        pending.to_index = index;
        if !pending.resync {
            pending
                .changed
                .extend(changed.iter().map(|client| (client.namespace, client.client_id.clone())));
            if pending.changed.len() > CHANGED_MAX {
                pending.resync = true;
                pending.changed.clear();
            }
        }
    }

    /// The next feed starts from the whole shard.
    pub(crate) fn resync(&self) {
        let mut pending = self.0.lock();
        pending.resync = true;
        pending.changed.clear();
    }

    fn take(&self) -> Option<Pending> {
        let mut pending = self.0.lock();
        if !pending.resync && pending.changed.is_empty() {
            return None;
        }
        let from_index = pending.to_index;
        let next = Pending { from_index, to_index: from_index, ..Pending::default() };
        Some(std::mem::replace(&mut pending, next))
    }
}

/// Feeds until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut addresses = MetaAddresses::new(site.config.meta.clone());
    loop {
        let ended = tokio::select! {
            () = site.shutdown.wait() => return,
            ended = feed(&site, addresses.current()) => ended,
        };
        // Who does not feed now is sent to the elected one, and asked there at once.
        if !addresses.refused(&ended) {
            tokio::select! {
                () = site.shutdown.wait() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }
}

/// One stream to meta-service; returns why it ended.
async fn feed(site: &Arc<Site>, address: &str) -> Status {
    let channel = match grpc::connect(address).await {
        Ok(channel) => channel,
        Err(error) => return Status::invalid_argument(error.to_string()),
    };
    let (parts, queue) = mpsc::channel(4);
    let mut client = MetaClient::new(channel);
    // Answered only once the first message is there, so the queue is fed beside it.
    let feeding = async {
        for replica in site.replicas() {
            replica.feed.resync();
        }
        let mut ticks = tokio::time::interval(FEED_INTERVAL);
        loop {
            ticks.tick().await;
            for replica in site.replicas().iter().filter(|replica| replica.cell.is_leading()) {
                let Some(pending) = replica.feed.take() else { continue };
                let sent = if pending.resync {
                    send_all(site, replica, pending, &parts).await
                } else {
                    let part = changes_of(site, replica, pending);
                    parts.send(part).await.map_err(|_| Unsent)
                };
                if sent.is_err() {
                    replica.feed.resync();
                }
                if parts.is_closed() {
                    return Status::unavailable("stream ended");
                }
            }
        }
    };
    let answers = async {
        let mut answers = match client.feed_sessions(ReceiverStream::new(queue)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return status,
        };
        loop {
            let done = match answers.message().await {
                Ok(Some(done)) => done,
                Ok(None) => return Status::unavailable("stream ended"),
                Err(status) => return status,
            };
            let shard = holdfast_proto::ids::ShardId(done.shard as u16);
            if let Some(replica) = site.replica(shard).filter(|_| done.resync) {
                replica.feed.resync();
            }
        }
    };
    tokio::select! {
        ended = feeding => ended,
        ended = answers => ended,
    }
}

/// A resync that has to begin anew.
struct Unsent;

/// Sends all sessions of a shard. They are read a few at a time, because appends wait meanwhile; what
/// changes between two reads is noted as any change and sent after them.
async fn send_all(
    site: &Arc<Site>,
    replica: &Arc<Replica>,
    pending: Pending,
    parts: &mpsc::Sender<SessionFeed>,
) -> Result<(), Unsent> {
    let (mut after, mut is_first) = (None, true);
    loop {
        let reading = replica.clone();
        let read = tokio::task::spawn_blocking(move || read_part(&reading, after));
        let (changes, last) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                tracing::error!(shard = replica.key.shard.0, %error, "sessions unreadable");
                return Err(Unsent);
            }
            // The process stops.
            Err(_) => return Err(Unsent),
        };
        if !replica.cell.is_leading() {
            return Err(Unsent);
        }
        let (resync_begin, resync_end) = (is_first, last.is_none());
        let part = part(site, replica, &pending, changes);
        let part = SessionFeed { resync_begin, resync_end, ..part };
        // Waits while meta-service has enough to write.
        parts.send(part).await.map_err(|_| Unsent)?;
        if resync_end {
            return Ok(());
        }
        (after, is_first) = (last, false);
    }
}

/// Sessions after one of them, and the last one if there may be more.
fn read_part(
    replica: &Replica,
    mut after: Option<ClientKey>,
) -> Result<(Vec<SessionChange>, Option<ClientKey>), ShardError> {
    let mut changes = Vec::with_capacity(PART_SESSIONS);
    loop {
        let shard = replica.cell.shard.lock();
        after = shard.walk(after.as_ref(), ROWS_AT_ONCE, |client, row| {
            let row = Some(metadata(row.clone()));
            changes.push(SessionChange { client: Some(client), row });
        })?;
        drop(shard);
        if after.is_none() || changes.len() >= PART_SESSIONS {
            return Ok((changes, after));
        }
    }
}

fn changes_of(site: &Site, replica: &Replica, mut pending: Pending) -> SessionFeed {
    let changed: Vec<(u32, String)> = pending.changed.drain().collect();
    let mut changes = Vec::with_capacity(changed.len());
    for some in changed.chunks(ROWS_AT_ONCE) {
        let shard = replica.cell.shard.lock();
        for (namespace, client_id) in some {
            let client = ClientKey { namespace: *namespace, client_id: client_id.clone() };
            let row = shard.session(&client).ok().flatten().map(metadata);
            changes.push(SessionChange { client: Some(client), row });
        }
    }
    part(site, replica, &pending, changes)
}

fn part(
    site: &Site,
    replica: &Replica,
    pending: &Pending,
    changes: Vec<SessionChange>,
) -> SessionFeed {
    SessionFeed {
        cluster_id: site.cluster_id.clone(),
        shard: u32::from(replica.key.shard.0),
        from_index: pending.from_index,
        to_index: pending.to_index,
        changes,
        ..SessionFeed::default()
    }
}

fn metadata(mut row: SessionRow) -> SessionRow {
    row.in_flight.clear();
    row.received.clear();
    row.will = None;
    row
}
