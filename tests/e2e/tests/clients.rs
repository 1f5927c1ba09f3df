//! What a gateway tells of its clients, and how it ends their connections when it is told to.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Publish, Version, Will};
use holdfast_proto::gateway::gateway_client::GatewayClient;
use holdfast_proto::gateway::{ConnectedClient, KickRequest, ListClientsReply, ListClientsRequest};
use holdfast_proto::ids::{Namespace, home_shard};
use holdfast_proto::meta::meta_client::MetaClient;
use holdfast_proto::meta::{DescribeClusterRequest, Topology};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Claim, ClientKey, Command, GatewayRef, Status, Subscription};
use holdfast_proto::storage::ProposeCommandRequest;
use holdfast_proto::storage::storage_client::StorageClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const RECEIVED: &str = "holdfast_gateway_messages_received_total";
const SENT: &str = "holdfast_gateway_messages_sent_total";
const SUBSCRIPTIONS: &str = "holdfast_gateway_subscriptions";
const IN_FLIGHT: &str = "holdfast_gateway_in_flight";
const CLOSED: &str = "holdfast_gateway_connections_closed_total";

/// A cluster, and how to talk to its processes as they do to each other.
struct Admin {
    cluster: Cluster,
    topology: Topology,
}

impl Admin {
    async fn with(gateways: u16) -> Admin {
        let cluster = Cluster::with(Shape { gateways, storage: 1, ..Shape::default() }).await;
        let mut meta = MetaClient::new(channel(&cluster, "meta-1").await);
        let topology = meta.describe(DescribeClusterRequest {}).await.unwrap().into_inner();
        Admin { cluster, topology }
    }

    fn cluster_id(&self) -> String {
        self.topology.cluster_id.clone()
    }

    async fn gateway(&self, gateway: usize) -> GatewayClient<Channel> {
        GatewayClient::new(channel(&self.cluster, &format!("gateway-{gateway}")).await)
    }

    /// Clients of a gateway with this prefix, after one.
    async fn list(&self, gateway: usize, prefix: &str, after: Option<&str>) -> ListClientsReply {
        let request = ListClientsRequest {
            cluster_id: self.cluster_id(),
            after: after.map(key),
            client_id_prefix: prefix.to_owned(),
            limit: 2,
            with_subscriptions: true,
        };
        self.gateway(gateway).await.list_clients(request).await.unwrap().into_inner()
    }

    /// The only client with this id.
    async fn client(&self, gateway: usize, client_id: &str) -> ConnectedClient {
        let mut listed = self.list(gateway, client_id, None).await;
        assert_eq!(ids(&listed), [client_id]);
        listed.clients.remove(0)
    }

    /// Whether the client was found.
    async fn kick(&self, gateway: usize, client_id: &str, epoch: u64) -> bool {
        let request =
            KickRequest { cluster_id: self.cluster_id(), client: Some(key(client_id)), epoch };
        self.gateway(gateway).await.kick(request).await.unwrap().into_inner().found
    }

    /// Claims a session for nobody, as if it were to be deleted, and tells no gateway.
    async fn claim_away(&self, client_id: &str) {
        let shards = u16::try_from(self.topology.shards).unwrap();
        let home = home_shard(Namespace(0), client_id, shards);
        let claim = Claim {
            client: Some(key(client_id)),
            gateway: Some(GatewayRef {
                incarnation: 1,
                name: "admin".to_owned(),
                address: String::new(),
            }),
            clean_start: true,
            ..Claim::default()
        };
        let request = ProposeCommandRequest {
            cluster_id: self.cluster_id(),
            shard: u32::from(home.0),
            command: Some(Command { command: Some(Kind::Claim(claim)) }),
        };
        let mut storage = StorageClient::new(channel(&self.cluster, "storage-1").await);
        let done = storage.propose_command(request).await.unwrap().into_inner();
        assert_eq!(done.outcome.unwrap().status(), Status::Ok);
    }
}

async fn channel(cluster: &Cluster, name: &str) -> Channel {
    let process = cluster.processes().iter().find(|process| process.name == name).unwrap();
    Endpoint::from_shared(format!("http://{}", process.grpc)).unwrap().connect().await.unwrap()
}

fn key(client_id: &str) -> ClientKey {
    ClientKey { namespace: 0, client_id: client_id.to_owned() }
}

fn ids(reply: &ListClientsReply) -> Vec<String> {
    reply.clients.iter().map(|client| client.client.clone().unwrap().client_id).collect()
}

#[tokio::test]
async fn clients_of_each_gateway_are_listed_in_order_with_what_they_do() {
    let admin = Admin::with(2).await;
    let (one, two) = (admin.cluster.mqtt(1), admin.cluster.mqtt(2));
    let connect = Connect { keep_alive_s: 70, ..Connect::durable(Version::V5, "a-1") };
    let mut reader = Client::connect(&one, &connect).await;
    let mut writer = Client::connect(&one, &Connect::regular(Version::V3, "a-2")).await;
    let _other = Client::connect(&one, &Connect::durable(Version::V3, "b-1")).await;
    let _elsewhere = Client::connect(&two, &Connect::regular(Version::V5, "a-3")).await;
    reader.subscribe(&[("s/+", 1), ("t", 2)]).await;
    for text in ["first", "second", "third"] {
        writer.publish("s/1", text, 1).await;
    }
    reader.collect(2).await;
    reader.next_publish().await;
    // The second is acknowledged for the gateway, too.
    reader.ping().await.unwrap();

    let first = admin.list(1, "", None).await;
    assert_eq!((ids(&first), first.more), (vec!["a-1".to_owned(), "a-2".to_owned()], true));
    let second = admin.list(1, "", Some("a-2")).await;
    assert_eq!((ids(&second), second.more), (vec!["b-1".to_owned()], false));
    assert_eq!(ids(&admin.list(1, "a-", None).await), ["a-1", "a-2"]);
    assert_eq!(ids(&admin.list(1, "a-", Some("a-1")).await), ["a-2"]);
    assert_eq!(ids(&admin.list(2, "", None).await), ["a-3"]);

    let [a1, a2] = &first.clients[..] else { panic!("two") };
    assert_eq!((a1.protocol_level, a1.keep_alive_s, a1.expiry_interval_s), (5, 70, 3600));
    assert_eq!((a1.received, a1.sent, a1.in_flight, a1.subscription_count), (0, 3, 1, 2));
    let subscription = |filter: &str, options| Subscription {
        filter: filter.to_owned(),
        options,
        ..Subscription::default()
    };
    assert_eq!(a1.subscriptions, [subscription("s/+", 1), subscription("t", 2)]);
    assert_eq!((a2.protocol_level, a2.keep_alive_s, a2.expiry_interval_s), (4, 0, 0));
    assert_eq!((a2.received, a2.sent, a2.in_flight, a2.subscription_count), (3, 0, 0, 0));
    for client in &first.clients {
        assert!(client.remote.starts_with("127.0.0.1:"), "{}", client.remote);
        assert!(client.epoch > 0 && client.connected_at_ms > 0, "{client:?}");
    }
    for (metric, count) in [(RECEIVED, 3.0), (SENT, 3.0), (SUBSCRIPTIONS, 2.0), (IN_FLIGHT, 1.0)] {
        admin.cluster.await_metric("gateway-1", metric, |value| value == count).await;
    }

    reader.disconnect().await;
    assert_eq!(ids(&admin.list(1, "a-1", None).await), Vec::<String>::new());
    for metric in [SUBSCRIPTIONS, IN_FLIGHT] {
        admin.cluster.await_metric("gateway-1", metric, |value| value == 0.0).await;
    }
}

#[tokio::test]
async fn a_kicked_client_is_told_its_will_is_published_and_its_session_stays() {
    let admin = Admin::with(1).await;
    let address = admin.cluster.mqtt(1);
    let watcher = Connect::durable(Version::V5, "watcher");
    let mut watcher = Client::connect(&address, &watcher).await;
    watcher.subscribe(&[("wills/#", 1)]).await;
    let with_will = |connect: Connect| {
        let topic = format!("wills/{}", connect.client_id);
        let payload = connect.client_id.clone().into_bytes();
        let will = Will { topic, payload, qos: 1, retain: false, delay_s: 0 };
        Connect { will: Some(will), ..connect }
    };
    for (connect, told) in [
        (Connect::durable(Version::V5, "five"), Some(0x98)),
        (Connect::durable(Version::V3, "three"), None),
        (Connect::regular(Version::V5, "regular"), Some(0x98)),
    ] {
        let connect = with_will(connect);
        let id = connect.client_id.as_str();
        let mut client = Client::connect(&address, &connect).await;
        client.subscribe(&[(&format!("for/{id}"), 1)]).await;
        watcher.publish(&format!("for/{id}"), "unacknowledged", 1).await;
        client.next_publish().await;
        let epoch = admin.client(1, id).await.epoch;
        assert!(!admin.kick(1, id, epoch + 1).await, "{id}: of another epoch");
        client.ping().await.unwrap();
        let asked_epoch = if told.is_some() { epoch } else { 0 };
        assert!(admin.kick(1, id, asked_epoch).await, "{id}");
        assert_eq!(client.ended().await, told, "{id}");
        assert_eq!(watcher.collect(1).await[0].text(), id);
        let mut again = Client::connect(&address, &connect).await;
        assert_eq!(again.session_present, id != "regular", "{id}");
        if again.session_present {
            let repeated = again.collect(1).await.remove(0);
            assert_eq!((repeated.text(), repeated.dup), ("unacknowledged".to_owned(), true));
        }
        again.disconnect().await;
        assert!(!admin.kick(1, id, 0).await, "{id}: has left");
    }
    let closed = admin.cluster.metrics("gateway-1").await[CLOSED];
    assert_eq!(closed, 3.0);
}

#[tokio::test]
async fn a_client_whose_session_was_claimed_by_nobody_it_knows_ends_at_its_next_commit() {
    let admin = Admin::with(1).await;
    let address = admin.cluster.mqtt(1);
    let mut reader = Client::connect(&address, &Connect::durable(Version::V5, "reader")).await;
    let mut writer = Client::connect(&address, &Connect::durable(Version::V5, "writer")).await;
    reader.subscribe(&[("t", 1)]).await;
    writer.publish("t", "before", 1).await;
    assert_eq!(reader.collect(1).await[0].text(), "before");
    admin.claim_away("reader").await;
    writer.publish("t", "after", 1).await;
    assert_eq!(reader.ended().await, Some(0x8e));
    // Its message goes to the log, because its session is durable.
    admin.claim_away("writer").await;
    let publish = Publish { id: 99, ..Publish::new("t", "x", 2) };
    writer.send(&publish.encode(Version::V5)).await.unwrap();
    assert_eq!(writer.ended().await, Some(0x8e));
}

#[tokio::test]
async fn requests_of_another_cluster_are_refused() {
    let admin = Admin::with(1).await;
    let mut gateway = admin.gateway(1).await;
    let list = ListClientsRequest { cluster_id: "another".to_owned(), ..Default::default() };
    let kick = KickRequest { cluster_id: "another".to_owned(), ..Default::default() };
    for error in
        [gateway.list_clients(list).await.unwrap_err(), gateway.kick(kick).await.unwrap_err()]
    {
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains("another"), "{error}");
    }
}

#[tokio::test]
async fn gateways_and_clients_reach_each_other_by_ipv6() {
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        eprintln!("this machine has no IPv6: nothing is tested");
        return;
    }
    let mut admin = Admin::with(2).await;
    let ipv6 = |address: String| address.replace("127.0.0.1", "[::1]");
    for name in ["gateway-1", "gateway-2"] {
        admin.cluster.edit_config(name, |text| {
            let line = |line: &str| match line.split(' ').next() {
                Some("grpc_listen" | "mqtt_listen") => ipv6(line.to_owned()),
                _ => line.to_owned(),
            };
            text.lines().map(line).collect::<Vec<_>>().join("\n")
        });
        admin.cluster.restart(name).await;
    }
    let (one, two) = (ipv6(admin.cluster.mqtt(1)), ipv6(admin.cluster.mqtt(2)));
    let mut reader = Client::connect(&one, &Connect::regular(Version::V5, "reader")).await;
    reader.subscribe(&[("t", 1)]).await;
    let mut writer = Client::connect(&two, &Connect::regular(Version::V5, "writer")).await;
    // The first may come before the gateways have found each other again.
    let seen = async { reader.collect(1).await };
    tokio::pin!(seen);
    loop {
        tokio::select! {
            seen = &mut seen => break assert_eq!(seen[0].text(), "over there"),
            _ = writer.publish("t", "over there", 1) => {}
        }
    }
    let grpc = admin.cluster.processes().iter().find(|process| process.name == "gateway-1");
    let endpoint = format!("http://{}", ipv6(grpc.unwrap().grpc.clone()));
    let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
    let request = ListClientsRequest { cluster_id: admin.cluster_id(), ..Default::default() };
    let listed = GatewayClient::new(channel).list_clients(request).await.unwrap().into_inner();
    assert_eq!(ids(&listed), ["reader"]);
    assert!(listed.clients[0].remote.starts_with("[::1]:"), "{}", listed.clients[0].remote);
}
