//! One session on one connection: joins the parts.

use std::collections::VecDeque;

use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    self, ClientKey, Command, CommitCursor, ReleaseReceived, RetainedRow, SessionRow, Status,
};

use crate::commit::Commits;
use crate::effect::{AckKind, Close, Counter, Effect, Leave};
use crate::in_flight::Acked;
use crate::limits::{Limits, Protocol, reason};
use crate::log::Page;
use crate::matched::Matched;
use crate::operations::{self, Operation, Operations, RetainedFor, Stage, SubscribePacket};
use crate::outbound::Outbound;
use crate::receiving::{Decision, InboundPublish, Receiving, Routing};
use crate::subscriptions::{Candidate, Match, Subscriptions};

/// What a session starts from: the answer to its claim.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Tenant.
    pub namespace: Namespace,
    /// Client id.
    pub client_id: &'a str,
    /// Of the connection.
    pub protocol: Protocol,
    /// The session outlives the connection, or did: it is fed from the log.
    pub durable: bool,
    /// Shards of the cluster.
    pub shards: u16,
    /// Its limits.
    pub limits: Limits,
    /// Its row as claimed.
    pub row: &'a SessionRow,
}

/// What the shell knows when it lets the session work.
pub struct Turn<'a> {
    /// Local time, ms since the Unix epoch.
    pub now_ms: u64,
    /// Time of a shard.
    pub shard_time_ms: &'a dyn Fn(ShardId) -> u64,
    /// Bytes that the socket's buffer still takes.
    pub room_bytes: usize,
}

#[derive(Debug)]
enum Attach {
    Asked { token: u64 },
    Failed { retry_ms: u64 },
    Done,
}

#[derive(Debug, Default)]
struct RetainedReads {
    waiting: VecDeque<RetainedFor>,
    asked: Option<(u64, Vec<RetainedFor>)>,
    retry_ms: Option<u64>,
}

/// The session core.
#[derive(Debug)]
pub struct Session {
    namespace: Namespace,
    client: ClientKey,
    epoch: u64,
    instance: u64,
    protocol: Protocol,
    limits: Limits,
    subscriptions: Subscriptions,
    receiving: Receiving,
    outbound: Outbound,
    operations: Operations,
    commits: Commits,
    attach: Attach,
    release: Option<u64>,
    release_retry_ms: Option<u64>,
    retained: Option<Box<RetainedReads>>,
    next_token: u64,
}

impl Session {
    /// Opens the session after its claim; the first effects attach it and resend releases.
    #[must_use]
    pub fn open(opening: &Opening<'_>, out: &mut Vec<Effect>) -> Session {
        let Opening { namespace, client_id, protocol, durable, shards, limits, row } = *opening;
        let client = ClientKey { namespace: namespace.0, client_id: client_id.to_owned() };
        let subscriptions = Subscriptions::new(namespace, client_id, &row.subscriptions);
        let mut receiving =
            Receiving::new(protocol, limits.receive_maximum, limits.topic_alias_maximum);
        receiving.restore(&row.received);
        let outbound = Outbound::new(protocol, limits, durable, shards, row, &subscriptions);
        outbound.resend_releases(out);
        let mut session = Session {
            namespace,
            epoch: row.epoch,
            instance: row.instance,
            protocol,
            limits,
            subscriptions,
            receiving,
            outbound,
            operations: Operations::default(),
            commits: Commits::new(client.clone(), row.epoch, row.instance),
            client,
            attach: Attach::Failed { retry_ms: 0 },
            release: None,
            release_retry_ms: None,
            retained: None,
            next_token: 0,
        };
        session.ask_attach(out);
        session
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn ask_attach(&mut self, out: &mut Vec<Effect>) {
        let token = self.token();
        self.attach = Attach::Asked { token };
        out.push(Effect::Attach { token, filters: self.subscriptions.filters().to_vec() });
    }

    /// Whether the session is fed from the log.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.outbound.is_durable()
    }

    // ---- packets of the client

    /// A PUBLISH. `Some`: route it, then say what became of it by [`Session::decided`].
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn publish<'a>(
        &mut self,
        publish: &InboundPublish<'a>,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Routing<'a>>, Close> {
        self.receiving.publish(publish, out)
    }

    /// A routed publish is decided. Call [`Session::turn`] afterwards.
    pub fn decided(&mut self, token: u64, decision: Decision) {
        self.receiving.decided(token, decision);
    }

    /// Publishes that wait for their decision or the acknowledgement of an earlier one.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.receiving.undecided()
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn acknowledged(
        &mut self,
        kind: AckKind,
        packet_id: u16,
        code: u8,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        if kind == AckKind::Pubrel {
            return self.receiving.pubrel(packet_id, out);
        }
        match self.outbound.acknowledged(kind, packet_id, code >= reason::UNSPECIFIED, out) {
            Acked::Wrong => Err(Close {
                reason: reason::PROTOCOL_ERROR,
                cause: "acknowledgement does not fit its message",
            }),
            Acked::Yes | Acked::Release | Acked::Ignored | Acked::Unknown => Ok(()),
        }
    }

    /// SUBSCRIBE.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn subscribe(&mut self, packet: SubscribePacket) -> Result<(), Close> {
        operations::check(&packet)?;
        self.operations.push(Operation::Subscribe(packet), self.limits.operations_max)
    }

    /// UNSUBSCRIBE.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn unsubscribe(&mut self, packet_id: u16, filters: Vec<String>) -> Result<(), Close> {
        let operation = Operation::Unsubscribe { packet_id, filters };
        self.operations.push(operation, self.limits.operations_max)
    }

    /// PINGREQ.
    pub fn ping(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Pong);
    }

    /// DISCONNECT. `session_expires`: the expiry interval of CONNECT was not 0.
    ///
    /// # Errors
    /// The connection has to be closed as if it had broken.
    pub fn disconnect(
        &mut self,
        code: u8,
        expiry_interval_s: Option<u32>,
        session_expires: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        if !session_expires && expiry_interval_s.is_some_and(|interval| interval != 0) {
            return Err(Close {
                reason: reason::PROTOCOL_ERROR,
                cause: "session expiry raised from 0",
            });
        }
        let discard_will = code == reason::SUCCESS;
        out.push(Effect::Left(Leave { discard_will, expiry_interval_s }));
        Ok(())
    }

    // ---- events

    /// Live records of a shard.
    pub fn tail(&mut self, shard: ShardId, records: &[Placed], indexes: &[u32], next: Position) {
        self.outbound.log.tail(shard, records, indexes, next);
    }

    /// The tail of this shard does not come until it is attached again.
    pub fn behind(&mut self, shard: ShardId) {
        self.outbound.log.behind(shard);
    }

    /// Tail events of this shard come from this position on.
    pub fn shard_attached(&mut self, shard: ShardId, from: Position) {
        self.outbound.log.shard_attached(shard, from);
    }

    /// A page of a read.
    pub fn page(&mut self, page: &Page<'_>, now_ms: u64, out: &mut Vec<Effect>) {
        self.outbound.page(page, &self.subscriptions, now_ms, out);
    }

    /// A read gave no page.
    pub fn page_failed(&mut self, shard: ShardId, now_ms: u64) {
        self.outbound.page_failed(shard, now_ms);
    }

    /// A live message for a regular session.
    ///
    /// # Errors
    /// The client is too slow: the connection has to be closed.
    pub fn regular(
        &mut self,
        record: Record,
        received_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        let found = self.subscriptions.find(&Candidate {
            topic: record.topic(),
            publisher: record.client_id(),
            qos: record.qos(),
            retain: record.retain(),
            place: None,
        });
        let Some(found) = found else { return Ok(()) };
        if self.outbound.matched_waiting() >= self.limits.buffer_records_max {
            if found.qos > 0 {
                return Err(Close { reason: reason::QUOTA, cause: "regular session too slow" });
            }
            out.push(Effect::Count(Counter::QueueFull, 1));
            return Ok(());
        }
        let place = (ShardId(0), Position(0));
        self.outbound.push_matched(Matched {
            record,
            found,
            place,
            since_ms: received_ms,
            clock: None,
        });
        Ok(())
    }

    /// Messages of a regular session were lost before they came here. QoS 1 and 2 may be among them.
    ///
    /// # Errors
    /// The connection has to be closed if the session was promised any of them.
    pub fn regular_overflow(&mut self, dropped: u64, out: &mut Vec<Effect>) -> Result<(), Close> {
        out.push(Effect::Count(Counter::QueueFull, dropped));
        if self.subscriptions.iter().any(|known| known.qos() > 0) {
            return Err(Close { reason: reason::QUOTA, cause: "regular session too slow" });
        }
        Ok(())
    }

    /// Answer to [`Effect::Attach`] or [`Effect::Subscribe`].
    pub fn attached(
        &mut self,
        token: u64,
        from: Option<&[Position]>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        if matches!(self.attach, Attach::Asked { token: known } if known == token) {
            self.attach = match from {
                Some(from) => {
                    self.outbound.log.attached(from);
                    Attach::Done
                }
                None => Attach::Failed { retry_ms: now_ms + self.limits.retry_ms },
            };
            return;
        }
        let asked = self.operations.group.as_ref();
        if !asked.is_some_and(|group| group.token == token && group.stage == Stage::Attaching) {
            return;
        }
        match from {
            None => self.group_failed(out),
            Some(_) if !self.is_durable() => self.group_done(out),
            Some(since) => {
                let since: Vec<u64> = since.iter().map(|position| position.0).collect();
                if let Some(group) = &self.operations.group {
                    for filter in &group.changed {
                        self.subscriptions.set_since(filter, &since);
                    }
                }
                self.propose_group(out);
            }
        }
    }

    /// Answer to [`Effect::Propose`]; `None`: it is not known whether it was applied.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn outcome(
        &mut self,
        token: u64,
        status: Option<Status>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        let retry_ms = now_ms + self.limits.retry_ms;
        if matches!(status, Some(Status::Fenced | Status::NoSession)) {
            return Err(Close { reason: reason::TAKEN_OVER, cause: "session is owned elsewhere" });
        }
        if status == Some(Status::Invalid) {
            return Err(Close { reason: reason::IMPLEMENTATION, cause: "home shard refused" });
        }
        let applied = status == Some(Status::Ok);
        if self.commits.is_mine(token) {
            if applied {
                self.outbound.committed(&mut self.commits, token, out);
            } else {
                self.commits.failed(retry_ms);
            }
        } else if self.release == Some(token) {
            self.release = None;
            if applied {
                self.receiving.release_committed(out);
            } else {
                self.release_retry_ms = Some(retry_ms);
            }
        } else if self.operations.group.as_ref().is_some_and(|group| group.token == token) {
            if applied {
                self.group_done(out);
            } else {
                self.group_failed(out);
            }
        }
        Ok(())
    }

    /// Answer to [`Effect::Retained`]: rows with the time of their shard.
    pub fn retained(&mut self, token: u64, rows: Option<&[(RetainedRow, u64)]>, turn: &Turn<'_>) {
        let Some(reads) = &mut self.retained else { return };
        if reads.asked.as_ref().is_none_or(|(known, _)| *known != token) {
            return;
        }
        let Some((_, wanted)) = reads.asked.take() else { return };
        let Some(rows) = rows else {
            reads.waiting.extend(wanted);
            reads.retry_ms = Some(turn.now_ms + self.limits.retry_ms);
            return;
        };
        if reads.waiting.is_empty() {
            self.retained = None;
        }
        for want in &wanted {
            // Gone again in the meantime: nothing new is queued for it.
            if self.subscriptions.get(&want.filter).is_none() {
                continue;
            }
            for (row, time_ms) in rows {
                self.push_retained(want, row, *time_ms, turn.now_ms);
            }
        }
    }

    fn push_retained(&mut self, want: &RetainedFor, row: &RetainedRow, time_ms: u64, now_ms: u64) {
        let Ok(record) = Record::split_from(&mut row.record.clone()) else { return };
        if !holdfast_proto::topic::matches(&want.filter, record.topic()) {
            return;
        }
        let identifiers: Box<[u32]> =
            if want.identifier == 0 { Box::default() } else { Box::new([want.identifier]) };
        let found = Match { qos: want.qos.min(record.qos()), retain: true, identifiers };
        // Its age by the shard's clock, moved to the gateway's.
        let since_ms = now_ms.saturating_sub(time_ms.saturating_sub(row.time_ms));
        let place = (ShardId(row.home_shard as u16), Position(row.home_position));
        self.outbound.push_matched(Matched { record, found, place, since_ms, clock: None });
    }

    // ---- working

    /// Lets the session work after whatever came: sends, reads, commits.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn turn(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) -> Result<(), Close> {
        self.receiving.answer(out)?;
        if let Attach::Failed { retry_ms } = self.attach
            && turn.now_ms >= retry_ms
        {
            self.ask_attach(out);
        }
        self.start_operations(out);
        self.outbound.pump(&self.subscriptions, turn, out);
        self.propose_release(turn.now_ms, out);
        if self.is_durable() {
            self.ask_reads(turn.now_ms, out);
            self.propose_commit(turn.now_ms, out);
        }
        self.ask_retained(turn.now_ms, out);
        Ok(())
    }

    /// Everything that the effects so far sent is written to the socket. Returns whether
    /// [`Session::turn`] has to be called for it.
    pub fn flushed(&mut self) -> bool {
        self.outbound.flushed()
    }

    /// Whether messages wait for room in the socket's buffer.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.outbound.is_short_of_room
    }

    /// Whether nothing waits to be sent, read or answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outbound.is_idle() && self.operations.group.is_none() && self.undecided() == 0
    }

    /// Whether a commit is on its way: what follows it may overtake it.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.commits.is_on_its_way()
    }

    /// When [`Session::turn`] has to be called again if nothing comes, in ms.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let attach = match self.attach {
            Attach::Failed { retry_ms } => Some(retry_ms),
            Attach::Asked { .. } | Attach::Done => None,
        };
        let retained = self.retained.as_ref().and_then(|reads| reads.retry_ms);
        let commit = self.commits.deadline_ms();
        [attach, retained, commit, self.release_retry_ms, self.outbound.deadline_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the tails have dispatched, as it was before the events given so far were taken from the
    /// inbox: live shards have seen everything below.
    pub fn heads(&mut self, heads: &[Position]) {
        self.outbound.log.heads(heads);
    }

    /// Everything that is not known to be committed: for the last commit, or for the next owner. The
    /// session is over.
    pub fn uncommitted(&mut self) -> Option<CommitCursor> {
        if !self.is_durable() {
            return None;
        }
        self.commits.uncommitted(&self.outbound.log.feeds, &mut self.outbound.in_flight)
    }

    /// What ends unsent with the connection, to be counted: answers to subscriptions (one for each that
    /// is not read yet) and messages of a regular session. Everything else a durable session has in the
    /// log or in its row.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let asked = self.retained.as_ref().map_or(0, |reads| {
            reads.waiting.len() + reads.asked.as_ref().map_or(0, |(_, wanted)| wanted.len())
        });
        self.outbound.unsent() + asked as u64
    }

    /// The last command of the session.
    pub fn leave(&mut self, leave: Leave) -> Command {
        let commit = self.uncommitted();
        Command {
            command: Some(Kind::Disconnect(shard::Disconnect {
                client: Some(self.client.clone()),
                epoch: self.epoch,
                instance: self.instance,
                discard_will: leave.discard_will,
                expiry_interval_s: leave.expiry_interval_s,
                commit,
            })),
        }
    }

    fn start_operations(&mut self, out: &mut Vec<Effect>) {
        if !matches!(self.attach, Attach::Done) {
            return;
        }
        loop {
            let since: Vec<u64> =
                self.outbound.log.feeds.iter().map(crate::feed::Feed::newest_known).collect();
            let next_token = self.next_token + 1;
            let started = self.operations.start(self.protocol, &mut self.subscriptions, &since);
            let Some(group) = started else { return };
            self.next_token = next_token;
            group.token = next_token;
            if group.subscribes && !group.changed.is_empty() {
                let filters = group.changed.clone();
                out.push(Effect::Subscribe { token: next_token, filters });
                return;
            }
            if !group.subscribes && !group.changed.is_empty() {
                out.push(Effect::Unsubscribe { filters: group.changed.clone() });
            }
            self.propose_group(out);
            if self.operations.group.is_some() {
                return;
            }
        }
    }

    /// Commits the group's change; a group that changes nothing durable is done.
    fn propose_group(&mut self, out: &mut Vec<Effect>) {
        let durable = self.is_durable();
        let token = self.token();
        let Some(group) = &mut self.operations.group else { return };
        let names = if group.subscribes { &group.granted } else { &group.changed };
        if !durable || names.is_empty() {
            self.group_done(out);
            return;
        }
        group.token = token;
        group.stage = Stage::Committing;
        let client = Some(self.client.clone());
        let (epoch, instance) = (self.epoch, self.instance);
        let kind = if group.subscribes {
            let rows = names.iter().filter_map(|filter| self.subscriptions.get(filter));
            Kind::Subscribe(shard::Subscribe {
                client,
                epoch,
                instance,
                subscriptions: rows.map(crate::subscriptions::Subscription::row).collect(),
            })
        } else {
            let filters = names.clone();
            Kind::Unsubscribe(shard::Unsubscribe { client, epoch, instance, filters })
        };
        out.push(propose(token, kind));
    }

    fn group_done(&mut self, out: &mut Vec<Effect>) {
        let retained = self.operations.finish(out);
        if !retained.is_empty() {
            self.retained.get_or_insert_default().waiting.extend(retained);
        }
    }

    fn group_failed(&mut self, out: &mut Vec<Effect>) {
        if let Some(group) = &mut self.operations.group {
            group.fail();
            if group.subscribes && !group.changed.is_empty() {
                for filter in &group.changed {
                    self.subscriptions.remove(filter);
                }
                out.push(Effect::Unsubscribe { filters: std::mem::take(&mut group.changed) });
            }
        }
        self.group_done(out);
    }

    fn propose_release(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.release.is_some() {
            return;
        }
        let packet_ids = match self.release_retry_ms {
            Some(at) if now_ms < at => return,
            Some(_) => self.receiving.release_ids(),
            None => match self.receiving.take_released() {
                Some(packet_ids) => packet_ids,
                None => return,
            },
        };
        self.release_retry_ms = None;
        let token = self.token();
        self.release = Some(token);
        let client = Some(self.client.clone());
        let release = ReleaseReceived { client, epoch: self.epoch, packet_ids };
        out.push(propose(token, Kind::ReleaseReceived(release)));
    }

    fn ask_reads(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let items = self.outbound.reads(&self.subscriptions, now_ms, out);
        if !items.is_empty() {
            out.push(Effect::Read { filters: self.subscriptions.filters(), items });
        }
    }

    fn propose_commit(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.outbound.take_moved() {
            self.commits.changed(now_ms + self.limits.commit_interval_ms);
        }
        let (feeds, in_flight) = (&mut self.outbound.log.feeds, &mut self.outbound.in_flight);
        let proposed = self.commits.propose(now_ms, feeds, in_flight, &mut self.next_token);
        if let Some((token, commit)) = proposed {
            out.push(propose(token, Kind::CommitCursor(commit)));
        }
    }

    fn ask_retained(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(reads) = &mut self.retained else { return };
        if reads.asked.is_some() || reads.retry_ms.is_some_and(|at| now_ms < at) {
            return;
        }
        reads.retry_ms = None;
        let wanted: Vec<RetainedFor> = reads.waiting.drain(..).collect();
        let mut filters: Vec<String> = wanted.iter().map(|want| want.filter.clone()).collect();
        filters.sort_unstable();
        filters.dedup();
        self.next_token += 1;
        reads.asked = Some((self.next_token, wanted));
        out.push(Effect::Retained { token: self.next_token, filters });
    }

    /// Tenant of the session.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }
}

fn propose(token: u64, kind: Kind) -> Effect {
    Effect::Propose { token, command: Box::new(Command { command: Some(kind) }) }
}
