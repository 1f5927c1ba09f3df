//! What must come out of one shard, whatever its replicas go through.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use holdfast_log::RunId;
use holdfast_proto::batch::bit;
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::outcome::Outcome as Detail;
use holdfast_proto::shard::{AppendOutcome, Outcome, Status};
use holdfast_shard::{Answer, Request};

use crate::base::{LogId, Pairs};
use crate::requests::Gateways;

/// What applying one entry gave: the same on all replicas, every time.
#[derive(Debug, PartialEq)]
pub(crate) struct Trace {
    pub(crate) outcomes: Vec<Outcome>,
    /// Position, time, record.
    pub(crate) stored: Vec<(u64, u64, Bytes)>,
    pub(crate) dropped: Vec<u64>,
    pub(crate) next_position: u64,
    /// Of a cut: all rows at it, those of runs aside.
    pub(crate) frozen: Option<Pairs>,
}

/// A proposal whose entry is in a log.
pub(crate) struct Proposal {
    pub(crate) requests: Vec<Request>,
    pub(crate) answers: Vec<Answer>,
}

/// All that is known of a shard.
#[derive(Default)]
pub(crate) struct Model {
    /// Every entry that any leader ever wrote.
    pub(crate) written: HashMap<LogId, Bytes>,
    /// Terms of the committed entries, from index 1 on.
    committed: Vec<u64>,
    traces: BTreeMap<u64, Trace>,
    pub(crate) proposals: HashMap<LogId, Proposal>,
    /// Records in the order of their positions.
    stored: Vec<(u64, Bytes)>,
    payloads: HashSet<Bytes>,
    /// Payloads that were acknowledged to their gateways, by position.
    acknowledged: BTreeMap<u64, Bytes>,
    answers: HashMap<(u64, u64), AppendOutcome>,
    runs: BTreeMap<RunId, Vec<u8>>,
    pub(crate) counts: Counts,
}

/// What a history reached.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) repeated_batches: u64,
    pub(crate) repeated_records: u64,
    pub(crate) cuts: u64,
    pub(crate) drops: u64,
}

impl Model {
    pub(crate) fn commit_index(&self) -> u64 {
        self.committed.len() as u64
    }

    pub(crate) fn stored_count(&self) -> u64 {
        self.stored.len() as u64
    }

    pub(crate) fn acknowledged_count(&self) -> usize {
        self.acknowledged.len()
    }

    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// An entry is durable on a majority.
    pub(crate) fn commit(&mut self, id: LogId) {
        assert_eq!(id.index, self.commit_index() + 1);
        self.committed.push(id.term);
    }

    /// The committed entry with this index.
    pub(crate) fn committed(&self, index: u64) -> LogId {
        LogId { term: self.committed[index as usize - 1], index }
    }

    /// A replica applied a committed entry.
    pub(crate) fn applied(&mut self, id: LogId, trace: Trace, void: bool, gateways: &mut Gateways) {
        assert_eq!(self.committed(id.index), id, "only what is committed is applied");
        if let Some(known) = self.traces.get(&id.index) {
            assert_eq!(known, &trace, "replicas differ at entry {}", id.index);
            return;
        }
        for (position, time_ms, record) in &trace.stored {
            assert_eq!(*position, self.stored_count() + 1, "positions are dense");
            let mut rest = record.clone();
            let decoded = holdfast_proto::record::Record::split_checked_from(&mut rest).unwrap();
            assert!(self.payloads.insert(decoded.payload()), "a message is stored once");
            self.stored.push((*time_ms, record.clone()));
        }
        assert_eq!(trace.next_position, self.stored_count() + 1);
        self.counts.cuts += u64::from(trace.frozen.is_some());
        self.counts.drops += trace.dropped.len() as u64;
        let proposal = self.proposals.remove(&id);
        if let Some(Proposal { requests, answers }) = proposal.filter(|_| !void) {
            for (request, answer) in requests.iter().zip(answers) {
                if let Answer::AtOp(op) = answer {
                    self.answered(request, &trace.outcomes[op], gateways);
                }
            }
        }
        self.traces.insert(id.index, trace);
    }

    /// A gateway got an answer.
    pub(crate) fn answered(
        &mut self,
        request: &Request,
        answer: &Outcome,
        gateways: &mut Gateways,
    ) {
        let Request::Append(batch) = request else { return };
        let header = batch.header();
        let Some(Detail::Append(outcome)) = &answer.outcome else {
            gateways.answered(batch, answer.status(), 0);
            return;
        };
        gateways.answered(batch, answer.status(), outcome.expected_sequence);
        if answer.status() != Status::Ok {
            return;
        }
        assert_eq!(outcome.sequence, header.sequence);
        let key = (header.incarnation.0, header.sequence);
        if let Some(known) = self.answers.get(&key).filter(|known| {
            // A producer that was forgotten starts again.
            known.time_ms == outcome.time_ms
        }) {
            assert_eq!(known, outcome, "a repeat gets its old answer");
            self.counts.repeated_batches += 1;
            return;
        }
        let mut position = outcome.base_position;
        for (index, record) in (0..).zip(batch.records()) {
            if bit(&outcome.refused, index) {
                continue;
            }
            let before = self.acknowledged.insert(position, record.payload());
            assert_eq!(before, None, "position {position} is acknowledged for two messages");
            position += 1;
        }
        self.counts.repeated_records += outcome.repeats.len() as u64;
        self.answers.insert(key, outcome.clone());
    }

    /// A replica has a run.
    pub(crate) fn run(&mut self, id: RunId, content: Vec<u8>) {
        let known = self.runs.entry(id).or_insert_with(|| content.clone());
        assert!(*known == content, "run {id} differs between replicas");
    }

    /// A replica that has these rows of positions from `first` on reads this.
    pub(crate) fn read(&self, first: u64, next: u64, read: &[Placed]) {
        let positions: Vec<u64> = read.iter().map(|placed| placed.position.0).collect();
        let expected: Vec<u64> = (first..next).collect();
        assert_eq!(positions, expected, "every record is there once, in order");
        for placed in read {
            let position = placed.position.0;
            let (time_ms, record) = &self.stored[position as usize - 1];
            assert_eq!((placed.time_ms, placed.record.as_bytes()), (*time_ms, record));
            if let Some(payload) = self.acknowledged.get(&position) {
                assert_eq!(&placed.record.payload(), payload, "what was acknowledged is kept");
            }
        }
    }
}
