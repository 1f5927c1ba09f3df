use std::collections::BTreeSet;

use holdfast_proto::ids::Epoch;
use holdfast_proto::storage::Filter;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const LEASE_MS: u64 = 10_000;

fn draft(topic: &str, qos: u8) -> RecordDraft<'_> {
    RecordDraft {
        namespace: Namespace(0),
        topic,
        client_id: "c",
        epoch: Epoch(1),
        qos,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload: &[],
    }
}

fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter { namespace: 0, filter: (*text).to_owned() }).collect()
}

fn complete(version: u64, texts: &[&str]) -> FilterSet {
    FilterSet { version, complete: true, add: filters(texts), ..FilterSet::default() }
}

#[test]
fn everything_is_stored_without_lease_or_set() {
    let mut routes = Routes::default();
    assert!(routes.is_durable(&draft("a", 1), 0));
    assert!(!routes.is_durable(&draft("a", 0), 0), "QoS 0 carries no promise");
    routes.registering();
    let renewal = routes.renew(100);
    routes.renewed(renewal, LEASE_MS);
    assert!(routes.stores_everything(100), "a grant without a set is none");
    routes.apply(&complete(3, &["a/#"]));
    assert!(!routes.stores_everything(100));
    assert!(!routes.is_durable(&draft("b", 1), 9_099));
    assert!(routes.is_durable(&draft("a/b", 0), 9_099));
    assert!(routes.is_durable(&draft("b", 1), 9_100), "a tenth before the lease is over");
}

#[test]
fn a_lease_counts_from_when_it_was_sent_and_a_new_stream_needs_a_new_set() {
    let mut routes = Routes::default();
    routes.registering();
    routes.apply(&complete(1, &[]));
    let first = routes.renew(0);
    let second = routes.renew(2_500);
    routes.renewed(second, LEASE_MS);
    routes.renewed(first, LEASE_MS);
    assert!(!routes.stores_everything(11_499) && routes.stores_everything(11_500));
    routes.registering();
    let third = routes.renew(12_000);
    routes.renewed(second, LEASE_MS);
    routes.renewed(third, LEASE_MS);
    assert!(routes.stores_everything(12_000));
    routes.apply(&complete(9, &[]));
    assert!(!routes.stores_everything(12_000));
}

#[test]
fn only_filters_that_every_gateway_has_cover() {
    let mut routes = Routes::default();
    routes.apply(&complete(4, &["a/+"]));
    assert!(!routes.covers(Namespace(0), "a/b"));
    routes.covered(4);
    assert!(routes.covers(Namespace(0), "a/b") && routes.covers(Namespace(0), "a/+"));
    assert!(!routes.covers(Namespace(1), "a/b") && !routes.covers(Namespace(0), "a/#"));
    let retire = FilterSet { version: 5, retiring: filters(&["a/+"]), ..FilterSet::default() };
    routes.apply(&retire);
    routes.covered(5);
    assert!(!routes.covers(Namespace(0), "a/b"), "it may be removed soon");
    assert!(routes.filters.matches_any(Namespace(0), "a/b"), "but is matched until then");
    let again = FilterSet { version: 6, add: filters(&["a/+"]), ..FilterSet::default() };
    routes.apply(&again);
    assert!(!routes.covers(Namespace(0), "a/b"));
    routes.covered(6);
    assert!(routes.covers(Namespace(0), "a/b"));
    let gone = FilterSet { version: 7, remove: filters(&["a/+"]), ..FilterSet::default() };
    routes.apply(&gone);
    assert!(!routes.filters.matches_any(Namespace(0), "a/b"));
    assert_eq!(routes.len(), 0);
}

#[test]
fn a_running_turn_holds_newer_versions_back() {
    let mut turns = Turns::default();
    turns.begin(4);
    turns.begin(5);
    turns.begin(4);
    assert_eq!(turns.acknowledged(7), 4);
    assert!(!turns.end(4));
    assert!(turns.end(4));
    assert_eq!(turns.acknowledged(7), 5);
    assert!(turns.end(5));
    assert_eq!(turns.acknowledged(7), 7);
}

// ---- the promise, against a model of the metadata service ----

const TOPICS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];
/// Longest turn of publishing: what the lease's margin allows for.
const TURN_MS_MAX: u64 = LEASE_MS / 10 - 1;

/// One report of a gateway.
struct Report {
    renewal: u64,
    acknowledged: u64,
}

/// One update from the metadata service.
#[derive(Default)]
struct Update {
    set: Option<FilterSet>,
    covered: u64,
    renewed: u64,
}

#[derive(Default)]
struct Stream {
    reports: VecDeque<Report>,
    updates: VecDeque<Update>,
    /// The service has seen the first report.
    registered: bool,
}

struct Turn {
    version: u64,
    began_ms: u64,
    /// Topics whose publishes will be acknowledged without the log when the turn ends.
    unlogged: Vec<&'static str>,
}

#[derive(Default)]
struct Gateway {
    routes: Routes,
    turns: Turns,
    running: Vec<Turn>,
    stream: Option<Stream>,
}

#[derive(Default)]
struct Model {
    now_ms: u64,
    gateways: Vec<Gateway>,
    version: u64,
    set: BTreeSet<&'static str>,
    /// Live gateways as the service sees them: acknowledged version, when it last heard of them.
    live: BTreeMap<usize, (u64, u64)>,
    covered: u64,
    waiting: Vec<(u64, &'static str)>,
    /// Filters with a SUBACK.
    confirmed: BTreeSet<&'static str>,
    unlogged_acks: u64,
}

impl Model {
    fn new(gateways: usize) -> Model {
        let gateways = (0..gateways).map(|_| Gateway::default()).collect();
        Model { gateways, version: 1, ..Model::default() }
    }

    fn step(&mut self, random: &mut SmallRng) {
        let at = random.random_range(0..self.gateways.len());
        match random.random_range(0..100) {
            0..10 => self.advance(random.random_range(1..400)),
            10..11 => self.advance(random.random_range(1..LEASE_MS)),
            11..31 => self.deliver_report(at),
            31..51 => self.deliver_update(at),
            51..61 => self.report(at),
            61..73 => self.begin_and_publish(at, random),
            73..85 => self.end_turn(at, random),
            85..88 => self.cut(at),
            88..92 => self.connect(at),
            92..96 => self.cover(TOPICS[random.random_range(0..TOPICS.len())]),
            _ => self.skip_cover(at, TOPICS[random.random_range(0..TOPICS.len())]),
        }
    }

    fn advance(&mut self, by_ms: u64) {
        // A turn ends within the margin of the lease.
        let until_ms = self.now_ms + by_ms;
        let is_late = |turn: &Turn| turn.began_ms + TURN_MS_MAX < until_ms;
        for at in 0..self.gateways.len() {
            while let Some(late) = self.gateways[at].running.iter().position(is_late) {
                self.finish(at, late);
            }
        }
        self.now_ms += by_ms;
        let now_ms = self.now_ms;
        self.live.retain(|_, (_, heard_ms)| now_ms < *heard_ms + LEASE_MS);
        self.settle();
    }

    fn settle(&mut self) {
        let least = self.live.values().map(|(version, _)| *version).min().unwrap_or(self.version);
        self.covered = self.covered.max(least);
        let covered = self.covered;
        let confirmed = &mut self.confirmed;
        self.waiting.retain(|(version, filter)| {
            if *version <= covered {
                confirmed.insert(filter);
            }
            *version > covered
        });
        for gateway in &mut self.gateways {
            if let Some(stream) = gateway.stream.as_mut().filter(|stream| stream.registered) {
                stream.updates.push_back(Update { covered, ..Update::default() });
            }
        }
    }

    fn connect(&mut self, at: usize) {
        self.gateways[at].routes.registering();
        self.gateways[at].stream = Some(Stream::default());
        self.report(at);
    }

    fn cut(&mut self, at: usize) {
        self.gateways[at].stream = None;
    }

    fn report(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        let acknowledged = gateway.turns.acknowledged(gateway.routes.version());
        if let Some(stream) = &mut gateway.stream {
            let renewal = gateway.routes.renew(self.now_ms);
            stream.reports.push_back(Report { renewal, acknowledged });
        }
    }

    fn deliver_report(&mut self, at: usize) {
        let (version, now_ms) = (self.version, self.now_ms);
        let Some(stream) = &mut self.gateways[at].stream else { return };
        let Some(report) = stream.reports.pop_front() else { return };
        let known = self.live.entry(at).or_default();
        *known = (known.0.max(report.acknowledged.min(version)), now_ms);
        let first = !std::mem::replace(&mut stream.registered, true);
        let texts: Vec<&str> = self.set.iter().copied().collect();
        stream.updates.push_back(Update {
            set: first.then(|| complete(version, &texts)),
            covered: self.covered,
            renewed: report.renewal,
        });
        self.settle();
    }

    fn deliver_update(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        let Some(stream) = &mut gateway.stream else { return };
        let Some(update) = stream.updates.pop_front() else { return };
        if let Some(set) = &update.set {
            gateway.routes.apply(set);
        }
        gateway.routes.covered(update.covered);
        if update.renewed > 0 {
            gateway.routes.renewed(update.renewed, LEASE_MS);
        }
    }

    fn begin_and_publish(&mut self, at: usize, random: &mut SmallRng) {
        let gateway = &mut self.gateways[at];
        let version = gateway.routes.version();
        gateway.turns.begin(version);
        let publishes = random.random_range(0..4);
        let unlogged = (0..publishes)
            .map(|_| TOPICS[random.random_range(0..TOPICS.len())])
            .filter(|topic| !gateway.routes.is_durable(&draft(topic, 1), self.now_ms))
            .collect();
        gateway.running.push(Turn { version, began_ms: self.now_ms, unlogged });
    }

    fn end_turn(&mut self, at: usize, random: &mut SmallRng) {
        let running = self.gateways[at].running.len();
        if running > 0 {
            self.finish(at, random.random_range(0..running));
        }
    }

    /// The acknowledgements of a turn reach the socket.
    fn finish(&mut self, at: usize, turn: usize) {
        let turn = self.gateways[at].running.swap_remove(turn);
        for topic in &turn.unlogged {
            self.unlogged_acks += 1;
            assert!(
                !self.confirmed.contains(topic),
                "{topic} was acknowledged without the log after its SUBACK"
            );
        }
        self.gateways[at].turns.end(turn.version);
    }

    fn cover(&mut self, filter: &'static str) {
        if self.set.insert(filter) {
            self.version += 1;
            let set = FilterSet {
                version: self.version,
                add: filters(&[filter]),
                ..FilterSet::default()
            };
            for gateway in &mut self.gateways {
                if let Some(stream) = gateway.stream.as_mut().filter(|stream| stream.registered) {
                    let set = Some(set.clone());
                    let covered = self.covered;
                    stream.updates.push_back(Update { set, covered, renewed: 0 });
                }
            }
        }
        self.waiting.push((self.version, filter));
        self.settle();
    }

    /// A gateway confirms a subscription by what it knows, without asking.
    fn skip_cover(&mut self, at: usize, filter: &'static str) {
        if self.gateways[at].routes.covers(Namespace(0), filter) {
            self.confirmed.insert(filter);
        }
    }
}

#[test]
fn random_interleavings_keep_suback_contract() {
    let mut unlogged_acks = 0;
    let mut confirmed = 0;
    for seed in 0..400 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut model = Model::new(1 + seed as usize % 3);
        for at in 0..model.gateways.len() {
            model.connect(at);
        }
        for _ in 0..600 {
            model.step(&mut random);
        }
        unlogged_acks += model.unlogged_acks;
        confirmed += model.confirmed.len();
    }
    assert!(unlogged_acks > 1_000, "the model acknowledges without the log: {unlogged_acks}");
    assert!(confirmed > 400, "and confirms subscriptions: {confirmed}");
}
