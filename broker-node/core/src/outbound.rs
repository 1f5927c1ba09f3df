//! Messages towards the client: what is queued, what is in flight, what is consumed.

use std::collections::{BTreeMap, VecDeque};

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{NEVER_EXPIRES, Record};
use holdfast_proto::shard::{DeliveryState, SessionRow};
use holdfast_proto::storage::ReadItem;

use crate::commit::Commits;
use crate::delivery::{Delivery, publish_bytes};
use crate::effect::{AckKind, Counter, Effect};
use crate::feed::Feed;
use crate::in_flight::{Acked, InFlight, Out, State};
use crate::limits::{Limits, Protocol, reason};
use crate::resume::Resume;
use crate::session::{Page, Turn};
use crate::subscriptions::{Candidate, Match, Subscriptions};

/// Queue slots kept allocated while the queue is empty.
const KEPT_CAPACITY: usize = 16;

/// A record of the log that waits for its turn.
#[derive(Debug)]
struct Queued {
    shard: ShardId,
    placed: Placed,
}

/// A message that was matched when it came: retained ones, and live ones of a regular session.
#[derive(Debug)]
pub(crate) struct Matched {
    pub(crate) record: Record,
    pub(crate) found: Match,
    /// Where the log has it; shard 0, position 0 for regular sessions.
    pub(crate) place: (ShardId, Position),
    /// When its expiry interval started, in the time that `now_ms` is in.
    pub(crate) since_ms: u64,
    /// Expiry counts in the time of this shard; `None`: in the gateway's.
    pub(crate) clock: Option<ShardId>,
}

/// A message that was taken and waits: for the commit of its packet id, or for an earlier message of
/// its shard that does.
#[derive(Debug)]
struct Staged {
    delivery: Delivery,
    bytes: usize,
    /// Where the log has it; `None` for answers to subscriptions, which keep no order with the log.
    place: Option<(ShardId, Position)>,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    protocol: Protocol,
    limits: Limits,
    durable: bool,
    pub(crate) feeds: Box<[Feed]>,
    pub(crate) in_flight: InFlight,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    matched: VecDeque<Matched>,
    /// QoS 2 messages whose packet id is not committed and what waits behind them, in order.
    staged: VecDeque<Staged>,
    staged_bytes: usize,
    /// Some of them may go since the last look.
    may_release: bool,
    /// Packet ids of messages in flight that the log brings again.
    ahead: BTreeMap<(ShardId, Position), u16>,
    resume: Option<Box<Resume>>,
    reads: usize,
    retry_ms: Option<u64>,
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
            feeds: feeds.into(),
            in_flight,
            queue: VecDeque::new(),
            queue_bytes: 0,
            matched: VecDeque::new(),
            staged: VecDeque::new(),
            staged_bytes: 0,
            may_release: false,
            ahead,
            resume,
            reads: 0,
            retry_ms: None,
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
        let sent = self.queue.is_empty() && self.matched.is_empty() && self.staged.is_empty();
        sent && self.ahead.is_empty()
            && self.reads == 0
            && self.resume.is_none()
            && self.feeds.iter().all(|feed| feed.read_from().is_none())
    }

    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let resume = self.resume.as_ref().and_then(|resume| resume.retry_ms);
        [self.retry_ms, resume].into_iter().flatten().min()
    }

    /// Releases in PUBREC state are sent again at once.
    pub(crate) fn resend_releases(&self, out: &mut Vec<Effect>) {
        for packet_id in self.in_flight.released() {
            out.push(pubrel(packet_id, reason::SUCCESS));
        }
    }

    // ---- what comes from the log

    pub(crate) fn tail(
        &mut self,
        shard: ShardId,
        records: &[Placed],
        indexes: &[u32],
        next: Position,
    ) {
        let full = self.is_full();
        let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) else { return };
        let matching = indexes.iter().filter_map(|index| records.get(*index as usize)).cloned();
        if !feed.is_live() || (full && next.0 > feed.fetched) {
            feed.keep(matching, next.0, self.limits.buffer_bytes_max / 8);
            return;
        }
        self.enqueue(shard, matching, next.0);
    }

    fn is_full(&self) -> bool {
        self.queue_bytes >= self.limits.buffer_bytes_max
            || self.queue.len() >= self.limits.buffer_records_max
    }

    fn enqueue(&mut self, shard: ShardId, records: impl Iterator<Item = Placed>, next: u64) {
        let feed = &mut self.feeds[usize::from(shard.0)];
        for placed in records {
            if placed.position.0 >= feed.fetched {
                feed.queued += 1;
                self.queue_bytes += placed.record.as_bytes().len();
                self.queue.push_back(Queued { shard, placed });
            }
        }
        feed.advance(next);
    }

    pub(crate) fn behind(&mut self, shard: ShardId) {
        if let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) {
            feed.behind();
        }
    }

    pub(crate) fn attached(&mut self, from: &[Position]) {
        for (feed, from) in self.feeds.iter_mut().zip(from) {
            if !feed.is_detached() {
                feed.attached(from.0);
            }
        }
    }

    pub(crate) fn shard_attached(&mut self, shard: ShardId, from: Position) {
        if let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) {
            feed.attached(from.0);
        }
    }

    /// `heads`: taken before the inbox was drained. Live shards have seen everything below.
    pub(crate) fn heads(&mut self, heads: &[Position]) {
        for (feed, head) in self.feeds.iter_mut().zip(heads) {
            if feed.is_live() {
                feed.advance(head.0);
            }
        }
    }

    pub(crate) fn page(
        &mut self,
        page: &Page<'_>,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let retry_ms = now_ms + self.limits.retry_ms;
        if let Some(resume) = self.resume.as_mut().filter(|resume| resume.is_asked(page.shard)) {
            let below = page.next.max(page.dropped_below);
            for packet_id in resume.page(page.shard, page.records, below, retry_ms) {
                self.in_flight.record_gone(packet_id);
                out.push(Effect::Count(Counter::RecordGone, 1));
            }
            return;
        }
        let Some(feed) = self.feeds.get_mut(usize::from(page.shard.0)) else { return };
        if !feed.is_reading() {
            return;
        }
        self.reads -= 1;
        if feed.read_done() != subscriptions.version() {
            // It may lack records of a newer subscription: read again.
            return;
        }
        let before = feed.fetched;
        if page.dropped_below.0 > before {
            let lost = page.dropped_below.0 - before.max(1);
            out.push(Effect::Count(Counter::Retention, lost));
        }
        let next = page.next.max(page.dropped_below).0;
        let asks_tail = page.head && feed.wants_attach();
        self.enqueue(page.shard, page.records.iter().cloned(), next);
        if asks_tail {
            out.push(Effect::AttachShard(page.shard));
        } else if next <= before {
            self.retry_ms = Some(retry_ms);
        }
        let feed = &mut self.feeds[usize::from(page.shard.0)];
        if let Some((backlog, next)) = feed.take_backlog() {
            self.enqueue(page.shard, backlog.into_iter(), next);
        }
    }

    pub(crate) fn page_failed(&mut self, shard: ShardId, now_ms: u64) {
        let retry_ms = now_ms + self.limits.retry_ms;
        if let Some(resume) = self.resume.as_mut().filter(|resume| resume.is_asked(shard)) {
            resume.failed(shard, retry_ms);
        } else if let Some(feed) = self.feeds.get_mut(usize::from(shard.0))
            && feed.is_reading()
        {
            feed.read_done();
            self.reads -= 1;
            self.retry_ms = Some(retry_ms);
        }
    }

    /// What to read now: as much as there is room for, a page ahead of what is being sent.
    pub(crate) fn reads(
        &mut self,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Vec<ReadItem> {
        if let Some(resume) = &mut self.resume {
            return resume.reads(now_ms);
        }
        if self.retry_ms.is_some_and(|at| now_ms < at) {
            return Vec::new();
        }
        self.retry_ms = None;
        let mut items = Vec::new();
        for (shard, feed) in self.feeds.iter_mut().enumerate() {
            let expected = self.queue_bytes + self.reads * self.limits.page_bytes;
            if feed.read_from().is_none() {
                continue;
            }
            if subscriptions.is_empty() {
                feed.skip_to_live();
                if feed.wants_attach() {
                    out.push(Effect::AttachShard(ShardId(shard as u16)));
                }
                continue;
            }
            // No subscription covers what lies before.
            feed.skip_to(subscriptions.first_covered(shard));
            let Some(from) = feed.read_from() else { continue };
            let has_room = self.reads + usize::from(self.queue_bytes > 0) == 0
                || (expected + self.limits.page_bytes <= self.limits.buffer_bytes_max
                    && self.queue.len() * 2 <= self.limits.buffer_records_max);
            if has_room {
                feed.read_asked(subscriptions.version());
                self.reads += 1;
                items.push(ReadItem { shard: shard as u32, from, positions: Vec::new() });
            }
        }
        items
    }

    // ---- towards the client

    /// Queues a matched message, unless the queue is full.
    pub(crate) fn push_matched(&mut self, matched: Matched) {
        self.matched.push_back(matched);
    }

    pub(crate) fn matched_waiting(&self) -> usize {
        self.matched.len()
    }

    /// Sends what may be sent: resent messages first, then those whose commit is done and what waited
    /// behind them, then matched ones, then the log's.
    pub(crate) fn pump(
        &mut self,
        subscriptions: &Subscriptions,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        self.is_short_of_room = false;
        if !self.pump_resume(turn, out) {
            return;
        }
        self.pump_staged(turn, out);
        while let Some(first) = self.matched.front() {
            if first.found.qos > 0 && !self.window_is_open() {
                break;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return;
            }
            if let Some(matched) = self.matched.pop_front() {
                self.send(matched, false, turn, out);
            }
        }
        self.pump_log(subscriptions, turn, out);
        self.forget_passed(out);
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
        if self.matched.is_empty() && self.matched.capacity() > KEPT_CAPACITY {
            self.matched = VecDeque::new();
        }
    }

    fn window_is_open(&self) -> bool {
        let sent = self.in_flight.used().saturating_sub(self.ahead.len());
        sent < usize::from(self.limits.window) && self.in_flight.has_room()
    }

    /// Whether a message of the log may be taken, with what it needs.
    fn may_take(&self, shard: ShardId, found: &Match, is_ahead: bool) -> bool {
        let is_staged = self.feeds[usize::from(shard.0)].is_staged();
        if found.qos > 0 && !self.window_is_open() {
            return false;
        }
        // An entry of the row with RETAIN may be an answer to a subscription, so it is not looked for
        // in the log after a crash: it has to lie below the cursor.
        if found.qos > 0 && found.retain && is_staged && !is_ahead {
            return false;
        }
        let count_max = self.limits.buffer_records_max + usize::from(self.limits.window);
        let has_room =
            self.staged_bytes < self.limits.buffer_bytes_max && self.staged.len() < count_max;
        has_room || !(is_staged || found.qos == 2)
    }

    /// Sends what no longer waits.
    fn pump_staged(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.may_release) {
            return;
        }
        for feed in &mut self.feeds {
            feed.unstage_all();
        }
        self.staged_bytes = 0;
        let mut waiting = std::mem::take(&mut self.staged);
        while let Some(staged) = waiting.pop_front() {
            let packet_id = staged.delivery.packet_id;
            let behind =
                staged.place.is_some_and(|(s, _)| self.feeds[usize::from(s.0)].is_staged());
            let held = self.in_flight.get(packet_id).is_some_and(|e| e.state == State::Held);
            if behind || held {
                self.stage(staged);
            } else if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                self.may_release = true;
                self.stage(staged);
            } else {
                self.in_flight.goes(packet_id, State::Sent);
                self.hand_over(staged, turn, out);
            }
        }
    }

    fn stage(&mut self, staged: Staged) {
        if let Some((shard, position)) = staged.place {
            self.feeds[usize::from(shard.0)].stage(position.0, staged.delivery.qos);
        }
        self.staged_bytes += staged.bytes;
        self.staged.push_back(staged);
    }

    fn hand_over(&mut self, staged: Staged, turn: &mut Turn<'_>, out: &mut Vec<Effect>) {
        let Staged { delivery, bytes, place } = staged;
        turn.room_bytes = turn.room_bytes.saturating_sub(bytes);
        if let Some((shard, position)) = place {
            self.feeds[usize::from(shard.0)].sent(position.0, delivery.qos);
            self.has_unflushed |= delivery.qos == 0;
        }
        out.push(Effect::Deliver(delivery));
    }

    /// Messages in flight that the log should have brought and did not: no subscription matches them
    /// any more, or they are gone.
    fn forget_passed(&mut self, out: &mut Vec<Effect>) {
        if self.ahead.is_empty() {
            return;
        }
        let (feeds, in_flight) = (&self.feeds, &mut self.in_flight);
        self.ahead.retain(|(shard, position), packet_id| {
            let is_passed = feeds[usize::from(shard.0)].next > position.0;
            if is_passed {
                in_flight.record_gone(*packet_id);
                out.push(Effect::Count(Counter::RecordGone, 1));
            }
            !is_passed
        });
    }

    /// Returns whether new messages may follow.
    fn pump_resume(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) -> bool {
        let Some(resume) = &mut self.resume else { return true };
        while let Some((packet_id, _)) = resume.next_ready() {
            let waits = self.in_flight.get(*packet_id).is_some_and(|e| e.state == State::Sent);
            let unsent = resume.unsent() + self.ahead.len();
            let sent = self.in_flight.used().saturating_sub(unsent);
            if waits && sent >= usize::from(self.limits.window) {
                return false;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return false;
            }
            let Some((packet_id, placed)) = resume.pop_ready() else { break };
            // The client may have acknowledged it before it came again.
            let Some(entry) = self.in_flight.get(packet_id).filter(|e| e.state == State::Sent)
            else {
                continue;
            };
            let now_ms = (turn.shard_time_ms)(entry.shard);
            let delivery = Delivery {
                packet_id,
                qos: entry.qos,
                dup: true,
                retain: entry.retain,
                expiry_left_s: placed.record.expiry_left_s(placed.time_ms, now_ms),
                record: placed.record,
                subscription_ids: entry.subscription_ids.clone(),
                since_ms: placed.time_ms,
            };
            let bytes = publish_bytes(&delivery, self.protocol);
            if bytes > self.limits.client_packet_bytes_max as usize {
                self.in_flight.record_gone(packet_id);
                out.push(Effect::Count(Counter::TooLarge, 1));
                continue;
            }
            turn.room_bytes = turn.room_bytes.saturating_sub(bytes);
            out.push(Effect::Deliver(delivery));
        }
        if resume.is_done() {
            self.resume = None;
            return true;
        }
        false
    }

    fn pump_log(
        &mut self,
        subscriptions: &Subscriptions,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        while let Some(Queued { shard, placed }) = self.queue.front() {
            let (shard, position) = (*shard, placed.position);
            let ahead = self.ahead.get(&(shard, position)).copied();
            let found = match ahead.and_then(|packet_id| self.in_flight.get(packet_id)) {
                Some(entry) => Some(Match {
                    qos: entry.qos,
                    retain: entry.retain,
                    identifiers: entry.subscription_ids.clone(),
                }),
                None => subscriptions.find(&Candidate {
                    topic: placed.record.topic(),
                    publisher: placed.record.client_id(),
                    qos: placed.record.qos(),
                    retain: placed.record.retain(),
                    place: Some((shard, position)),
                }),
            };
            if found.as_ref().is_some_and(|found| !self.may_take(shard, found, ahead.is_some())) {
                return;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return;
            }
            let Some(Queued { placed, .. }) = self.queue.pop_front() else { return };
            self.queue_bytes -= placed.record.as_bytes().len();
            self.feeds[usize::from(shard.0)].took(position);
            self.moved = true;
            self.ahead.remove(&(shard, position));
            if let Some(found) = found {
                let matched = Matched {
                    record: placed.record,
                    found,
                    place: (shard, position),
                    since_ms: placed.time_ms,
                    clock: Some(shard),
                };
                match ahead {
                    Some(packet_id) => self.send_again(packet_id, matched, turn, out),
                    None => self.send(matched, true, turn, out),
                }
            }
        }
    }

    /// Sends one message, or counts why not. `consumes`: it moves the cursor of its shard.
    fn send(
        &mut self,
        matched: Matched,
        consumes: bool,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        let (shard, position) = matched.place;
        let delivery = delivery(matched, turn);
        if delivery.expiry_left_s == Some(0) {
            out.push(Effect::Count(Counter::Expired, 1));
            return;
        }
        let bytes = publish_bytes(&delivery, self.protocol);
        if bytes > self.limits.client_packet_bytes_max as usize {
            out.push(Effect::Count(Counter::TooLarge, 1));
            return;
        }
        let place = consumes.then_some((shard, position));
        let mut staged = Staged { delivery, bytes, place };
        let qos = staged.delivery.qos;
        let held = self.durable && qos == 2;
        let waits = self.is_behind(place);
        if qos > 0 {
            staged.delivery.packet_id = self.in_flight.insert(Out {
                shard,
                position,
                qos,
                state: match (held, waits) {
                    (true, _) => State::Held,
                    (false, true) => State::Ready,
                    (false, false) => State::Sent,
                },
                retain: staged.delivery.retain,
                in_row: false,
                dirty: false,
                subscription_ids: staged.delivery.subscription_ids.clone(),
            });
        }
        if !held && !waits {
            self.hand_over(staged, turn, out);
            return;
        }
        if consumes && qos > 0 {
            self.feeds[usize::from(shard.0)].sent(position.0, qos);
        }
        self.stage(staged);
    }

    /// A message in flight that the log brought again.
    fn send_again(
        &mut self,
        packet_id: u16,
        matched: Matched,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        let place = Some(matched.place);
        let delivery = Delivery { packet_id, dup: true, ..delivery(matched, turn) };
        let bytes = publish_bytes(&delivery, self.protocol);
        if bytes > self.limits.client_packet_bytes_max as usize {
            self.in_flight.record_gone(packet_id);
            out.push(Effect::Count(Counter::TooLarge, 1));
            return;
        }
        let staged = Staged { delivery, bytes, place };
        if self.is_behind(place) {
            self.in_flight.goes(packet_id, State::Ready);
            self.stage(staged);
        } else {
            self.in_flight.goes(packet_id, State::Sent);
            self.hand_over(staged, turn, out);
        }
    }

    fn is_behind(&self, place: Option<(ShardId, Position)>) -> bool {
        place.is_some_and(|(shard, _)| self.feeds[usize::from(shard.0)].is_staged())
    }

    /// Everything that was sent so far is written to the socket.
    pub(crate) fn flushed(&mut self) -> bool {
        if !self.has_unflushed {
            return false;
        }
        self.has_unflushed = false;
        for feed in &mut self.feeds {
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
        let Some(commit) = commits.committed(token, &mut self.feeds) else { return };
        let may_release = &mut self.may_release;
        self.in_flight.committed(&commit, |packet_id, state| match state {
            State::Ready => *may_release = true,
            _ => out.push(pubrel(packet_id, reason::SUCCESS)),
        });
    }

    /// Answers to subscriptions, and messages of a regular session, that end with the connection.
    pub(crate) fn unsent(&self) -> u64 {
        self.matched.len() as u64
    }
}

/// What is sent of a matched message.
fn delivery(matched: Matched, turn: &Turn<'_>) -> Delivery {
    let Matched { record, found, since_ms, clock, .. } = matched;
    let expiry_left_s = if record.expiry_interval_s() == NEVER_EXPIRES {
        None
    } else {
        let now_ms = clock.map_or(turn.now_ms, |shard| (turn.shard_time_ms)(shard));
        record.expiry_left_s(since_ms, now_ms)
    };
    Delivery {
        packet_id: 0,
        qos: found.qos,
        dup: false,
        retain: found.retain,
        record,
        expiry_left_s,
        subscription_ids: found.identifiers,
        since_ms,
    }
}

fn pubrel(packet_id: u16, reason: u8) -> Effect {
    Effect::Ack { kind: AckKind::Pubrel, packet_id, reason }
}
