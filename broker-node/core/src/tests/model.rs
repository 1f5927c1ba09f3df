//! Random steps of everything around the core, and the promises checked at every one.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::env;

use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Command, Status};
use holdfast_proto::storage::ReadItem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::{Client, Place, place};
use super::world::{SHARDS, Tails, World};
use crate::{
    AckKind, Decision, Delivery, Effect, InboundPublish, Leave, Limits, Opening, Page, Protocol,
    Session, SubscribeFilter, SubscribePacket, Turn,
};

/// Three are subscribed to at first, the others one after the other.
const FILTERS: [(&str, u8); 9] = [
    ("q0/#", 0),
    ("q1/#", 1),
    ("q2/+", 2),
    ("late/1", 1),
    ("late/2", 1),
    ("late/3", 2),
    ("late/4", 1),
    ("late/5", 1),
    ("late/6", 1),
];
const TOPICS: [&str; 11] = [
    "q0/a", "q1/a", "q1/b", "q2/a", "late/1", "late/2", "late/3", "late/4", "late/5", "late/6",
    "none/x",
];
const COMMIT_INTERVAL_MS: u64 = 1000;

/// What the gateway owes the session.
enum Answer {
    Outcome { token: u64, status: Option<Status> },
    Attached { token: u64, is_first: bool, filters: Vec<String> },
    Page { item: ReadItem, filters: std::sync::Arc<[String]> },
    Decided { token: u64, packet_id: u16, number: u32 },
}

/// What is on the wire to the client.
enum Wire {
    Deliver(Delivery),
    Ack(AckKind, u16),
    Suback,
}

/// The client's own QoS 2 message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Publish(u32),
    Release,
}

struct Gateway {
    session: Session,
    tails: Tails,
    proposals: VecDeque<(u64, Command, u64)>,
    last_commit: Option<(Command, u64)>,
    answers: Vec<Answer>,
    wire: VecDeque<Wire>,
    effects: Vec<Effect>,
}

struct Model {
    rng: StdRng,
    seed: u64,
    now_ms: u64,
    world: World,
    client: Client,
    gateway: Option<Gateway>,
    /// Order in which acknowledgements (and QoS 0 writes) reached the gateway.
    acked: HashMap<Place, u64>,
    ack_sequence: u64,
    /// QoS 0 messages that were given to the socket.
    handed: HashSet<Place>,
    /// Everything acknowledged up to this is committed: it may not come again.
    committed_sequence: u64,
    /// Messages from these positions on have to be delivered, per filter.
    promised: HashMap<&'static str, [u64; SHARDS]>,
    sending: HashMap<u16, Sending>,
    sent_numbers: u32,
    done_numbers: u32,
    faults: bool,
    subscribed: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            rng: StdRng::seed_from_u64(seed),
            seed,
            now_ms: 1_000_000,
            world: World::new(),
            client: Client::default(),
            gateway: None,
            acked: HashMap::new(),
            ack_sequence: 0,
            handed: HashSet::new(),
            committed_sequence: 0,
            promised: HashMap::new(),
            sending: HashMap::new(),
            sent_numbers: 0,
            done_numbers: 0,
            faults: true,
            subscribed: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn connect(&mut self) {
        self.world.claim();
        self.client.disconnected();
        self.client.receive_maximum = self.rng.random_range(1..12);
        let limits = Limits {
            receive_maximum: 10,
            topic_alias_maximum: 4,
            window: self.client.receive_maximum as u16,
            client_packet_bytes_max: 10_000,
            buffer_bytes_max: if self.chance(50) { 600 } else { 2000 },
            buffer_records_max: 30,
            page_bytes: 500,
            operations_max: 10,
            commit_interval_ms: COMMIT_INTERVAL_MS,
            retry_ms: 50,
        };
        let mut effects = Vec::new();
        let session = Session::open(
            &Opening {
                namespace: Namespace(0),
                client_id: "client",
                protocol: Protocol::V5,
                durable: true,
                shards: SHARDS as u16,
                limits,
                row: &self.world.row,
            },
            &mut effects,
        );
        self.gateway = Some(Gateway {
            session,
            tails: Tails::new(&self.world),
            proposals: VecDeque::new(),
            last_commit: None,
            answers: Vec::new(),
            wire: VecDeque::new(),
            effects,
        });
        // The client resends what it has not finished; subscribes again what was not confirmed.
        let mut sending: Vec<_> = self.sending.iter().map(|(id, s)| (*id, *s)).collect();
        sending.sort_unstable_by_key(|(id, _)| *id);
        for (id, state) in sending {
            self.send_own(id, state);
        }
        if self.subscribed > 0 {
            self.subscribe(self.subscribed);
        }
        self.turn();
    }

    fn subscribe(&mut self, count: usize) {
        let filters = FILTERS[..count]
            .iter()
            .map(|(filter, qos)| SubscribeFilter { filter: (*filter).into(), options: 0x20 | *qos })
            .collect();
        let gateway = self.gateway.as_mut().unwrap();
        gateway
            .session
            .subscribe(SubscribePacket { packet_id: count as u16, identifier: 0, filters })
            .unwrap();
        self.subscribed = count;
    }

    fn send_own(&mut self, packet_id: u16, state: Sending) {
        let Some(gateway) = &mut self.gateway else { return };
        match state {
            Sending::Publish(number) => {
                let payload = number.to_le_bytes();
                let publish = InboundPublish {
                    qos: 2,
                    retain: false,
                    packet_id,
                    topic: "none/own",
                    topic_alias: 0,
                    has_subscription_id: false,
                    expiry_interval_s: u32::MAX,
                    properties: Cow::Borrowed(&[]),
                    payload: &payload,
                };
                let routing = gateway.session.publish(&publish, &mut gateway.effects).unwrap();
                if let Some(routing) = routing {
                    let token = routing.token;
                    gateway.answers.push(Answer::Decided { token, packet_id, number });
                }
            }
            Sending::Release => gateway
                .session
                .acknowledged(AckKind::Pubrel, packet_id, 0, &mut gateway.effects)
                .unwrap(),
        }
    }

    /// Lets the core work, and carries out what it wants.
    fn turn(&mut self) {
        let room_bytes = if self.chance(80) { 100_000 } else { self.rng.random_range(0..200) };
        let Some(gateway) = &mut self.gateway else { return };
        let mut turn = Turn { now_ms: self.now_ms, shard_time_ms: &|_| 1, room_bytes };
        gateway.session.turn(&mut turn, &mut gateway.effects).unwrap();
        for effect in std::mem::take(&mut gateway.effects) {
            match effect {
                Effect::Deliver(delivery) => {
                    if delivery.qos == 0 {
                        self.handed.insert(place(&delivery));
                    }
                    gateway.wire.push_back(Wire::Deliver(delivery));
                }
                Effect::Ack { kind, packet_id, reason } => {
                    assert!(reason == 0 || kind == AckKind::Pubcomp, "{kind:?} {reason:#x}");
                    gateway.wire.push_back(Wire::Ack(kind, packet_id));
                }
                Effect::Suback { codes, .. } => {
                    assert!(codes.iter().all(|code| *code < 3), "{codes:?}");
                    for (filter, _) in &FILTERS[..codes.len()] {
                        let heads = std::array::from_fn(|shard| self.world.head(shard));
                        self.promised.entry(filter).or_insert(heads);
                    }
                    gateway.wire.push_back(Wire::Suback);
                }
                Effect::Propose { token, command } => {
                    // A commit that is proposed again says what it said before.
                    let sequence = match &gateway.last_commit {
                        Some((known, sequence)) if *known == *command => *sequence,
                        _ => self.ack_sequence,
                    };
                    if matches!(command.command, Some(Kind::CommitCursor(_))) {
                        gateway.last_commit = Some(((*command).clone(), sequence));
                    }
                    gateway.proposals.push_back((token, *command, sequence));
                }
                Effect::Attach { token, filters } => {
                    gateway.answers.push(Answer::Attached { token, is_first: true, filters });
                }
                Effect::Subscribe { token, filters } => {
                    gateway.tails.filters.extend(filters.iter().cloned());
                    gateway.answers.push(Answer::Attached { token, is_first: false, filters });
                }
                Effect::AttachShard(shard) => {
                    let at = usize::from(shard.0);
                    gateway.tails.behind[at] = false;
                    let from = Position(gateway.tails.dispatched[at]);
                    gateway.session.shard_attached(shard, from);
                }
                Effect::Read { filters, items } => {
                    for item in items {
                        gateway.answers.push(Answer::Page { item, filters: filters.clone() });
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        self.check_commit_is_due();
    }

    /// What was acknowledged longer ago than the interval is committed or on its way.
    fn check_commit_is_due(&self) {
        let Some(gateway) = &self.gateway else { return };
        let deadline = gateway.session.deadline_ms();
        assert!(
            deadline.is_none_or(|at| at + COMMIT_INTERVAL_MS > self.now_ms),
            "seed {}: a deadline was missed",
            self.seed
        );
    }

    fn step(&mut self) {
        if self.gateway.is_none() {
            self.connect();
            return;
        }
        match self.rng.random_range(0..100) {
            0..25 => {
                let shard = self.rng.random_range(0..SHARDS);
                let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
                for _ in 0..self.rng.random_range(1..4) {
                    self.world.append(shard, topic);
                }
            }
            25..40 => self.dispatch(),
            40..52 => self.take_inbox(),
            52..62 => self.answer(),
            62..70 => self.home(),
            70..80 => self.receive(),
            80..88 => self.client_acks(),
            88..92 => self.pass_time(),
            92..95 => self.own_publish(),
            95..97 if self.subscribed < FILTERS.len() && self.promised.len() == self.subscribed => {
                let count = if self.subscribed == 0 { 3 } else { self.subscribed + 1 };
                self.subscribe(count);
            }
            _ if self.faults && self.chance(20) => self.end(),
            _ => {}
        }
        self.turn();
    }

    fn dispatch(&mut self) {
        let shard = self.rng.random_range(0..SHARDS);
        let max = self.rng.random_range(1..6);
        let full = self.faults && self.chance(10);
        let gateway = self.gateway.as_mut().unwrap();
        gateway.tails.dispatch(&self.world, shard, max, full);
    }

    fn take_inbox(&mut self) {
        let count = self.rng.random_range(1..6);
        let gateway = self.gateway.as_mut().unwrap();
        for _ in 0..count {
            match gateway.tails.inbox.pop_front() {
                None => return,
                Some(None) => {
                    let shard = gateway.tails.fell_behind.pop_front().unwrap();
                    gateway.session.behind(shard);
                }
                Some(Some(event)) => {
                    let indexes: Vec<u32> = (0..event.records.len() as u32).collect();
                    gateway.session.tail(event.shard, &event.records, &indexes, event.next);
                }
            }
        }
    }

    fn answer(&mut self) {
        let fails = self.faults && self.chance(10);
        let lag = if self.chance(30) { self.rng.random_range(0..5) } else { 0 };
        let page_max = self.rng.random_range(1..8);
        let gateway = self.gateway.as_mut().unwrap();
        if gateway.answers.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..gateway.answers.len());
        match gateway.answers.swap_remove(at) {
            Answer::Outcome { token, status } => {
                gateway.session.outcome(token, status, self.now_ms, &mut gateway.effects).unwrap();
            }
            Answer::Attached { token, is_first, filters } => {
                let from: Vec<Position> = if is_first {
                    gateway.tails.is_attached = !fails;
                    gateway.tails.filters = filters;
                    gateway.tails.dispatched.iter().map(|next| Position(*next)).collect()
                } else {
                    (0..SHARDS).map(|shard| Position(self.world.head(shard))).collect()
                };
                let from = (!(fails && is_first)).then_some(&from[..]);
                gateway.session.attached(token, from, self.now_ms, &mut gateway.effects);
            }
            Answer::Page { item, .. } if fails => {
                gateway.session.page_failed(ShardId(item.shard as u16), self.now_ms);
            }
            Answer::Page { item, filters } => {
                let shard = item.shard as usize;
                let log = &self.world.logs[shard];
                let (records, next): (Vec<Placed>, u64) = if item.positions.is_empty() {
                    let (records, next) = self.world.read(shard, item.from, &filters, page_max);
                    // A replica may lag behind.
                    let next = next.saturating_sub(lag).max(item.from);
                    (records.into_iter().filter(|p| p.position.0 < next).collect(), next)
                } else {
                    let at = |position: &u64| log[*position as usize - 1].clone();
                    (item.positions.iter().map(at).collect(), self.world.head(shard))
                };
                let page = Page {
                    shard: ShardId(item.shard as u16),
                    records: &records,
                    next: Position(next),
                    head: next == self.world.head(shard),
                    dropped_below: Position(0),
                };
                gateway.session.page(&page, self.now_ms, &mut gateway.effects);
            }
            Answer::Decided { token, packet_id, number } => {
                let is_new = self.world.store(packet_id, number);
                let decision = if is_new { Decision::Stored } else { Decision::Repeated };
                gateway.session.decided(token, decision);
            }
        }
    }

    /// The home shard applies the next proposal; its answer may get lost.
    fn home(&mut self) {
        let fate = if self.faults { self.rng.random_range(0..20) } else { 19 };
        let gateway = self.gateway.as_mut().unwrap();
        let Some((token, command, sequence)) = gateway.proposals.pop_front() else { return };
        let may_fail = !matches!(command.command, Some(Kind::Subscribe(_)));
        let status = match fate {
            0 if may_fail => None,
            1 if may_fail => {
                self.world.apply(&command);
                None
            }
            _ => Some(self.world.apply(&command)),
        };
        if fate != 0 && matches!(command.command, Some(Kind::CommitCursor(_))) {
            self.committed_sequence = self.committed_sequence.max(sequence);
        }
        let gateway = self.gateway.as_mut().unwrap();
        gateway.answers.push(Answer::Outcome { token, status });
        self.check_no_early_cursor();
    }

    fn check_no_early_cursor(&self) {
        let row = &self.world.row;
        let in_flight: HashSet<Place> =
            row.in_flight.iter().map(|entry| (entry.shard as u8, entry.position)).collect();
        for (filter, since) in &self.promised {
            for (shard, since) in since.iter().enumerate() {
                let end = row.cursor[shard].min(self.world.head(shard)) as usize;
                let log = &self.world.logs[shard];
                // What lies far back was checked before.
                let start = (*since as usize).max(end.saturating_sub(100)).max(1);
                for placed in log.get(start - 1..end.saturating_sub(1)).unwrap_or_default() {
                    let at = (shard as u8, placed.position.0);
                    if !holdfast_proto::topic::matches(filter, placed.record.topic()) {
                        continue;
                    }
                    assert!(
                        self.acked.contains_key(&at)
                            || in_flight.contains(&at)
                            || self.handed.contains(&at),
                        "seed {}: no_early_cursor: {at:?} is passed and not acknowledged",
                        self.seed
                    );
                }
            }
        }
    }

    fn acknowledge(&mut self, at: Place) {
        self.ack_sequence += 1;
        let acked = self.acked.entry(at).or_insert(u64::MAX);
        *acked = (*acked).min(self.ack_sequence);
    }

    /// Part of what is on the wire reaches the client.
    fn receive(&mut self) {
        let count = self.rng.random_range(1..10);
        for _ in 0..count {
            let gateway = self.gateway.as_mut().unwrap();
            match gateway.wire.pop_front() {
                None => break,
                Some(Wire::Suback) => {}
                Some(Wire::Deliver(delivery)) => {
                    self.client.deliver(&delivery);
                    if delivery.qos == 0 {
                        self.acknowledge(place(&delivery));
                    }
                }
                Some(Wire::Ack(AckKind::Pubrel, id)) => self.client.release(id),
                Some(Wire::Ack(AckKind::Pubrec, id)) => {
                    if let Some(state) = self.sending.get_mut(&id) {
                        *state = Sending::Release;
                        self.send_own(id, Sending::Release);
                    }
                }
                Some(Wire::Ack(AckKind::Pubcomp, id)) => {
                    if self.sending.remove(&id).is_some() {
                        self.done_numbers += 1;
                    }
                }
                Some(Wire::Ack(AckKind::Puback, _)) => panic!("nothing was sent at QoS 1"),
            }
            self.check_bounded_redelivery();
        }
        let gateway = self.gateway.as_mut().unwrap();
        if gateway.wire.is_empty() {
            gateway.session.flushed();
        }
    }

    fn check_bounded_redelivery(&mut self) {
        for (at, qos) in self.client.repeated.drain(..) {
            if qos != 1 {
                continue;
            }
            if let Some(sequence) = self.acked.get(&at) {
                assert!(
                    *sequence > self.committed_sequence,
                    "seed {}: bounded_redelivery: {at:?} was committed and comes again",
                    self.seed
                );
            }
        }
    }

    fn client_acks(&mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            if self.client.to_send.is_empty() {
                return;
            }
            let at = self.rng.random_range(0..self.client.to_send.len());
            let (kind, id, message) = self.client.send(at);
            if let Some(message) = message {
                self.acknowledge(message);
            }
            let gateway = self.gateway.as_mut().unwrap();
            gateway.session.acknowledged(kind, id, 0, &mut gateway.effects).unwrap();
        }
    }

    fn pass_time(&mut self) {
        self.now_ms += self.rng.random_range(1..400);
        let gateway = self.gateway.as_mut().unwrap();
        // The timer: heads are taken before the inbox is drained.
        let heads: Vec<Position> =
            gateway.tails.dispatched.iter().map(|next| Position(*next)).collect();
        if gateway.session.deadline_ms().is_some_and(|at| at <= self.now_ms) {
            while !self.gateway.as_ref().unwrap().tails.inbox.is_empty() {
                self.take_inbox();
            }
            self.gateway.as_mut().unwrap().session.heads(&heads);
        }
    }

    fn own_publish(&mut self) {
        if self.sending.len() >= 6 {
            return;
        }
        let id = (1..20).find(|id| !self.sending.contains_key(id)).unwrap();
        self.sent_numbers += 1;
        let state = Sending::Publish(self.sent_numbers);
        self.sending.insert(id, state);
        self.send_own(id, state);
    }

    /// The connection ends: a crash, a take-over, or a clean disconnect.
    fn end(&mut self) {
        let mut gateway = self.gateway.take().unwrap();
        match self.rng.random_range(0..3) {
            0 => {
                // Crash: of what is on its way a part is still applied.
                for _ in 0..self.rng.random_range(0..=gateway.proposals.len()) {
                    let (_, command, sequence) = gateway.proposals.pop_front().unwrap();
                    self.world.apply(&command);
                    if matches!(command.command, Some(Kind::CommitCursor(_))) {
                        self.committed_sequence = self.committed_sequence.max(sequence);
                    }
                }
                // What the gateway alone knew is lost: such messages may come once more.
                let committed = self.committed_sequence;
                for sequence in self.acked.values_mut().filter(|sequence| **sequence > committed) {
                    *sequence = u64::MAX;
                }
            }
            1 => {
                // Take-over: the new owner merges what the old one hands over.
                if let Some(uncommitted) = gateway.session.uncommitted() {
                    self.world.merge(&uncommitted);
                }
                self.committed_sequence = self.ack_sequence;
            }
            _ => {
                for (_, command, _) in gateway.proposals.drain(..) {
                    self.world.apply(&command);
                }
                let heads: Vec<Position> =
                    gateway.tails.dispatched.iter().map(|next| Position(*next)).collect();
                self.gateway = Some(gateway);
                while !self.gateway.as_ref().unwrap().tails.inbox.is_empty() {
                    self.take_inbox();
                }
                let mut gateway = self.gateway.take().unwrap();
                gateway.session.heads(&heads);
                let leave = Leave { will_grace_s: 0, discard_will: true, expiry_interval_s: None };
                let command = gateway.session.leave(leave);
                assert_eq!(self.world.apply(&command), Status::Ok);
                self.committed_sequence = self.ack_sequence;
            }
        }
        // QoS 0 messages that were on the wire are lost; those that were not flushed come again.
        self.check_no_early_cursor();
    }

    /// Without faults, until nothing moves: everything promised is delivered.
    fn settle(&mut self) {
        self.faults = false;
        if self.gateway.is_none() {
            self.connect();
        }
        // A window of one takes many rounds a message.
        let waiting: usize = self.world.logs.iter().map(Vec::len).sum();
        for _ in 0..20_000 + 10 * waiting {
            for shard in 0..SHARDS {
                let gateway = self.gateway.as_mut().unwrap();
                gateway.tails.dispatch(&self.world, shard, 50, false);
            }
            self.take_inbox();
            self.answer();
            self.home();
            self.receive();
            self.client_acks();
            self.pass_time();
            self.turn();
            if self.is_settled() {
                break;
            }
        }
        let seed = self.seed;
        for (filter, since) in &self.promised {
            for (shard, since) in since.iter().enumerate() {
                for placed in &self.world.logs[shard][*since as usize - 1..] {
                    let at = (shard as u8, placed.position.0);
                    let matches = holdfast_proto::topic::matches(filter, placed.record.topic());
                    // QoS 0 may be lost on the wire.
                    if matches && *filter != "q0/#" {
                        assert!(self.client.seen.contains_key(&at), "seed {seed}: {at:?} is lost");
                    }
                }
            }
        }
        assert!(self.client.is_quiet(), "seed {seed}: handshakes are open");
        assert!(self.world.row.in_flight.is_empty(), "seed {seed}: {:?}", self.world.row.in_flight);
        assert!(self.sending.is_empty(), "seed {seed}: own messages are open");
        let stored: HashSet<u32> = self.world.stored.iter().copied().collect();
        assert_eq!(stored.len(), self.world.stored.len(), "seed {seed}: stored twice");
        assert_eq!(stored.len() as u32, self.sent_numbers, "seed {seed}: own messages lost");
        assert_eq!(self.done_numbers, self.sent_numbers);
    }

    fn is_settled(&self) -> bool {
        let gateway = self.gateway.as_ref().unwrap();
        let caught_up = (0..SHARDS).all(|shard| {
            gateway.tails.dispatched[shard] == self.world.head(shard)
                && !gateway.tails.behind[shard]
        });
        caught_up
            && gateway.tails.inbox.is_empty()
            && gateway.wire.is_empty()
            && gateway.answers.is_empty()
            && gateway.proposals.is_empty()
            && gateway.session.deadline_ms().is_none()
            && gateway.session.is_idle()
            && self.client.is_quiet()
            && self.sending.is_empty()
    }
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|value| value.parse().ok())
}

/// `HOLDFAST_SEED` runs one seed, `HOLDFAST_STEPS` sets the steps of all seeds together.
#[test]
fn session_model_100k_steps() {
    let steps = variable("HOLDFAST_STEPS").unwrap_or(120_000);
    let seeds: Vec<u64> = match variable("HOLDFAST_SEED") {
        Some(seed) => vec![seed],
        None => (1..=60).collect(),
    };
    for seed in &seeds {
        let run = std::panic::catch_unwind(|| {
            let mut model = Model::new(*seed);
            for _ in 0..steps / seeds.len() as u64 {
                model.step();
            }
            model.settle();
        });
        if let Err(panic) = run {
            eprintln!("failed with HOLDFAST_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
