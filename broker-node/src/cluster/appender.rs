//! The publishes of one shard on their way into its log. Pure.
//!
//! * Records collect in one builder. A batch is sealed and sent at once while fewer than
//!   `batches_in_flight_max` are unanswered; otherwise records go on collecting. So a batch is what
//!   arrived during the last round trip.
//! * Sequences are contiguous. An unanswered batch keeps its sequence and bytes, and all of them are
//!   sent again, in order, when the leader changes, its link is lost or it refuses one of them.
//! * Only if the shard says that it expects a sequence below the oldest unanswered one - because it took
//!   none of the batches in between, or has forgotten this producer - are they numbered anew.
//! * Answers are passed on in the order of the batches; those of one client in publish order, also when
//!   some of its messages wait for their second step (retained messages).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use holdfast_proto::batch::{Batch, BatchBuilder, HEADER_BYTES, bit};
use holdfast_proto::ids::{Incarnation, Position, ShardId, SiteId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::shard::{AppendOutcome, Status};
use holdfast_proto::storage::{AppendBatch, AppendDone};

use super::metrics::RefusedWhy;
use crate::inbox::{Event, Inbox, PublishResult};

/// MQTT 5 reason code: unspecified error.
const UNSPECIFIED: u8 = 0x80;
/// MQTT 5 reason code: quota exceeded.
const QUOTA_EXCEEDED: u8 = 0x97;
/// How long after a batch's deadline its publishers still wait for the leader's word, in ms.
const DEADLINE_GRACE_MS: u64 = 5_000;
/// A shard forgets a producer after 10 min; a number that expects the first sequence again is believed
/// after half of that.
const FORGOTTEN_AFTER_MS: u64 = 300_000;

/// Limits of one shard's queue; see the config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppendLimits {
    /// Largest batch, in bytes.
    pub(crate) batch_bytes_max: usize,
    /// Unanswered batches.
    pub(crate) in_flight_max: usize,
    /// Bytes at which publishers are held back.
    pub(crate) queue_bytes_max: usize,
    /// How long a publish may wait, in ms.
    pub(crate) deadline_ms: u64,
    /// Pause after a refusal, in ms.
    pub(crate) retry_ms: u64,
}

/// A stored retained message that is still to be set at its topic's shard.
#[derive(Debug)]
pub(crate) struct RetainedStep {
    /// To be given back to [`ShardQueue::step_done`].
    pub(crate) ticket: StepTicket,
    /// The message as its home shard stored it.
    pub(crate) message: Placed,
}

/// Names one waiting step of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepTicket {
    client: usize,
    number: u64,
}

/// What an answer of a site leads to.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Retained messages that are to be set now.
    pub(crate) steps: Vec<RetainedStep>,
    /// The site does not lead the shard; who does, if it knows.
    pub(crate) not_leader: Option<Option<SiteId>>,
    /// Publishes stored, with how long they waited, in ms.
    pub(crate) stored: u32,
    /// Age of the oldest of them.
    pub(crate) waited_ms: u64,
    /// Publishes that failed or were refused.
    pub(crate) refused: BTreeMap<RefusedWhy, u32>,
}

/// Who waits for the records of one batch.
#[derive(Debug, Default)]
struct Waiters {
    tokens: Vec<u64>,
    /// Runs of records of one client: the first index of each.
    runs: Vec<(Arc<Inbox>, u32)>,
    /// Index and offset of retained messages.
    retained: Vec<(u32, usize)>,
    opened_ms: u64,
}

#[derive(Debug)]
struct Sealed {
    batch: Batch,
    waiters: Waiters,
    expires_ms: u64,
    answer: Option<(Status, AppendOutcome)>,
}

/// A client some of whose answers wait for a retained message's second step.
#[derive(Debug)]
struct Held {
    inbox: Arc<Inbox>,
    parts: VecDeque<Part>,
}

#[derive(Debug)]
enum Part {
    Ready(Vec<(u64, PublishResult)>),
    Waiting { number: u64, token: u64, result: PublishResult },
}

/// The queue of one shard.
#[derive(Debug)]
pub(crate) struct ShardQueue {
    shard: ShardId,
    incarnation: Incarnation,
    limits: AppendLimits,
    builder: BatchBuilder,
    open: Waiters,
    sealed: VecDeque<Sealed>,
    /// How many of `sealed`, from its front, were sent to the leader.
    sent: usize,
    sealed_bytes: usize,
    next_sequence: u64,
    /// Highest sequence that the shard is known to have taken, and when.
    taken: (u64, u64),
    leader: Option<SiteId>,
    resume_ms: u64,
    held: HashMap<usize, Held>,
    steps: u64,
}

impl ShardQueue {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new(
        shard: ShardId,
        incarnation: Incarnation,
        limits: AppendLimits,
    ) -> ShardQueue {
        ShardQueue {
            shard,
            incarnation,
            limits,
            builder: BatchBuilder::default(),
            open: Waiters::default(),
            sealed: VecDeque::new(),
            sent: 0,
            sealed_bytes: 0,
            next_sequence: 1,
            taken: (0, 0),
            leader: None,
            resume_ms: 0,
            held: HashMap::new(),
            steps: 0,
        }
    }

    /// Adds a message. `shard_time_ms` is the estimate of the shard's time now.
    pub(crate) fn push(
        &mut self,
        draft: &RecordDraft<'_>,
        token: u64,
        inbox: &Arc<Inbox>,
        now_ms: u64,
        shard_time_ms: u64,
    ) {
        if !self.builder.is_empty()
            && self.builder.bytes() + draft.encoded_len() > self.limits.batch_bytes_max
        {
            self.seal(now_ms, shard_time_ms);
        }
        let offset = self.builder.bytes().max(HEADER_BYTES);
        let index = self.builder.push(draft);
        if index == 0 {
            self.open.opened_ms = now_ms;
        }
        if draft.retain {
            self.open.retained.push((index, offset));
        }
        if !self.open.runs.last().is_some_and(|(last, _)| Arc::ptr_eq(last, inbox)) {
            self.open.runs.push((inbox.clone(), index));
        }
        self.open.tokens.push(token);
    }

    /// Whether so much waits that publishers should be held back.
    #[must_use]
    pub(crate) fn is_congested(&self) -> bool {
        self.queued_bytes() > self.limits.queue_bytes_max
    }

    /// Whether nothing waits for an answer.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.sealed.is_empty() && self.builder.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub(crate) fn queued_bytes(&self) -> usize {
        self.sealed_bytes + self.builder.bytes()
    }

    fn seal(&mut self, now_ms: u64, shard_time_ms: u64) {
        let deadline_ms = shard_time_ms + self.limits.deadline_ms;
        let batch = self.builder.seal(self.incarnation, self.next_sequence, deadline_ms);
        self.next_sequence += 1;
        self.sealed_bytes += batch.as_bytes().len();
        self.sealed.push_back(Sealed {
            batch,
            waiters: std::mem::take(&mut self.open),
            expires_ms: now_ms + self.limits.deadline_ms + DEADLINE_GRACE_MS,
            answer: None,
        });
    }

    /// Sends what may be sent; `send` returns false if there is no link to the leader.
    pub(crate) fn pump(
        &mut self,
        now_ms: u64,
        shard_time_ms: u64,
        send: &mut impl FnMut(SiteId, AppendBatch) -> bool,
    ) {
        let Some(leader) = self.leader else { return };
        if now_ms < self.resume_ms {
            return;
        }
        while self.sent < self.limits.in_flight_max {
            if self.sent == self.sealed.len() {
                if self.builder.is_empty() {
                    return;
                }
                self.seal(now_ms, shard_time_ms);
            }
            let next = &self.sealed[self.sent];
            let shard = u32::from(self.shard.0);
            let frame = AppendBatch { shard, batch: next.batch.as_bytes().clone() };
            if next.answer.is_none() && !send(leader, frame) {
                return;
            }
            self.sent += 1;
        }
    }

    /// The shard has another leader, or none that is known.
    pub(crate) fn set_leader(&mut self, leader: Option<SiteId>) {
        if self.leader != leader {
            self.leader = leader;
            self.sent = 0;
            self.resume_ms = 0;
        }
    }

    /// The link to a site is gone: what it was sent is sent again.
    pub(crate) fn link_lost(&mut self, site: SiteId) {
        if self.leader == Some(site) {
            self.sent = 0;
        }
    }

    /// Takes in a site's answer to a batch. Call [`ShardQueue::pump`] after it.
    pub(crate) fn answer(&mut self, site: SiteId, done: AppendDone, now_ms: u64) -> Answered {
        let mut answered = Answered::default();
        let status = done.status();
        let outcome = done.outcome.unwrap_or_default();
        let Some(at) = self.index_of(outcome.sequence) else { return answered };
        let from_leader = self.leader == Some(site) && at < self.sent;
        match status {
            Status::Ok => {
                self.taken = self.taken.max((outcome.sequence, now_ms));
                self.sealed[at].answer = Some((status, outcome));
                self.complete(now_ms, &mut answered);
            }
            Status::NotLeader => {
                if from_leader {
                    self.sent = 0;
                    answered.not_leader =
                        Some((done.leader_site != 0).then_some(SiteId(done.leader_site)));
                }
            }
            Status::Gap if from_leader => self.gap(at, outcome.expected_sequence, now_ms),
            Status::Unavailable if from_leader => self.rewind(now_ms),
            Status::Gap | Status::Unavailable => {}
            Status::Expired
            | Status::DiskFull
            | Status::Invalid
            | Status::Fenced
            | Status::NoSession => {
                if from_leader {
                    self.sealed[at].answer = Some((status, outcome));
                    self.complete(now_ms, &mut answered);
                }
            }
        }
        answered
    }

    fn index_of(&self, sequence: u64) -> Option<usize> {
        let first = self.sealed.front()?.batch.header().sequence;
        let at = usize::try_from(sequence.checked_sub(first)?).ok()?;
        (at < self.sealed.len() && self.sealed[at].answer.is_none()).then_some(at)
    }

    fn rewind(&mut self, now_ms: u64) {
        self.sent = 0;
        self.resume_ms = now_ms + self.limits.retry_ms;
    }

    fn gap(&mut self, at: usize, expected: u64, now_ms: u64) {
        let first = self.sealed[0].batch.header().sequence;
        let (taken, taken_ms) = self.taken;
        let forgotten = expected == 1 && now_ms.saturating_sub(taken_ms) >= FORGOTTEN_AFTER_MS;
        if at == 0 && expected > 0 && expected < first && (expected == taken + 1 || forgotten) {
            self.renumber(expected);
            self.sent = 0;
        } else {
            self.rewind(now_ms);
        }
    }

    fn renumber(&mut self, first: u64) {
        for (sequence, sealed) in (first..).zip(self.sealed.iter_mut()) {
            sealed.batch = sealed.batch.with_sequence(sequence);
        }
        self.next_sequence = first + self.sealed.len() as u64;
        self.taken.0 = first - 1;
    }

    /// Passes on the answers of the batches at the front.
    fn complete(&mut self, now_ms: u64, answered: &mut Answered) {
        while self.sealed.front().is_some_and(|sealed| sealed.answer.is_some()) {
            let Some(Sealed { batch, waiters, answer: Some((status, outcome)), .. }) =
                self.sealed.pop_front()
            else {
                return;
            };
            self.sent = self.sent.saturating_sub(1);
            self.sealed_bytes -= batch.as_bytes().len();
            let waited_ms = now_ms.saturating_sub(waiters.opened_ms);
            answered.waited_ms = answered.waited_ms.max(waited_ms);
            self.decide(&batch, waiters, status, &outcome, answered);
        }
    }

    fn decide(
        &mut self,
        batch: &Batch,
        waiters: Waiters,
        status: Status,
        outcome: &AppendOutcome,
        answered: &mut Answered,
    ) {
        let mut position = outcome.base_position;
        let mut retained = waiters.retained.iter().peekable();
        let mut runs = waiters.runs.iter().peekable();
        while let Some((inbox, first)) = runs.next() {
            let end = runs.peek().map_or(waiters.tokens.len() as u32, |(_, next)| *next);
            let mut results = Vec::with_capacity((end - first) as usize);
            for index in *first..end {
                let token = waiters.tokens[index as usize];
                let (result, at) = result_of(status, outcome, index, &mut position);
                if matches!(result, PublishResult::Stored | PublishResult::Repeated) {
                    answered.stored += 1;
                } else {
                    *answered.refused.entry(refused_why(status)).or_default() += 1;
                }
                let step = retained.next_if(|(retained, _)| *retained == index);
                match (step, at) {
                    (Some((_, offset)), Some(position)) => {
                        self.pass_on(inbox, std::mem::take(&mut results));
                        let mut rest = batch.as_bytes().slice(*offset..);
                        let Ok(record) = Record::split_from(&mut rest) else {
                            results.push((token, PublishResult::Failed(UNSPECIFIED)));
                            continue;
                        };
                        let ticket = self.hold(inbox, token, result);
                        let time_ms = outcome.time_ms;
                        let message = Placed { position, time_ms, record };
                        answered.steps.push(RetainedStep { ticket, message });
                    }
                    _ => results.push((token, result)),
                }
            }
            self.pass_on(inbox, results);
        }
    }

    fn pass_on(&mut self, inbox: &Arc<Inbox>, results: Vec<(u64, PublishResult)>) {
        if results.is_empty() {
            return;
        }
        match self.held.get_mut(&key_of(inbox)) {
            Some(held) => held.parts.push_back(Part::Ready(results)),
            None => inbox.post(Event::Published { results }),
        }
    }

    fn hold(&mut self, inbox: &Arc<Inbox>, token: u64, result: PublishResult) -> StepTicket {
        let client = key_of(inbox);
        self.steps += 1;
        let number = self.steps;
        self.held
            .entry(client)
            .or_insert_with(|| Held { inbox: inbox.clone(), parts: VecDeque::new() })
            .parts
            .push_back(Part::Waiting { number, token, result });
        StepTicket { client, number }
    }

    /// The second step of a retained message is decided: `failed` is the reason code if it was not set.
    pub(crate) fn step_done(&mut self, ticket: StepTicket, failed: Option<u8>) {
        let Some(held) = self.held.get_mut(&ticket.client) else { return };
        for part in &mut held.parts {
            match part {
                Part::Waiting { number, token, result } if *number == ticket.number => {
                    let result = failed.map_or(*result, PublishResult::Failed);
                    *part = Part::Ready(vec![(*token, result)]);
                    break;
                }
                _ => {}
            }
        }
        let mut results = Vec::new();
        while let Some(Part::Ready(ready)) = held.parts.front_mut() {
            results.append(ready);
            held.parts.pop_front();
        }
        if !results.is_empty() {
            held.inbox.post(Event::Published { results });
        }
        if held.parts.is_empty() {
            self.held.remove(&ticket.client);
        }
    }

    /// Gives up on batches that no leader answered long after their deadline: their publishers hear of
    /// it; the batches keep their places, because the shard may have taken them. Returns how many
    /// publishes failed.
    pub(crate) fn expire(&mut self, now_ms: u64, shard_time_ms: u64) -> u32 {
        if self.leader.is_none()
            && !self.builder.is_empty()
            && now_ms.saturating_sub(self.open.opened_ms) > self.limits.deadline_ms
        {
            self.seal(now_ms, shard_time_ms.saturating_sub(self.limits.deadline_ms));
            if let Some(last) = self.sealed.back_mut() {
                last.expires_ms = now_ms + DEADLINE_GRACE_MS;
            }
        }
        let mut failed = 0;
        for at in 0..self.sealed.len() {
            let sealed = &mut self.sealed[at];
            if sealed.expires_ms > now_ms || sealed.waiters.tokens.is_empty() {
                continue;
            }
            let waiters = std::mem::take(&mut sealed.waiters);
            failed += waiters.tokens.len() as u32;
            for (run, (inbox, first)) in waiters.runs.iter().enumerate() {
                let end = waiters.runs.get(run + 1).map_or(waiters.tokens.len(), |r| r.1 as usize);
                let results = waiters.tokens[*first as usize..end]
                    .iter()
                    .map(|token| (*token, PublishResult::Failed(UNSPECIFIED)))
                    .collect();
                self.pass_on(inbox, results);
            }
        }
        failed
    }
}

fn key_of(inbox: &Arc<Inbox>) -> usize {
    Arc::as_ptr(inbox) as usize
}

/// Why a batch's record was refused.
fn refused_why(status: Status) -> RefusedWhy {
    match status {
        // Of such a batch only the records of fenced sessions are.
        Status::Ok | Status::Fenced | Status::NoSession => RefusedWhy::Fenced,
        Status::DiskFull => RefusedWhy::DiskFull,
        Status::Expired | Status::NotLeader | Status::Unavailable | Status::Gap => {
            RefusedWhy::NoLeader
        }
        Status::Invalid => RefusedWhy::Invalid,
    }
}

/// What became of one record, and where its shard has it. `position` is that of the next stored one.
fn result_of(
    status: Status,
    outcome: &AppendOutcome,
    index: u32,
    position: &mut u64,
) -> (PublishResult, Option<Position>) {
    match status {
        Status::Ok if !bit(&outcome.refused, index) => {
            let at = Position(*position);
            *position += 1;
            (PublishResult::Stored, Some(at))
        }
        Status::Ok => match outcome.repeats.iter().find(|repeat| repeat.index == index) {
            Some(repeat) => (PublishResult::Repeated, Some(Position(repeat.position))),
            None => (PublishResult::Fenced, None),
        },
        Status::DiskFull => (PublishResult::Failed(QUOTA_EXCEEDED), None),
        _ => (PublishResult::Failed(UNSPECIFIED), None),
    }
}

#[cfg(test)]
#[path = "appender_tests.rs"]
mod tests;
