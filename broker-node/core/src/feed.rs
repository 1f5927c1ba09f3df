//! One shard as a durable session sees it.
//!
//! ```text
//! committed <= cursor <= next <= fetched          live_from
//!                        |  queue  |  to be read  |  backlog, live
//! ```
//! The feed is *live* once `fetched` has reached `live_from`: every matching record from there on
//! comes as a tail event. Until then pages are read; tail events are kept in the backlog, or, if that
//! is full, dropped by moving `live_from` past them, to be read later.

use std::collections::VecDeque;

use holdfast_proto::ids::Position;
use holdfast_proto::placed::Placed;

/// `live_from` of a shard whose tail events do not come.
const DETACHED: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(crate) struct Backlog {
    records: VecDeque<Placed>,
    bytes: usize,
    next: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Next position to take; everything below was delivered, is in flight or does not match.
    pub(crate) next: u64,
    /// Cursor in the home shard's row.
    pub(crate) committed: u64,
    /// Everything below is taken or in the session's queue.
    pub(crate) fetched: u64,
    live_from: u64,
    /// First QoS 0 message that is not known to be written to the socket; 0: none.
    unflushed: u64,
    /// A message of QoS 1 or 2 was sent after it.
    is_mixed: bool,
    /// Messages that were taken and wait behind a QoS 2 message whose id is not committed, and it.
    staged: u32,
    /// First QoS 0 message among them; 0: none.
    parked: u64,
    /// Records of this shard in the session's queue.
    pub(crate) queued: u32,
    /// Version of the subscriptions under which a page was asked for; 0: none is on its way.
    read_version: u32,
    attach_asked: bool,
    backlog: Option<Box<Backlog>>,
}

impl Feed {
    pub(crate) fn new(committed: u64, start: u64) -> Self {
        Feed { next: start, committed, fetched: start, ..Feed::default() }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live_from != 0 && self.fetched >= self.live_from
    }

    /// First position that a new subscription surely covers, until the tails have said it.
    pub(crate) fn newest_known(&self) -> u64 {
        if self.live_from == DETACHED { self.fetched } else { self.fetched.max(self.live_from) }
    }

    /// What may be committed: never past a QoS 0 message that waits to be sent, nor past one that is
    /// not written, unless a sent message in flight lies behind it. Whatever was sent in flight lies
    /// below: the log must not bring it again once it is acknowledged.
    pub(crate) fn cursor(&self) -> u64 {
        let sent = if self.unflushed == 0 || self.is_mixed { self.next } else { self.unflushed };
        if self.parked == 0 { sent } else { sent.min(self.parked) }
    }

    /// A message that was taken waits.
    pub(crate) fn stage(&mut self, position: u64, qos: u8) {
        self.staged += 1;
        if qos == 0 && self.parked == 0 {
            self.parked = position;
        }
    }

    /// Nothing waits; what still does is staged again.
    pub(crate) fn unstage_all(&mut self) {
        self.staged = 0;
        self.parked = 0;
    }

    /// Whether the next message has to wait for an earlier one.
    pub(crate) fn is_staged(&self) -> bool {
        self.staged > 0
    }

    /// A message of the shard was handed out to be written.
    pub(crate) fn sent(&mut self, position: u64, qos: u8) {
        if qos > 0 {
            self.is_mixed = self.unflushed != 0;
        } else if self.unflushed == 0 {
            self.unflushed = position;
        }
    }

    /// Everything is written.
    pub(crate) fn flushed(&mut self) {
        self.unflushed = 0;
        self.is_mixed = false;
    }

    /// Whether a commit now would pass over a QoS 0 message that is not written.
    pub(crate) fn is_mixed(&self) -> bool {
        self.is_mixed
    }

    /// Tail events come from this position on (or from later, if some were dropped meanwhile).
    pub(crate) fn attached(&mut self, from: u64) {
        self.attach_asked = false;
        let dropped = if self.live_from == DETACHED { 0 } else { self.live_from };
        self.live_from = from.max(dropped).max(1);
    }

    /// The tail's events stop here.
    pub(crate) fn behind(&mut self) {
        self.live_from = DETACHED;
        self.attach_asked = false;
        self.backlog = None;
    }

    /// Leaves the range to be read over: no subscription can match in it.
    pub(crate) fn skip_to_live(&mut self) {
        if self.live_from != DETACHED {
            self.advance(self.live_from);
        }
    }

    /// Leaves everything below `to` over, but nothing that comes as a tail event.
    pub(crate) fn skip_to(&mut self, to: u64) {
        if self.live_from != DETACHED {
            self.advance(to.min(self.live_from));
        }
    }

    /// Everything below `to` is seen.
    pub(crate) fn advance(&mut self, to: u64) {
        self.fetched = self.fetched.max(to);
        if self.queued == 0 {
            self.next = self.fetched;
        }
    }

    /// A record of this shard left the queue.
    pub(crate) fn took(&mut self, position: Position) {
        self.queued -= 1;
        self.next = if self.queued == 0 { self.fetched } else { position.0 + 1 };
    }

    /// A tail event that cannot be taken now. `bytes_max` bounds the backlog.
    pub(crate) fn keep(
        &mut self,
        records: impl Iterator<Item = Placed>,
        next: u64,
        bytes_max: usize,
    ) {
        if self.live_from == DETACHED {
            return;
        }
        if self.live_from == 0 || self.is_live() {
            // Not attached yet, or the queue is full: this part is read later.
            self.live_from = self.live_from.max(next);
            return;
        }
        let backlog = self.backlog.get_or_insert_default();
        for placed in records {
            backlog.bytes += placed.record.as_bytes().len();
            backlog.records.push_back(placed);
        }
        backlog.next = backlog.next.max(next);
        if backlog.bytes > bytes_max {
            self.live_from = self.live_from.max(backlog.next);
            self.backlog = None;
        }
    }

    /// The backlog, once everything before it is fetched.
    pub(crate) fn take_backlog(&mut self) -> Option<(VecDeque<Placed>, u64)> {
        if !self.is_live() {
            return None;
        }
        let backlog = self.backlog.take()?;
        Some((backlog.records, backlog.next))
    }

    /// Where the next page starts, if one is needed.
    pub(crate) fn read_from(&self) -> Option<u64> {
        let idle = self.read_version == 0 && !self.attach_asked;
        (self.live_from != 0 && !self.is_live() && idle).then_some(self.fetched.max(1))
    }

    pub(crate) fn read_asked(&mut self, version: u32) {
        self.read_version = version;
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.read_version != 0
    }

    /// The page on its way came or failed; returns the version under which it was asked for.
    pub(crate) fn read_done(&mut self) -> u32 {
        std::mem::take(&mut self.read_version)
    }

    /// The head was reached: whether the tail has to be asked for.
    pub(crate) fn wants_attach(&mut self) -> bool {
        let wants = self.live_from == DETACHED && !self.attach_asked;
        self.attach_asked |= wants;
        wants
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.live_from == DETACHED
    }
}
