//! What a client may not send is refused with the right code; what we write is what MQTT says.

use bytes::BytesMut;
use holdfast_proto::ids::{Epoch, Namespace};
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_session::{AckKind, Delivery, Effect, Protocol, publish_bytes};

use super::*;

fn read(bytes: &[u8], protocol: Protocol) -> Result<Option<Packet<'_>>, DecodeError> {
    match next_frame(bytes, 1000)? {
        None => Ok(None),
        Some(frame) => decode(frame, protocol).map(Some),
    }
}

fn code(bytes: &[u8]) -> u8 {
    read(bytes, Protocol::V5).unwrap_err().reason()
}

#[test]
fn reserved_flags_are_malformed() {
    // PUBREL, SUBSCRIBE, UNSUBSCRIBE need 0010; the others 0000.
    for first in [0x60, 0x80, 0xA0, 0x41, 0x52, 0x71, 0xC1, 0xE2, 0xF1, 0x11] {
        assert_eq!(code(&[first, 2, 0, 1]), 0x81, "{first:#x}");
    }
    // PUBLISH with QoS 3, or DUP at QoS 0.
    assert_eq!(code(&[0x36, 3, 0, 1, b'a']), 0x81);
    assert_eq!(code(&[0x38, 3, 0, 1, b'a']), 0x81);
    // Packets that only a server sends.
    assert_eq!(code(&[0x20, 2, 0, 0]), 0x82);
    assert_eq!(code(&[0x00, 0]), 0x82);
}

#[test]
fn lengths_are_checked() {
    assert!(read(&[], Protocol::V5).unwrap().is_none());
    assert!(read(&[0xC0], Protocol::V5).unwrap().is_none());
    assert!(read(&[0x40, 2, 0], Protocol::V5).unwrap().is_none());
    // Over-long and too large integers.
    assert_eq!(code(&[0xC0, 0x80, 0x00]), 0x81);
    assert_eq!(code(&[0xC0, 0xFF, 0xFF, 0xFF, 0xFF]), 0x81);
    // Above the limit, known before it is there.
    assert_eq!(code(&[0x30, 0xFF, 0x7F]), 0x95);
    // Cut short inside, or longer than its content.
    assert_eq!(code(&[0x40, 1, 0]), 0x81);
    assert_eq!(code(&[0x30, 3, 0, 9, b'a']), 0x81);
    assert_eq!(code(&[0xC0, 1, 0]), 0x81);
    assert_eq!(code(&[0x82, 2, 0, 1]), 0x81);
}

#[test]
fn packet_id_0_is_malformed() {
    assert_eq!(code(&[0x40, 2, 0, 0]), 0x81);
    assert_eq!(code(&[0x32, 6, 0, 1, b'a', 0, 0, 0]), 0x81);
    assert_eq!(code(&[0x82, 7, 0, 0, 0, 0, 1, b'a', 0]), 0x81);
}

#[test]
fn text_is_utf8_without_null() {
    assert_eq!(code(&[0x30, 4, 0, 1, 0xFF, 0]), 0x81);
    // A surrogate.
    assert_eq!(code(&[0x30, 6, 0, 3, 0xED, 0xA0, 0x80, 0]), 0x81);
    assert_eq!(code(&[0x30, 4, 0, 1, 0, 0]), 0x81);
}

#[test]
fn publish_properties_are_checked() {
    // Alias 0, one that comes twice, an unknown one, a wildcard in the response topic.
    assert_eq!(code(&[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0]), 0x94);
    assert_eq!(code(&[0x30, 8, 0, 1, b'a', 4, 0x01, 0, 0x01, 0]), 0x82);
    assert_eq!(code(&[0x30, 6, 0, 1, b'a', 2, 0x7F, 0]), 0x81);
    assert_eq!(code(&[0x30, 8, 0, 1, b'a', 4, 0x08, 0, 1, b'#']), 0x90);
    // Text that is none.
    assert_eq!(code(&[0x30, 7, 0, 1, b'a', 2, 0x01, 1, 0xFF]), 0x99);
}

#[test]
fn what_travels_of_the_properties_is_kept_in_order() {
    // Format, expiry 7, user a=b, alias 3, user c=d.
    let properties = [
        &[0x01, 1][..],
        &[0x02, 0, 0, 0, 7],
        &[0x26, 0, 1, b'a', 0, 1, b'b'],
        &[0x23, 0, 3],
        &[0x26, 0, 1, b'c', 0, 1, b'd'],
    ]
    .concat();
    let mut packet = vec![0x30, 0, 0, 1, b't', properties.len() as u8];
    packet.extend_from_slice(&properties);
    packet.extend_from_slice(b"hi");
    packet[1] = packet.len() as u8 - 2;
    let Some(Packet::Publish(publish)) = read(&packet, Protocol::V5).unwrap() else { panic!() };
    assert_eq!((publish.expiry_interval_s, publish.topic_alias), (7, 3));
    let kept = [&properties[..2], &properties[7..14], &properties[17..]].concat();
    assert_eq!(&publish.properties[..], kept);
    assert_eq!(publish.payload, b"hi");
}

#[test]
fn subscriptions_are_checked() {
    // No filter; reserved bits; QoS 3; retain handling 3; identifier 0.
    assert_eq!(code(&[0x82, 3, 0, 1, 0]), 0x82);
    assert_eq!(code(&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0xC0]), 0x81);
    assert_eq!(code(&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x03]), 0x81);
    assert_eq!(code(&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30]), 0x82);
    assert_eq!(code(&[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b'a', 0]), 0x82);
    assert_eq!(code(&[0xA2, 3, 0, 1, 0]), 0x82);
    let v3 = read(&[0x82, 6, 0, 1, 0, 1, b'a', 0x04], Protocol::V3);
    assert_eq!(v3.unwrap_err().reason(), 0x81);
}

fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    [&[0, 4][..], b"MQTT", &[level, flags, 0, 60], rest].concat()
}

#[test]
fn connect_is_read_strictly() {
    let good = decode_connect(&connect(4, 0x02, &[0, 1, b'c'])).unwrap();
    assert_eq!((good.protocol, good.keep_alive_s, &*good.client_id), (Protocol::V3, 60, "c"));
    let v5 = [&[5, 0x11, 0, 0, 0, 9][..], &[0, 0]].concat();
    let good = decode_connect(&connect(5, 0, &v5)).unwrap();
    assert_eq!((good.session_expiry_s, good.clean_start), (Some(9), false));

    let old = [&[0, 6][..], b"MQIsdp", &[3, 2, 0, 60, 0, 0]].concat();
    assert_eq!(decode_connect(&old), Err(ConnectError::LevelTooOld));
    assert_eq!(decode_connect(&connect(3, 2, &[0, 0])), Err(ConnectError::LevelTooOld));
    assert_eq!(decode_connect(&connect(6, 2, &[0, 0])), Err(ConnectError::LevelUnknown));
    assert_eq!(decode_connect(b"\x00\x04HTTP\x04"), Err(ConnectError::NotMqtt));
    // Reserved flag, will QoS 3, will QoS or retain without a will, password without a user name.
    for flags in [0x01, 0x1C, 0x08, 0x20, 0x40] {
        let refused = decode_connect(&connect(4, flags, &[0, 0]));
        assert!(matches!(refused, Err(ConnectError::Refused(Protocol::V3, _))), "{flags:#x}");
    }
    // Cut short, bytes after the end, a will whose topic has a wildcard, receive maximum 0.
    assert!(decode_connect(&connect(4, 2, &[0, 5, b'c'])).is_err());
    assert!(decode_connect(&connect(4, 2, &[0, 0, 0])).is_err());
    assert!(decode_connect(&connect(4, 6, &[0, 0, 0, 1, b'#', 0, 0])).is_err());
    assert!(decode_connect(&connect(5, 2, &[3, 0x21, 0, 0, 0, 0])).is_err());
}

#[test]
fn a_will_keeps_its_properties() {
    let properties = [&[0x18, 0, 0, 0, 5][..], &[0x26, 0, 1, b'k', 0, 1, b'v']].concat();
    let rest = [
        &[0][..],
        &[0, 1, b'c'],
        &[properties.len() as u8],
        &properties,
        &[0, 1, b'w', 0, 2, b'h', b'i'],
    ]
    .concat();
    let will = decode_connect(&connect(5, 0x2E, &rest)).unwrap().will.unwrap();
    assert_eq!((will.delay_s, will.qos, will.retain), (5, 1, true));
    assert_eq!((&*will.topic, &will.payload[..]), ("w", &b"hi"[..]));
    assert_eq!(will.properties, properties[5..]);
}

fn delivery() -> Delivery {
    let mut out = BytesMut::new();
    RecordDraft {
        namespace: Namespace(0),
        topic: "a/b",
        client_id: "p",
        epoch: Epoch(1),
        qos: 1,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: 9,
        properties: &[0x01, 1],
        payload: b"hello",
    }
    .encode(&mut out);
    Delivery {
        packet_id: 258,
        qos: 1,
        dup: true,
        retain: false,
        record: Record::split_from(&mut out.freeze()).unwrap(),
        expiry_left_s: Some(8),
        subscription_ids: Box::new([200]),
        since_ms: 0,
    }
}

#[test]
fn publish_is_written_as_the_standard_says() {
    let delivery = delivery();
    let mut v5 = BytesMut::new();
    assert!(encode_effect(&mut v5, &Effect::Deliver(delivery.clone()), Protocol::V5));
    let expected = [
        &[0x3A, 23, 0, 3][..],
        b"a/b",
        &[1, 2],
        &[10, 0x02, 0, 0, 0, 8, 0x0B, 0xC8, 0x01, 0x01, 1],
        b"hello",
    ]
    .concat();
    assert_eq!(&v5[..], expected);
    assert_eq!(v5.len(), publish_bytes(&delivery, Protocol::V5));
    let mut v3 = BytesMut::new();
    encode_effect(&mut v3, &Effect::Deliver(delivery.clone()), Protocol::V3);
    assert_eq!(&v3[..], [&[0x3A, 12, 0, 3][..], b"a/b", &[1, 2], b"hello"].concat());
    assert_eq!(v3.len(), publish_bytes(&delivery, Protocol::V3));
}

#[test]
fn answers_are_written_as_the_standard_says() {
    let mut out = BytesMut::new();
    let ack = Effect::Ack { kind: AckKind::Pubrel, packet_id: 7, reason: 0x92 };
    encode_effect(&mut out, &ack, Protocol::V5);
    encode_effect(&mut out, &ack, Protocol::V3);
    let suback = Effect::Suback { packet_id: 7, codes: vec![1, 0x8F] };
    encode_effect(&mut out, &suback, Protocol::V5);
    encode_effect(&mut out, &suback, Protocol::V3);
    let unsuback = Effect::Unsuback { packet_id: 7, codes: vec![0x11] };
    encode_effect(&mut out, &unsuback, Protocol::V5);
    encode_effect(&mut out, &unsuback, Protocol::V3);
    let expected = [
        &[0x62, 3, 0, 7, 0x92][..],
        &[0x62, 2, 0, 7],
        &[0x90, 5, 0, 7, 0, 1, 0x8F],
        &[0x90, 4, 0, 7, 1, 0x8F],
        &[0xB0, 4, 0, 7, 0, 0x11],
        &[0xB0, 2, 0, 7],
    ]
    .concat();
    assert_eq!(&out[..], expected);
}

#[test]
fn any_bytes_are_refused_or_safe() {
    // A small generator of its own: every run sees the same bytes.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    for _ in 0..20_000 {
        let length = usize::from(next() % 40);
        let mut bytes: Vec<u8> = (0..length).map(|_| next()).collect();
        if length > 2 {
            bytes[1] = (length - 2) as u8;
        }
        for protocol in [Protocol::V3, Protocol::V5] {
            let _ = read(&bytes, protocol);
        }
        let _ = decode_connect(&bytes);
    }
}
