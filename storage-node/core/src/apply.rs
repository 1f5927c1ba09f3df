//! Applying committed entries: the same on every replica, and never a second decision.

use bytes::Bytes;
use holdfast_proto::batch::{Batch, bit};
use holdfast_proto::ids::{Generation, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::op::Op as OpKind;
use holdfast_proto::shard::outcome::Outcome as Detail;
use holdfast_proto::shard::{
    AppendOp, AppendOutcome, Claim, ClientKey, Entry, GenerationRow, Op, Outcome, ProducerRow,
    Repeat, Roll, Status,
};

use crate::base::Base;
use crate::error::ShardError;
use crate::index::Facts;
use crate::keys::{self, Key};
use crate::request::{Applied, CutInfo, appended, not_appended, plain};
use crate::session;
use crate::shard::{LAYOUT_TOPIC, Shard, producer_forgotten_ms};
use crate::{FORGET_PER_ENTRY_MAX, REMEMBERED_ANSWERS};

/// What one entry has done so far.
struct Run {
    time_ms: u64,
    stored: Vec<Placed>,
    cut: Option<CutInfo>,
    dropped: Vec<GenerationRow>,
    changed: Vec<ClientKey>,
}

impl<B: Base> Shard<B> {
    /// Applies the committed entry with this Raft index.
    ///
    /// # Errors
    /// The base cannot be read or entries are out of order. The state may be half changed then: the
    /// replica must stop.
    pub fn apply(&mut self, index: u64, entry: Entry) -> Result<Applied, ShardError> {
        if index <= self.applied_index {
            return Err(ShardError::Order { index, applied: self.applied_index });
        }
        self.applied_index = index;
        let first = self.next_position();
        if entry.base_position != first.0 {
            return Ok(void(entry.ops.len(), first));
        }
        let time_ms = entry.time_ms.max(self.row.time_ms);
        self.row.time_ms = time_ms;
        self.generations.entry(time_ms);
        let mut run =
            Run { time_ms, stored: Vec::new(), cut: None, dropped: vec![], changed: vec![] };
        let mut outcomes = Vec::with_capacity(entry.ops.len());
        for op in entry.ops {
            outcomes.push(self.apply_op(op, &mut run)?);
        }
        self.forget(time_ms);
        let Run { stored, cut, dropped, changed, .. } = run;
        Ok(Applied {
            outcomes,
            stored: first..self.next_position(),
            stored_records: stored,
            cut,
            dropped,
            changed,
            void: false,
        })
    }

    fn apply_op(&mut self, op: Op, run: &mut Run) -> Result<Outcome, ShardError> {
        match op.op {
            Some(OpKind::Append(append)) => self.append(append, run),
            Some(OpKind::Command(command)) => match command.command {
                Some(command) => self.command(command, run),
                None => Ok(plain(Status::Invalid)),
            },
            Some(OpKind::Cut(_)) => {
                self.cut(run, false);
                Ok(plain(Status::Ok))
            }
            Some(OpKind::Roll(roll)) => Ok(self.roll(&roll, run)),
            Some(OpKind::DropGeneration(drop)) => {
                let dropped = self.generations.drop_oldest(Generation(drop.generation));
                let status = if dropped.is_some() { Status::Ok } else { Status::Invalid };
                run.dropped.extend(dropped);
                Ok(plain(status))
            }
            Some(OpKind::SetFeatureLevel(set)) => {
                self.row.feature_level = self.row.feature_level.max(set.level);
                Ok(plain(Status::Ok))
            }
            None => Ok(plain(Status::Invalid)),
        }
    }

    fn store_now(&mut self, record: Record, run: &mut Run) {
        let placed = Placed { position: self.next_position(), time_ms: run.time_ms, record };
        run.stored.push(placed.clone());
        self.store(placed);
    }

    fn store_will(&mut self, will: Option<Bytes>, run: &mut Run) {
        if let Some(mut will) = will
            && let Ok(record) = Record::split_from(&mut will)
        {
            self.store_now(record, run);
        }
    }

    /// Stores what the leader did not refuse.
    fn append(&mut self, op: AppendOp, run: &mut Run) -> Result<Outcome, ShardError> {
        let Ok(batch) = Batch::trust(op.batch) else { return Ok(plain(Status::Invalid)) };
        let header = batch.header();
        let key = keys::producer(header.incarnation);
        let old = self.producers.load(&self.base, &key)?;
        let (last, old_ms) = match old {
            Some(row) => (row.last_sequence, Some(producer_forgotten_ms(row))),
            None => (0, None),
        };
        if header.sequence <= last {
            // Decided twice, which the one entry in flight excludes; the first one counts.
            return Ok(plain(Status::Unavailable));
        }
        let expected = header.sequence + 1;
        let outcome = if header.deadline_ms < run.time_ms {
            Err(not_appended(Status::Expired, header.sequence, expected, run.time_ms))
        } else {
            let base_position = self.row.next_position;
            let repeats = self.append_records(&batch, &op.refused, run)?;
            Ok(AppendOutcome {
                sequence: header.sequence,
                base_position,
                // Remembered for long: it must not keep the whole entry's memory.
                refused: Bytes::copy_from_slice(&op.refused),
                repeats,
                expected_sequence: expected,
                time_ms: run.time_ms,
            })
        };
        self.produced(&key, header.sequence, outcome.as_ref().ok(), run.time_ms, old_ms);
        Ok(outcome.map_or_else(|refused| refused, |outcome| appended(Status::Ok, outcome)))
    }

    fn append_records(
        &mut self,
        batch: &Batch,
        refused: &[u8],
        run: &mut Run,
    ) -> Result<Vec<Repeat>, ShardError> {
        let mut repeats = Vec::new();
        let mut key = Vec::new();
        for (index, record) in (0..).zip(batch.records()) {
            let refused = bit(refused, index);
            if record.packet_id() != 0 && record.epoch().0 != 0 {
                write_publisher(&mut key, &record);
                let repeat = self.receive(&key, &record, refused)?;
                repeats.extend(repeat.map(|position| Repeat { index, position }));
            }
            if !refused {
                self.store_now(record, run);
            }
        }
        Ok(repeats)
    }

    /// Remembers the packet id of a record that is about to be stored; of a refused one returns where
    /// its first is, if it is a repeat.
    fn receive(
        &mut self,
        key: &[u8],
        record: &Record,
        refused: bool,
    ) -> Result<Option<u64>, ShardError> {
        let position = self.row.next_position;
        let owned =
            self.sessions.load(&self.base, key)?.filter(|row| row.epoch == record.epoch().0);
        if refused {
            return Ok(owned.and_then(|row| session::received(row, record.packet_id())));
        }
        if owned.is_some()
            && let Some(row) = self.sessions.edit(key)
        {
            session::receive(row, record.packet_id(), position);
        }
        Ok(None)
    }

    /// Remembers a producer's batch and its answer.
    fn produced(
        &mut self,
        key: &[u8],
        sequence: u64,
        answer: Option<&AppendOutcome>,
        time_ms: u64,
        old_ms: Option<u64>,
    ) {
        if old_ms.is_none() {
            self.producers.put(Key::from(key), Some(ProducerRow::default()));
        }
        let Some(row) = self.producers.edit(key) else { return };
        row.last_sequence = sequence;
        row.last_used_ms = time_ms;
        if let Some(answer) = answer {
            if row.answers.len() >= REMEMBERED_ANSWERS {
                row.answers.remove(0);
            }
            row.answers.push(answer.clone());
        }
        let new_ms = producer_forgotten_ms(row);
        self.index.forget(&Key::from(key), old_ms, Some(new_ms));
    }

    fn command(&mut self, command: Kind, run: &mut Run) -> Result<Outcome, ShardError> {
        match command {
            Kind::Claim(claim) => self.claim(&claim, run),
            Kind::SetRetained(set) => {
                self.set_retained(set)?;
                Ok(plain(Status::Ok))
            }
            command => self.change_session(&command, run),
        }
    }

    fn claim(&mut self, claim: &Claim, run: &mut Run) -> Result<Outcome, ShardError> {
        let Some(client) = &claim.client else { return Ok(plain(Status::Invalid)) };
        if claim.gateway.is_none() {
            return Ok(plain(Status::Invalid));
        }
        let key = Key::from(keys::session(client));
        let old = self.sessions.get(&self.base, &key)?.map(|row| row.into_owned());
        if let Some(row) = old.as_ref().filter(|row| session::is_repeat(row, claim)) {
            let repeated = Detail::Claim(session::repeated(row));
            return Ok(Outcome { status: Status::Ok.into(), outcome: Some(repeated) });
        }
        let before = Facts::of(old.as_ref());
        self.row.last_epoch += 1;
        let epoch = self.row.last_epoch;
        let claimed = session::claim(old, claim, epoch, run.time_ms, self.check.shards);
        let mut outcome = claimed.outcome;
        outcome.row = Some(claimed.row.clone());
        self.index.session(&key, before, Facts::of(Some(&claimed.row)));
        self.sessions.put(key, Some(claimed.row));
        self.store_will(claimed.will, run);
        run.changed.push(client.clone());
        Ok(Outcome { status: Status::Ok.into(), outcome: Some(Detail::Claim(outcome)) })
    }

    /// Runs a command on an existing session.
    fn change_session(&mut self, command: &Kind, run: &mut Run) -> Result<Outcome, ShardError> {
        let Some(admission) = session::admission(command) else {
            return Ok(plain(Status::Invalid));
        };
        let key = keys::session(admission.client);
        let status = admission.check(self.sessions.load(&self.base, &key)?);
        if status != Status::Ok {
            return Ok(plain(status));
        }
        let Some(row) = self.sessions.edit(&key) else { return Ok(plain(Status::NoSession)) };
        if matches!(command, Kind::CommitCursor(_) | Kind::ReleaseReceived(_)) {
            // The hot ones: nothing that the indexes or the registry hold.
            session::run(row, command, run.time_ms);
            return Ok(plain(Status::Ok));
        }
        let before = Facts::of(Some(row));
        let will = session::run(row, command, run.time_ms);
        let after = Facts::of(Some(row));
        if before != after {
            self.index.session(&Key::from(key), before, after);
        }
        self.store_will(will, run);
        let listed = match command {
            Kind::Subscribe(_) | Kind::Unsubscribe(_) => true,
            Kind::MoveOn(move_on) => move_on.lost > 0,
            _ => before != after,
        };
        if listed {
            run.changed.push(admission.client.clone());
        }
        Ok(plain(Status::Ok))
    }

    fn cut(&mut self, run: &mut Run, sealed: bool) {
        let end = self.next_position();
        let first = self.cut_position();
        // A cut and a roll in one entry end the same run.
        let first = run.cut.map_or(first, |cut| cut.first);
        run.cut = Some(CutInfo { first, end, generation: self.generations.current(), sealed });
        self.row.cut_position = end.0;
    }

    fn roll(&mut self, roll: &Roll, run: &mut Run) -> Outcome {
        if roll.generation != self.generations.current().0 + 1 || roll.layout != LAYOUT_TOPIC {
            return plain(Status::Invalid);
        }
        self.cut(run, true);
        self.generations.roll(&roll.layout, self.next_position(), run.time_ms);
        plain(Status::Ok)
    }

    /// Forgets rows that nobody used for long.
    fn forget(&mut self, time_ms: u64) {
        for _ in 0..FORGET_PER_ENTRY_MAX {
            let Some(key) = self.index.take_forgotten(time_ms) else { break };
            match key.first() {
                Some(&keys::SESSION) => self.sessions.put(key, None),
                Some(&keys::PRODUCER) => self.producers.put(key, None),
                _ => self.retained.put(key, None),
            }
        }
    }
}

fn void(ops: usize, next: Position) -> Applied {
    Applied {
        outcomes: vec![plain(Status::Unavailable); ops],
        stored: next..next,
        stored_records: Vec::new(),
        cut: None,
        dropped: Vec::new(),
        changed: Vec::new(),
        void: true,
    }
}

/// The session key of a record's publisher.
pub(crate) fn write_publisher(key: &mut Vec<u8>, record: &Record) {
    keys::write_named(key, keys::SESSION, record.namespace(), record.client_id());
}
