//! What a million sessions cost a site: memory while they are idle, time while they all expire at once.
//! Not part of the test run: `cargo nextest run -p storage-node --run-ignored all expiry_cost
//! --no-capture`.

use std::time::{Duration, Instant};

use holdfast_log::ReplicaKey;
use holdfast_proto::ids::{Namespace, ReplicaId, ShardId, home_shard};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Claim, ClientKey, Command, Disconnect, Entry, GatewayRef, Subscribe, Subscription,
};
use holdfast_proto::storage::SnapshotMeta;
use holdfast_shard::{Request, Shard};

use crate::state_store::{ReplicaStore, StateStore};

const SHARDS: u16 = 16;
const SESSIONS: u64 = 1_000_000;
/// Names the folder of the database to the process that opens it.
const FOLDER: &str = "HOLDFAST_EXPIRY_COST";
/// Requests in one entry, as the upkeep makes them.
const PER_ENTRY: usize = 250;
const START_MS: u64 = 1_000_000;

struct Leader {
    store: ReplicaStore,
    shard: Shard<ReplicaStore>,
    index: u64,
    now_ms: u64,
    slowest: Duration,
}

impl Leader {
    fn run(&mut self, requests: &[Request]) {
        let entry = self.shard.decide(requests, self.now_ms).unwrap().entry;
        let Some(entry) = entry else { return };
        self.index += 1;
        let started = Instant::now();
        self.shard.apply(self.index, Entry { term: 1, ..entry }).unwrap();
        self.slowest = self.slowest.max(started.elapsed());
    }

    fn checkpoint(&mut self) {
        let frozen = self.shard.freeze();
        self.store.checkpoint(&frozen.pairs, &SnapshotMeta::default()).unwrap();
        self.shard.thaw();
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A session as a device has it: connected once, one filter, gone.
fn idle_session(client: &ClientKey, epoch: u64) -> [Request; 3] {
    let client = || Some(client.clone());
    let filter = format!("devices/{}/#", client().unwrap().client_id);
    let claim = Claim {
        client: client(),
        gateway: Some(GatewayRef { incarnation: 1, name: "g".into(), address: "h:1".into() }),
        expiry_interval_s: 3_600,
        protocol_level: 5,
        ..Claim::default()
    };
    let subscription =
        Subscription { filter, options: 1, since: vec![1_000; 16], ..Subscription::default() };
    let subscribe =
        Subscribe { client: client(), epoch, instance: epoch, subscriptions: vec![subscription] };
    let leave = Disconnect { client: client(), epoch, instance: epoch, ..Disconnect::default() };
    [Kind::Claim(claim), Kind::Subscribe(subscribe), Kind::Disconnect(leave)]
        .map(|kind| Request::Command(Command { command: Some(kind) }))
}

fn leader(store: &StateStore, shard: u16) -> Leader {
    let store = store.replica(ReplicaKey { shard: ShardId(shard), replica: ReplicaId(1) }).unwrap();
    let shard = Shard::open(store.clone(), ShardId(shard), SHARDS).unwrap();
    Leader { store, shard, index: 0, now_ms: START_MS, slowest: Duration::ZERO }
}

#[test]
#[ignore = "takes minutes and prints figures"]
fn a_million_sessions_expire_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = StateStore::open(dir.path()).unwrap();
    let mut leaders: Vec<Leader> = (0..SHARDS).map(|shard| leader(&store, shard)).collect();
    let mut queues: Vec<Vec<Request>> = vec![Vec::new(); usize::from(SHARDS)];
    let mut epochs = vec![0; usize::from(SHARDS)];
    for number in 0..SESSIONS {
        let client = ClientKey { namespace: 0, client_id: format!("device-{number:08}") };
        let at = usize::from(home_shard(Namespace(0), &client.client_id, SHARDS).0);
        epochs[at] += 1;
        queues[at].extend(idle_session(&client, epochs[at]));
        if queues[at].len() >= PER_ENTRY {
            leaders[at].run(&std::mem::take(&mut queues[at]));
        }
        if number % 100_000 == 99_999 {
            leaders.iter_mut().for_each(Leader::checkpoint);
            println!("{} sessions, {} MB resident", number + 1, resident_bytes() >> 20);
        }
    }
    for (leader, queue) in leaders.iter_mut().zip(queues) {
        leader.run(&queue);
        leader.checkpoint();
    }
    println!("state database: {} B a session on disk", store.bytes_on_disk() / SESSIONS);
    drop((leaders, store));
    let opened = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "expiry_cost::memory_of_a_site_that_opens"])
        .env(FOLDER, dir.path())
        .status();
    assert!(opened.unwrap().success());
    let store = StateStore::open(dir.path()).unwrap();
    let mut leaders: Vec<Leader> = (0..SHARDS).map(|shard| leader(&store, shard)).collect();
    expire(&mut leaders);
}

/// Run by the other test in a process of its own.
#[test]
#[ignore = "it is a part of another test"]
fn memory_of_a_site_that_opens() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let before = resident_bytes();
    let started = Instant::now();
    let store = StateStore::open(folder.as_ref()).unwrap();
    let leaders: Vec<Leader> = (0..SHARDS).map(|shard| leader(&store, shard)).collect();
    let sessions: u64 = leaders.iter().map(|leader| leader.shard.session_count()).sum();
    println!(
        "{sessions} sessions opened in {:?}, {} B of memory each (indexes and database's cache)",
        started.elapsed(),
        (resident_bytes() - before) / sessions.max(1)
    );
}

fn expire(leaders: &mut [Leader]) {
    let (mut expired, mut slowest_due, started) = (0, Duration::ZERO, Instant::now());
    let mut locked = Duration::ZERO;
    for leader in leaders.iter_mut() {
        leader.now_ms += 3_600_001;
        loop {
            let look = Instant::now();
            leader.shard.load_due(leader.now_ms, PER_ENTRY).unwrap();
            let due = leader.shard.due(leader.now_ms, PER_ENTRY).unwrap();
            slowest_due = slowest_due.max(look.elapsed());
            if due.is_empty() {
                break;
            }
            expired += due.len() as u64;
            let requests: Vec<Request> = due.into_iter().map(Request::Command).collect();
            leader.run(&requests);
            locked = locked.max(look.elapsed());
        }
        leader.checkpoint();
        assert_eq!(leader.shard.session_count(), 0);
    }
    let slowest = leaders.iter().map(|leader| leader.slowest).max().unwrap_or_default();
    println!(
        "{expired} sessions expired in {:?}; slowest look {slowest_due:?}, slowest entry {slowest:?}, \
         slowest look, decision and entry together {locked:?}",
        started.elapsed()
    );
    assert_eq!(expired, SESSIONS);
}
