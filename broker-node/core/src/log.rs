//! The log as the session takes it: the feeds of all shards, and the records that wait to be sent.

use std::collections::VecDeque;

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::storage::ReadItem;

use crate::effect::{Counter, Effect};
use crate::feed::Feed;
use crate::limits::Limits;
use crate::subscriptions::Subscriptions;

/// Queue slots kept allocated while the queue is empty.
pub(crate) const KEPT_CAPACITY: usize = 16;

/// A page of a read.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Of this shard.
    pub shard: ShardId,
    /// Matching records, or those at the positions asked for.
    pub records: &'a [Placed],
    /// Everything below is in this or an earlier page.
    pub next: Position,
    /// `next` is the shard's head.
    pub head: bool,
    /// Positions below are no longer kept; 0: nothing is missing.
    pub dropped_below: Position,
}

/// A record of the log that waits for its turn.
#[derive(Debug)]
struct Queued {
    shard: ShardId,
    placed: Placed,
}

#[derive(Debug)]
pub(crate) struct Log {
    limits: Limits,
    pub(crate) feeds: Box<[Feed]>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    reads: usize,
    retry_ms: Option<u64>,
}

impl Log {
    pub(crate) fn new(limits: Limits, feeds: Vec<Feed>) -> Self {
        Log {
            limits,
            feeds: feeds.into(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            reads: 0,
            retry_ms: None,
        }
    }

    /// Whether nothing is queued, being read or to be read.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.reads == 0
            && self.feeds.iter().all(|feed| feed.read_from().is_none())
    }

    /// When reads that brought nothing are asked for again.
    pub(crate) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    pub(crate) fn feed(&self, shard: ShardId) -> &Feed {
        &self.feeds[usize::from(shard.0)]
    }

    pub(crate) fn feed_mut(&mut self, shard: ShardId) -> &mut Feed {
        &mut self.feeds[usize::from(shard.0)]
    }

    // ---- what comes

    pub(crate) fn tail(
        &mut self,
        shard: ShardId,
        records: &[Placed],
        indexes: &[u32],
        next: Position,
    ) {
        let full = self.is_full();
        let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) else { return };
        let matching = indexes.iter().filter_map(|index| records.get(*index as usize)).cloned();
        if !feed.is_live() || (full && next.0 > feed.fetched) {
            feed.keep(matching, next.0, self.limits.buffer_bytes_max / 8);
            return;
        }
        self.enqueue(shard, matching, next.0);
    }

    fn is_full(&self) -> bool {
        self.queue_bytes >= self.limits.buffer_bytes_max
            || self.queue.len() >= self.limits.buffer_records_max
    }

    fn enqueue(&mut self, shard: ShardId, records: impl Iterator<Item = Placed>, next: u64) {
        let feed = &mut self.feeds[usize::from(shard.0)];
        for placed in records {
            if placed.position.0 >= feed.fetched {
                feed.queued += 1;
                self.queue_bytes += placed.record.as_bytes().len();
                self.queue.push_back(Queued { shard, placed });
            }
        }
        feed.advance(next);
    }

    pub(crate) fn behind(&mut self, shard: ShardId) {
        if let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) {
            feed.behind();
        }
    }

    pub(crate) fn attached(&mut self, from: &[Position]) {
        for (feed, from) in self.feeds.iter_mut().zip(from) {
            if !feed.is_detached() {
                feed.attached(from.0);
            }
        }
    }

    pub(crate) fn shard_attached(&mut self, shard: ShardId, from: Position) {
        if let Some(feed) = self.feeds.get_mut(usize::from(shard.0)) {
            feed.attached(from.0);
        }
    }

    /// `heads`: taken before the inbox was drained. Live shards have seen everything below.
    pub(crate) fn heads(&mut self, heads: &[Position]) {
        for (feed, head) in self.feeds.iter_mut().zip(heads) {
            if feed.is_live() {
                feed.advance(head.0);
            }
        }
    }

    pub(crate) fn page(
        &mut self,
        page: &Page<'_>,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(feed) = self.feeds.get_mut(usize::from(page.shard.0)) else { return };
        if !feed.is_reading() {
            return;
        }
        self.reads -= 1;
        if feed.read_done() != subscriptions.version() {
            // It may lack records of a newer subscription: read again.
            return;
        }
        let before = feed.fetched;
        if page.dropped_below.0 > before {
            let lost = page.dropped_below.0 - before.max(1);
            out.push(Effect::Count(Counter::Retention, lost));
        }
        let next = page.next.max(page.dropped_below).0;
        let asks_tail = page.head && feed.wants_attach();
        self.enqueue(page.shard, page.records.iter().cloned(), next);
        if asks_tail {
            out.push(Effect::AttachShard(page.shard));
        } else if next <= before {
            self.retry_ms = Some(now_ms + self.limits.retry_ms);
        }
        let feed = &mut self.feeds[usize::from(page.shard.0)];
        if let Some((backlog, next)) = feed.take_backlog() {
            self.enqueue(page.shard, backlog.into_iter(), next);
        }
    }

    pub(crate) fn page_failed(&mut self, shard: ShardId, now_ms: u64) {
        if let Some(feed) = self.feeds.get_mut(usize::from(shard.0))
            && feed.is_reading()
        {
            feed.read_done();
            self.reads -= 1;
            self.retry_ms = Some(now_ms + self.limits.retry_ms);
        }
    }

    /// What to read now: as much as there is room for, a page ahead of what is being sent.
    pub(crate) fn reads(
        &mut self,
        subscriptions: &Subscriptions,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Vec<ReadItem> {
        if self.retry_ms.is_some_and(|at| now_ms < at) {
            return Vec::new();
        }
        self.retry_ms = None;
        let mut items = Vec::new();
        for (shard, feed) in self.feeds.iter_mut().enumerate() {
            let expected = self.queue_bytes + self.reads * self.limits.page_bytes;
            if feed.read_from().is_none() {
                continue;
            }
            if subscriptions.is_empty() {
                feed.skip_to_live();
                if feed.wants_attach() {
                    out.push(Effect::AttachShard(ShardId(shard as u16)));
                }
                continue;
            }
            // No subscription covers what lies before.
            feed.skip_to(subscriptions.first_covered(shard));
            let Some(from) = feed.read_from() else { continue };
            let has_room = self.reads + usize::from(self.queue_bytes > 0) == 0
                || (expected + self.limits.page_bytes <= self.limits.buffer_bytes_max
                    && self.queue.len() * 2 <= self.limits.buffer_records_max);
            if has_room {
                feed.read_asked(subscriptions.version());
                self.reads += 1;
                items.push(ReadItem { shard: shard as u32, from, positions: Vec::new() });
            }
        }
        items
    }

    // ---- what is taken

    /// The record whose turn it is.
    pub(crate) fn first(&self) -> Option<(ShardId, &Placed)> {
        self.queue.front().map(|queued| (queued.shard, &queued.placed))
    }

    /// Takes it: its shard's cursor may pass it.
    pub(crate) fn take_first(&mut self) -> Option<Placed> {
        let Queued { shard, placed } = self.queue.pop_front()?;
        self.queue_bytes -= placed.record.as_bytes().len();
        self.feed_mut(shard).took(placed.position);
        Some(placed)
    }

    /// Gives the memory of an empty queue back.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_CAPACITY {
            self.queue = VecDeque::new();
        }
    }
}
