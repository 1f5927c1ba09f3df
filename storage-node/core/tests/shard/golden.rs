//! Format 1 of a shard's rows as a file: what is stored today must be readable for ever.
//!
//! `HOLDFAST_WRITE_GOLDEN=1` writes the file anew; do that only for a new format, under a new name.

#![allow(clippy::disallowed_methods, reason = "the core touches no file, its golden file is one")]

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use holdfast_proto::ids::Namespace;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Claim, ClientKey, SetRetained, Subscribe, Subscription};
use holdfast_shard::{FEATURE_LEVEL, LAYOUT_TOPIC, Request};

use crate::support::*;

/// Rows of every kind: a session with all it can have, a producer, a retained message, generations.
fn leader() -> Leader {
    let mut leader = Leader::new();
    leader.run(&[Request::SetFeatureLevel(FEATURE_LEVEL)]);
    let claim = Claim { attempt: 9, will: will("w", 5), ..claim("a", 1) };
    let row = leader.claim(claim).row.unwrap();
    let filter = Subscription { filter: "t/#".into(), options: 1, identifier: 3, since: vec![4] };
    let subscribe = Subscribe {
        client: Some(client("a")),
        epoch: row.epoch,
        instance: row.instance,
        subscriptions: vec![filter],
    };
    leader.command(Kind::Subscribe(subscribe));
    leader
        .append(&[Publish("t/1", "a", row.epoch, 0, "x"), Publish("t/2", "a", row.epoch, 7, "y")]);
    let retained = SetRetained {
        topic: "t/1".into(),
        record: encoded(&draft(&Publish("t/1", "a", row.epoch, 0, "x"))),
        client: Some(client("a")),
        epoch: row.epoch,
        home_position: 1,
        time_ms: leader.now_ms,
        ..SetRetained::default()
    };
    leader.command(Kind::SetRetained(retained));
    leader.command(Kind::Disconnect(disconnect("a", row.epoch, row.instance)));
    leader.run(&[Request::Roll { layout: LAYOUT_TOPIC.into() }]);
    leader
}

fn framed(part: &[u8]) -> Vec<u8> {
    [&(part.len() as u32).to_le_bytes()[..], part].concat()
}

fn parts(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk::<4>() {
        let (part, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        parts.push(part.to_vec());
        file = rest;
    }
    parts
}

#[test]
fn rows_of_format_1_are_read_and_written_the_same() {
    let mut leader = leader();
    let frozen = leader.shard.freeze();
    leader.base.write(&frozen);
    leader.shard.thaw();
    let pairs = leader.base.0.lock().unwrap().clone();
    let file: Vec<u8> =
        pairs.iter().flat_map(|(key, row)| [framed(key), framed(row)].concat()).collect();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/state-1.bin");
    if std::env::var_os("HOLDFAST_WRITE_GOLDEN").is_some() {
        fs::write(&path, &file).unwrap();
    }
    let golden = fs::read(path).unwrap();
    assert_eq!(golden, file);

    let base = MapBase::default();
    for pair in parts(&golden).chunks(2) {
        base.0.lock().unwrap().insert(pair[0].clone(), Bytes::from(pair[1].clone()));
    }
    let read = open(&base);
    let key: ClientKey = client("a");
    let row = read.session(&key).unwrap().unwrap();
    assert_eq!(Some(&row), leader.shard.session(&key).unwrap().as_ref());
    assert!(row.will.is_some() && row.received.len() == 1 && row.subscriptions.len() == 1);
    assert_eq!(read.next_position(), leader.shard.next_position());
    assert_eq!(read.generations(), leader.shard.generations());
    assert_eq!(read.generations().len(), 2);
    assert_eq!(read.feature_level(), FEATURE_LEVEL);
    assert_eq!(read.retained(Namespace(0), &["#".into()], 9).unwrap().len(), 1);
}
