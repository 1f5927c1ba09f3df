//! The real shard of one client, as a value: after each entry what it would checkpoint is its state, and
//! the next entry finds it opened anew from that.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use holdfast_models::Interned;
use holdfast_proto::batch::BatchBuilder;
use holdfast_proto::ids::{Epoch, Incarnation, Namespace, ShardId};
use holdfast_proto::record::{NEVER_EXPIRES, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Abandon, Claim, ClientKey, Command, CommitCursor, Disconnect, Entry, Expire, FireWill,
    GatewayRef, Outcome, ReleaseReceived, SessionRow, ShardPosition, Will,
};
use holdfast_shard::{Answer, Base, BaseError, Request, Shard};
use prost::Message;

/// The packet id under which the client publishes everything.
pub(crate) const PACKET_ID: u16 = 7;
/// Seconds that a session outlives its connection, and that a will waits.
const EXPIRY_S: u32 = 10;
const WILL_DELAY_S: u32 = 5;
/// What one tick of the model's clock is: a will is due after one, a session expires after two.
const TICK_MS: u64 = 6_000;

/// What is asked of the shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Ask {
    Claim { gateway: u8, clean: bool, connection: u8 },
    Append { gateway: u8, sequence: u8, epoch: u8, message: u8 },
    Commit { epoch: u8, instance: u8, cursor: u8 },
    Release { epoch: u8 },
    Disconnect { epoch: u8, instance: u8, cursor: u8 },
    Abandon { epoch: u8 },
    Expire { epoch: u8, instance: u8 },
    FireWill { epoch: u8, instance: u8 },
}

type Pairs = BTreeMap<Vec<u8>, Bytes>;

struct Map(Pairs);

impl Base for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let pairs = self.0.range::<[u8], _>((from, Bound::Unbounded));
        for (key, value) in pairs.take_while(|(key, _)| key.starts_with(prefix)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

/// What the leader made of what it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    /// Encoded, without a term; absent if everything is answered at once.
    pub(crate) entry: Option<Bytes>,
    pub(crate) answers: Vec<Answer>,
}

/// What an entry did.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// The shard after it.
    pub(crate) shard: u32,
    pub(crate) outcomes: Vec<Outcome>,
    /// Messages that it stored.
    pub(crate) messages: Vec<u8>,
    /// Connections whose will it stored.
    pub(crate) wills: Vec<u8>,
    pub(crate) row: Option<SessionRow>,
}

/// What a shard is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Input {
    Decide(Vec<Ask>, u8),
    Apply(Bytes),
    /// What the leader asks by itself: sessions of these dead gateways, what is due.
    Own(Vec<u8>, u8),
}

#[derive(Debug)]
enum Output {
    Decided(Decided),
    Applied(Box<Applied>),
    Own(Vec<Ask>),
}

/// All shards that were reached.
#[derive(Debug, Default)]
pub(crate) struct Shards(Interned<Pairs, Input, Output>);

impl Shards {
    /// The shard of an empty log.
    pub(crate) fn first(&self) -> u32 {
        self.0.id(Pairs::new())
    }

    /// How many shards differ.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn decide(&self, shard: u32, asks: &[Ask], ticks: u8) -> Decided {
        let output = self.0.step(shard, Input::Decide(asks.to_vec(), ticks), |pairs, _| {
            let requests: Vec<Request> = asks.iter().map(request).collect();
            let decision = open(pairs).decide(&requests, now_ms(ticks)).expect("a map is read");
            let entry = decision.entry.map(|entry| Bytes::from(entry.encode_to_vec()));
            Output::Decided(Decided { entry, answers: decision.answers })
        });
        match &*output {
            Output::Decided(decided) => decided.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn apply(&self, shard: u32, entry: &Bytes) -> Applied {
        let output = self.0.step(shard, Input::Apply(entry.clone()), |pairs, _| {
            let mut shard = open(pairs);
            let entry = Entry::decode(entry.clone()).expect("it was encoded here");
            let applied = shard.apply(1, entry).expect("a map is read");
            let row = shard.session(&client()).expect("a map is read");
            let mut pairs = pairs.clone();
            for (key, value) in shard.freeze().pairs {
                match value {
                    Some(value) => pairs.insert(key, value),
                    None => pairs.remove(&key),
                };
            }
            let (mut messages, mut wills) = (Vec::new(), Vec::new());
            for placed in &applied.stored_records {
                let to = if placed.record.is_will() { &mut wills } else { &mut messages };
                to.extend_from_slice(&placed.record.payload());
            }
            let (shard, outcomes) = (self.0.id(pairs), applied.outcomes);
            Output::Applied(Box::new(Applied { shard, outcomes, messages, wills, row }))
        });
        match &*output {
            Output::Applied(applied) => Applied::clone(applied),
            other => panic!("{other:?}"),
        }
    }

    /// What the leader asks by itself for the sessions of dead gateways and for what is due.
    pub(crate) fn own(&self, shard: u32, dead: &[u8], ticks: u8) -> Vec<Ask> {
        let output = self.0.step(shard, Input::Own(dead.to_vec(), ticks), |pairs, _| {
            let shard = &mut open(pairs);
            let mut commands = shard.due(now_ms(ticks), 9).expect("a map is read");
            for gateway in dead {
                let incarnation = Incarnation(u64::from(*gateway));
                commands.extend(shard.owned_by(incarnation, 9).expect("a map is read"));
            }
            Output::Own(commands.into_iter().filter_map(own_ask).collect())
        });
        match &*output {
            Output::Own(asks) => asks.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn now_ms(ticks: u8) -> u64 {
    1_000_000 + u64::from(ticks) * TICK_MS
}

fn open(pairs: &Pairs) -> Shard<Map> {
    Shard::open(Map(pairs.clone()), ShardId(0), 1).expect("a map is read")
}

fn client() -> ClientKey {
    ClientKey { namespace: 0, client_id: "c".to_owned() }
}

fn own_ask(command: Command) -> Option<Ask> {
    Some(match command.command? {
        Kind::Abandon(abandon) => Ask::Abandon { epoch: abandon.epoch as u8 },
        Kind::Expire(Expire { epoch, instance, .. }) => {
            Ask::Expire { epoch: epoch as u8, instance: instance as u8 }
        }
        Kind::FireWill(FireWill { epoch, instance, .. }) => {
            Ask::FireWill { epoch: epoch as u8, instance: instance as u8 }
        }
        _ => return None,
    })
}

fn draft(epoch: u8, message: &[u8], will: bool) -> RecordDraft<'_> {
    RecordDraft {
        namespace: Namespace(0),
        topic: "t",
        client_id: "c",
        epoch: Epoch(u64::from(epoch)),
        qos: if will { 1 } else { 2 },
        retain: false,
        will,
        packet_id: if will { 0 } else { PACKET_ID },
        expiry_interval_s: NEVER_EXPIRES,
        properties: &[],
        payload: message,
    }
}

fn commit(epoch: u8, instance: u8, cursor: u8) -> CommitCursor {
    CommitCursor {
        client: Some(client()),
        epoch: epoch.into(),
        instance: instance.into(),
        cursor: vec![ShardPosition { shard: 0, position: cursor.into() }],
        ..CommitCursor::default()
    }
}

fn request(ask: &Ask) -> Request {
    let client = Some(client());
    let kind = match *ask {
        Ask::Append { gateway, sequence, epoch, message } => {
            let mut batch = BatchBuilder::default();
            batch.push(&draft(epoch, &[message], false));
            let incarnation = Incarnation(gateway.into());
            return Request::Append(batch.seal(incarnation, sequence.into(), u64::MAX));
        }
        Ask::Claim { gateway, clean, connection } => {
            let mut record = BytesMut::new();
            draft(0, &[connection], true).encode(&mut record);
            Kind::Claim(Claim {
                client,
                gateway: Some(GatewayRef { incarnation: gateway.into(), ..GatewayRef::default() }),
                clean_start: clean,
                expiry_interval_s: EXPIRY_S,
                will: Some(Will { record: record.freeze(), delay_s: WILL_DELAY_S }),
                protocol_level: 5,
                attempt: 0,
            })
        }
        Ask::Commit { epoch, instance, cursor } => {
            Kind::CommitCursor(commit(epoch, instance, cursor))
        }
        Ask::Release { epoch } => Kind::ReleaseReceived(ReleaseReceived {
            client,
            epoch: epoch.into(),
            packet_ids: vec![PACKET_ID.into()],
        }),
        Ask::Disconnect { epoch, instance, cursor } => Kind::Disconnect(Disconnect {
            client,
            epoch: epoch.into(),
            instance: instance.into(),
            discard_will: true,

            commit: Some(commit(epoch, instance, cursor)),
            ..Disconnect::default()
        }),
        Ask::Abandon { epoch } => Kind::Abandon(Abandon { client, epoch: epoch.into() }),
        Ask::Expire { epoch, instance } => {
            Kind::Expire(Expire { client, epoch: epoch.into(), instance: instance.into() })
        }
        Ask::FireWill { epoch, instance } => {
            Kind::FireWill(FireWill { client, epoch: epoch.into(), instance: instance.into() })
        }
    };
    Request::Command(Command { command: Some(kind) })
}
