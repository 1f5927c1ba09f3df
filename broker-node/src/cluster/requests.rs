//! Questions to shards that wait for an answer: proposals, reads and retained messages.
//!
//! A question goes to the shard's leader. When the leader changes, its link is lost, or it says that it
//! does not lead or cannot answer now, the question is sent again, until its deadline.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_proto::ids::{Namespace, Position, ShardId, SiteId};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::outcome::Outcome as Answer;
use holdfast_proto::shard::{ClientKey, Command, Outcome, RetainedRow, Status};
use holdfast_proto::storage::gateway_frame::Frame;
use holdfast_proto::storage::{
    Propose, ProposeDone, Read, ReadItem, ReadPage, ReadRetained, RetainedPage,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::appender::StepTicket;
use super::error::ClusterError;
use super::{Shared, metrics as names};
use crate::inbox::{Event, Inbox};

/// MQTT 5 reason code: unspecified error.
const UNSPECIFIED: u8 = 0x80;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// A command for the shard's log.
    Propose(Command),
    /// Records for one session.
    Read { namespace: Namespace, filters: Arc<[String]>, item: ReadItem },
    /// Retained messages.
    Retained { namespace: Namespace, filters: Arc<[String]> },
}

/// Who gets the answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A connection: [`Event::Outcome`].
    Outcome { token: u64, inbox: Arc<Inbox> },
    /// A waiting future.
    Once(oneshot::Sender<Result<Outcome, ClusterError>>),
    /// A connection: [`Event::Page`].
    Page { inbox: Arc<Inbox> },
    /// A connection, when all shards have answered: [`Event::Retained`].
    Retained(Arc<Gather>),
    /// A retained publish whose first step is stored in `home`.
    Step { home: ShardId, ticket: StepTicket },
    /// Nobody waits.
    Nobody,
}

/// Collects the retained messages of several shards.
#[derive(Debug)]
pub(crate) struct Gather {
    token: u64,
    inbox: Arc<Inbox>,
    state: Mutex<Gathered>,
}

#[derive(Debug)]
struct Gathered {
    missing: usize,
    result: Result<Vec<(RetainedRow, u64)>, ClusterError>,
}

impl Gather {
    /// Waits for the answers of `missing` shards.
    #[must_use]
    pub(crate) fn new(token: u64, inbox: Arc<Inbox>, missing: usize) -> Arc<Gather> {
        let state = Mutex::new(Gathered { missing, result: Ok(Vec::new()) });
        Arc::new(Gather { token, inbox, state })
    }

    fn add(&self, answer: Result<Vec<(RetainedRow, u64)>, ClusterError>) {
        let mut state = self.state.lock();
        state.missing -= 1;
        match (&mut state.result, answer) {
            (Ok(rows), Ok(mut more)) => rows.append(&mut more),
            (result, Err(error)) => *result = Err(error),
            (Err(_), Ok(_)) => {}
        }
        if state.missing == 0 {
            let result = std::mem::replace(&mut state.result, Ok(Vec::new()));
            self.inbox.post(Event::Retained { token: self.token, result });
        }
    }
}

#[derive(Debug)]
struct Request {
    shard: ShardId,
    body: Body,
    reply: Reply,
    deadline_ms: u64,
    /// Where it was sent; none while it waits for a leader.
    site: Option<SiteId>,
    not_before_ms: u64,
}

/// Names a request. One read may ask several shards, so its pages are told apart by their shard; other
/// answers do not name it and have [`ALONE`].
type Key = (u64, u32);

/// Second part of the key of a request that is alone under its number.
const ALONE: u32 = u32::MAX;

/// All questions without an answer.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last_id: u64,
    open: HashMap<Key, Request>,
    /// Claims that were given up after they had been sent, by number: they may be applied yet.
    late_claims: HashMap<u64, LateClaim>,
}

#[derive(Debug)]
struct LateClaim {
    client: ClientKey,
    site: SiteId,
}

/// Claims that are remembered after they were given up. Those of more clients count as connected until
/// their clients come back.
const LATE_CLAIMS_MAX: usize = 10_000;

impl Requests {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Gives a request up; a claim that was sent is remembered.
    fn give_up(&mut self, key: Key) -> Option<Request> {
        let request = self.open.remove(&key)?;
        if let (Some(site), Some(client)) = (request.site, claimant(&request.body))
            && self.late_claims.len() < LATE_CLAIMS_MAX
        {
            self.late_claims.insert(key.0, LateClaim { client: client.clone(), site });
        }
        Some(request)
    }

    /// Takes the request an answer is for. One that asks to try again is kept: `retry` says whether the
    /// answer does.
    fn take(&mut self, key: Key, site: SiteId, retry: bool, not_before_ms: u64) -> Option<Request> {
        if !retry {
            return self.open.remove(&key);
        }
        if let Some(request) = self.open.get_mut(&key)
            && request.site == Some(site)
        {
            request.site = None;
            request.not_before_ms = not_before_ms;
        }
        None
    }
}

/// The client of a claim.
fn claimant(body: &Body) -> Option<&ClientKey> {
    match body {
        Body::Propose(Command { command: Some(Kind::Claim(claim)) }) => claim.client.as_ref(),
        _ => None,
    }
}

fn wants_retry(status: Status) -> bool {
    matches!(status, Status::NotLeader | Status::Unavailable)
}

fn refusing(site: u64) -> Option<SiteId> {
    (site != 0).then_some(SiteId(site))
}

impl Shared {
    /// Asks one shard.
    pub(crate) fn ask(&self, shard: ShardId, body: Body, reply: Reply, deadline_ms: u64) {
        let mut requests = self.requests.lock();
        let key = (requests.next_id(), ALONE);
        let mut request = Request { shard, body, reply, deadline_ms, site: None, not_before_ms: 0 };
        self.send(key, &mut request);
        requests.open.insert(key, request);
    }

    /// Proposes a command and waits for its outcome.
    pub(crate) async fn proposed(
        &self,
        shard: ShardId,
        command: Command,
    ) -> Result<Outcome, ClusterError> {
        let (sender, receiver) = oneshot::channel();
        let deadline_ms = super::monotonic::now_ms() + self.config.propose_deadline_ms;
        self.ask(shard, Body::Propose(command), Reply::Once(sender), deadline_ms);
        receiver.await.unwrap_or(Err(ClusterError::Stopping))
    }

    /// Reads for one session: one frame per leader.
    pub(crate) fn ask_reads(
        &self,
        namespace: Namespace,
        filters: &Arc<[String]>,
        items: Vec<ReadItem>,
        inbox: &Arc<Inbox>,
        deadline_ms: u64,
    ) {
        let mut requests = self.requests.lock();
        let mut frames: Vec<(SiteId, Read)> = Vec::new();
        for item in items {
            let shard = ShardId(item.shard as u16);
            let leader = self.leaders.lock().get(shard).filter(|site| self.links.is_up(*site));
            let frame = leader.map(|site| {
                let fits = |(at, read): &(SiteId, Read)| {
                    *at == site && read.items.iter().all(|other| other.shard != item.shard)
                };
                frames.iter().position(fits).unwrap_or_else(|| {
                    frames.push((site, self.read_frame(requests.next_id(), namespace, filters)));
                    frames.len() - 1
                })
            });
            let id = match frame {
                Some(at) => {
                    frames[at].1.items.push(item.clone());
                    frames[at].1.request_id
                }
                None => requests.next_id(),
            };
            let body = Body::Read { namespace, filters: filters.clone(), item };
            let reply = Reply::Page { inbox: inbox.clone() };
            let site = leader;
            let request = Request { shard, body, reply, deadline_ms, site, not_before_ms: 0 };
            requests.open.insert((id, u32::from(shard.0)), request);
        }
        for (site, read) in frames {
            // A link that is lost from here on takes its requests back by itself.
            self.links.send(site, Frame::Read(read));
        }
    }

    fn read_frame(&self, request_id: u64, namespace: Namespace, filters: &[String]) -> Read {
        Read {
            request_id,
            namespace: namespace.0,
            filters: filters.to_vec(),
            items: Vec::new(),
            page_bytes_max: self.config.page_bytes_max,
        }
    }

    fn send(&self, (id, _): Key, request: &mut Request) {
        let shard = request.shard;
        let Some(site) = self.leaders.lock().get(shard) else { return };
        let frame = match &request.body {
            Body::Propose(command) => Frame::Propose(Propose {
                request_id: id,
                shard: u32::from(shard.0),
                command: Some(command.clone()),
            }),
            Body::Read { namespace, filters, item } => {
                let mut read = self.read_frame(id, *namespace, filters);
                read.items.push(item.clone());
                Frame::Read(read)
            }
            Body::Retained { namespace, filters } => Frame::ReadRetained(ReadRetained {
                request_id: id,
                shard: u32::from(shard.0),
                namespace: namespace.0,
                filters: filters.to_vec(),
            }),
        };
        if self.links.send(site, frame) {
            request.site = Some(site);
        }
    }

    /// Sends what waits for this shard, and again what another site than the leader was asked.
    pub(crate) fn resend_requests(&self, shard: ShardId) {
        let leader = self.leaders.lock().get(shard);
        let mut requests = self.requests.lock();
        for (key, request) in requests.open.iter_mut().filter(|(_, request)| request.shard == shard)
        {
            if leader.is_some() && request.site != leader {
                request.site = None;
                self.send(*key, request);
            }
        }
    }

    /// A site's link is lost: what it was asked waits for its next leader.
    pub(crate) fn take_back_requests(&self, site: SiteId) {
        let mut requests = self.requests.lock();
        for request in requests.open.values_mut() {
            if request.site == Some(site) {
                request.site = None;
            }
        }
        requests.late_claims.retain(|_, late| late.site != site);
    }

    /// Sends what is due again and fails what waited for too long.
    pub(crate) fn tick_requests(&self, now_ms: u64) {
        let mut late = Vec::new();
        {
            let mut requests = self.requests.lock();
            for (key, request) in &mut requests.open {
                if request.deadline_ms <= now_ms {
                    late.push(*key);
                } else if request.site.is_none() && request.not_before_ms <= now_ms {
                    self.send(*key, request);
                }
            }
        }
        for key in late {
            let request = self.requests.lock().give_up(key);
            if let Some(request) = request {
                metrics::counter!(names::REQUESTS_EXPIRED).increment(1);
                self.fail(request.shard, request.reply);
            }
        }
    }

    fn fail(&self, shard: ShardId, reply: Reply) {
        let error = ClusterError::Unavailable { what: "the leader of a shard" };
        match reply {
            Reply::Outcome { token, inbox } => {
                inbox.post(Event::Outcome { token, result: Err(error) });
            }
            // The asker may have gone.
            Reply::Once(sender) => drop(sender.send(Err(error))),
            Reply::Page { inbox } => inbox.post(Event::PageFailed { shard }),
            Reply::Retained(gather) => gather.add(Err(error)),
            Reply::Step { home, ticket } => {
                names::RefusedWhy::NotRetained.count(1);
                self.step_done(home, ticket, Some(UNSPECIFIED));
            }
            Reply::Nobody => {}
        }
    }

    /// Takes in the answer to a proposal.
    pub(crate) fn on_propose_done(&self, site: SiteId, done: ProposeDone, now_ms: u64) {
        let outcome = done.outcome.unwrap_or_default();
        let status = outcome.status();
        let again_ms = now_ms + self.config.retry_ms;
        let key = (done.request_id, ALONE);
        let (shard, taken) = {
            let mut requests = self.requests.lock();
            let Some(request) = requests.open.get(&key) else {
                let late = requests.late_claims.remove(&done.request_id);
                drop(requests);
                return late.into_iter().for_each(|late| self.release_late(&late, &outcome));
            };
            (request.shard, requests.take(key, site, wants_retry(status), again_ms))
        };
        if status == Status::NotLeader {
            self.leader_refused(shard, site, refusing(done.leader_site));
        }
        match taken.map(|request| request.reply) {
            Some(Reply::Outcome { token, inbox }) => {
                inbox.post(Event::Outcome { token, result: Ok(Box::new(outcome)) });
            }
            // The asker may have gone.
            Some(Reply::Once(sender)) => drop(sender.send(Ok(outcome))),
            Some(Reply::Step { home, ticket }) => {
                // FENCED: the topic has a newer retained message of the same client.
                let set = matches!(status, Status::Ok | Status::Fenced);
                if !set {
                    names::RefusedWhy::NotRetained.count(1);
                }
                self.step_done(home, ticket, (!set).then_some(UNSPECIFIED));
            }
            Some(Reply::Page { .. } | Reply::Retained(_) | Reply::Nobody) | None => {}
        }
    }

    /// A claim was applied after its connection had given up.
    fn release_late(&self, late: &LateClaim, outcome: &Outcome) {
        if let Some(Answer::Claim(claim)) = &outcome.outcome
            && let Some(row) = &claim.row
        {
            tracing::debug!(epoch = row.epoch, "giving up a session that was claimed too late");
            self.release(&late.client, row);
        }
    }

    /// Takes in a page of a read.
    pub(crate) fn on_read_page(&self, site: SiteId, page: ReadPage, now_ms: u64) {
        let status = page.status();
        let shard = ShardId(page.shard as u16);
        let again_ms = now_ms + self.config.retry_ms;
        let key = (page.request_id, page.shard);
        let taken = self.requests.lock().take(key, site, wants_retry(status), again_ms);
        if status == Status::NotLeader {
            self.leader_refused(shard, site, refusing(page.leader_site));
        }
        let Some(Request { reply: Reply::Page { inbox }, .. }) = taken else { return };
        if let Some(clock) = self.clocks.get(usize::from(shard.0)) {
            clock.set(page.time_ms, now_ms);
        }
        let records = match Placed::decode_all(page.records) {
            Ok(records) if status == Status::Ok => records,
            Ok(_) => return inbox.post(Event::PageFailed { shard }),
            Err(error) => {
                tracing::error!(%site, %shard, %error, "a site sent a malformed page");
                return inbox.post(Event::PageFailed { shard });
            }
        };
        count_page(&records, page.time_ms);
        inbox.post(Event::Page {
            shard,
            records,
            next: Position(page.next),
            head: page.head,
            dropped_below: Position(page.dropped_below),
            time_ms: page.time_ms,
        });
    }

    /// Takes in a shard's retained messages.
    pub(crate) fn on_retained_page(&self, site: SiteId, page: RetainedPage, now_ms: u64) {
        let status = page.status();
        let shard = ShardId(page.shard as u16);
        let again_ms = now_ms + self.config.retry_ms;
        let key = (page.request_id, ALONE);
        let taken = self.requests.lock().take(key, site, wants_retry(status), again_ms);
        if status == Status::NotLeader {
            self.leader_refused(shard, site, refusing(page.leader_site));
        }
        let Some(Request { reply: Reply::Retained(gather), .. }) = taken else { return };
        gather.add(match status {
            Status::Ok => Ok(page.rows.into_iter().map(|row| (row, page.time_ms)).collect()),
            status => Err(ClusterError::Refused { reason: status.as_str_name().to_owned() }),
        });
    }
}

/// Counts a page that was read from the log, at the shard's time.
fn count_page(records: &[Placed], time_ms: u64) {
    metrics::counter!(names::CATCH_UP_PAGES).increment(1);
    if let Some(newest) = records.last() {
        metrics::counter!(names::CATCH_UP_RECORDS).increment(records.len() as u64);
        let lag_ms = time_ms.saturating_sub(newest.time_ms);
        metrics::histogram!(names::CATCH_UP_LAG).record(lag_ms as f64 / 1_000.0);
    }
}
