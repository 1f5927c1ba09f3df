//! Deciding: what the leader makes of requests, against the applied state and what earlier requests of
//! the same entry will have changed. One entry is in flight at a time, so that is all there is.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use holdfast_proto::batch::{Batch, BatchBuilder, HEADER_BYTES, set_bit};
use holdfast_proto::ids::Incarnation;
use holdfast_proto::record::Record;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::op::Op as OpKind;
use holdfast_proto::shard::{
    AppendOp, Command, Cut, DropGeneration, Entry, Op, Roll, SessionRow, SetFeatureLevel, Status,
};

use crate::apply::write_publisher;
use crate::base::Base;
use crate::error::ShardError;
use crate::keys;
use crate::request::{Answer, Decision, Request, appended, not_appended, plain};
use crate::session;
use crate::shard::{LAYOUT_TOPIC, Shard};

impl<B: Base> Shard<B> {
    /// Turns requests into the next entry. Only for the leader, after it has applied all earlier
    /// entries; times are `now_ms`, or the shard's if that is later.
    ///
    /// Answers that come at once rest on the applied state: give them out only while leadership is
    /// certain.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn decide(&self, requests: &[Request], now_ms: u64) -> Result<Decision, ShardError> {
        let mut draft = Draft {
            shard: self,
            time_ms: now_ms.max(self.row.time_ms),
            last_epoch: self.row.last_epoch,
            ops: Vec::with_capacity(requests.len()),
            producers: HashMap::new(),
            sessions: HashMap::new(),
            received: HashMap::new(),
        };
        let mut answers = Vec::with_capacity(requests.len());
        let mut ending = Ending { cuts: Vec::new(), roll: None };
        for (at, request) in requests.iter().enumerate() {
            answers.push(match request {
                Request::Append(batch) => draft.append(batch)?,
                Request::Command(command) => draft.command(command)?,
                Request::Cut => ending.cut(at),
                Request::Roll { layout } => ending.roll(at, layout),
                Request::DropGeneration(generation) if self.can_drop(*generation) => {
                    let drop = DropGeneration { generation: generation.0 };
                    draft.op(OpKind::DropGeneration(drop))
                }
                Request::DropGeneration(_) => Answer::Now(plain(Status::Invalid)),
                Request::SetFeatureLevel(level) => {
                    draft.op(OpKind::SetFeatureLevel(SetFeatureLevel { level: *level }))
                }
            });
        }
        if !ending.cuts.is_empty() {
            let answer = draft.op(ending.op(self.generations.current().0 + 1));
            for at in ending.cuts {
                answers[at] = answer.clone();
            }
        }
        let Draft { ops, time_ms, .. } = draft;
        let base_position = self.row.next_position;
        let entry = (!ops.is_empty()).then_some(Entry { base_position, time_ms, ops, term: 0 });
        Ok(Decision { entry, answers })
    }
}

/// How the entry ends: a cut stands after everything that stores records, so that a checkpoint at it
/// has no records above it.
struct Ending {
    /// Requests that it answers.
    cuts: Vec<usize>,
    roll: Option<String>,
}

impl Ending {
    fn cut(&mut self, at: usize) -> Answer {
        self.cuts.push(at);
        // Replaced when the operation's index is known.
        Answer::AtOp(0)
    }

    fn roll(&mut self, at: usize, layout: &str) -> Answer {
        if layout != LAYOUT_TOPIC {
            return Answer::Now(plain(Status::Invalid));
        }
        self.roll = Some(layout.to_owned());
        self.cut(at)
    }

    fn op(&self, generation: u64) -> OpKind {
        match &self.roll {
            Some(layout) => OpKind::Roll(Roll { generation, layout: layout.clone() }),
            None => OpKind::Cut(Cut {}),
        }
    }
}

/// The entry so far and what it will have changed of what decisions depend on.
struct Draft<'a, B: Base> {
    shard: &'a Shard<B>,
    time_ms: u64,
    last_epoch: u64,
    ops: Vec<Op>,
    /// Batches of each producer in this entry: the first one's sequence and their operations.
    producers: HashMap<Incarnation, (u64, Vec<usize>)>,
    /// Rows that a command of this entry changes in their epoch, instance or received ids.
    sessions: HashMap<Vec<u8>, Option<SessionRow>>,
    /// Packet ids that came (true) or were released (false) in this entry, per session.
    received: HashMap<Vec<u8>, HashMap<u16, bool>>,
}

/// The publisher of consecutive records.
#[derive(Default)]
struct Publisher {
    key: Vec<u8>,
    epoch: Option<u64>,
}

impl<B: Base> Draft<'_, B> {
    fn op(&mut self, op: OpKind) -> Answer {
        self.ops.push(Op { op: Some(op) });
        Answer::AtOp(self.ops.len() - 1)
    }

    fn append(&mut self, batch: &Batch) -> Result<Answer, ShardError> {
        let header = batch.header();
        let Some(records) = whole(batch).filter(|_| header.sequence != 0) else {
            return Ok(Answer::Now(plain(Status::Invalid)));
        };
        let row =
            self.shard.producers.get(&self.shard.base, &keys::producer(header.incarnation))?;
        let applied = row.as_ref().map_or(0, |row| row.last_sequence);
        let drafted = self.producers.get(&header.incarnation);
        let last = drafted.map_or(applied, |(first, ops)| first + ops.len() as u64 - 1);
        if header.sequence <= applied {
            let known = row.iter().flat_map(|row| &row.answers);
            let known = known.rev().find(|answer| answer.sequence == header.sequence);
            return Ok(Answer::Now(match known {
                Some(answer) => appended(Status::Ok, answer.clone()),
                None => not_appended(Status::Expired, header.sequence, last + 1, self.time_ms),
            }));
        }
        if let Some((first, ops)) = drafted
            && let Some(op) = ops.get((header.sequence - first) as usize)
        {
            return Ok(Answer::AtOp(*op));
        }
        if header.sequence != last + 1 {
            let gap = not_appended(Status::Gap, header.sequence, last + 1, self.time_ms);
            return Ok(Answer::Now(gap));
        }
        let op = self.append_op(batch, &records)?;
        let (_, ops) = self
            .producers
            .entry(header.incarnation)
            .or_insert_with(|| (header.sequence, Vec::new()));
        ops.push(self.ops.len());
        Ok(self.op(OpKind::Append(op)))
    }

    /// The batch with its refused records marked; of one that came too late only the header, which
    /// takes its place in the sequence.
    fn append_op(&mut self, batch: &Batch, records: &[Record]) -> Result<AppendOp, ShardError> {
        let header = batch.header();
        if header.deadline_ms < self.time_ms {
            let empty = BatchBuilder::default().seal(
                header.incarnation,
                header.sequence,
                header.deadline_ms,
            );
            return Ok(AppendOp { batch: empty.as_bytes().clone(), refused: Bytes::new() });
        }
        let mut refused = Vec::new();
        let mut publisher = Publisher::default();
        let mut before: Option<&Record> = None;
        for (index, record) in (0..).zip(records) {
            if record.epoch().0 == 0 {
                continue;
            }
            let same = before.is_some_and(|before| {
                before.client_id() == record.client_id() && before.namespace() == record.namespace()
            });
            if !same {
                write_publisher(&mut publisher.key, record);
                publisher.epoch = self.row(&publisher.key)?.map(|row| row.epoch);
                before = Some(record);
            }
            if !self.admits(&publisher, record)? {
                set_bit(&mut refused, index);
            }
        }
        Ok(AppendOp { batch: batch.as_bytes().clone(), refused: refused.into() })
    }

    /// Whether a record is stored: its epoch is the session's and its packet id is free.
    fn admits(&mut self, publisher: &Publisher, record: &Record) -> Result<bool, ShardError> {
        if publisher.epoch != Some(record.epoch().0) {
            return Ok(false);
        }
        let packet_id = record.packet_id();
        if packet_id == 0 {
            return Ok(true);
        }
        let drafted = self.received.get(&publisher.key).and_then(|ids| ids.get(&packet_id));
        let known = match drafted {
            Some(known) => *known,
            None => self
                .row(&publisher.key)?
                .is_some_and(|row| session::received(&row, packet_id).is_some()),
        };
        if !known {
            self.received.entry(publisher.key.clone()).or_default().insert(packet_id, true);
        }
        Ok(!known)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Cow<'_, SessionRow>>, ShardError> {
        match self.sessions.get(key) {
            Some(row) => Ok(row.as_ref().map(Cow::Borrowed)),
            None => self.shard.sessions.get(&self.shard.base, key),
        }
    }

    fn command(&mut self, command: &Command) -> Result<Answer, ShardError> {
        let command = &*session::at_level(command, self.shard.feature_level());
        let Some(kind) = command.command.as_ref().filter(|kind| self.shard.check.command(kind))
        else {
            return Ok(Answer::Now(plain(Status::Invalid)));
        };
        if matches!(kind, Kind::MoveOn(_)) && self.shard.feature_level() < session::MOVE_ON_LEVEL {
            return Ok(Answer::Now(plain(Status::Unavailable)));
        }
        if let Some(admission) = session::admission(kind) {
            let key = keys::session(admission.client);
            let row = self.row(&key)?;
            if row.as_ref().is_some_and(|row| row.epoch > admission.epoch) {
                // Certain, whoever leads: epochs only grow.
                return Ok(Answer::Now(plain(Status::Fenced)));
            }
            if admission.check(row.as_deref()) == Status::Ok {
                self.change_session(key, kind)?;
            }
        } else if let Kind::Claim(claim) = kind
            && let Some(client) = &claim.client
        {
            let key = keys::session(client);
            let old = self.row(&key)?.map(|row| row.into_owned());
            if !old.as_ref().is_some_and(|row| session::is_repeat(row, claim)) {
                self.last_epoch += 1;
                let (epoch, shards) = (self.last_epoch, self.shard.check.shards);
                let row = session::claim(old, claim, epoch, self.time_ms, shards).row;
                if row.instance == epoch {
                    self.received.remove(&key);
                }
                self.sessions.insert(key, Some(row));
            }
        }
        Ok(self.op(OpKind::Command(command.clone())))
    }

    /// Notes what an admitted command changes of what later decisions depend on.
    fn change_session(&mut self, key: Vec<u8>, command: &Kind) -> Result<(), ShardError> {
        match command {
            Kind::ReleaseReceived(release) => {
                let ids = self.received.entry(key).or_default();
                for packet_id in &release.packet_ids {
                    if let Ok(packet_id) = u16::try_from(*packet_id) {
                        ids.insert(packet_id, false);
                    }
                }
            }
            Kind::Disconnect(_) | Kind::Abandon(_) | Kind::Expire(_) => {
                let Some(mut row) = self.row(&key)?.map(|row| row.into_owned()) else {
                    return Ok(());
                };
                if session::is_ended(&row) {
                    return Ok(());
                }
                session::run(&mut row, command, self.time_ms);
                if session::is_ended(&row) {
                    self.received.remove(&key);
                }
                self.sessions.insert(key, Some(row));
            }
            _ => {}
        }
        Ok(())
    }
}

/// All records of a batch, if they are as many and as long as its header says.
fn whole(batch: &Batch) -> Option<Vec<Record>> {
    let records: Vec<Record> = batch.records().collect();
    let bytes: usize = records.iter().map(|record| record.as_bytes().len()).sum();
    let complete = records.len() == batch.header().count as usize
        && HEADER_BYTES + bytes == batch.as_bytes().len();
    complete.then_some(records)
}
