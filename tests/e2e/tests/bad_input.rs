//! Bad input ends the connection that sent it, with the right code, and touches nothing else.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{self, Ack, Connect, Packet, Publish, Version, frame, put_string};

/// What a server may do about bad input.
#[derive(Debug)]
enum Wanted {
    /// End the connection; with MQTT 5 after a DISCONNECT with one of these codes.
    Ended(&'static [u8]),
    /// End the connection before it was one; a CONNACK with one of these codes may come first.
    Refused(&'static [u8]),
}

struct Case {
    name: &'static str,
    version: Version,
    /// Sent after CONNECT was accepted, unless refused.
    bytes: Vec<u8>,
    wanted: Wanted,
}

fn publish(topic: &[u8], first: u8, id: Option<u16>, version: Version) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic);
    body.extend(id.into_iter().flat_map(u16::to_be_bytes));
    body.extend((version == Version::V5).then_some(0));
    body.extend(b"x");
    frame(first, &body)
}

fn connect_with_level(level: u8) -> Vec<u8> {
    let mut body = Vec::new();
    put_string(&mut body, "MQTT");
    body.extend([level, 2, 0, 0]);
    body.extend((level >= 5).then_some(0));
    put_string(&mut body, "levelled");
    frame(0x10, &body)
}

/// Cases that exist in both versions.
fn cases(version: Version) -> Vec<Case> {
    let case = |name, bytes, wanted| Case { name, version, bytes, wanted };
    let mut empty_subscribe = 9_u16.to_be_bytes().to_vec();
    empty_subscribe.extend((version == Version::V5).then_some(0));
    let mut subscribe_flags = packet::subscribe(version, 9, &[("a", 0)]);
    subscribe_flags[0] = 0x80;
    let mut id_zero = Publish::new("bad/1", "x", 1).encode(version);
    id_zero[0] = 0x32;
    let malformed: &[u8] = &[0x81, 0x82];
    vec![
        case(
            "remaining length of five bytes",
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
            Wanted::Ended(malformed),
        ),
        case("packet type 0", frame(0, &[]), Wanted::Ended(malformed)),
        case(
            "topic longer than its packet",
            frame(0x30, &[0, 200, b'a']),
            Wanted::Ended(malformed),
        ),
        case(
            "oversized packet",
            vec![0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a'],
            Wanted::Ended(&[0x95]),
        ),
        case(
            "invalid UTF-8 in a topic",
            publish(b"bad/\xff\xfe", 0x30, None, version),
            Wanted::Ended(&[0x81, 0x82, 0x90, 0x99]),
        ),
        case(
            "wildcard in a topic",
            publish(b"bad/#", 0x30, None, version),
            Wanted::Ended(&[0x81, 0x82, 0x90]),
        ),
        case("packet id 0", id_zero, Wanted::Ended(malformed)),
        case("QoS 3", publish(b"bad/1", 0x36, Some(1), version), Wanted::Ended(malformed)),
        case("second CONNECT", Connect::regular(version, "twice").encode(), Wanted::Ended(&[0x82])),
        case("SUBSCRIBE without filters", frame(0x82, &empty_subscribe), Wanted::Ended(malformed)),
        case("SUBSCRIBE with wrong flags", subscribe_flags, Wanted::Ended(malformed)),
        case("packet for clients only", frame(0x20, &[0, 0]), Wanted::Ended(malformed)),
        case(
            "PUBLISH before CONNECT",
            publish(b"bad/1", 0x30, None, version),
            Wanted::Refused(&[0x81, 0x82]),
        ),
        case("unknown protocol level", connect_with_level(9), Wanted::Refused(&[0x01, 0x84])),
        case(
            "garbage instead of CONNECT",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Wanted::Refused(&[0x81, 0x82]),
        ),
    ]
}

/// Runs a case; tells what was wrong.
async fn run(address: &str, number: usize, case: &Case) -> Option<String> {
    let what = format!("{:?} {}", case.version, case.name);
    match &case.wanted {
        Wanted::Refused(codes) => {
            let mut client = Client::open(address, case.version).await.unwrap();
            // The server may close while we still send.
            let _ = client.send(&case.bytes).await;
            match client.receive().await {
                Ok(Packet::Connack { code, .. } | Packet::Disconnect { code })
                    if codes.contains(&code) =>
                {
                    client.ended().await;
                    None
                }
                Ok(other) => Some(format!("{what}: {other:?}")),
                Err(_) => None,
            }
        }
        Wanted::Ended(codes) => {
            let connect = Connect::regular(case.version, &format!("bad-{number}"));
            let mut client = Client::connect(address, &connect).await;
            let _ = client.send(&case.bytes).await;
            match (case.version, client.ended().await) {
                (Version::V5, Some(code)) if codes.contains(&code) => None,
                (Version::V3, None) => None,
                (_, code) => Some(format!("{what}: ended with {code:x?} instead of {codes:x?}")),
            }
        }
    }
}

#[tokio::test]
async fn bad_input_ends_its_connection_and_disturbs_nobody() {
    let cluster = Cluster::with(Shape { gateways: 1, ..Shape::default() }).await;
    let address = cluster.mqtt(1);
    let bystander = Connect::durable(Version::V5, "bystander");
    let mut bystander = Client::connect(&address, &bystander).await;
    bystander.subscribe(&[("good/#", 1)]).await;
    let pid = cluster.pid("gateway-1").await;
    let mut wrong = Vec::new();
    let all: Vec<Case> = [Version::V3, Version::V5].into_iter().flat_map(cases).collect();
    for (number, case) in all.iter().enumerate() {
        wrong.extend(run(&address, number, case).await);
        assert_eq!(bystander.publish("good/1", case.name, 1).await, 0);
        assert_eq!(bystander.collect(1).await[0].text(), case.name);
    }
    for version in [Version::V3, Version::V5] {
        let bytes = Publish::new("bad/1", vec![0; 100], 0).encode(version);
        for length in [1, 2, 3, bytes.len() - 1] {
            let mut client = Client::connect(&address, &Connect::regular(version, "cut")).await;
            client.send(&bytes[..length]).await.unwrap();
        }
    }
    assert_eq!(bystander.publish("good/1", "last", 1).await, 0);
    assert_eq!(bystander.collect(1).await[0].text(), "last");
    assert_eq!(cluster.pid("gateway-1").await, pid, "the gateway died");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn unknown_ids_and_wrong_filters_are_answered_and_the_connection_stays() {
    let cluster = Cluster::with(Shape { gateways: 1, ..Shape::default() }).await;
    let mut client =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "five")).await;
    client.send(&Ack::Pubrel.encode(77)).await.unwrap();
    assert_eq!(client.acknowledged(Ack::Pubcomp, 77).await, 0x92);
    client.send(&Ack::Puback.encode(78)).await.unwrap();
    client.send(&Ack::Pubcomp.encode(79)).await.unwrap();
    assert_eq!(client.subscribe(&[("a/#/b", 1), ("a/#", 1)]).await, [0x8f, 1]);
    assert_eq!(client.publish("a/1", "well", 2).await, 0);
    assert_eq!(client.collect(1).await[0].text(), "well");

    let mut client =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V3, "three")).await;
    client.send(&Ack::Pubrel.encode(77)).await.unwrap();
    assert_eq!(client.acknowledged(Ack::Pubcomp, 77).await, 0);
    client.ping().await.unwrap();
}
