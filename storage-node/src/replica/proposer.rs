//! The one proposer of a shard at its leader: everything that is queued becomes one entry while the
//! entry before is under way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use holdfast_proto::shard::{self as pb, AppendOutcome, Outcome, Status};
use holdfast_shard::{Answer, Decision, Request};
use openraft::error::{ClientWriteError, RaftError};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, oneshot};

use super::Replica;
use crate::metrics::{self, Refused};
use crate::raft::ShardEntry;
use crate::serve::link::GatewayLink;

/// Who waits for the answer to a request.
pub(crate) enum Waiter {
    /// A batch that came on a gateway's stream.
    Append(Arc<GatewayLink>),
    /// A command that came on a gateway's stream.
    Propose(Arc<GatewayLink>, u64),
    /// The leader's own upkeep, which asks for more once all of a batch are answered.
    Upkeep(Arc<()>),
    /// A task of this process.
    Task(oneshot::Sender<Outcome>),
}

struct Queued {
    request: Request,
    bytes: usize,
    waiter: Waiter,
    since: Instant,
}

/// Requests that wait for the shard's proposer.
pub(crate) struct ProposalQueue {
    state: Mutex<QueueState>,
    wake: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct QueueState {
    requests: VecDeque<Queued>,
    bytes: usize,
}

/// Bytes that a queued command counts for.
const COMMAND_BYTES: usize = 256;

impl ProposalQueue {
    pub(crate) fn new(bytes_max: usize) -> ProposalQueue {
        ProposalQueue { state: Mutex::default(), wake: Notify::new(), bytes_max }
    }

    /// Queues the request, or gives it back if the queue is full.
    fn push(&self, request: Request, waiter: Waiter) -> Option<(Request, Waiter)> {
        let bytes = match &request {
            Request::Append(batch) => batch.as_bytes().len(),
            _ => COMMAND_BYTES,
        };
        let mut state = self.state.lock();
        if state.bytes + bytes > self.bytes_max {
            return Some((request, waiter));
        }
        state.bytes += bytes;
        state.requests.push_back(Queued { request, bytes, waiter, since: Instant::now() });
        drop(state);
        self.wake.notify_one();
        None
    }

    /// Takes what fits one entry, at least one request.
    fn take(&self, bytes_max: usize) -> Vec<Queued> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.requests.front() {
            if !taken.is_empty() && bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            taken.extend(state.requests.pop_front());
        }
        state.bytes -= bytes;
        taken
    }
}

impl Replica {
    /// Queues a request; answers at once if the shard cannot take it now.
    pub(crate) fn request(&self, request: Request, waiter: Waiter) {
        // While leadership is handed over requests wait: soon it is known where to.
        if let Err(status) = self.serving()
            && !self.is_handing_over()
        {
            return self.answer(&request, waiter, refusal(status));
        }
        if matches!(request, Request::Append(_)) && self.disk_full() {
            metrics::refused(Refused::DiskFull);
            return self.answer(&request, waiter, refusal(Status::DiskFull));
        }
        if let Some((request, waiter)) = self.queue.push(request, waiter) {
            metrics::refused(Refused::QueueFull);
            self.answer(&request, waiter, refusal(Status::Unavailable));
        }
    }

    /// Queues a request of this process; the answer comes when it is applied.
    pub(crate) fn ask(&self, request: Request) -> oneshot::Receiver<Outcome> {
        let (done, outcome) = oneshot::channel();
        self.request(request, Waiter::Task(done));
        outcome
    }

    /// The proposer's loop; ends with the replica.
    pub(crate) async fn propose_forever(self: Arc<Self>) {
        loop {
            let turn = self.proposing.lock().await;
            let taken = match self.is_handing_over() {
                true => Vec::new(),
                false => self.queue.take(self.limits.entry_bytes_max),
            };
            if taken.is_empty() {
                drop(turn);
                tokio::select! {
                    () = self.stopped.wait() => return,
                    () = self.queue.wake.notified() => continue,
                }
            }
            self.propose(taken).await;
        }
    }

    /// Looks at the queue again.
    pub(crate) fn queue_wakes(&self) {
        self.queue.wake.notify_one();
    }

    async fn propose(&self, taken: Vec<Queued>) {
        let (mut requests, mut waiters) = (Vec::new(), Vec::new());
        let oldest = taken.first().map(|queued| queued.since);
        let has_room = self.log_has_room(taken.iter().map(|queued| queued.bytes).sum());
        for queued in taken {
            if !has_room && matches!(queued.request, Request::Append(_)) {
                metrics::refused(Refused::LogFull);
                self.answer(&queued.request, queued.waiter, refusal(Status::Unavailable));
                continue;
            }
            requests.push(queued.request);
            waiters.push(queued.waiter);
        }
        if requests.is_empty() {
            return;
        }
        let term = match self.serving() {
            Ok(term) => term,
            Err(status) => return self.answer_all(&requests, waiters, status),
        };
        let decided = self.cell.shard.lock().decide(&requests, self.cell.clocks.now_ms());
        let Decision { entry, answers } = match decided {
            Ok(decision) => decision,
            Err(error) => return self.fatal.stop("decide", &error),
        };
        let outcomes = match entry {
            None => Vec::new(),
            Some(mut entry) => {
                entry.term = term;
                metrics::proposed(requests.len(), entry.encoded_len());
                match self.write(&entry).await {
                    Ok(outcomes) => outcomes,
                    Err(status) => return self.answer_all(&requests, waiters, status),
                }
            }
        };
        if let Some(oldest) = oldest {
            metrics::committed(oldest.elapsed());
        }
        for ((request, waiter), answer) in requests.iter().zip(waiters).zip(answers) {
            let outcome = match answer {
                Answer::Now(outcome) => outcome,
                Answer::AtOp(op) => {
                    outcomes.get(op).cloned().unwrap_or_else(|| refusal(Status::Unavailable))
                }
            };
            self.answer(request, waiter, outcome);
        }
    }

    async fn write(&self, entry: &pb::Entry) -> Result<Vec<Outcome>, Status> {
        let mut data = BytesMut::with_capacity(entry.encoded_len());
        // A BytesMut grows: encoding into it cannot fail.
        let _ = entry.encode(&mut data);
        match self.raft.client_write(ShardEntry(data.freeze())).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(Status::NotLeader)
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(_))) => {
                Err(Status::Unavailable)
            }
            Err(RaftError::Fatal(error)) => {
                if !self.stopped.is_triggered() {
                    self.fatal.stop("raft", &error);
                }
                Err(Status::Unavailable)
            }
        }
    }

    fn answer_all(&self, requests: &[Request], waiters: Vec<Waiter>, status: Status) {
        for (request, waiter) in requests.iter().zip(waiters) {
            self.answer(request, waiter, refusal(status));
        }
    }

    fn answer(&self, request: &Request, waiter: Waiter, mut outcome: Outcome) {
        if let Request::Append(batch) = request
            && outcome.outcome.is_none()
        {
            // The gateway finds its batch by the sequence, also when it is refused.
            let sequence = batch.header().sequence;
            let append = AppendOutcome { sequence, ..AppendOutcome::default() };
            outcome.outcome = Some(pb::outcome::Outcome::Append(append));
        }
        match waiter {
            Waiter::Append(link) => link.append_done(self.key.shard, outcome, self.leader_site()),
            Waiter::Propose(link, id) => link.propose_done(id, outcome, self.leader_site()),
            Waiter::Upkeep(batch) => drop(batch),
            // It may have stopped waiting.
            Waiter::Task(waiter) => drop(waiter.send(outcome)),
        }
    }
}

/// An outcome that only says why nothing was done.
pub(crate) fn refusal(status: Status) -> Outcome {
    Outcome { status: status.into(), outcome: None }
}
