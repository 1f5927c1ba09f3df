//! Two processes on one etcd: one is elected, the other follows it whatever ends the first.

use std::{
    path::Path,
    process::{Child, Command},
};

use holdfast_node_kit::{grpc, meta_addresses::LEADER_METADATA};
use holdfast_proto::{
    PROTOCOL_VERSION,
    meta::{DescribeClusterRequest, Liveness, Topology, meta_client::MetaClient},
    shard::GatewayRef,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    etcd::{Cluster, free_ports},
    peers::{Gateway, LEASE_MS, Site, site_report},
};

/// A process of the real program.
pub(crate) struct Process {
    address: String,
    http: String,
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    pub(crate) fn start(directory: &Path, etcd: &Cluster, name: &str, ttl_s: u64) -> Process {
        let ports = free_ports(2);
        let (address, http) =
            (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
        let path = directory.join(format!("{name}.toml"));
        let text = format!(
            "name = \"{name}\"\nstore = \"etcd\"\ngrpc_listen = \"{address}\"\n\
             http_listen = \"{http}\"\nshards = 8\nlease_ms = {LEASE_MS}\n\
             election_ttl_s = {ttl_s}\n[etcd]\nendpoints = {:?}\nretry_ms = 3000\n",
            etcd.endpoints()
        );
        std::fs::write(&path, text).unwrap();
        let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_meta-service"))
            .arg("--config")
            .arg(&path)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process { address, http, child }
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Returns when every thread of it stands still.
    async fn pause(&self) {
        self.signal("-STOP");
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let state = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            state.rsplit(')').next().unwrap().trim_start().starts_with('T')
        };
        let tasks = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&tasks).unwrap().all(stands) {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn client(&self) -> MetaClient<Channel> {
        MetaClient::new(grpc::connect(&self.address).await.unwrap())
    }

    /// Ok: it is elected. Else what it says to who thinks that it is.
    async fn serves(&self) -> Result<(), Status> {
        self.client().await.feed_sessions(tokio_stream::empty()).await.map(drop)
    }

    pub(crate) async fn until_elected(&self) {
        while self.serves().await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until it names this one as elected.
    async fn until_it_names(&self, elected: &Process) -> Status {
        loop {
            if let Err(status) = self.serves().await
                && named(&status) == Some(&elected.address)
            {
                return status;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn describe(&self) -> Result<Topology, Status> {
        let mut client = self.client().await;
        client.describe(DescribeClusterRequest {}).await.map(tonic::Response::into_inner)
    }

    async fn is_ready(&self) -> bool {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.unwrap();
        stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text.starts_with("HTTP/1.0 200")
    }
}

fn named(status: &Status) -> Option<&str> {
    status.metadata().get(LEADER_METADATA)?.to_str().ok()
}

/// Three sites and a gateway, as they report to whoever is elected.
struct Peers {
    sites: Vec<Site>,
    gateway: Gateway,
}

impl Peers {
    async fn connect(process: &Process, cluster_id: &str) -> Peers {
        let mut sites = Vec::new();
        for site in 1..=3 {
            let mut report = site_report(site);
            cluster_id.clone_into(&mut report.cluster_id);
            sites.push(Site::open(process.client().await, report).await.unwrap());
        }
        let gateway = Gateway::open(process.client().await, 1).await.unwrap();
        Peers { sites, gateway }
    }

    /// Waits until all are known to be up, and goes on for some renewals; nobody is ever down.
    async fn go_on(&mut self) -> Topology {
        let up = |topology: &Topology| {
            topology.sites.iter().all(|site| site.liveness() == Liveness::Up)
                && topology.gateways.iter().all(|gateway| gateway.liveness() == Liveness::Up)
        };
        let mut last = self.sites[0].until(|topology| topology.placement.len() == 8).await;
        assert!(up(&last), "{last:?}");
        for renewal in 2..8 {
            self.gateway.report.send_modify(|report| report.renewal = renewal);
            let update = self.gateway.until(|update| update.renewed == renewal).await;
            if let Some(topology) = update.topology {
                assert!(up(&topology), "{topology:?}");
                last = topology;
            }
        }
        last
    }
}

async fn two(etcd: &Cluster, directory: &Path, ttl_s: u64) -> (Process, Process) {
    let first = Process::start(directory, etcd, "meta-1", ttl_s);
    first.until_elected().await;
    let second = Process::start(directory, etcd, "meta-2", ttl_s);
    second.until_it_names(&first).await;
    (first, second)
}

#[tokio::test]
async fn one_that_is_not_elected_names_the_other_and_serves_reads() {
    let (etcd, directory) = (Cluster::start(1).await, tempfile::tempdir().unwrap());
    let (first, second) = two(&etcd, directory.path(), 5).await;
    let mut peers = Peers::connect(&first, "").await;
    peers.go_on().await;
    let refused = Gateway::open(second.client().await, 2).await.err().unwrap();
    assert_eq!((refused.code(), named(&refused)), (Code::Unavailable, Some(&*first.address)));
    let refused = Site::open(second.client().await, site_report(4)).await.err().unwrap();
    assert_eq!(named(&refused), Some(&*first.address));
    // What is in the store reaches the other through its watch, a moment later.
    let ours = first.describe().await.unwrap();
    loop {
        let theirs = second.describe().await.unwrap();
        assert_eq!(theirs.cluster_id, ours.cluster_id);
        if theirs.placement == ours.placement && theirs.gateways.len() == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(first.is_ready().await && second.is_ready().await);
}

#[tokio::test]
async fn one_that_stops_on_purpose_is_followed_at_once() {
    let (etcd, directory) = (Cluster::start(1).await, tempfile::tempdir().unwrap());
    // Waiting for the lease would take longer than the test may.
    let (mut first, second) = two(&etcd, directory.path(), 60).await;
    let mut peers = Peers::connect(&first, "").await;
    let cluster_id = peers.go_on().await.cluster_id;
    first.signal("-TERM");
    let elected = tokio::time::timeout(std::time::Duration::from_secs(30), second.until_elected());
    elected.await.expect("the lease is not waited for");
    assert!(first.child.wait().unwrap().success());
    let topology = Peers::connect(&second, &cluster_id).await.go_on().await;
    assert_eq!((topology.cluster_id, topology.sites.len()), (cluster_id, 3));
}

#[tokio::test]
async fn one_that_dies_is_followed_and_nobody_is_declared_dead() {
    let (mut etcd, directory) = (Cluster::start(3).await, tempfile::tempdir().unwrap());
    let (mut first, second) = two(&etcd, directory.path(), 1).await;
    let mut peers = Peers::connect(&first, "").await;
    let cluster_id = peers.go_on().await.cluster_id;
    // With it dies the member of etcd that leads.
    let leader = etcd.leader().await;
    etcd.kill(leader);
    first.kill();
    second.until_elected().await;
    let mut peers = Peers::connect(&second, &cluster_id).await;
    peers.go_on().await;
    // A third has only to know the store.
    let third = Process::start(directory.path(), &etcd, "meta-3", 1);
    third.until_it_names(&second).await;
    // All of etcd: the elected one steps down, and one of them is elected when etcd is back.
    etcd.kill_all();
    while peers.gateway.updates.message().await.is_ok_and(|update| update.is_some()) {}
    etcd.start_all();
    let elected = loop {
        if second.serves().await.is_ok() {
            break &second;
        }
        if third.serves().await.is_ok() {
            break &third;
        }
        tokio::task::yield_now().await;
    };
    Peers::connect(elected, &cluster_id).await.go_on().await;
}

#[tokio::test]
async fn one_that_was_paused_is_fenced_and_steps_down() {
    let (etcd, directory) = (Cluster::start(1).await, tempfile::tempdir().unwrap());
    let (first, second) = two(&etcd, directory.path(), 60).await;
    let mut peers = Peers::connect(&first, "").await;
    let cluster_id = peers.go_on().await.cluster_id;
    // Asked now, it would write as soon as it runs again.
    first.pause().await;
    let gateway = GatewayRef { incarnation: 9, name: "late".to_owned(), address: "a:1".to_owned() };
    peers.gateway.report.send_modify(|report| {
        report.protocol_version = PROTOCOL_VERSION;
        report.gateway = Some(gateway);
    });
    end_election(&etcd).await;
    second.until_elected().await;
    let mut followed = Peers::connect(&second, &cluster_id).await;
    followed.go_on().await;
    first.signal("-CONT");
    first.until_it_names(&second).await;
    while peers.gateway.updates.message().await.is_ok_and(|update| update.is_some()) {}
    let topology = followed.go_on_knowing(&second).await;
    let late = |gateway: &GatewayRef| gateway.incarnation == 9;
    let gateways = topology.gateways.iter().filter_map(|gateway| gateway.gateway.as_ref());
    assert!(!gateways.into_iter().any(late), "it wrote nothing");
}

impl Peers {
    async fn go_on_knowing(&mut self, elected: &Process) -> Topology {
        for renewal in 10..14 {
            self.gateway.report.send_modify(|report| report.renewal = renewal);
            self.gateway.until(|update| update.renewed == renewal).await;
        }
        elected.describe().await.unwrap()
    }
}

/// Takes the elected one's lease away, as etcd does when it is not prolonged.
async fn end_election(etcd: &Cluster) {
    let mut client = etcd.client(0).await.unwrap();
    let election = client.get("/holdfast/election", None).await.unwrap();
    let lease = election.kvs()[0].lease();
    client.lease_revoke(lease).await.unwrap();
}
