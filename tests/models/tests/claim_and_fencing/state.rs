//! The processes around the shard: one client, two gateways, leaders of the shard.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_shard::Answer;

use crate::shard::Ask;

/// How a promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Broken {
    SingleOwner,
    NoEarlyCursor,
    ExactlyOnce,
    Acknowledged,
    Resumed,
    WillTwice,
}

/// What has to be seen so that the promises are kept for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Seen {
    TakeOver,
    LateWriteRefused,
    VoidEntry,
    Expired,
    WillFired,
    Repeat,
    Resumed,
    IdReused,
}

/// An entry that is decided and not applied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub(crate) entry: Option<Bytes>,
    pub(crate) asks: Vec<Ask>,
    pub(crate) answers: Vec<Kept>,
}

/// [`Answer`] with what the model needs of it, to be hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Kept {
    AtOp(usize),
    Now(Told),
}

/// What a gateway learns from an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Claimed {
        epoch: u8,
        instance: u8,
        cursor: u8,
        present: bool,
        previous: u8,
    },
    Stored,
    Repeated,
    Done,
    Fenced,
    /// Not known: ask again.
    Unavailable,
}

impl Kept {
    pub(crate) fn of(answer: &Answer) -> Kept {
        match answer {
            Answer::AtOp(op) => Kept::AtOp(*op),
            Answer::Now(outcome) => Kept::Now(Told::of(outcome)),
        }
    }
}

/// One gateway process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Gateway {
    pub(crate) up: bool,
    pub(crate) declared_dead: bool,
    /// Of its newest batch.
    pub(crate) sequence: u8,
    /// Asked and not answered, in order; sent or not.
    pub(crate) asked: Vec<Ask>,
    pub(crate) connection: Option<Connection>,
}

/// A connection as its gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Connection {
    pub(crate) number: u8,
    /// None before the claim is answered.
    pub(crate) epoch: u8,
    pub(crate) instance: u8,
    /// What the client has acknowledged here, counted from the row's cursor.
    pub(crate) acknowledged: u8,
    pub(crate) committed: u8,
}

/// The client's QoS 2 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Publish {
    Idle,
    Sent,
    /// PUBREC came.
    Received,
    /// PUBREL is sent.
    Releasing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    /// How often it has connected.
    pub(crate) connections: u8,
    /// Where, if CONNACK came or may come.
    pub(crate) gateway: Option<usize>,
    pub(crate) connected: bool,
    /// Which message it publishes, or will next.
    pub(crate) message: u8,
    pub(crate) publish: Publish,
}

/// What really happened; no process knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Truth {
    pub(crate) epoch: u8,
    pub(crate) instance: u8,
    pub(crate) cursor: u8,
    /// Per instance, what the client has acknowledged.
    pub(crate) acknowledged: BTreeMap<u8, u8>,
    pub(crate) stored: BTreeMap<u8, u8>,
    pub(crate) claims: BTreeMap<u8, u8>,
    pub(crate) wills: BTreeMap<u8, u8>,
    pub(crate) ended: BTreeSet<u8>,
    pub(crate) broken: BTreeSet<Broken>,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The applied state: number of the shard.
    pub(crate) shard: u32,
    pub(crate) ticks: u8,
    pub(crate) leader_changes: u8,
    pub(crate) crashes: u8,
    /// What the leader has not decided.
    pub(crate) queue: Vec<Ask>,
    pub(crate) flight: Option<Flight>,
    /// Decided by an earlier leader, which may write it when it leads again.
    pub(crate) late: Option<Flight>,
    pub(crate) gateways: [Gateway; 2],
    pub(crate) client: Client,
    pub(crate) truth: Truth,
}
