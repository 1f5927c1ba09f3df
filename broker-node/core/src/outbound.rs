//! Messages towards the client: what waits, what is in flight, what is acknowledged.

use std::collections::{BTreeMap, VecDeque};

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::shard::{DeliveryState, SessionRow};
use holdfast_proto::storage::ReadItem;

use crate::commit::Commits;
use crate::effect::{AckKind, Counter, Effect};
use crate::feed::Feed;
use crate::in_flight::{Acked, InFlight, State};
use crate::limits::{Limits, Protocol, reason};
use crate::log::{Log, Page};
use crate::matched::Matched;
use crate::resume::Resume;
use crate::staged::StagedMessages;
use crate::subscriptions::Subscriptions;

mod pump;

#[derive(Debug)]
pub(crate) struct Outbound {
    protocol: Protocol,
    limits: Limits,
    durable: bool,
    pub(crate) log: Log,
    pub(crate) in_flight: InFlight,
    matched: VecDeque<Matched>,
    staged: StagedMessages,
    /// Packet ids of messages in flight that the log brings again.
    ahead: BTreeMap<(ShardId, Position), u16>,
    resume: Option<Box<Resume>>,
    has_unflushed: bool,
    /// More could be sent if the socket had room.
    pub(crate) is_short_of_room: bool,
    /// Something moved that has to be committed.
    moved: bool,
}

impl Outbound {
    pub(crate) fn new(
        protocol: Protocol,
        limits: Limits,
        durable: bool,
        shards: u16,
        row: &SessionRow,
        subscriptions: &Subscriptions,
    ) -> Self {
        let mut in_flight = InFlight::new(durable);
        let mut feeds: Vec<Feed> = Vec::new();
        let mut ahead = BTreeMap::new();
        if durable {
            for shard in 0..usize::from(shards) {
                let committed = row.cursor.get(shard).copied().unwrap_or(0);
                let start = committed.max(subscriptions.first_covered(shard));
                feeds.push(Feed::new(committed, start));
            }
            for entry in &row.in_flight {
                let place = (ShardId(entry.shard as u16), Position(entry.position));
                let is_ahead = !entry.retain
                    && entry.state == DeliveryState::DeliveryPublished as i32
                    && feeds.get(entry.shard as usize).is_some_and(|f| entry.position >= f.next)
                    && !ahead.contains_key(&place);
                if is_ahead {
                    ahead.insert(place, entry.packet_id as u16);
                }
                in_flight.restore(entry, is_ahead);
            }
        }
        let resume = Resume::new(in_flight.to_resend());
        Outbound {
            protocol,
            limits,
            durable,
            log: Log::new(limits, feeds),
            in_flight,
            matched: VecDeque::new(),
            staged: StagedMessages::default(),
            ahead,
            resume,
            has_unflushed: false,
            is_short_of_room: false,
            moved: false,
        }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durable
    }

    /// Takes whether something moved since the last call.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved) || self.in_flight.has_changes()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.log.is_idle()
            && self.matched.is_empty()
            && self.staged.is_empty()
            && self.ahead.is_empty()
            && self.resume.is_none()
    }

    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let resume = self.resume.as_ref().and_then(|resume| resume.retry_ms);
        [self.log.retry_ms(), resume].into_iter().flatten().min()
    }

    /// Releases in PUBREC state are sent again at once.
    pub(crate) fn resend_releases(&self, out: &mut Vec<Effect>) {
        for packet_id in self.in_flight.released() {
            out.push(pubrel(packet_id, reason::SUCCESS));
        }
    }

    // ---- pages: of what is sent again first, then of the log

    pub(crate) fn page(
        &mut self,
        page: &Page<'_>,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(resume) = self.resume.as_mut().filter(|resume| resume.is_asked(page.shard)) else {
            self.log.page(page, subscriptions, now_ms, out);
            return;
        };
        let retry_ms = now_ms + self.limits.retry_ms;
        let below = page.next.max(page.dropped_below);
        for packet_id in resume.page(page.shard, page.records, below, retry_ms) {
            self.in_flight.record_gone(packet_id);
            out.push(Effect::Count(Counter::RecordGone, 1));
        }
    }

    pub(crate) fn page_failed(&mut self, shard: ShardId, now_ms: u64) {
        match self.resume.as_mut().filter(|resume| resume.is_asked(shard)) {
            Some(resume) => resume.failed(shard, now_ms + self.limits.retry_ms),
            None => self.log.page_failed(shard, now_ms),
        }
    }

    /// What to read now.
    pub(crate) fn reads(
        &mut self,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Vec<ReadItem> {
        match &mut self.resume {
            Some(resume) => resume.reads(now_ms),
            None => self.log.reads(subscriptions, now_ms, out),
        }
    }

    // ---- towards the client

    /// Queues a matched message, unless the queue is full.
    pub(crate) fn push_matched(&mut self, matched: Matched) {
        self.matched.push_back(matched);
    }

    pub(crate) fn matched_waiting(&self) -> usize {
        self.matched.len()
    }

    /// Everything that was sent so far is written to the socket.
    pub(crate) fn flushed(&mut self) -> bool {
        if !self.has_unflushed {
            return false;
        }
        self.has_unflushed = false;
        for feed in &mut self.log.feeds {
            feed.flushed();
        }
        self.moved = true;
        true
    }

    // ---- what the client acknowledges, and commits

    pub(crate) fn acknowledged(
        &mut self,
        kind: AckKind,
        packet_id: u16,
        refused: bool,
        out: &mut Vec<Effect>,
    ) -> Acked {
        let acked = match kind {
            AckKind::Puback => self.in_flight.puback(packet_id),
            AckKind::Pubrec => self.in_flight.pubrec(packet_id, refused),
            AckKind::Pubcomp => self.in_flight.pubcomp(packet_id),
            AckKind::Pubrel => Acked::Wrong,
        };
        match (kind, &acked) {
            (_, Acked::Release) => out.push(pubrel(packet_id, reason::SUCCESS)),
            (AckKind::Pubrec, Acked::Unknown) if !refused => {
                out.push(pubrel(packet_id, reason::ID_NOT_FOUND));
            }
            _ => {}
        }
        acked
    }

    /// A commit is applied: sends the releases that waited for it; the next turn sends the messages.
    pub(crate) fn committed(&mut self, commits: &mut Commits, token: u64, out: &mut Vec<Effect>) {
        let Some(commit) = commits.committed(token, &mut self.log.feeds) else { return };
        let staged = &mut self.staged;
        self.in_flight.committed(&commit, |packet_id, state| match state {
            State::Ready => staged.may_release(),
            _ => out.push(pubrel(packet_id, reason::SUCCESS)),
        });
    }

    /// Answers to subscriptions, and messages of a regular session, that end with the connection.
    pub(crate) fn unsent(&self) -> u64 {
        self.matched.len() as u64
    }
}

fn pubrel(packet_id: u16, reason: u8) -> Effect {
    Effect::Ack { kind: AckKind::Pubrel, packet_id, reason }
}
