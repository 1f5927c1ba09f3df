//! Our codec against an independent one, ntex-mqtt's: each reads what the other writes.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;
use holdfast_proto::ids::{Epoch, Namespace};
use holdfast_proto::record::{NEVER_EXPIRES, Record, RecordDraft};
use holdfast_session::{Delivery, Effect, Protocol};
use ntex_bytes::{BytePages, ByteString, Bytes as PeerBytes, BytesMut as PeerBuffer};
use ntex_codec::{Decoder, Encoder};
use ntex_mqtt::QoS;
use ntex_mqtt::v5::codec::{Codec, Decoded, Encoded, Publish, PublishProperties};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const ROUNDS: usize = 500;

fn random_publish(rng: &mut SmallRng, payload_size: usize) -> Publish {
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][rng.random_range(0..3)];
    let text = |rng: &mut SmallRng| ByteString::from(format!("v{}", rng.random_range(0..1000)));
    let mut properties = PublishProperties::default();
    if rng.random() {
        properties.content_type = Some(text(rng));
        properties.is_utf8_payload = true;
    }
    if rng.random() {
        properties.response_topic = Some(text(rng));
        properties.correlation_data = Some(PeerBytes::copy_from_slice(&[1, 2, 3]));
    }
    for _ in 0..rng.random_range(0..3) {
        properties.user_properties.push((text(rng), text(rng)));
    }
    if rng.random() {
        properties.message_expiry_interval = NonZeroU32::new(rng.random_range(1..100_000));
    }
    let identified = qos != QoS::AtMostOnce;
    Publish {
        dup: identified && rng.random(),
        retain: rng.random(),
        qos,
        packet_id: identified.then(|| NonZeroU16::new(rng.random_range(1..=u16::MAX)).unwrap()),
        topic: ByteString::from(format!("t/{}", rng.random_range(0..100))),
        payload_size: payload_size as u32,
        properties,
    }
}

/// Publish by the peer's encoder, read by ours; delivered by our encoder, read by the peer's.
#[test]
fn publishes_agree_with_an_independent_codec() {
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..ROUNDS {
        let mut payload = vec![0; rng.random_range(0..300)];
        // Text, because the payload format may say so.
        payload.fill_with(|| rng.random_range(b'a'..=b'z'));
        let sent = random_publish(&mut rng, payload.len());
        let mut pages = BytePages::default();
        let body = Some(PeerBytes::copy_from_slice(&payload));
        Codec::new().encodev(Encoded::Publish(sent.clone(), body), &mut pages).unwrap();
        let wire = pages.freeze();

        let frame = next_frame(&wire, 10_000).unwrap().unwrap();
        let Packet::Publish(read) = decode(frame, Protocol::V5).unwrap() else { panic!() };
        assert_eq!(read.topic, &sent.topic[..]);
        assert_eq!(read.payload, payload);
        assert_eq!((read.qos, read.retain), (u8::from(sent.qos), sent.retain));
        assert_eq!(read.packet_id, sent.packet_id.map_or(0, NonZeroU16::get));
        let expiry = sent.properties.message_expiry_interval.map_or(NEVER_EXPIRES, NonZeroU32::get);
        assert_eq!(read.expiry_interval_s, expiry);

        let mut record = BytesMut::new();
        RecordDraft {
            namespace: Namespace(0),
            topic: read.topic,
            client_id: "c",
            epoch: Epoch(1),
            qos: read.qos,
            retain: read.retain,
            will: false,
            packet_id: read.packet_id,
            expiry_interval_s: read.expiry_interval_s,
            properties: &read.properties,
            payload: read.payload,
        }
        .encode(&mut record);
        let delivery = Delivery {
            packet_id: read.packet_id,
            qos: read.qos,
            dup: sent.dup,
            retain: sent.retain,
            record: Record::split_checked_from(&mut record.freeze()).unwrap(),
            expiry_left_s: (expiry != NEVER_EXPIRES).then_some(expiry),
            subscription_ids: Box::new([5]),
            since_ms: 0,
        };
        let mut ours = BytesMut::new();
        assert!(encode_effect(&mut ours, &Effect::Deliver(delivery), Protocol::V5));
        let mut ours = PeerBuffer::from(&ours[..]);
        let Some(Decoded::Publish(mut back, body, _)) = Codec::new().decode(&mut ours).unwrap()
        else {
            panic!("the peer reads no publish")
        };
        assert_eq!(back.properties.subscription_ids, [NonZeroU32::new(5).unwrap()]);
        back.properties.subscription_ids.clear();
        assert_eq!(back, sent);
        assert_eq!(&body[..], &payload[..]);
    }
}
