//! A shard over a map, a leader's loop around it, and builders of requests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use holdfast_proto::batch::{Batch, BatchBuilder};
use holdfast_proto::ids::{Epoch, Incarnation, Namespace, ShardId};
use holdfast_proto::record::{NEVER_EXPIRES, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::outcome::Outcome as Detail;
use holdfast_proto::shard::{
    AppendOutcome, Claim, ClaimOutcome, ClientKey, Command, CommitCursor, Disconnect, Entry,
    GatewayRef, Outcome, ShardPosition, Status, Will,
};
use holdfast_shard::{Answer, Applied, Base, BaseError, Frozen, Request, Shard};
use prost::Message;

/// Where tests' time starts.
pub(crate) const START_MS: u64 = 1_000_000;
pub(crate) const NEVER: u32 = u32::MAX;

#[derive(Debug, Clone, Default)]
pub(crate) struct MapBase(pub(crate) Arc<Mutex<BTreeMap<Vec<u8>, Bytes>>>);

impl MapBase {
    pub(crate) fn write(&self, frozen: &Frozen) {
        let mut map = self.0.lock().unwrap();
        for (key, value) in &frozen.pairs {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
    }
}

impl Base for MapBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError> {
        let map = self.0.lock().unwrap();
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let below = map.range::<[u8], _>((from, Bound::Unbounded));
        for (key, value) in below.take_while(|(key, _)| key.starts_with(prefix)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

pub(crate) fn open(base: &MapBase) -> Shard<MapBase> {
    Shard::open(base.clone(), ShardId(0), 1).unwrap()
}

/// One leader and its shard.
pub(crate) struct Leader {
    pub(crate) base: MapBase,
    pub(crate) shard: Shard<MapBase>,
    pub(crate) now_ms: u64,
    pub(crate) index: u64,
    pub(crate) sequence: u64,
    pub(crate) applied: Option<Applied>,
}

impl Leader {
    pub(crate) fn new() -> Leader {
        let base = MapBase::default();
        let shard = open(&base);
        Leader { base, shard, now_ms: START_MS, index: 0, sequence: 0, applied: None }
    }

    /// Decides, sends the entry through its encoding, applies, and answers every request.
    pub(crate) fn run(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let decision = self.shard.decide(requests, self.now_ms).unwrap();
        assert_eq!(decision.answers.len(), requests.len());
        self.applied = decision.entry.map(|entry| {
            let entry = Entry::decode(Bytes::from(entry.encode_to_vec())).unwrap();
            self.index += 1;
            let applied = self.shard.apply(self.index, entry).unwrap();
            assert!(!applied.void);
            applied
        });
        let answers = decision.answers.into_iter();
        answers.map(|answer| self.resolve(answer)).collect()
    }

    fn resolve(&self, answer: Answer) -> Outcome {
        match answer {
            Answer::Now(outcome) => outcome,
            Answer::AtOp(op) => self.applied.as_ref().unwrap().outcomes[op].clone(),
        }
    }

    pub(crate) fn one(&mut self, request: Request) -> Outcome {
        self.run(&[request]).remove(0)
    }

    pub(crate) fn command(&mut self, kind: Kind) -> Status {
        self.one(command(kind)).status()
    }

    pub(crate) fn claim(&mut self, claim: Claim) -> ClaimOutcome {
        claimed(self.one(command(Kind::Claim(claim))))
    }

    /// Appends records as the next batch of gateway 1.
    pub(crate) fn append(&mut self, records: &[Publish<'_>]) -> AppendOutcome {
        self.sequence += 1;
        let outcome = self.one(append(1, self.sequence, records));
        assert_eq!(outcome.status(), Status::Ok);
        appended(outcome)
    }

    /// Payloads of the records that the last entry stored.
    pub(crate) fn stored(&self) -> Vec<String> {
        let applied = self.applied.iter().flat_map(|applied| &applied.stored_records);
        applied.map(|placed| String::from_utf8(placed.record.payload().to_vec()).unwrap()).collect()
    }

    /// Checkpoints and opens again.
    pub(crate) fn restart(&mut self) {
        let frozen = self.shard.freeze();
        self.base.write(&frozen);
        self.shard.thaw();
        self.shard = open(&self.base);
    }

    pub(crate) fn pass_s(&mut self, seconds: u64) {
        self.now_ms += seconds * 1000;
    }

    /// Runs everything that is due.
    pub(crate) fn run_due(&mut self) -> Vec<String> {
        let due = self.shard.due(self.now_ms, 100).unwrap();
        let requests: Vec<Request> = due.into_iter().map(Request::Command).collect();
        for outcome in self.run(&requests) {
            assert_eq!(outcome.status(), Status::Ok);
        }
        self.stored()
    }
}

pub(crate) fn claimed(outcome: Outcome) -> ClaimOutcome {
    assert_eq!(outcome.status(), Status::Ok);
    match outcome.outcome {
        Some(Detail::Claim(claim)) => claim,
        other => panic!("not a claim's outcome: {other:?}"),
    }
}

pub(crate) fn appended(outcome: Outcome) -> AppendOutcome {
    match outcome.outcome {
        Some(Detail::Append(append)) => append,
        other => panic!("not a batch's outcome: {other:?}"),
    }
}

pub(crate) fn command(kind: Kind) -> Request {
    Request::Command(Command { command: Some(kind) })
}

pub(crate) fn client(id: &str) -> ClientKey {
    ClientKey { namespace: 0, client_id: id.to_owned() }
}

pub(crate) fn gateway(incarnation: u64) -> GatewayRef {
    GatewayRef { incarnation, name: format!("g{incarnation}"), address: "h:1".into() }
}

/// A durable, resuming claim by a gateway.
pub(crate) fn claim(id: &str, incarnation: u64) -> Claim {
    Claim {
        client: Some(client(id)),
        gateway: Some(gateway(incarnation)),
        clean_start: false,
        expiry_interval_s: 3600,
        will: None,
        protocol_level: 5,
        attempt: 0,
    }
}

/// A message as a test writes it: topic, client, epoch, packet id, payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publish<'a>(
    pub(crate) &'a str,
    pub(crate) &'a str,
    pub(crate) u64,
    pub(crate) u16,
    pub(crate) &'a str,
);

pub(crate) fn draft<'a>(message: &Publish<'a>) -> RecordDraft<'a> {
    let Publish(topic, client_id, epoch, packet_id, payload) = *message;
    RecordDraft {
        namespace: Namespace(0),
        topic,
        client_id,
        epoch: Epoch(epoch),
        qos: if packet_id == 0 { 1 } else { 2 },
        retain: false,
        will: false,
        packet_id,
        expiry_interval_s: NEVER_EXPIRES,
        properties: &[],
        payload: payload.as_bytes(),
    }
}

pub(crate) fn batch(
    incarnation: u64,
    sequence: u64,
    deadline_ms: u64,
    messages: &[Publish<'_>],
) -> Batch {
    let mut builder = BatchBuilder::default();
    for message in messages {
        builder.push(&draft(message));
    }
    builder.seal(Incarnation(incarnation), sequence, deadline_ms)
}

pub(crate) fn append(incarnation: u64, sequence: u64, messages: &[Publish<'_>]) -> Request {
    Request::Append(batch(incarnation, sequence, u64::MAX, messages))
}

pub(crate) fn encoded(draft: &RecordDraft<'_>) -> Bytes {
    let mut out = BytesMut::new();
    draft.encode(&mut out);
    out.freeze()
}

pub(crate) fn will(payload: &str, delay_s: u32) -> Option<Will> {
    let message = Publish("will", "", 0, 0, payload);
    let record = encoded(&RecordDraft { will: true, ..draft(&message) });
    Some(Will { record, delay_s })
}

pub(crate) fn disconnect(id: &str, epoch: u64, instance: u64) -> Disconnect {
    Disconnect {
        client: Some(client(id)),
        epoch,
        instance,
        discard_will: false,
        expiry_interval_s: None,
        commit: None,
        will_grace_s: 0,
    }
}

pub(crate) fn commit(id: &str, epoch: u64, instance: u64, cursor: u64) -> CommitCursor {
    CommitCursor {
        client: Some(client(id)),
        epoch,
        instance,
        cursor: vec![ShardPosition { shard: 0, position: cursor }],
        in_flight: Vec::new(),
        completed: Vec::new(),
    }
}
