//! What storage nodes answer the admin API, on real processes: session rows, counts, pages, rolls,
//! commands, verification and healing of runs.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Version};
use holdfast_node_kit::grpc;
use holdfast_proto::ids::{Namespace, home_shard};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Claim, ClientKey, Command, Disconnect, GatewayRef, MoveOn, Outcome, SessionRow, Status,
    outcome::Outcome as Done,
};
use holdfast_proto::storage::storage_client::StorageClient;
use holdfast_proto::storage::{
    CountMatchesRequest, DescribeRequest, GetSessionsRequest, MatchCount, MatchQuery,
    ProposeCommandRequest, ReadItem, ReadMatchesRequest, ReplicaDescription, RollShardReply,
    RollShardRequest, VerifiedReplica, VerifyShardRequest,
};
use tonic::transport::Channel;

const MESSAGES: usize = 300;
/// Nothing here takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// One storage node.
struct Node {
    name: String,
    site_id: u64,
    rpc: StorageClient<Channel>,
}

struct Nodes {
    cluster_id: String,
    shards: u16,
    all: Vec<Node>,
}

impl Nodes {
    async fn of(cluster: &Cluster) -> Nodes {
        let (mut all, mut cluster_id, mut shards) = (Vec::new(), String::new(), 0);
        for process in cluster.processes().iter().filter(|process| process.role == "storage") {
            let mut rpc = StorageClient::new(grpc::connect(&process.grpc).await.unwrap());
            let described = rpc.describe(DescribeRequest {}).await.unwrap().into_inner();
            cluster_id = described.cluster_id;
            shards = described.replicas.len() as u16;
            all.push(Node { name: process.name.clone(), site_id: described.site_id, rpc });
        }
        Nodes { cluster_id, shards, all }
    }

    fn home(&self, client_id: &str) -> u32 {
        u32::from(home_shard(Namespace(0), client_id, self.shards).0)
    }

    /// What every node says of a shard.
    async fn described(&mut self, shard: u32) -> Vec<ReplicaDescription> {
        let mut replicas = Vec::new();
        for node in &mut self.all {
            let described = node.rpc.describe(DescribeRequest {}).await.unwrap().into_inner();
            replicas.extend(described.replicas.into_iter().find(|one| one.shard == shard));
        }
        replicas
    }

    /// Index of the node that leads a shard.
    async fn leader(&mut self, shard: u32) -> usize {
        self.described(shard).await.iter().position(|replica| replica.serving).unwrap()
    }

    async fn roll(&mut self, at: usize, shard: u32) -> RollShardReply {
        let request = RollShardRequest { cluster_id: self.cluster_id.clone(), shard };
        self.all[at].rpc.roll_shard(request).await.unwrap().into_inner()
    }

    async fn count(&mut self, shard: u32, from: u64) -> MatchCount {
        let at = self.leader(shard).await;
        let query = MatchQuery { namespace: 0, filters: vec!["t/#".into()], from };
        let request = CountMatchesRequest {
            cluster_id: self.cluster_id.clone(),
            shard,
            below: 0,
            queries: vec![query],
            with_time: true,
        };
        let reply = self.all[at].rpc.count_matches(request).await.unwrap().into_inner();
        assert_eq!(reply.status(), Status::Ok);
        reply.counts[0]
    }

    async fn session(&mut self, at: usize, client_id: &str) -> (Status, u64, Option<SessionRow>) {
        let client = |id: &str| ClientKey { namespace: 0, client_id: id.into() };
        let request = GetSessionsRequest {
            cluster_id: self.cluster_id.clone(),
            shard: self.home(client_id),
            clients: vec![client("nobody"), client(client_id)],
        };
        let reply = self.all[at].rpc.get_sessions(request).await.unwrap().into_inner();
        let mut found = reply.sessions.iter();
        assert!(found.next().is_none_or(|nobody| nobody.row.is_none()));
        (reply.status(), reply.leader_site, found.next().and_then(|found| found.row.clone()))
    }

    async fn propose(&mut self, at: usize, shard: u32, command: Kind) -> (Outcome, u64) {
        let request = ProposeCommandRequest {
            cluster_id: self.cluster_id.clone(),
            shard,
            command: Some(Command { command: Some(command) }),
        };
        let done = self.all[at].rpc.propose_command(request).await.unwrap().into_inner();
        (done.outcome.unwrap(), done.leader_site)
    }

    async fn verify(&mut self, at: usize, shard: u32) -> VerifiedReplica {
        let request = VerifyShardRequest {
            cluster_id: self.cluster_id.clone(),
            shard,
            bytes_per_s: 64 << 20,
        };
        let mut replies = self.all[at].rpc.verify_shard(request).await.unwrap().into_inner();
        loop {
            let reply = replies.message().await.unwrap().expect("it ends with all that it found");
            assert!(reply.bytes_done <= reply.bytes_total);
            if let Some(done) = reply.done {
                return done;
            }
        }
    }
}

async fn cluster() -> Cluster {
    let settings = ["storage.shard.run_bytes_max=65536", "storage.retention.lag_interval_ms=200"];
    let settings = settings.map(str::to_owned).to_vec();
    Cluster::with(Shape { settings, ..Shape::default() }).await
}

/// A session that is offline and has not read what a publisher stored; the publisher's shard.
async fn backlog(cluster: &Cluster, nodes: &Nodes) -> u32 {
    let connect = Connect::durable(Version::V5, "reader");
    let mut reader = Client::connect(&cluster.mqtt(1), &connect).await;
    reader.subscribe(&[("t/#", 1)]).await;
    reader.disconnect().await;
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(2), &connect).await;
    for number in 0..MESSAGES {
        let payload = format!("{number:>500}");
        assert_eq!(publisher.publish(&format!("t/{}", number % 7), payload, 1).await, 0);
    }
    publisher.disconnect().await;
    nodes.home("publisher")
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn a_backlog_is_counted_and_read_without_being_consumed() {
    let began_ms = now_ms();
    let cluster = cluster().await;
    let mut nodes = Nodes::of(&cluster).await;
    let shard = backlog(&cluster, &nodes).await;
    let all = nodes.count(shard, 1).await;
    assert_eq!((all.count, all.first), (MESSAGES as u64, 1));
    assert!((began_ms..=now_ms()).contains(&all.first_time_ms), "{all:?}");
    let later = nodes.count(shard, 201).await;
    assert_eq!((later.count, later.first), (MESSAGES as u64 - 200, 201));
    assert!(later.first_time_ms > all.first_time_ms, "{later:?}");
    let leader = nodes.leader(shard).await;
    let described = nodes.described(shard).await;
    assert_eq!(described[leader].messages, MESSAGES as u64);
    assert!(described[leader].streams >= 7);

    let mut request = ReadMatchesRequest {
        cluster_id: nodes.cluster_id.clone(),
        namespace: 0,
        filters: vec!["t/3".into()],
        item: Some(ReadItem { shard, from: 1, positions: Vec::new() }),
        page_bytes_max: 4_000,
    };
    let (mut read, mut pages) = (Vec::new(), 0);
    loop {
        let page = nodes.all[leader].rpc.read_matches(request.clone()).await.unwrap().into_inner();
        assert_eq!((page.status(), page.dropped_below), (Status::Ok, 0));
        pages += 1;
        for placed in Placed::decode_all(page.records).unwrap() {
            let payload = String::from_utf8(placed.record.payload().to_vec()).unwrap();
            read.push(payload.trim().parse::<usize>().unwrap());
        }
        request.item.as_mut().unwrap().from = page.next;
        if page.head {
            break;
        }
    }
    assert_eq!(read, (3..MESSAGES).step_by(7).collect::<Vec<_>>());
    assert!(pages > 4, "{pages} pages of 4000 bytes");

    let home = nodes.home("reader");
    let at = nodes.leader(home).await;
    let name = nodes.all[at].name.clone();
    let unread = "holdfast_storage_shard_unread_messages";
    cluster.await_metric(&name, unread, |most| most == MESSAGES as f64).await;
    let age = "holdfast_storage_shard_unread_age_seconds";
    cluster.await_metric(&name, age, |seconds| seconds > 0.0).await;
    let mut reader =
        Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, "reader")).await;
    assert!(reader.session_present);
    assert_eq!(reader.collect(MESSAGES).await.len(), MESSAGES);
    reader.disconnect().await;
    cluster.await_metric(&name, unread, |most| most == 0.0).await;
    cluster.await_metric(&name, age, |seconds| seconds == 0.0).await;
}

#[tokio::test]
async fn a_session_is_ended_by_two_commands_and_nobody_else_is_asked() {
    let cluster = cluster().await;
    let mut nodes = Nodes::of(&cluster).await;
    backlog(&cluster, &nodes).await;
    let shard = nodes.home("reader");
    let leader = nodes.leader(shard).await;
    let other = (leader + 1) % nodes.all.len();
    let leader_site = nodes.all[leader].site_id;
    let (status, named, row) = nodes.session(other, "reader").await;
    assert_eq!((status, named, row), (Status::NotLeader, leader_site, None));
    let (status, _, row) = nodes.session(leader, "reader").await;
    let row = row.unwrap();
    assert_eq!((status, row.subscriptions[0].filter.as_str()), (Status::Ok, "t/#"));
    assert!(row.owner.is_none() && row.disconnected_at_ms > 0);

    let client = Some(ClientKey { namespace: 0, client_id: "reader".into() });
    let admin = GatewayRef { incarnation: 7, name: "admin".into(), address: String::new() };
    let claim = || {
        let claim = Claim {
            client: client.clone(),
            gateway: Some(admin.clone()),
            clean_start: true,
            protocol_level: 5,
            ..Claim::default()
        };
        Kind::Claim(claim)
    };
    let (refused, named) = nodes.propose(other, shard, claim()).await;
    assert_eq!((refused.status(), named), (Status::NotLeader, leader_site));
    let move_on = MoveOn { client: client.clone(), epoch: row.epoch, ..MoveOn::default() };
    let (refused, _) = nodes.propose(leader, shard, Kind::MoveOn(move_on)).await;
    assert_eq!(refused.status(), Status::Invalid);
    assert!(nodes.session(leader, "reader").await.2.is_some(), "it is there still");

    let (claimed, _) = nodes.propose(leader, shard, claim()).await;
    assert_eq!(claimed.status(), Status::Ok);
    let Some(Done::Claim(claimed)) = claimed.outcome else { panic!("{claimed:?}") };
    let row = claimed.row.unwrap();
    let disconnect = Disconnect {
        client,
        epoch: row.epoch,
        instance: row.instance,
        discard_will: true,
        expiry_interval_s: Some(0),
        ..Disconnect::default()
    };
    let (ended, _) = nodes.propose(leader, shard, Kind::Disconnect(disconnect)).await;
    assert_eq!(ended.status(), Status::Ok);
    assert_eq!(nodes.session(leader, "reader").await.2, None);
    let reader = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "reader")).await;
    assert!(!reader.session_present);
}

/// Flips a bit of a message in a run of the shard.
fn damage(data: &Path, shard: u32) {
    let runs = fs::read_dir(data.join("runs")).unwrap().map(|file| file.unwrap().path());
    let prefix = format!("{shard:05}-");
    let mut runs: Vec<_> = runs
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
        .collect();
    runs.sort();
    let mut bytes = fs::read(&runs[0]).unwrap();
    let needle = format!("{:>100}", 20);
    let at = bytes.windows(100).position(|window| window == needle.as_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(&runs[0], bytes).unwrap();
}

#[tokio::test]
async fn a_roll_seals_a_generation_and_a_damaged_run_of_it_is_found_and_healed() {
    let cluster = cluster().await;
    let mut nodes = Nodes::of(&cluster).await;
    let shard = backlog(&cluster, &nodes).await;
    let leader = nodes.leader(shard).await;
    let other = (leader + 1) % nodes.all.len();
    let before = nodes.described(shard).await[leader].generations.len();
    let refused = nodes.roll(other, shard).await;
    assert_eq!(refused.status(), Status::NotLeader);
    assert_eq!(refused.leader_site, nodes.all[leader].site_id);
    let rolled = nodes.roll(leader, shard).await;
    assert_eq!((rolled.status(), rolled.generation), (Status::Ok, before as u64 + 1));
    let again = nodes.roll(leader, shard).await;
    assert_eq!(again.generation, rolled.generation, "it is empty");
    let generations = nodes.described(shard).await[leader].generations.clone();
    assert_eq!(generations.len(), before + 1);
    assert_eq!(generations[before - 1].end_position, MESSAGES as u64 + 1);

    // Each site writes its runs by itself.
    let end = |replica: &ReplicaDescription| replica.runs.last().map_or(0, |run| run.end_position);
    let written = async {
        while nodes.described(shard).await.iter().any(|one| end(one) <= MESSAGES as u64) {}
    };
    tokio::time::timeout(PATIENCE, written).await.expect("all runs are written");
    let good = nodes.verify(leader, shard).await;
    assert!(good.runs.len() > 1 && good.runs.iter().all(|run| run.problem.is_empty()));
    assert_eq!(nodes.verify(other, shard).await.runs, good.runs);

    let name = nodes.all[other].name.clone();
    damage(&cluster.data().join(&name), shard);
    let bad = nodes.verify(other, shard).await;
    assert!(bad.runs[0].problem.contains("fetched again"), "{:?}", bad.runs[0]);
    assert_ne!(bad.runs[0].file_hash, good.runs[0].file_hash);
    assert_eq!(bad.runs[1..], good.runs[1..]);
    assert_eq!(nodes.verify(leader, shard).await.runs, good.runs, "the other site's");
    cluster.await_metric(&name, "holdfast_storage_damaged_runs_total", |runs| runs >= 1.0).await;
    cluster.await_log(&[&name], "all runs fetched").await;
    assert_eq!(nodes.verify(other, shard).await.runs, good.runs, "it has healed");
}
