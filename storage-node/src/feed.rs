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
/// Sessions in one message.
const PART_SESSIONS: usize = 1_000;

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
                if let Some(pending) = replica.feed.take() {
                    for part in parts_of(site, replica, pending) {
                        if parts.send(part).await.is_err() {
                            replica.feed.resync();
                            return Status::unavailable("stream ended");
                        }
                    }
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

fn parts_of(site: &Site, replica: &Replica, pending: Pending) -> Vec<SessionFeed> {
    let shard = replica.cell.shard.lock();
    let mut changes = Vec::new();
    if pending.resync {
        let read = shard.for_each_session(|client, row| {
            let row = Some(metadata(row.clone()));
            changes.push(SessionChange { client: Some(client), row });
            true
        });
        if let Err(error) = read {
            tracing::error!(shard = replica.key.shard.0, %error, "sessions unreadable");
            return Vec::new();
        }
    } else {
        for (namespace, client_id) in pending.changed {
            let client = ClientKey { namespace, client_id };
            let row = shard.session(&client).ok().flatten().map(metadata);
            changes.push(SessionChange { client: Some(client), row });
        }
    }
    drop(shard);
    let part = |changes: &[SessionChange]| SessionFeed {
        cluster_id: site.cluster_id.clone(),
        shard: u32::from(replica.key.shard.0),
        from_index: pending.from_index,
        to_index: pending.to_index,
        changes: changes.to_vec(),
        ..SessionFeed::default()
    };
    if !pending.resync {
        return vec![part(&changes)];
    }
    let mut parts: Vec<SessionFeed> = changes.chunks(PART_SESSIONS).map(part).collect();
    if parts.is_empty() {
        parts.push(part(&[]));
    }
    if let Some(first) = parts.first_mut() {
        first.resync_begin = true;
    }
    if let Some(last) = parts.last_mut() {
        last.resync_end = true;
    }
    parts
}

fn metadata(mut row: SessionRow) -> SessionRow {
    row.in_flight.clear();
    row.received.clear();
    row.will = None;
    row
}
