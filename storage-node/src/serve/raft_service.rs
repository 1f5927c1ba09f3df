//! The gRPC service that other sites use: Raft traffic of all shards, and snapshots.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use holdfast_proto::ids::{ReplicaId, ShardId};
use holdfast_proto::storage::{
    self as pb, RaftFrame, RaftHello, RaftMessage, SnapshotChunk, SnapshotDone, SnapshotHeader,
    append_entries_done::Result as Done, raft_message::Body, raft_server::Raft,
};
use holdfast_proto::version::Versions;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Snapshot, SnapshotMeta};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::{check_cluster, check_hello};
use crate::metrics::{self, Refused};
use crate::raft::codec::{self, CodecError};
use crate::raft::{elections, peers};
use crate::replica::Replica;
use crate::replica::voting::HandedOver;
use crate::site::Site;

/// The service; one a site.
pub(crate) struct RaftService(pub(crate) Arc<Site>);

/// Largest snapshot that is taken.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// Entries up to this size are taken on a full disk: claims, commits, membership.
const FULL_DISK_BYTES_MAX: usize = 16 * 1024;

#[tonic::async_trait]
impl Raft for RaftService {
    type LinkStream = Answers;

    async fn link(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Answers>, Status> {
        let mut frames = request.into_inner();
        let hello = frames.message().await?.and_then(|frame| frame.hello);
        let hello =
            hello.ok_or_else(|| Status::invalid_argument("the first frame must be a hello"))?;
        let site = self.0.clone();
        let who = format!("site {:016x}", hello.site_id);
        let theirs = Versions::announced(hello.protocol_version, hello.protocol_version_min);
        if let Err(status) = check_hello(&who, &site, theirs, &hello.cluster_id) {
            tracing::warn!(site = who, reason = status.message(), "site refused");
            return Err(*status);
        }
        let outbox = Arc::new(Outbox::greeting(site.peers.hello()));
        let answers = Answers(outbox.clone());
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    () = site.shutdown.wait() => break,
                    frame = frames.message() => frame,
                };
                let Ok(Some(frame)) = frame else { break };
                if frame.clock_ms > 0 {
                    site.clocks.heard(hello.site_id, frame.clock_ms);
                }
                for message in frame.messages {
                    take(&site, &outbox, message);
                }
            }
            outbox.close();
        });
        Ok(Response::new(answers))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotDone>, Status> {
        let mut chunks = request.into_inner();
        let header = chunks.message().await?.and_then(|chunk| chunk.header);
        let header = header.ok_or_else(|| Status::invalid_argument("snapshot has no header"))?;
        check_cluster("leader", &self.0, &header.cluster_id).map_err(|status| *status)?;
        let replica = find(&self.0, header.shard, header.target)
            .ok_or_else(|| Status::not_found("this site does not hold that replica"))?;
        let mut data = BytesMut::new();
        while let Some(chunk) = chunks.message().await? {
            if data.len() + chunk.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("snapshot is too large"));
            }
            data.extend_from_slice(&chunk.data);
        }
        let malformed = |error: CodecError| Status::invalid_argument(error.to_string());
        let vote = codec::vote_from(header.vote.as_ref()).map_err(malformed)?;
        let snapshot = snapshot(&header, data.freeze()).map_err(malformed)?;
        let installed = replica.install_snapshot(vote, snapshot).await;
        let answer = installed.map_err(|error| Status::unavailable(error.to_string()))?;
        let vote = Some(codec::vote_to(&answer.vote));
        Ok(Response::new(SnapshotDone { vote, refused: String::new() }))
    }
}

fn snapshot(
    header: &SnapshotHeader,
    data: Bytes,
) -> Result<Snapshot<crate::raft::ShardRaft>, CodecError> {
    let meta = header.meta.as_ref().ok_or(CodecError::Missing("snapshot meta"))?;
    let meta = SnapshotMeta {
        last_log_id: meta.last.as_ref().map(codec::log_id_from),
        last_membership: codec::stored_membership_from(
            meta.membership_log_id.as_ref(),
            meta.membership.as_ref(),
        ),
        snapshot_id: meta.snapshot_id.clone(),
    };
    Ok(Snapshot { meta, snapshot: Box::new(data) })
}

fn find(site: &Site, shard: u32, target: u64) -> Option<Arc<Replica>> {
    site.replica(ShardId(shard as u16)).filter(|replica| replica.key.replica == ReplicaId(target))
}

/// Answers a message, at once or from a task if Raft has to write first.
fn take(site: &Arc<Site>, outbox: &Arc<Outbox>, message: RaftMessage) {
    let RaftMessage { request_id, shard, target, body } = message;
    let answer = move |body| RaftMessage { request_id, shard, target, body: Some(body) };
    let Some(replica) = find(site, shard, target) else {
        outbox.push(answer(peers::refused("this site does not hold that replica")));
        return;
    };
    match body {
        Some(Body::AppendEntries(request)) => {
            let (outbox, site) = (outbox.clone(), site.clone());
            tokio::spawn(async move {
                outbox.push(answer(append_entries(&site, &replica, request).await));
            });
        }
        Some(Body::Vote(request)) => {
            let outbox = outbox.clone();
            tokio::spawn(async move { outbox.push(answer(vote(&replica, &request).await)) });
        }
        Some(Body::PreVote(request)) => {
            outbox.push(answer(Body::PreVoteDone(elections::would_vote(&replica, &request))));
        }
        Some(Body::ElectNow(_)) if site.is_leaving() => {
            outbox.push(answer(peers::refused("this site is about to stop")));
        }
        Some(Body::ElectNow(request)) => {
            tokio::spawn(replica.elect_now(site.peers.clone(), request));
            outbox.push(answer(Body::ElectNow(pb::ElectNow::default())));
        }
        _ => outbox.push(answer(peers::refused("not a request"))),
    }
}

async fn append_entries(site: &Site, replica: &Replica, request: pb::AppendEntries) -> Body {
    let bytes: usize = request.entries.iter().map(entry_bytes).sum();
    if bytes > FULL_DISK_BYTES_MAX && !replica.log_has_room_to_follow(bytes) {
        metrics::refused(Refused::RaftDiskFull);
        return peers::refused("the disk of this site is full");
    }
    let Some(_admitted) = site.admission.enter(bytes) else {
        metrics::refused(Refused::RaftBytes);
        return peers::refused("this site is working on as many entries as it may");
    };
    let request = match request_from(request) {
        Ok(request) => request,
        Err(error) => return peers::refused(error.to_string()),
    };
    match replica.append_entries(request).await {
        None => peers::refused("another append is under way"),
        Some(Err(error)) => peers::refused(error.to_string()),
        Some(Ok(answer)) => Body::AppendEntriesDone(done(&answer)),
    }
}

fn entry_bytes(entry: &pb::RaftEntry) -> usize {
    match &entry.payload {
        Some(pb::raft_entry::Payload::Entry(data)) => data.len(),
        _ => 0,
    }
}

fn request_from(
    request: pb::AppendEntries,
) -> Result<AppendEntriesRequest<crate::raft::ShardRaft>, CodecError> {
    Ok(AppendEntriesRequest {
        vote: codec::vote_from(request.vote.as_ref())?,
        prev_log_id: request.prev.as_ref().map(codec::log_id_from),
        entries: request.entries.into_iter().map(codec::entry_from).collect::<Result<_, _>>()?,
        leader_commit: request.committed.as_ref().map(codec::log_id_from),
    })
}

fn done(answer: &AppendEntriesResponse<u64>) -> pb::AppendEntriesDone {
    let mut done = pb::AppendEntriesDone::default();
    match answer {
        AppendEntriesResponse::Success => done.set_result(Done::Success),
        AppendEntriesResponse::PartialSuccess(matching) => {
            done.set_result(Done::Partial);
            done.matching = matching.as_ref().map(codec::log_id_to);
        }
        AppendEntriesResponse::Conflict => done.set_result(Done::Conflict),
        AppendEntriesResponse::HigherVote(vote) => {
            done.set_result(Done::HigherVote);
            done.vote = Some(codec::vote_to(vote));
        }
    }
    done
}

async fn vote(replica: &Replica, request: &pb::VoteRequest) -> Body {
    let handed_over = (request.handed_over_term > 0)
        .then(|| HandedOver::new(request.handed_over_term, request.handed_over_by));
    let request = match codec::vote_from(request.vote.as_ref()) {
        Ok(vote) => VoteRequest::new(vote, request.last.as_ref().map(codec::log_id_from)),
        Err(error) => return peers::refused(error.to_string()),
    };
    match replica.vote(request, handed_over).await {
        Ok(answer) => Body::VoteDone(pb::VoteDone {
            vote: Some(codec::vote_to(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.as_ref().map(codec::log_id_to),
        }),
        Err(error) => peers::refused(error.to_string()),
    }
}

/// Answers that are ready; one frame takes them all. Requests under way bound it.
struct Outbox(Mutex<Ready>);

#[derive(Default)]
struct Ready {
    /// What this site says of itself; goes out first.
    hello: Option<RaftHello>,
    messages: VecDeque<RaftMessage>,
    waker: Option<Waker>,
    closed: bool,
}

impl Outbox {
    fn greeting(hello: RaftHello) -> Outbox {
        Outbox(Mutex::new(Ready { hello: Some(hello), ..Ready::default() }))
    }

    fn push(&self, message: RaftMessage) {
        let mut ready = self.0.lock();
        ready.messages.push_back(message);
        if let Some(waker) = ready.waker.take() {
            waker.wake();
        }
    }

    fn close(&self) {
        let mut ready = self.0.lock();
        ready.closed = true;
        if let Some(waker) = ready.waker.take() {
            waker.wake();
        }
    }
}

/// The answers' stream.
pub(crate) struct Answers(Arc<Outbox>);

impl Stream for Answers {
    type Item = Result<RaftFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut ready = self.0.0.lock();
        if ready.hello.is_some() || !ready.messages.is_empty() {
            let hello = ready.hello.take();
            let messages = ready.messages.drain(..).collect();
            return Poll::Ready(Some(Ok(RaftFrame { hello, messages, clock_ms: 0 })));
        }
        if ready.closed {
            return Poll::Ready(None);
        }
        ready.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
