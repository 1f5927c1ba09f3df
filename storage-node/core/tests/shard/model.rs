//! Random histories on three replicas that crash, against a simple model of what must come out.
//!
//! `HOLDFAST_SEED` and `HOLDFAST_STEPS` choose the history; a failure prints its seed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use holdfast_proto::batch::bit;
use holdfast_proto::ids::{Generation, Incarnation, Namespace, Position};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Abandon, Claim, Disconnect, Entry, InFlight, Outcome, ReleaseReceived, RunRow, SetRetained,
    Status,
};
use holdfast_shard::{Answer, Applied, FORGET_AFTER_MS, LAYOUT_TOPIC, Request, Shard, keys};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

const CLIENTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const GATEWAYS: u64 = 3;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

#[test]
fn replicas_that_crash_agree_with_the_model() {
    let seed = from_env("HOLDFAST_SEED", 1);
    let steps = from_env("HOLDFAST_STEPS", 20_000);
    // Several short histories reach more than one long one.
    for seed in seed..seed + 4 {
        println!("HOLDFAST_SEED={seed} HOLDFAST_STEPS={steps}");
        let mut world = World::new(seed);
        for _ in 0..steps / 4 {
            world.step();
        }
        world.finish();
    }
}

// ---- replicas ----------------------------------------------------------------------------------------

type Pairs = BTreeMap<Vec<u8>, Bytes>;

struct Replica {
    base: MapBase,
    shard: Shard<MapBase>,
    applied: usize,
    /// Entries that the base's checkpoint covers.
    checkpointed: usize,
    /// A checkpoint that is being written: entries it covers, its pairs, its run.
    writing: Option<(usize, holdfast_shard::Frozen, Option<RunRow>, Position)>,
}

impl Replica {
    fn new() -> Replica {
        let base = MapBase::default();
        let shard = open(&base);
        Replica { base, shard, applied: 0, checkpointed: 0, writing: None }
    }

    fn crash(&mut self) {
        self.writing = None;
        self.shard = open(&self.base);
        self.applied = self.checkpointed;
    }

    fn finish_checkpoint(&mut self) {
        let Some((covers, mut frozen, run, end)) = self.writing.take() else { return };
        frozen.pairs.extend(run.iter().map(keys::run_pair));
        self.base.write(&frozen);
        self.checkpointed = covers;
        if let Some(run) = run {
            self.shard.run_written(run);
        }
        self.shard.thaw();
        self.shard.trim_tail(end);
    }
}

/// What applying one entry gave, to be the same on all replicas and every time.
#[derive(Debug, PartialEq)]
struct Trace {
    outcomes: Vec<Outcome>,
    stored: Vec<(u64, Bytes)>,
    void: bool,
    /// Of a cut: the run's content and all rows, runs aside.
    cut: Option<(Vec<(u64, Bytes)>, Pairs)>,
}

// ---- the world ---------------------------------------------------------------------------------------

struct World {
    random: SmallRng,
    replicas: Vec<Replica>,
    log: Vec<Entry>,
    traces: Vec<Trace>,
    now_ms: u64,
    sequences: HashMap<u64, u64>,
    /// Batches that may be sent again, with their answers.
    sent: VecDeque<(Request, Outcome)>,
    payload: u64,
    model: Model,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            random: SmallRng::seed_from_u64(seed),
            replicas: (0..3).map(|_| Replica::new()).collect(),
            log: Vec::new(),
            traces: Vec::new(),
            now_ms: START_MS,
            sequences: HashMap::new(),
            sent: VecDeque::new(),
            payload: 0,
            model: Model::default(),
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_ratio(1, one_in)
    }

    fn step(&mut self) {
        if self.chance(40) {
            let at = self.random.random_range(0..3);
            self.replicas[at].crash();
        }
        for at in 0..3 {
            if self.chance(4) {
                self.replicas[at].finish_checkpoint();
            }
            if self.chance(3) {
                self.catch_up(at);
            }
        }
        self.now_ms += match self.random.random_range(0..60) {
            0 => self.random.random_range(0..1_000_000),
            1..10 => self.random.random_range(0..5_000),
            _ => self.random.random_range(0..50),
        };
        let leader = self.random.random_range(0..3);
        self.catch_up(leader);
        let requests = self.requests(leader);
        self.propose(leader, &requests);
    }

    fn propose(&mut self, leader: usize, requests: &[Request]) {
        let decision = self.replicas[leader].shard.decide(requests, self.now_ms).unwrap();
        let mut outcomes = Vec::new();
        if let Some(entry) = decision.entry {
            if self.chance(30) {
                // A leader that was replaced left the same positions to another entry.
                let stale = Entry { base_position: entry.base_position + 1, ..entry.clone() };
                self.log.push(stale);
            }
            self.model.enter(entry.time_ms);
            self.log.push(Entry::decode(Bytes::from(entry.encode_to_vec())).unwrap());
            self.catch_up(leader);
            outcomes = self.traces[self.log.len() - 1].outcomes.clone();
        }
        let answers: Vec<Outcome> = decision
            .answers
            .into_iter()
            .map(|answer| match answer {
                Answer::Now(outcome) => outcome,
                Answer::AtOp(op) => outcomes[op].clone(),
            })
            .collect();
        let at_once = outcomes.is_empty();
        let stored = match at_once {
            true => Vec::new(),
            false => self.traces[self.log.len() - 1].stored.clone(),
        };
        self.model.check(requests, &answers, stored, !at_once);
        for (request, answer) in requests.iter().zip(answers) {
            if matches!(request, Request::Append(_)) && answer.status() == Status::Ok {
                self.sent.push_back((request.clone(), answer));
            }
        }
        self.sent.drain(..self.sent.len().saturating_sub(4));
        self.model.check_rows(&self.replicas[leader].shard);
    }

    fn catch_up(&mut self, at: usize) {
        while self.replicas[at].applied < self.log.len() {
            self.apply_next(at);
        }
    }

    fn apply_next(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let entry = self.log[replica.applied].clone();
        if entry.ops.iter().any(|op| {
            use holdfast_proto::shard::op::Op;
            matches!(op.op, Some(Op::Cut(_) | Op::Roll(_)))
        }) {
            replica.finish_checkpoint();
        }
        let index = replica.applied;
        replica.applied += 1;
        let applied = replica.shard.apply(index as u64 + 1, entry).unwrap();
        let trace = replica.trace(applied);
        match self.traces.get(index) {
            None => self.traces.push(trace),
            Some(known) => assert_eq!(known, &trace, "entry {index} on replica {at}"),
        }
    }

    fn finish(&mut self) {
        for at in 0..3 {
            self.catch_up(at);
        }
        let cut = [Request::Cut];
        self.propose(0, &cut);
        for at in 0..3 {
            self.catch_up(at);
            self.replicas[at].finish_checkpoint();
            // What is read back from the base alone is the same again.
            self.replicas[at].crash();
            self.model.check_rows(&self.replicas[at].shard);
        }
        let dump = |replica: &Replica| replica.base.0.lock().unwrap().clone();
        assert_eq!(dump(&self.replicas[0]), dump(&self.replicas[1]));
        assert_eq!(dump(&self.replicas[0]), dump(&self.replicas[2]));
        assert!(self.model.stored > 1000 && self.model.repeats > 100 && self.model.fenced > 100);
        assert!(self.model.wills > 20, "the history reaches wills");
    }
}

impl Replica {
    fn trace(&mut self, applied: Applied) -> Trace {
        let plain = |placed: &holdfast_proto::placed::Placed| {
            (placed.position.0, placed.record.as_bytes().clone())
        };
        let cut = applied.cut.map(|cut| {
            let below = self.shard.tail().below(cut.end);
            assert_eq!(self.shard.tail().first(), cut.first, "earlier runs were written");
            let run = (cut.first < cut.end).then(|| RunRow {
                generation: cut.generation.0,
                first_position: cut.first.0,
                end_position: cut.end.0,
                ..RunRow::default()
            });
            let frozen = self.shard.freeze();
            let all = MapBase::default();
            *all.0.lock().unwrap() = self.base.0.lock().unwrap().clone();
            all.write(&frozen);
            let mut pairs = all.0.lock().unwrap().clone();
            pairs.retain(|key, _| key[0] != keys::RUN);
            self.writing = Some((self.applied, frozen, run, cut.end));
            (below.iter().map(plain).collect(), pairs)
        });
        Trace {
            outcomes: applied.outcomes,
            stored: applied.stored_records.iter().map(plain).collect(),
            void: applied.void,
            cut,
        }
    }
}

// ---- requests ----------------------------------------------------------------------------------------

impl World {
    fn requests(&mut self, leader: usize) -> Vec<Request> {
        if self.chance(5) {
            let shard = &self.replicas[leader].shard;
            let mut due = shard.due(self.now_ms, 5).unwrap();
            let dead = Incarnation(self.random.random_range(1..=GATEWAYS));
            if self.random.random_ratio(1, 10) {
                due.extend(shard.owned_by(dead, 3).unwrap());
            }
            return due.into_iter().map(Request::Command).collect();
        }
        let count = self.random.random_range(1..5);
        // Sequences that this entry takes, in case it takes them.
        (0..count).map(|_| self.request(leader)).collect()
    }

    /// The epoch and instance that somebody believes in: mostly the right ones.
    fn belief(&mut self, id: &str) -> (u64, u64) {
        let session = self.model.sessions.get(id);
        let (epoch, instance) = session.map_or((1, 1), |known| (known.epoch, known.instance));
        match self.random.random_range(0..8) {
            0 => (epoch.saturating_sub(1).max(1), instance),
            1 => (epoch, instance.saturating_sub(1).max(1)),
            _ => (epoch, instance),
        }
    }

    fn request(&mut self, leader: usize) -> Request {
        let id = CLIENTS[self.random.random_range(0..CLIENTS.len())];
        let (epoch, instance) = self.belief(id);
        match self.random.random_range(0..100) {
            0..20 => self.claim(id),
            20..55 => self.append(),
            55..60 => match self.sent.front() {
                Some((request, _)) => request.clone(),
                None => Request::Cut,
            },
            60..75 => {
                let cursor = self.random.random_range(0..200);
                let mut commit = commit(id, epoch, instance, cursor);
                let packet_id = self.random.random_range(1..5);
                let message =
                    InFlight { packet_id, position: cursor, qos: 1, ..Default::default() };
                commit.in_flight.push(message);
                commit.completed = vec![self.random.random_range(1..5)];
                command(Kind::CommitCursor(commit))
            }
            75..80 => {
                let packet_ids = vec![self.random.random_range(1..4)];
                let release = ReleaseReceived { client: Some(client(id)), epoch, packet_ids };
                command(Kind::ReleaseReceived(release))
            }
            80..87 => {
                let expiry_interval_s = self.chance(4).then(|| self.random.random_range(0..3));
                let discard_will = self.chance(2);
                let leave = disconnect(id, epoch, instance);
                command(Kind::Disconnect(Disconnect { discard_will, expiry_interval_s, ..leave }))
            }
            87..90 => command(Kind::Abandon(Abandon { client: Some(client(id)), epoch })),
            90..94 => self.set_retained(id),
            94..97 => Request::Cut,
            97 => Request::Roll { layout: LAYOUT_TOPIC.into() },
            _ => {
                let oldest = self.replicas[leader].shard.generations()[0].generation;
                Request::DropGeneration(Generation(oldest))
            }
        }
    }

    fn claim(&mut self, id: &str) -> Request {
        self.payload += 1;
        let has_will = self.chance(2);
        let delay_s = self.random.random_range(0..3) * 2;
        command(Kind::Claim(Claim {
            clean_start: self.chance(5),
            expiry_interval_s: [0, 1, 60, 3600, NEVER][self.random.random_range(0..5)],
            will: has_will.then(|| will(&format!("w{}", self.payload), delay_s)).flatten(),
            ..claim(id, self.random.random_range(1..=GATEWAYS))
        }))
    }

    fn append(&mut self) -> Request {
        let incarnation = self.random.random_range(1..=GATEWAYS);
        let next = self.model.producers.get(&incarnation).map_or(1, |(last, _)| last + 1);
        let drafted = self.sequences.get(&incarnation).copied().unwrap_or(0);
        let sequence = match self.random.random_range(0..20) {
            0 => next + 3,
            1 => next.saturating_sub(2).max(1),
            2 => drafted + 1,
            _ => next,
        };
        self.sequences.insert(incarnation, sequence);
        let count = self.random.random_range(0..6);
        let mut texts = Vec::new();
        for _ in 0..count {
            let id = CLIENTS[self.random.random_range(0..CLIENTS.len())];
            let epoch = match self.random.random_range(0..10) {
                0 => 0,
                _ => self.belief(id).0,
            };
            let packet_id = self.random.random_range(0..4);
            self.payload += 1;
            let topic = format!("t/{}", self.random.random_range(0..9));
            texts.push((topic, id, epoch, packet_id, format!("p{}", self.payload)));
        }
        let messages: Vec<Publish<'_>> = texts
            .iter()
            .map(|(topic, id, epoch, packet_id, payload)| {
                Publish(topic, id, *epoch, *packet_id, payload)
            })
            .collect();
        let deadline_ms = if self.chance(20) { self.now_ms - 1 } else { self.now_ms + 30_000 };
        Request::Append(batch(incarnation, sequence, deadline_ms, &messages))
    }

    fn set_retained(&mut self, id: &str) -> Request {
        self.payload += 1;
        let topic = format!("r/{}", self.random.random_range(0..4));
        let payload = if self.chance(3) { String::new() } else { format!("r{}", self.payload) };
        let epoch = self.random.random_range(1..4);
        command(Kind::SetRetained(SetRetained {
            namespace: 0,
            record: encoded(&draft(&Publish(&topic, id, epoch, 0, &payload))),
            topic,
            client: Some(client(id)),
            epoch,
            home_shard: 0,
            home_position: self.random.random_range(1..9),
            time_ms: self.now_ms,
        }))
    }
}

// ---- the model ---------------------------------------------------------------------------------------

/// What is known of a session from the promises alone.
#[derive(Debug, Default, Clone)]
struct Session {
    epoch: u64,
    instance: u64,
    connected: bool,
    expiry_interval_s: u32,
    left_ms: u64,
    ended: bool,
    ended_ms: u64,
    cursor: u64,
    /// QoS 2 packet ids that are taken.
    taken: HashSet<u16>,
    will: Option<(String, u32)>,
    will_due_ms: Option<u64>,
}

impl Session {
    fn expired(&self, time_ms: u64) -> bool {
        let finite = !self.connected && self.expiry_interval_s != NEVER;
        finite && self.left_ms + u64::from(self.expiry_interval_s) * 1000 <= time_ms
    }

    fn end(&mut self, time_ms: u64) -> Option<String> {
        self.ended = true;
        self.ended_ms = time_ms;
        self.connected = false;
        self.taken.clear();
        self.will_due_ms = None;
        self.will.take().map(|(payload, _)| payload)
    }

    fn leave(&mut self, time_ms: u64) -> Option<String> {
        self.connected = false;
        self.left_ms = time_ms;
        if self.expiry_interval_s == 0 {
            return self.end(time_ms);
        }
        let (_, delay_s) = self.will.as_ref()?;
        let delay_s = u64::from((*delay_s).min(self.expiry_interval_s));
        if delay_s == 0 {
            return self.will.take().map(|(payload, _)| payload);
        }
        self.will_due_ms = Some(time_ms + delay_s * 1000);
        None
    }
}

#[derive(Default)]
struct Model {
    time_ms: u64,
    last_epoch: u64,
    sessions: BTreeMap<String, Session>,
    /// Last sequence and when it came.
    producers: HashMap<u64, (u64, u64)>,
    positions: u64,
    payloads: HashSet<String>,
    stored: u64,
    repeats: u64,
    fenced: u64,
    wills: u64,
}

impl Model {
    fn enter(&mut self, time_ms: u64) {
        assert!(time_ms >= self.time_ms, "time never goes back");
        self.time_ms = time_ms;
    }

    /// Checks the answers to one round of requests and what it stored.
    fn check(
        &mut self,
        requests: &[Request],
        answers: &[Outcome],
        stored: Vec<(u64, Bytes)>,
        entered: bool,
    ) {
        let mut expected = Vec::new();
        for (request, answer) in requests.iter().zip(answers) {
            match request {
                Request::Append(batch) => self.append(batch, answer, &mut expected),
                Request::Command(command) => {
                    let will = self.command(command.command.as_ref().unwrap(), answer);
                    self.wills += u64::from(will.is_some());
                    expected.extend(will);
                }
                _ => {}
            }
        }
        let mut payloads = Vec::new();
        for (position, mut bytes) in stored {
            self.positions += 1;
            assert_eq!(position, self.positions, "positions are dense");
            let record = holdfast_proto::record::Record::split_from(&mut bytes).unwrap();
            let payload = String::from_utf8(record.payload().to_vec()).unwrap();
            assert!(self.payloads.insert(payload.clone()), "{payload} is stored twice");
            payloads.push(payload);
        }
        assert_eq!(payloads, expected);
        self.stored += payloads.len() as u64;
        if entered {
            self.forget();
        }
    }

    /// Forgets what nobody used for ten minutes, with the entry.
    fn forget(&mut self) {
        let time_ms = self.time_ms;
        self.producers.retain(|_, (_, used_ms)| *used_ms + FORGET_AFTER_MS > time_ms);
        self.sessions.retain(|_, known| !known.ended || known.ended_ms + FORGET_AFTER_MS > time_ms);
    }

    fn append(
        &mut self,
        batch: &holdfast_proto::batch::Batch,
        answer: &Outcome,
        expected: &mut Vec<String>,
    ) {
        let header = batch.header();
        let last = self.producers.get(&header.incarnation.0).map_or(0, |(last, _)| *last);
        let status = answer.status();
        let outcome = appended(answer.clone());
        if header.sequence > last + 1 {
            assert_eq!((status, outcome.expected_sequence), (Status::Gap, last + 1));
            return;
        }
        if header.sequence <= last {
            assert!(matches!(status, Status::Ok | Status::Expired));
            return;
        }
        self.producers.insert(header.incarnation.0, (header.sequence, self.time_ms));
        if header.deadline_ms < self.time_ms {
            assert_eq!(status, Status::Expired);
            return;
        }
        assert_eq!(status, Status::Ok);
        for (index, record) in (0..).zip(batch.records()) {
            let session = self.sessions.get_mut(record.client_id());
            let epoch = record.epoch().0;
            let fits = epoch == 0 || session.as_ref().is_some_and(|known| known.epoch == epoch);
            let refused = bit(&outcome.refused, index);
            if !fits {
                assert!(refused, "fenced");
                self.fenced += 1;
                continue;
            }
            if let Some(session) = session.filter(|_| epoch != 0 && record.packet_id() != 0)
                && !session.taken.insert(record.packet_id())
            {
                assert!(refused, "taken");
                assert!(outcome.repeats.iter().any(|repeat| repeat.index == index));
                self.repeats += 1;
                continue;
            }
            assert!(!refused, "stored");
            expected.push(String::from_utf8(record.payload().to_vec()).unwrap());
        }
    }

    /// Checks a command's answer and returns the will that it publishes.
    fn command(&mut self, command: &Kind, answer: &Outcome) -> Option<String> {
        let time_ms = self.time_ms;
        let (id, epoch, instance) = match command {
            Kind::Claim(claim) => return self.claim(claim, answer),
            Kind::SetRetained(_) => return None,
            Kind::CommitCursor(c) => (&c.client, c.epoch, Some(c.instance)),
            Kind::Disconnect(c) => (&c.client, c.epoch, Some(c.instance)),
            Kind::FireWill(c) => (&c.client, c.epoch, Some(c.instance)),
            Kind::Expire(c) => (&c.client, c.epoch, Some(c.instance)),
            Kind::ReleaseReceived(c) => (&c.client, c.epoch, None),
            Kind::Abandon(c) => (&c.client, c.epoch, None),
            other => panic!("not in this test: {other:?}"),
        };
        let id = &id.as_ref().unwrap().client_id;
        let Some(session) = self.sessions.get_mut(id) else {
            assert_eq!(answer.status(), Status::NoSession);
            return None;
        };
        if answer.status() == Status::NoSession {
            assert!(session.ended);
            return None;
        }
        let fits = session.epoch == epoch && instance.is_none_or(|it| it == session.instance);
        assert_eq!(answer.status(), if fits { Status::Ok } else { Status::Fenced });
        if !fits || session.ended {
            return None;
        }
        match command {
            Kind::CommitCursor(commit) => {
                session.cursor = session.cursor.max(commit.cursor[0].position);
            }
            Kind::ReleaseReceived(release) => {
                for id in &release.packet_ids {
                    session.taken.remove(&(*id as u16));
                }
            }
            Kind::Disconnect(leave) => {
                if leave.discard_will {
                    (session.will, session.will_due_ms) = (None, None);
                }
                if session.connected {
                    if session.expiry_interval_s != 0 {
                        let expiry = leave.expiry_interval_s;
                        session.expiry_interval_s = expiry.unwrap_or(session.expiry_interval_s);
                    }
                    return session.leave(time_ms);
                }
            }
            Kind::Abandon(_) if session.connected => return session.leave(time_ms),
            Kind::FireWill(_) if session.will_due_ms.is_some_and(|due| due <= time_ms) => {
                session.will_due_ms = None;
                return session.will.take().map(|(payload, _)| payload);
            }
            Kind::Expire(_) if session.expired(time_ms) => return session.end(time_ms),
            _ => {}
        }
        None
    }

    fn claim(&mut self, claim: &Claim, answer: &Outcome) -> Option<String> {
        let outcome = claimed(answer.clone());
        let row = outcome.row.unwrap();
        assert!(row.epoch > self.last_epoch, "epochs strictly grow");
        self.last_epoch = row.epoch;
        let id = claim.client.clone().unwrap().client_id;
        let mut session = self.sessions.remove(&id).filter(|known| !known.ended);
        let mut published = None;
        assert_eq!(
            outcome.previous_owner.is_some(),
            session.as_ref().is_some_and(|known| known.connected)
        );
        if let Some(known) = &mut session {
            let resumes =
                !claim.clean_start && known.expiry_interval_s != 0 && !known.expired(self.time_ms);
            let (connected, due_ms) = (known.connected, known.will_due_ms.take());
            published = match known.will.take() {
                Some((payload, _)) if !resumes => Some(payload),
                Some((payload, 0)) if connected => Some(payload),
                Some((payload, _)) if due_ms.is_some_and(|due| due <= self.time_ms) => {
                    Some(payload)
                }
                _ => None,
            };
            if !resumes {
                session = None;
            }
        }
        assert_eq!(outcome.session_present, session.is_some());
        let mut session =
            session.unwrap_or_else(|| Session { instance: row.epoch, ..Session::default() });
        session.epoch = row.epoch;
        session.connected = true;
        session.expiry_interval_s = claim.expiry_interval_s;
        session.will = claim.will.as_ref().map(|will| {
            let record =
                holdfast_proto::record::Record::split_from(&mut will.record.clone()).unwrap();
            (String::from_utf8(record.payload().to_vec()).unwrap(), will.delay_s)
        });
        assert_eq!(row.instance, session.instance);
        self.sessions.insert(id, session);
        published
    }

    /// Compares all sessions with the rows.
    fn check_rows(&self, shard: &Shard<MapBase>) {
        assert_eq!(shard.next_position().0, self.positions + 1);
        let (mut live, mut connected) = (0, 0);
        for (id, session) in &self.sessions {
            let row = shard.session(&client(id)).unwrap();
            assert_eq!(row.is_none(), session.ended, "{id}");
            let Some(row) = row else { continue };
            live += 1;
            connected += u64::from(session.connected);
            assert_eq!((row.epoch, row.instance), (session.epoch, session.instance));
            assert_eq!(row.cursor, [session.cursor], "the cursor of {id} only moves on");
            assert_eq!(row.owner.is_some(), session.connected);
            let taken: HashSet<u16> =
                row.received.iter().map(|received| received.packet_id as u16).collect();
            assert_eq!(taken, session.taken);
            assert_eq!(row.will.is_some(), session.will.is_some());
        }
        assert_eq!((shard.session_count(), shard.connected_count()), (live, connected));
        let shown = shard.retained(Namespace(0), &["r/#".into()], 100).unwrap();
        let exact: Vec<String> = (0..4).map(|n| format!("r/{n}")).collect();
        let exact = shard.retained(Namespace(0), &exact, 100).unwrap();
        assert_eq!(shown.len(), exact.len());
    }
}
