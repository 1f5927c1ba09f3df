//! The real session core of one durable client, as a value: the inputs that made it, told apart by what
//! they made of it.

use std::hash::{Hash, Hasher};

use bytes::BytesMut;
use holdfast_models::Interned;
use holdfast_proto::ids::{Epoch, Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{NEVER_EXPIRES, Record, RecordDraft};
use holdfast_proto::shard::{SessionRow, Subscription};
use holdfast_session::{Effect, Limits, Opening, Page, Protocol, Session, Turn};

const SHARD: ShardId = ShardId(0);
const NOW_MS: u64 = 1;
/// The token of the attachment, which is the first thing that the session asks.
const ATTACH_TOKEN: u64 = 1;

/// A queue of one record, and a backlog of one record.
const LIMITS: Limits = Limits {
    receive_maximum: 9,
    topic_alias_maximum: 0,
    window: 9,
    client_packet_bytes_max: 9_999,
    buffer_bytes_max: 400,
    buffer_records_max: 1,
    page_bytes: 10,
    operations_max: 1,
    commit_interval_ms: u64::MAX / 2,
    retry_ms: 0,
};

/// What comes through the inbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// A block of `from..next`; of `matched..next` the records match.
    Tail {
        matched: u8,
        next: u8,
    },
    Behind,
    Attached {
        from: u8,
    },
    Page {
        from: u8,
        next: u8,
        head: bool,
    },
    PageFailed,
}

/// What the connection gives to its session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Input {
    /// Everything from the inbox, the heads if it is the timer, and whether the socket has room.
    Wake {
        events: Vec<Event>,
        head: Option<u8>,
        has_room: bool,
    },
    ShardAttached {
        from: u8,
        has_room: bool,
    },
}

/// What the session made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Worked {
    pub(crate) session: u32,
    /// Positions of what it sent.
    pub(crate) delivered: Vec<u8>,
    /// It reads from here.
    pub(crate) read: Option<u8>,
    pub(crate) attaches_shard: bool,
    pub(crate) is_idle: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reached {
    way: Vec<Input>,
    text: String,
}

impl PartialEq for Reached {
    fn eq(&self, other: &Reached) -> bool {
        self.text == other.text
    }
}

impl Eq for Reached {}

impl Hash for Reached {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.text.hash(hasher);
    }
}

/// All sessions that were reached.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Interned<Reached, Input, Worked>);

impl Sessions {
    /// A session that has just claimed its row.
    pub(crate) fn opened(&self) -> u32 {
        self.0.id(Reached::default())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn work(&self, session: u32, input: Input) -> Worked {
        let worked = self.0.step(session, input, |reached, input| {
            let mut session = open();
            for input in &reached.way {
                run(&mut session, input);
            }
            let mut worked = run(&mut session, input);
            let way = reached.way.iter().chain([input]).cloned().collect();
            worked.session = self.0.id(Reached { way, text: format!("{session:?}") });
            worked
        });
        Worked::clone(&worked)
    }
}

fn open() -> Session {
    let row = SessionRow {
        epoch: 1,
        instance: 1,
        expiry_interval_s: 60,
        protocol_level: 5,
        cursor: vec![1],
        subscriptions: vec![Subscription { filter: "t".to_owned(), ..Subscription::default() }],
        ..SessionRow::default()
    };
    let opening = Opening {
        namespace: Namespace(0),
        client_id: "c",
        protocol: Protocol::V5,
        durable: true,
        shards: 1,
        limits: LIMITS,
        row: &row,
    };
    Session::open(&opening, &mut Vec::new())
}

fn placed(position: u8) -> Placed {
    let mut out = BytesMut::new();
    RecordDraft {
        namespace: Namespace(0),
        topic: "t",
        client_id: "p",
        epoch: Epoch(1),
        qos: 1,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: NEVER_EXPIRES,
        properties: &[],
        payload: &[position],
    }
    .encode(&mut out);
    let record = Record::split_from(&mut out.freeze()).expect("it was encoded here");
    Placed { position: Position(position.into()), time_ms: 1, record }
}

fn at(position: u8) -> Position {
    Position(position.into())
}

fn run(session: &mut Session, input: &Input) -> Worked {
    let mut effects = Vec::new();
    let has_room = match input {
        Input::Wake { events, head, has_room } => {
            for event in events {
                give(session, event, &mut effects);
            }
            if let Some(head) = head {
                session.heads(&[at(*head)]);
            }
            *has_room
        }
        Input::ShardAttached { from, has_room } => {
            session.shard_attached(SHARD, at(*from));
            *has_room
        }
    };
    let room_bytes = if has_room { 1_000_000 } else { 0 };
    let mut turn = Turn { now_ms: NOW_MS, shard_time_ms: &|_| NOW_MS, room_bytes };
    session.turn(&mut turn, &mut effects).expect("nothing closes it");
    let mut worked = Worked::default();
    for effect in effects {
        match effect {
            Effect::Deliver(delivery) => worked.delivered.push(delivery.record.payload()[0]),
            Effect::Read { items, .. } => worked.read = items.first().map(|item| item.from as u8),
            Effect::AttachShard(_) => worked.attaches_shard = true,
            other => panic!("nobody asked for {other:?}"),
        }
    }
    if has_room {
        session.flushed();
    }
    worked.is_idle = session.is_idle();
    worked
}

fn give(session: &mut Session, event: &Event, effects: &mut Vec<Effect>) {
    match *event {
        Event::Tail { matched, next } => {
            let records: Vec<Placed> = (matched..next).map(placed).collect();
            let indexes: Vec<u32> = (0..records.len() as u32).collect();
            session.tail(SHARD, &records, &indexes, at(next));
        }
        Event::Behind => session.behind(SHARD),
        Event::Attached { from } => {
            session.attached(ATTACH_TOKEN, Some(&[at(from)]), NOW_MS, effects);
        }
        Event::Page { from, next, head } => {
            let records: Vec<Placed> = (from..next).map(placed).collect();
            let records = &records;
            let page = Page { shard: SHARD, records, next: at(next), head, dropped_below: at(0) };
            session.page(&page, NOW_MS, effects);
        }
        Event::PageFailed => session.page_failed(SHARD, NOW_MS),
    }
}
