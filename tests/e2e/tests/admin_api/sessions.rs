//! Sessions as an operator sees and ends them.

use holdfast_e2e::client::{Client, Lost};
use holdfast_e2e::cluster::Cluster;
use holdfast_e2e::packet::{Connect, Packet, Property, Publish, Version};
use serde_json::{Value, json};

use crate::rest::{Rest, encoded};

/// A client id that a path has to carry with care.
const ODD: &str = "büro/1 %2F";

async fn leave_behind(cluster: &Cluster, name: &str, filters: &[(&str, u8)]) {
    let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, name)).await;
    client.subscribe(filters).await;
    client.disconnect().await;
}

async fn publish(cluster: &Cluster, topic: &str, payloads: std::ops::Range<u32>) {
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(2), &connect).await;
    for number in payloads {
        assert_eq!(publisher.publish(topic, number.to_string(), 1).await, 0);
    }
    publisher.disconnect().await;
}

fn payloads(backlog: &Value) -> Vec<String> {
    let messages = backlog["messages"].as_array().unwrap().iter();
    messages.map(|message| message["payload"].as_str().unwrap().to_owned()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn lag_and_backlog(cluster: &Cluster, rest: &Rest) {
    let path = format!("/sessions/{}", encoded(ODD));
    leave_behind(cluster, ODD, &[("t/#", 1)]).await;
    let before = rest.until(&path, |session| session["connected"] == false).await;
    assert_eq!(
        (&before["lag"]["messages"], &before["lag"]["oldest_ms"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(before["subscriptions"][0]["filter"], "t/#");
    publish(cluster, "t/a", 0..7).await;
    publish(cluster, "other", 0..3).await;

    let shown = rest.get(&path).await.ok();
    assert_eq!((&shown["lag"]["unread"], &shown["lag"]["in_flight"]), (&json!(7), &json!(0)));
    let oldest_ms = shown["lag"]["oldest_ms"].as_u64().unwrap();
    let later = rest.until(&path, |session| session["lag"]["oldest_age_s"] != 0).await;
    assert_eq!(later["lag"]["oldest_ms"], oldest_ms, "the oldest ages");

    let whole = rest.get(&format!("{path}/backlog")).await.ok();
    assert_eq!(payloads(&whole), numbers(0..7));
    assert_eq!(whole["messages"][0]["time_ms"], oldest_ms);
    assert_eq!(whole["messages"][0]["publisher"], "publisher");
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = rest.get(&format!("{path}/backlog?limit=3{after}")).await.ok();
        paged.extend(payloads(&page));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(paged, numbers(0..7));

    // Whoever has sessions with a lag finds this one, on the first page, whoever else comes before it.
    leave_behind(cluster, "a", &[("nothing", 1)]).await;
    let first = rest.get("/sessions?lag_min=7&limit=1").await.ok();
    assert_eq!(first["sessions"][0]["client_id"], ODD, "{first}");
    rest.delete("/sessions/a").await;
    let behind = rest.get("/sessions?lag_min=7").await.ok();
    let behind = behind["sessions"].as_array().unwrap();
    assert_eq!(behind.len(), 1, "{behind:?}");
    assert_eq!(behind[0]["client_id"], ODD);
    assert_eq!(rest.get("/sessions?lag_min=8").await.ok()["sessions"], json!([]));
}

/// Nothing was consumed by looking: the client gets all, and what it has not acknowledged is in flight.
async fn nothing_was_consumed(cluster: &Cluster, rest: &Rest) {
    let path = format!("/sessions/{}", encoded(ODD));
    let mut client = Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, ODD)).await;
    let mut taken = Vec::new();
    for _ in 0..7 {
        taken.push(client.next_publish().await);
    }
    let got: Vec<_> =
        taken.iter().map(|one| String::from_utf8_lossy(&one.payload).into_owned()).collect();
    assert_eq!(got, numbers(0..7));
    let held = rest.until(&path, |session| session["lag"]["in_flight"] == 7).await;
    assert_eq!((&held["connected"], &held["gateway"]), (&json!(true), &json!("gateway-2")));
    assert_eq!((&held["lag"]["unread"], &held["lag"]["messages"]), (&json!(0), &json!(7)));
    assert!(held["lag"]["oldest_ms"].is_u64(), "{held}");
    let backlog = rest.get(&format!("{path}/backlog")).await.ok();
    assert_eq!(payloads(&backlog), numbers(0..7));
    assert_eq!(backlog["messages"][0]["packet_id"], taken[0].id);
    for publish in &taken {
        client.acknowledge(publish).await;
    }
    rest.until(&path, |session| session["lag"]["messages"] == 0).await;
    client.disconnect().await;
    rest.until(&path, |session| session["connected"] == false).await;
}

async fn a_kicked_client_comes_back(cluster: &Cluster, rest: &Rest) {
    let path = format!("/sessions/{}", encoded(ODD));
    assert_eq!(rest.post(&format!("{path}/kick")).await.problem(), "not-connected");
    assert_eq!(rest.post("/sessions/nobody/kick").await.problem(), "unknown-session");
    let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, ODD)).await;
    assert_eq!(rest.post(&format!("{path}/kick")).await.status, 204);
    let told =
        client.wait_for("DISCONNECT", |packet| matches!(packet, Packet::Disconnect { .. })).await;
    assert!(matches!(told, Ok(Packet::Disconnect { code: 0x98, .. })), "{told:?}");
    let again = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, ODD)).await;
    assert!(again.session_present, "only the connection has ended");
    again.disconnect().await;
}

async fn a_deleted_session_is_gone(cluster: &Cluster, rest: &Rest) {
    publish(cluster, "t/a", 7..9).await;
    let path = format!("/sessions/{}", encoded(ODD));
    assert_eq!(rest.delete("/sessions/nobody").await.problem(), "unknown-session");
    let mut client = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, ODD)).await;
    client.next_publish().await;
    assert_eq!(rest.delete(&path).await.status, 204);
    let ended = loop {
        if let Err(lost) = client.receive().await {
            break lost;
        }
    };
    assert!(matches!(ended, Lost::Closed(_)), "{ended:?}");
    assert_eq!(rest.get(&path).await.problem(), "unknown-session");
    assert_eq!(rest.delete(&path).await.problem(), "unknown-session");
    rest.until("/sessions?prefix=b", |page| page["sessions"] == json!([])).await;
    let anew = Client::connect(&cluster.mqtt(2), &Connect::durable(Version::V5, ODD)).await;
    assert!(!anew.session_present);
    anew.disconnect().await;
}

async fn clients_and_subscriptions(cluster: &Cluster, rest: &Rest) {
    let names: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let mut clients = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let connect = match at % 2 {
            0 => Connect::durable(Version::V5, name),
            _ => Connect::regular(Version::V3, name),
        };
        let mut client = Client::connect(&cluster.mqtt(1 + at / 2 % 2), &connect).await;
        client.subscribe(&[("c/+", 1), (&format!("own/{name}"), 0)]).await;
        clients.push(client);
    }
    let listed = |page: &Value, of: &str| -> Vec<String> {
        let all = page[of].as_array().unwrap().iter();
        all.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = rest.get(&format!("/clients?prefix=c&limit=4{after}")).await.ok();
        assert_eq!(page["unanswered"], json!([]));
        found.extend(listed(&page, "clients"));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, names);
    let first = rest.get("/clients?gateway=gateway-1").await.ok();
    assert_eq!(listed(&first, "clients"), ["c0", "c1", "c4", "c5"]);
    assert_eq!(first["clients"][0]["protocol_level"], 5);
    assert_eq!(
        (&first["clients"][0]["durable"], &first["clients"][1]["durable"]),
        (&json!(true), &json!(false))
    );

    // The registry learns of subscriptions a moment later.
    rest.until("/subscriptions?prefix=c&filter=c/%2B", |page| {
        listed(page, "subscriptions") == names
    })
    .await;
    let own =
        rest.until("/subscriptions?topic=own/c3", |page| page["subscriptions"] != json!([])).await;
    assert_eq!(listed(&own, "subscriptions"), ["c3"]);
    assert_eq!(own["subscriptions"][0]["durable"], false);
    let (mut found, mut after) = (0, String::new());
    loop {
        let page = rest.get(&format!("/subscriptions?prefix=c&limit=4{after}")).await.ok();
        found += page["subscriptions"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, 12);
    for client in clients {
        client.disconnect().await;
    }
    rest.until("/sessions?connected=true&prefix=c", |page| page["sessions"] == json!([])).await;
}

async fn no_local_and_expired(cluster: &Cluster, rest: &Rest) {
    let mut own = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "own")).await;
    // Bit 2: nothing of its own.
    own.subscribe(&[("n/#", 0b101)]).await;
    assert_eq!(own.publish("n/mine", "mine", 1).await, 0);
    own.disconnect().await;
    let connect = Connect::durable(Version::V5, "publisher");
    let mut publisher = Client::connect(&cluster.mqtt(1), &connect).await;
    let brief =
        Publish { properties: vec![Property::u32(0x02, 1)], ..Publish::new("n/brief", "brief", 1) };
    assert_eq!(publisher.publish_message(brief).await, 0);
    publisher.disconnect().await;
    let expired = |page: &Value| page["messages"][0]["expired"] == true;
    let page = rest.until("/sessions/own/backlog", expired).await;
    assert_eq!(payloads(&page), ["brief"]);
}

#[tokio::test]
async fn sessions_are_seen_and_ended() {
    let cluster = Cluster::start().await;
    let rest = Rest::of(&cluster, "meta-1");
    lag_and_backlog(&cluster, &rest).await;
    nothing_was_consumed(&cluster, &rest).await;
    a_kicked_client_comes_back(&cluster, &rest).await;
    a_deleted_session_is_gone(&cluster, &rest).await;
    clients_and_subscriptions(&cluster, &rest).await;
    no_local_and_expired(&cluster, &rest).await;
}
