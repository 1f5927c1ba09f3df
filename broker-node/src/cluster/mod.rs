//! The cluster as a connection sees it: one cheap handle.

mod config;
mod error;

use std::sync::Arc;

use holdfast_node_kit::health::Health;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::ids::{Epoch, Namespace, Position, ShardId};
use holdfast_proto::record::RecordDraft;
use holdfast_proto::shard::{Claim, ClaimOutcome, ClientKey, Command, GatewayRef};
use holdfast_proto::storage::ReadItem;

pub(crate) use self::config::ClusterConfig;
pub(crate) use self::error::ClusterError;
use crate::inbox::Inbox;

/// Handle to the cluster; clones share everything.
#[derive(Clone)]
pub(crate) struct Cluster {}

/// A claimed session: its row, with what the old owner had not committed merged in, and the right to it.
pub(crate) struct Claimed {
    /// Answer of the home shard.
    pub(crate) outcome: ClaimOutcome,
    /// Keep it while the connection lives: through it a newer claim for the same client finds this inbox.
    pub(crate) ownership: Ownership,
}

/// This connection is the client's newest on this gateway. Dropping it gives that up.
pub(crate) struct Ownership {}

/// Where one publish went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routed {
    /// Not durable, served: acknowledge it now.
    Now,
    /// On its way to the log: `Event::Published` brings its token.
    Later,
}

/// Everything one wake-up of a connection publishes.
pub(crate) struct PublishTurn<'a> {
    _cluster: &'a Cluster,
}

/// What is left of a turn. Keep it until the acknowledgements of `Routed::Now` publishes of the turn
/// were handed to the socket (at least one attempt to write), then drop it: while it lives, this gateway
/// does not confirm newer durable filters.
#[must_use]
pub(crate) struct TurnEnd {
    /// The client's home shard has too much to do: publish nothing more (stop reading the socket) until
    /// `Cluster::uncongested` returns.
    pub(crate) congested: bool,
}

impl PublishTurn<'_> {
    /// Routes one message: regular subscribers are served, a durable one is put into the batch of the
    /// home shard. The draft's client id and epoch are the turn's.
    pub(crate) fn publish(&mut self, _draft: &RecordDraft<'_>, _token: u64) -> Routed {
        todo!()
    }

    /// Hands everything over.
    pub(crate) fn finish(self) -> TurnEnd {
        todo!()
    }
}

/// A session's live delivery; ends when dropped.
pub(crate) struct Attachment {}

impl Attachment {
    /// Adds filters (not `$share/...`). `Event::Attached { token }` follows.
    pub(crate) fn subscribe(&self, _filters: &[String], _token: u64) {
        todo!()
    }

    /// Takes filters back, each that was attached or subscribed once.
    pub(crate) fn unsubscribe(&self, _filters: &[String]) {
        todo!()
    }

    /// Resumes live delivery of a shard after `Event::Behind`. Everything from the answer on is posted.
    pub(crate) fn attach_shard(&self, _shard: ShardId) -> Position {
        todo!()
    }
}

impl Cluster {
    /// Joins the cluster: serves gRPC to other gateways, connects to the metadata service and the sites,
    /// and returns when it knows how many shards there are. That waits for a metadata service, as long
    /// as it takes; `health` turns ready when a durable publish would be acknowledged.
    pub(crate) async fn start(
        _config: ClusterConfig,
        _shutdown: Shutdown,
        _health: Health,
    ) -> Result<Cluster, ClusterError> {
        todo!()
    }

    /// How many shards the cluster was born with.
    pub(crate) fn shards(&self) -> u16 {
        todo!()
    }

    /// This gateway, as others know it.
    pub(crate) fn gateway(&self) -> GatewayRef {
        todo!()
    }

    /// Estimate of a shard's time now, in ms since the Unix epoch.
    pub(crate) fn shard_time_ms(&self, _shard: ShardId) -> u64 {
        todo!()
    }

    /// Next position that is not dispatched yet, per shard. Call it BEFORE draining the inbox: a live
    /// session that has then drained its inbox has consumed everything below.
    pub(crate) fn dispatched(&self, _out: &mut Vec<Position>) {
        todo!()
    }

    /// Claims a session in its home shard, then has the old owner (another gateway, or an older
    /// connection here) hand over what it had not committed, which is committed and merged into the row.
    /// A later claim for the client posts `Event::TakenOver` to `inbox`.
    pub(crate) async fn claim(
        &self,
        _claim: Claim,
        _inbox: &Arc<Inbox>,
    ) -> Result<Claimed, ClusterError> {
        todo!()
    }

    /// Starts live delivery for `filters` (not `$share/...`). `Event::Attached { token }` follows. Tail
    /// records that are posted before it lie below its positions.
    pub(crate) fn attach(
        &self,
        _client: ClientKey,
        _epoch: Epoch,
        _durable: bool,
        _filters: &[String],
        _token: u64,
        _inbox: Arc<Inbox>,
    ) -> Attachment {
        todo!()
    }

    /// Proposes a command to a shard; `Event::Outcome` follows. It may be applied more than once when a
    /// leader changes meanwhile.
    pub(crate) fn propose(
        &self,
        _shard: ShardId,
        _command: Command,
        _token: u64,
        _inbox: &Arc<Inbox>,
    ) {
        todo!()
    }

    /// Reads for one session; each item is answered by `Event::Page` or `Event::PageFailed`.
    pub(crate) fn read(
        &self,
        _namespace: Namespace,
        _filters: &Arc<[String]>,
        _items: Vec<ReadItem>,
        _inbox: &Arc<Inbox>,
    ) {
        todo!()
    }

    /// Asks for the retained messages that match any of the filters; `Event::Retained` follows.
    pub(crate) fn retained(
        &self,
        _namespace: Namespace,
        _filters: Vec<String>,
        _token: u64,
        _inbox: &Arc<Inbox>,
    ) {
        todo!()
    }

    /// Begins a turn of publishing. `durable`: the publisher's session is durable (its QoS 2 messages
    /// always go to the log).
    pub(crate) fn publish_turn(
        &self,
        _client: &ClientKey,
        _epoch: Epoch,
        _durable: bool,
        _inbox: &Arc<Inbox>,
    ) -> PublishTurn<'_> {
        todo!()
    }

    /// Waits until the client's home shard takes publishes again. Cancel safe.
    pub(crate) async fn uncongested(&self, _client: &ClientKey) {
        todo!()
    }
}
