//! Format 1 as files: what is stored today must be readable for ever, byte by byte.
//!
//! `HOLDFAST_WRITE_GOLDEN=1` writes the files anew; do that only for a new format version, under a new
//! name.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use bytes::BytesMut;
use holdfast_proto::batch::{Batch, BatchBuilder};
use holdfast_proto::ids::{Epoch, Incarnation, Namespace, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::RecordDraft;

fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("HOLDFAST_WRITE_GOLDEN").is_some() {
        fs::write(&path, encoded).unwrap();
    }
    fs::read(path).unwrap()
}

fn drafts() -> [RecordDraft<'static>; 2] {
    let plain = RecordDraft {
        namespace: Namespace(0),
        topic: "t/1",
        client_id: "emqx_c",
        epoch: Epoch(7),
        qos: 1,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload: b"hello",
    };
    let full = RecordDraft {
        namespace: Namespace(3),
        topic: "a/\u{e4}",
        qos: 2,
        retain: true,
        will: true,
        packet_id: 0x1234,
        expiry_interval_s: 60,
        properties: b"\x01\x01",
        payload: b"",
        ..plain
    };
    [plain, full]
}

fn batch() -> Batch {
    let mut builder = BatchBuilder::default();
    for draft in drafts() {
        builder.push(&draft);
    }
    builder.seal(Incarnation(0x0102_0304_0506_0708), 9, 1_700_000_000_000)
}

#[test]
fn a_batch_of_format_1() {
    let made = batch();
    let stored = golden("batch-1.bin", made.as_bytes());
    assert_eq!(stored, made.as_bytes()[..]);
    let read = Batch::check(stored.into()).unwrap();
    assert_eq!(read.header(), made.header());
    let records: Vec<_> = read.records().collect();
    assert_eq!(records[0].topic(), "t/1");
    assert_eq!(&records[0].payload()[..], b"hello");
    assert_eq!(records[1].topic(), "a/\u{e4}");
    assert!(records[1].is_will() && records[1].retain());
    assert_eq!(records[1].packet_id(), 0x1234);
}

#[test]
fn placed_records_of_format_1() {
    let mut block = BytesMut::new();
    for (n, record) in batch().records().enumerate() {
        Placed::encode(&mut block, Position(n as u64 + 40), 1_700_000_000_000, &record);
    }
    let stored = golden("placed-1.bin", &block);
    assert_eq!(stored, block[..]);
    let read = Placed::decode_all(stored.into()).unwrap();
    assert_eq!(read[1].position, Position(41));
    assert_eq!(read[0].time_ms, 1_700_000_000_000);
}
