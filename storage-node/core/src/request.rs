//! What goes into a shard and what comes out of it.

use std::ops::Range;

use bytes::Bytes;
use holdfast_proto::batch::Batch;
use holdfast_proto::ids::{Generation, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::outcome::Outcome as Detail;
use holdfast_proto::shard::{
    AppendOutcome, ClientKey, Command, Entry, GenerationRow, Outcome, Status,
};

/// One thing that a gateway, or the shard's own leader, asks for.
#[derive(Debug, Clone)]
pub enum Request {
    /// Store a batch of records. Its checksums were checked ([`Batch::check`]).
    Append(Batch),
    /// Change a session or a retained message.
    Command(Command),
    /// End a run.
    Cut,
    /// Seal the current generation and start the next.
    Roll {
        /// Layout of the next generation: [`crate::LAYOUT_TOPIC`].
        layout: String,
    },
    /// Drop the oldest generation, which must be this one and sealed.
    DropGeneration(Generation),
    /// Raise the shard's feature level.
    SetFeatureLevel(u32),
}

/// How a request will be answered.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "short-lived, one a request")]
pub enum Answer {
    /// At once, without an entry: it was refused, or it is a repeat and gets its old answer.
    Now(Outcome),
    /// With `Applied::outcomes` at this index, once the entry is applied.
    AtOp(usize),
}

/// What the leader made of its requests.
#[derive(Debug, Clone)]
pub struct Decision {
    /// To be proposed, once the shell has filled in its term; absent if every request is answered now.
    pub entry: Option<Entry>,
    /// One for each request, in their order.
    pub answers: Vec<Answer>,
}

/// What applying one entry did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// One for each operation of the entry.
    pub outcomes: Vec<Outcome>,
    /// Positions of the records that it stored.
    pub stored: Range<Position>,
    /// Those records, in order. A will with RETAIN among them still has to reach its retained shard.
    pub stored_records: Vec<Placed>,
    /// The run that it ended.
    pub cut: Option<CutInfo>,
    /// Generations that it dropped.
    pub dropped: Vec<GenerationRow>,
    /// Sessions that came, changed owner or subscriptions, or went.
    pub changed: Vec<ClientKey>,
    /// The entry was decided against another state: it did nothing, and all outcomes say
    /// `STATUS_UNAVAILABLE`.
    pub void: bool,
}

/// A run that every replica can write now: the records `[first, end)` of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutInfo {
    /// Position of its first record.
    pub first: Position,
    /// The position after its last record; equal to `first` if there is nothing to write.
    pub end: Position,
    /// The generation that it belongs to.
    pub generation: Generation,
    /// It is the last run of that generation.
    pub sealed: bool,
}

/// An outcome without details.
pub(crate) fn plain(status: Status) -> Outcome {
    Outcome { status: status.into(), outcome: None }
}

/// The outcome of a batch.
pub(crate) fn appended(status: Status, outcome: AppendOutcome) -> Outcome {
    Outcome { status: status.into(), outcome: Some(Detail::Append(outcome)) }
}

/// The outcome of a batch that stored nothing.
pub(crate) fn not_appended(status: Status, sequence: u64, expected: u64, time_ms: u64) -> Outcome {
    let outcome = AppendOutcome {
        sequence,
        base_position: 0,
        refused: Bytes::new(),
        repeats: Vec::new(),
        expected_sequence: expected,
        time_ms,
    };
    appended(status, outcome)
}
