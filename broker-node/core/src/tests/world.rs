//! The cluster around a session, as simple as it can be: logs, the home shard's row, tails.

use std::collections::VecDeque;

use bytes::BytesMut;
use holdfast_proto::ids::{Epoch, Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Command, CommitCursor, Received, SessionRow, Status};
use holdfast_proto::topic;

pub(super) const SHARDS: usize = 3;

pub(super) fn record(topic: &str, payload: &[u8]) -> Record {
    let mut out = BytesMut::new();
    RecordDraft {
        namespace: Namespace(0),
        topic,
        client_id: "publisher",
        epoch: Epoch(1),
        qos: 2,
        retain: false,
        will: false,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload,
    }
    .encode(&mut out);
    Record::split_from(&mut out.freeze()).unwrap()
}

/// Logs and row; survives every crash of the gateway.
#[derive(Default)]
pub(super) struct World {
    pub(super) logs: [Vec<Placed>; SHARDS],
    pub(super) row: SessionRow,
    /// Payload numbers of the client's own QoS 2 messages, as stored.
    pub(super) stored: Vec<u32>,
}

impl World {
    pub(super) fn new() -> World {
        let row = SessionRow { cursor: vec![0; SHARDS], instance: 1, ..SessionRow::default() };
        World { row, ..World::default() }
    }

    pub(super) fn append(&mut self, shard: usize, topic: &str) {
        let position = Position(self.logs[shard].len() as u64 + 1);
        let payload = [&[shard as u8][..], &position.0.to_le_bytes()].concat();
        let placed = Placed { position, time_ms: 1, record: record(topic, &payload) };
        self.logs[shard].push(placed);
    }

    pub(super) fn head(&self, shard: usize) -> u64 {
        self.logs[shard].len() as u64 + 1
    }

    pub(super) fn read(
        &self,
        shard: usize,
        from: u64,
        filters: &[String],
        max: usize,
    ) -> (Vec<Placed>, u64) {
        let mut found = Vec::new();
        for placed in &self.logs[shard][from.max(1) as usize - 1..] {
            if found.len() == max {
                return (found, placed.position.0);
            }
            if filters.iter().any(|filter| topic::matches(filter, placed.record.topic())) {
                found.push(placed.clone());
            }
        }
        (found, self.head(shard))
    }

    pub(super) fn claim(&mut self) {
        self.row.epoch += 1;
    }

    /// Applies a command as the home shard does.
    pub(super) fn apply(&mut self, command: &Command) -> Status {
        let row = &mut self.row;
        match command.command.as_ref().unwrap() {
            Kind::CommitCursor(commit) => return self.commit(commit),
            Kind::Disconnect(leave) => {
                if leave.epoch != row.epoch {
                    return Status::Fenced;
                }
                if let Some(commit) = &leave.commit {
                    return self.commit(commit);
                }
            }
            Kind::Subscribe(subscribe) => {
                if subscribe.epoch != row.epoch {
                    return Status::Fenced;
                }
                for new in &subscribe.subscriptions {
                    match row.subscriptions.iter_mut().find(|known| known.filter == new.filter) {
                        Some(known) => known.options = new.options,
                        None => row.subscriptions.push(new.clone()),
                    }
                }
            }
            Kind::Unsubscribe(gone) => {
                row.subscriptions.retain(|known| !gone.filters.contains(&known.filter));
            }
            Kind::ReleaseReceived(release) => {
                if release.epoch != row.epoch {
                    return Status::Fenced;
                }
                row.received.retain(|known| !release.packet_ids.contains(&known.packet_id));
            }
            other => panic!("unexpected {other:?}"),
        }
        Status::Ok
    }

    pub(super) fn commit(&mut self, commit: &CommitCursor) -> Status {
        if commit.epoch != self.row.epoch {
            return Status::Fenced;
        }
        self.merge(commit);
        Status::Ok
    }

    pub(super) fn merge(&mut self, commit: &CommitCursor) {
        let row = &mut self.row;
        for to in &commit.cursor {
            let cursor = &mut row.cursor[to.shard as usize];
            *cursor = (*cursor).max(to.position);
        }
        row.in_flight.retain(|known| !commit.completed.contains(&known.packet_id));
        for new in &commit.in_flight {
            match row.in_flight.iter_mut().find(|known| known.packet_id == new.packet_id) {
                Some(known) => *known = new.clone(),
                None => row.in_flight.push(new.clone()),
            }
        }
    }

    /// Stores the client's own QoS 2 message, or finds that it is there. Returns whether it is new.
    pub(super) fn store(&mut self, packet_id: u16, number: u32) -> bool {
        let packet_id = u32::from(packet_id);
        if self.row.received.iter().any(|known| known.packet_id == packet_id) {
            return false;
        }
        self.row.received.push(Received { packet_id, position: 1 });
        self.stored.push(number);
        true
    }
}

/// One tail event.
pub(super) struct TailEvent {
    pub(super) shard: ShardId,
    pub(super) records: Vec<Placed>,
    pub(super) next: Position,
}

/// The gateway's tails, as one session sees them.
pub(super) struct Tails {
    pub(super) filters: Vec<String>,
    pub(super) dispatched: [u64; SHARDS],
    pub(super) behind: [bool; SHARDS],
    pub(super) is_attached: bool,
    pub(super) inbox: VecDeque<Option<TailEvent>>,
    /// Shards of `None` events in the inbox, in order.
    pub(super) fell_behind: VecDeque<ShardId>,
}

impl Tails {
    pub(super) fn new(world: &World) -> Tails {
        let dispatched = std::array::from_fn(|shard| world.head(shard));
        Tails {
            filters: Vec::new(),
            dispatched,
            behind: [false; SHARDS],
            is_attached: false,
            inbox: VecDeque::new(),
            fell_behind: VecDeque::new(),
        }
    }

    /// Dispatches up to `max` positions of a shard. `full`: the inbox is over its limit.
    pub(super) fn dispatch(&mut self, world: &World, shard: usize, max: u64, full: bool) {
        let from = self.dispatched[shard];
        let next = world.head(shard).min(from + max);
        self.dispatched[shard] = next;
        if !self.is_attached || self.behind[shard] || next == from {
            return;
        }
        let block = &world.logs[shard][from as usize - 1..next as usize - 1];
        let matching: Vec<Placed> = block
            .iter()
            .filter(|p| self.filters.iter().any(|f| topic::matches(f, p.record.topic())))
            .cloned()
            .collect();
        let id = ShardId(shard as u16);
        if matching.is_empty() {
            return;
        }
        if full {
            self.behind[shard] = true;
            self.inbox.push_back(None);
            self.fell_behind.push_back(id);
            return;
        }
        let event = TailEvent { shard: id, records: matching, next: Position(next) };
        self.inbox.push_back(Some(event));
    }
}
