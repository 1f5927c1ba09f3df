//! What a record costs the leader to decide and every replica to apply: run it optimised.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "it measures time"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_proto::batch::{Batch, BatchBuilder};
use holdfast_proto::ids::{Epoch, Incarnation, Namespace, ShardId};
use holdfast_proto::record::{NEVER_EXPIRES, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Claim, ClientKey, Command, Entry, GatewayRef};
use holdfast_shard::{Base, BaseError, Request, Shard};
use prost::Message;

const CLIENTS: u64 = 2000;
const BATCHES: u64 = 200;
const RECORDS: u64 = 1024;

struct Empty;

impl Base for Empty {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(None)
    }

    fn scan(
        &self,
        _: &[u8],
        _: Option<&[u8]>,
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError> {
        Ok(())
    }
}

fn claim(client: u64) -> Request {
    let claim = Claim {
        client: Some(ClientKey { namespace: 0, client_id: format!("client-{client}") }),
        gateway: Some(GatewayRef { incarnation: 1, ..GatewayRef::default() }),
        expiry_interval_s: 60,
        ..Claim::default()
    };
    Request::Command(Command { command: Some(Kind::Claim(claim)) })
}

fn batch(sequence: u64, qos: u8) -> Batch {
    let mut builder = BatchBuilder::default();
    for n in 0..RECORDS {
        let client = (sequence * RECORDS + n) % CLIENTS;
        let packet_id = if qos == 2 { (sequence % 60_000) as u16 + 1 } else { 0 };
        builder.push(&RecordDraft {
            namespace: Namespace(0),
            topic: &format!("pairs/{client}/messages"),
            client_id: &format!("client-{client}"),
            epoch: Epoch(client + 1),
            qos,
            retain: false,
            will: false,
            packet_id,
            expiry_interval_s: NEVER_EXPIRES,
            properties: &[],
            payload: &[7; 256],
        });
    }
    builder.seal(Incarnation(1), sequence, u64::MAX)
}

fn measure(qos: u8) {
    let mut shard = Shard::open(Empty, ShardId(0), 1).unwrap();
    let claims: Vec<Request> = (0..CLIENTS).map(claim).collect();
    let entry = shard.decide(&claims, 1).unwrap().entry.unwrap();
    shard.apply(1, entry).unwrap();
    let batches: Vec<Batch> = (1..=BATCHES).map(|sequence| batch(sequence, qos)).collect();
    let (mut deciding, mut applying) = (Duration::ZERO, Duration::ZERO);
    for (index, batch) in (2..).zip(batches) {
        let started = Instant::now();
        let decision = shard.decide(&[Request::Append(batch)], 1).unwrap();
        deciding += started.elapsed();
        let encoded = Bytes::from(decision.entry.unwrap().encode_to_vec());
        let started = Instant::now();
        let applied = shard.apply(index, Entry::decode(encoded).unwrap()).unwrap();
        assert_eq!(applied.stored_records.len() as u64, RECORDS);
        applying += started.elapsed();
        if index % 64 == 0 {
            shard.trim_tail(shard.next_position());
        }
    }
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / (BATCHES * RECORDS) as f64;
    println!("QoS {qos}: decide {:.2} µs, apply {:.2} µs a record", each(deciding), each(applying));
}

fn main() {
    measure(1);
    measure(2);
}
