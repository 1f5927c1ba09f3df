//! What openraft sends to the other replicas of a shard, over the streams between sites.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_proto::storage::{
    self as pb, SnapshotChunk, append_entries_done::Result as Done, raft_client::RaftClient,
    raft_message::Body,
};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot};
use parking_lot::Mutex;

use super::codec::{self, CodecError};
use super::peers::{PeerError, Peers};
use super::{LogId, Member, ShardRaft, Vote};
use crate::replica::voting::HandedOver;

/// Makes the connections of one shard's group.
#[derive(Clone)]
pub(crate) struct Network {
    peers: Arc<Peers>,
    shard: u16,
    cluster_id: String,
    /// This site, a holder of the runs that its snapshots name.
    site: u64,
    /// The leader that asked this replica to follow it.
    handed_over: Permission,
}

/// What a candidate may show to voters.
pub(crate) type Permission = Arc<Mutex<Option<HandedOver>>>;

/// The way to one replica.
pub(crate) struct Connection {
    network: Network,
    target: u64,
    site: u64,
    /// The last request that the replica agreed to.
    agreed: Option<Agreed>,
}

/// What a replica is known to have.
struct Agreed {
    vote: Vote,
    /// Its log agrees with ours up to here.
    matching: Option<LogId>,
    /// When the request was sent.
    sent: Instant,
}

/// openraft sends an empty AppendEntries after every commit, only to name the new commit index. One to
/// a replica that agreed to the same log this short a time ago is answered here instead: the next
/// entry, or a heartbeat soon, names the index as well, and nothing at a follower waits for it. The
/// leader's lease is taken for longer than it is by at most this, which the voters' lease allows for.
const QUIET: Duration = Duration::from_millis(50);

type Error<E> = RPCError<u64, Member, E>;

/// Bytes of a snapshot in one chunk.
const CHUNK_BYTES: usize = 512 * 1024;
/// Pause before a replica that could not be reached is tried again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

impl Network {
    pub(crate) fn new(
        peers: Arc<Peers>,
        shard: u16,
        cluster_id: String,
        site: u64,
        handed_over: Permission,
    ) -> Network {
        Network { peers, shard, cluster_id, site, handed_over }
    }

    /// What the candidate of this vote may show: it is for the term after the leader's.
    fn permission(&self, vote: &Vote) -> Option<HandedOver> {
        let term = vote.leader_id.term;
        (*self.handed_over.lock()).filter(|leader| leader.term + 1 == term)
    }
}

impl RaftNetworkFactory<ShardRaft> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Member) -> Connection {
        Connection { network: self.clone(), target, site: node.site, agreed: None }
    }
}

fn unreachable_by<E: std::error::Error>(error: &PeerError) -> Error<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn garbled<E: std::error::Error>(error: &CodecError) -> Error<E> {
    RPCError::Network(NetworkError::new(error))
}

impl Connection {
    fn has_agreed(&self, rpc: &AppendEntriesRequest<ShardRaft>) -> bool {
        self.agreed.as_ref().is_some_and(|agreed| {
            agreed.vote == rpc.vote
                && agreed.matching >= rpc.prev_log_id
                && agreed.sent.elapsed() < QUIET
        })
    }

    async fn ask<E: std::error::Error>(&self, body: Body) -> Result<Body, Error<E>> {
        self.network
            .peers
            .ask(self.site, self.network.shard, self.target, body)
            .await
            .map_err(|error| unreachable_by(&error))
    }
}

impl RaftNetwork<ShardRaft> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<ShardRaft>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Error<RaftError<u64>>> {
        if rpc.entries.is_empty() && self.has_agreed(&rpc) {
            return Ok(AppendEntriesResponse::Success);
        }
        let sent = Instant::now();
        let matching = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let vote = rpc.vote;
        let request = pb::AppendEntries {
            vote: Some(codec::vote_to(&rpc.vote)),
            prev: rpc.prev_log_id.as_ref().map(codec::log_id_to),
            entries: rpc.entries.iter().map(codec::entry_to).collect(),
            committed: rpc.leader_commit.as_ref().map(codec::log_id_to),
        };
        let Body::AppendEntriesDone(done) = self.ask(Body::AppendEntries(request)).await? else {
            return Err(unreachable_by(&PeerError::Unexpected));
        };
        self.agreed = None;
        Ok(match done.result() {
            Done::Success => {
                self.agreed = Some(Agreed { vote, matching, sent });
                AppendEntriesResponse::Success
            }
            Done::Partial => AppendEntriesResponse::PartialSuccess(
                done.matching.as_ref().map(codec::log_id_from),
            ),
            Done::Conflict => AppendEntriesResponse::Conflict,
            Done::HigherVote => AppendEntriesResponse::HigherVote(
                codec::vote_from(done.vote.as_ref()).map_err(|error| garbled(&error))?,
            ),
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, Error<RaftError<u64>>> {
        let permission = self.network.permission(&rpc.vote);
        let request = pb::VoteRequest {
            vote: Some(codec::vote_to(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(codec::log_id_to),
            handed_over_term: permission.map_or(0, |leader| leader.term),
            handed_over_by: permission.map_or(0, |leader| leader.node_id),
        };
        let Body::VoteDone(done) = self.ask(Body::Vote(request)).await? else {
            return Err(unreachable_by(&PeerError::Unexpected));
        };
        let vote = codec::vote_from(done.vote.as_ref()).map_err(|error| garbled(&error))?;
        let last = done.last.as_ref().map(codec::log_id_from);
        Ok(VoteResponse::new(vote, last, done.granted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<ShardRaft>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<ShardRaft, Fatal<u64>>> {
        let chunks = self.snapshot_chunks(vote, &snapshot);
        let send = async {
            // Never closed.
            let _permit = self.network.peers.snapshots.acquire().await;
            let channel = self.network.peers.channel(self.site).await?;
            let mut client = RaftClient::new(channel);
            let done = client.install_snapshot(tokio_stream::iter(chunks)).await;
            done.map(|done| done.into_inner())
                .map_err(|status| PeerError::Refused(status.message().to_string()))
        };
        let done = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            done = tokio::time::timeout(option.hard_ttl(), send) => done,
        };
        let done = match done {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => return Err(StreamingError::Unreachable(Unreachable::new(&error))),
            Err(elapsed) => return Err(StreamingError::Unreachable(Unreachable::new(&elapsed))),
        };
        let vote = codec::vote_from(done.vote.as_ref())
            .map_err(|error| StreamingError::Network(NetworkError::new(&AnyError::new(&error))))?;
        Ok(SnapshotResponse::new(vote))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

impl Connection {
    fn snapshot_chunks(&self, vote: Vote, snapshot: &Snapshot<ShardRaft>) -> Vec<SnapshotChunk> {
        let meta = &snapshot.meta;
        let header = pb::SnapshotHeader {
            cluster_id: self.network.cluster_id.clone(),
            shard: u32::from(self.network.shard),
            target: self.target,
            vote: Some(codec::vote_to(&vote)),
            meta: Some(pb::SnapshotMeta {
                last: meta.last_log_id.as_ref().map(codec::log_id_to),
                membership_log_id: meta.last_membership.log_id().as_ref().map(codec::log_id_to),
                membership: Some(codec::membership_to(meta.last_membership.membership())),
                snapshot_id: meta.snapshot_id.clone(),
            }),
            holders: vec![self.network.site],
        };
        let mut chunks = vec![SnapshotChunk { header: Some(header), data: Bytes::new() }];
        let mut rest = (*snapshot.snapshot).clone();
        while !rest.is_empty() {
            let data = rest.split_to(rest.len().min(CHUNK_BYTES));
            chunks.push(SnapshotChunk { header: None, data });
        }
        chunks
    }
}
