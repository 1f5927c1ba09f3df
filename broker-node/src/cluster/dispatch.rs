//! Live delivery to durable sessions: the tails of all shards and who wants what of them. Pure.
//!
//! One lock guards all of it, so that these hold at any moment:
//! * Everything below a tail's `next` was matched against the sessions of that time and posted to their
//!   inboxes; nothing at or above it was.
//! * A filter is in `matcher` before the sites hear of it. `Tail::active_change` is the newest change of
//!   the filter set that is known to be active on everything the tail will bring from `max(next, floor)`
//!   on: it was sent to the site before the tail was started there, or the site has confirmed it. A
//!   stopped tail will be started after every change so far.
//! * A site's stream may still hold blocks of an earlier run of the tail, matched against older filters.
//!   So a run begins with a barrier: until the site has answered it, blocks of the shard are ignored.
//! * So a subscription reaches a session from `max(next, floor)` on as soon as every tail's
//!   `active_change` has reached the change that brought it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_proto::ids::{Namespace, Position, ShardId, SiteId};
use holdfast_proto::matcher::Matcher;
use holdfast_proto::placed::Placed;
use holdfast_proto::storage::gateway_frame::Frame;
use holdfast_proto::storage::{Filter, TailCredit, TailFilters, TailFiltersActive, TailStart};

use super::error::ClusterError;
use crate::inbox::{Event, Inbox};

/// Filters that nobody wants any more stay at the sites this long: clients that reconnect want them
/// again.
const UNUSED_FILTER_KEPT_MS: u64 = 10_000;
/// Set in the request ids of barriers, which change nothing.
const BARRIER: u64 = 1 << 63;
/// Value of [`Tail::active_change`] of a stopped tail.
const ALL_CHANGES: u64 = u64::MAX;

/// A frame for a site.
pub(crate) type Outgoing = (SiteId, Frame);

/// A session that is attached: index into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

/// One block of a tail, decoded.
#[derive(Debug)]
pub(crate) struct Block {
    /// The shard.
    pub(crate) shard: ShardId,
    /// It holds the matching records of `from..next`.
    pub(crate) from: Position,
    /// See `from`.
    pub(crate) next: Position,
    /// The records.
    pub(crate) records: Arc<[Placed]>,
    /// Bytes as sent, for the credit.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Tail {
    /// Where it runs; none while it is stopped.
    site: Option<SiteId>,
    /// 0: not known, it starts at the shard's head.
    next: Position,
    active_change: u64,
    /// Newest position from which a site said that a change is active.
    floor: Position,
    /// Request whose answer precedes the first block of this run.
    barrier: Option<u64>,
    /// Bytes dispatched and not given back as credit.
    owed_bytes: u64,
    /// Restarted after a gap: blocks of before are still to come.
    restarting: bool,
}

#[derive(Debug)]
struct Session {
    inbox: Arc<Inbox>,
    /// Shards whose tail is not posted because the inbox was over its limit.
    behind: Vec<ShardId>,
    /// Indexes of the block that is being dispatched.
    indexes: Vec<u32>,
}

#[derive(Debug)]
struct Waiting {
    slot: Slot,
    token: u64,
    change: u64,
    deadline_ms: u64,
}

/// State of live delivery.
#[derive(Debug)]
pub(crate) struct Dispatch {
    credit_bytes: u64,
    tails: Vec<Tail>,
    /// `next` of every tail, for readers without the lock.
    dispatched: Arc<[AtomicU64]>,
    connected: BTreeSet<SiteId>,
    filters: HashMap<(Namespace, Box<str>), u32>,
    unused: VecDeque<(u64, Namespace, Box<str>)>,
    adding: Vec<Filter>,
    removing: Vec<Filter>,
    /// Number of the newest change that was sent.
    change: u64,
    last_barrier: u64,
    matcher: Matcher<Slot>,
    sessions: Vec<Option<Session>>,
    free: Vec<Slot>,
    waiting: VecDeque<Waiting>,
    touched: Vec<Slot>,
}

impl Dispatch {
    /// No session, no tail.
    #[must_use]
    pub(crate) fn new(shards: u16, credit_bytes: u64) -> Dispatch {
        let tail = || Tail {
            site: None,
            next: Position(0),
            active_change: ALL_CHANGES,
            floor: Position(0),
            barrier: None,
            owed_bytes: 0,
            restarting: false,
        };
        Dispatch {
            credit_bytes,
            tails: (0..shards).map(|_| tail()).collect(),
            dispatched: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            connected: BTreeSet::new(),
            filters: HashMap::new(),
            unused: VecDeque::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            change: 1,
            last_barrier: BARRIER,
            matcher: Matcher::default(),
            sessions: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            touched: Vec::new(),
        }
    }

    /// Next position of every shard that is not dispatched, to be read without the lock.
    #[must_use]
    pub(crate) fn dispatched(&self) -> Arc<[AtomicU64]> {
        self.dispatched.clone()
    }

    // ---- sessions ----

    /// Adds a session without filters.
    pub(crate) fn attach(&mut self, inbox: Arc<Inbox>) -> Slot {
        let session = Session { inbox, behind: Vec::new(), indexes: Vec::new() };
        if let Some(slot) = self.free.pop() {
            self.sessions[slot.0 as usize] = Some(session);
            return slot;
        }
        self.sessions.push(Some(session));
        Slot((self.sessions.len() - 1) as u32)
    }

    /// Removes a session whose filters are removed already.
    pub(crate) fn detach(&mut self, slot: Slot) {
        self.waiting.retain(|waiting| waiting.slot != slot);
        if self.sessions[slot.0 as usize].take().is_some() {
            self.free.push(slot);
        }
    }

    /// Adds filters of a session. Returns whether [`Dispatch::flush`] has something to send.
    pub(crate) fn add_filters(
        &mut self,
        slot: Slot,
        namespace: Namespace,
        filters: &[String],
    ) -> bool {
        for filter in filters {
            self.matcher.insert(namespace, filter, slot);
            let count =
                self.filters.entry((namespace, filter.as_str().into())).or_insert_with(|| {
                    self.adding.push(Filter { namespace: namespace.0, filter: filter.clone() });
                    0
                });
            *count += 1;
        }
        !self.adding.is_empty()
    }

    /// [`Event::Attached`] follows when all filters added so far are active on every tail.
    pub(crate) fn wait_active(&mut self, slot: Slot, token: u64, deadline_ms: u64) {
        let change = self.change + u64::from(!self.adding.is_empty());
        self.waiting.push_back(Waiting { slot, token, change, deadline_ms });
        self.resolve();
    }

    /// Takes filters of a session back.
    pub(crate) fn remove_filters(
        &mut self,
        slot: Slot,
        namespace: Namespace,
        filters: &[String],
        now_ms: u64,
    ) {
        for filter in filters {
            self.matcher.remove(namespace, filter, &slot);
            let key = (namespace, filter.as_str().into());
            if let Some(count) = self.filters.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.unused.push_back((now_ms + UNUSED_FILTER_KEPT_MS, key.0, key.1));
                }
            }
        }
    }

    /// Posts a shard's tail to a session again. Everything from the answer on is posted.
    pub(crate) fn attach_shard(&mut self, slot: Slot, shard: ShardId) -> Position {
        if let Some(Some(session)) = self.sessions.get_mut(slot.0 as usize) {
            session.behind.retain(|behind| *behind != shard);
        }
        self.tails.get(usize::from(shard.0)).map_or(Position(0), Tail::reached_from)
    }

    // ---- sites ----

    /// A site's stream is up: it gets the whole filter set. Frames sent to it before this are lost.
    pub(crate) fn link_up(&mut self, site: SiteId, out: &mut Vec<Outgoing>) {
        self.flush(out);
        self.connected.insert(site);
        let add = self.filters.keys().map(|(namespace, filter)| Filter {
            namespace: namespace.0,
            filter: filter.to_string(),
        });
        let frame = TailFilters { request_id: self.change, add: add.collect(), remove: Vec::new() };
        out.push((site, Frame::TailFilters(frame)));
    }

    /// A site's stream is gone, and its tails with it.
    pub(crate) fn link_down(&mut self, site: SiteId) {
        self.connected.remove(&site);
        for tail in self.tails.iter_mut().filter(|tail| tail.site == Some(site)) {
            tail.stop();
        }
        self.resolve();
    }

    /// The tail of a shard belongs at this leader (none is known); starts it there if it can.
    pub(crate) fn lead(&mut self, shard: ShardId, leader: Option<SiteId>, out: &mut Vec<Outgoing>) {
        // A tail starts after every change of the filter set, also those that have only gathered.
        self.flush(out);
        let change = self.change;
        let Some(tail) = self.tails.get_mut(usize::from(shard.0)) else { return };
        if tail.site.is_some() && tail.site == leader {
            return;
        }
        match leader.filter(|site| self.connected.contains(site)) {
            None => tail.stop(),
            Some(site) => {
                if tail.next.0 == 0 && tail.floor.0 > 0 {
                    tail.next = tail.floor;
                    self.dispatched[usize::from(shard.0)].store(tail.next.0, Ordering::Release);
                }
                tail.site = Some(site);
                tail.active_change = change;
                self.last_barrier += 1;
                tail.barrier = Some(self.last_barrier);
                out.push((site, barrier(self.last_barrier)));
                out.push(tail.start(site, shard, self.credit_bytes));
            }
        }
        self.resolve();
    }

    /// A site does not lead the shard and has stopped its tail.
    pub(crate) fn stopped(&mut self, shard: ShardId, site: SiteId) {
        if let Some(tail) = self.tails.get_mut(usize::from(shard.0))
            && tail.site == Some(site)
            && tail.barrier.is_none()
        {
            tail.stop();
            self.resolve();
        }
    }

    /// A site confirms a change of the filter set for the shards that it leads. A tail that was started
    /// at a head that nobody has named yet starts again from here.
    pub(crate) fn active(
        &mut self,
        site: SiteId,
        active: &TailFiltersActive,
        out: &mut Vec<Outgoing>,
    ) {
        for tail in self.tails.iter_mut().filter(|tail| tail.site == Some(site)) {
            if active.request_id & BARRIER == 0 {
                tail.active_change = tail.active_change.max(active.request_id);
            } else if tail.barrier == Some(active.request_id) {
                tail.barrier = None;
            }
        }
        for from in &active.active_from {
            let Some(tail) = self.tails.get_mut(from.shard as usize) else { continue };
            tail.floor = tail.floor.max(Position(from.position));
            if tail.site == Some(site) && tail.next.0 == 0 && tail.barrier.is_none() {
                tail.next = tail.floor;
                self.dispatched[from.shard as usize].store(tail.next.0, Ordering::Release);
                out.push(tail.start(site, ShardId(from.shard as u16), self.credit_bytes));
                tail.restarting = true;
            }
        }
        self.resolve();
    }

    /// Sends the changes of the filter set that have gathered.
    pub(crate) fn flush(&mut self, out: &mut Vec<Outgoing>) {
        if self.adding.is_empty() && self.removing.is_empty() {
            return;
        }
        self.change += 1;
        let frame = TailFilters {
            request_id: self.change,
            add: std::mem::take(&mut self.adding),
            remove: std::mem::take(&mut self.removing),
        };
        out.extend(self.connected.iter().map(|site| (*site, Frame::TailFilters(frame.clone()))));
        self.resolve();
    }

    /// Drops filters unused for long and fails subscriptions that wait for too long.
    pub(crate) fn tick(&mut self, now_ms: u64, out: &mut Vec<Outgoing>) {
        while self.unused.front().is_some_and(|(due_ms, ..)| *due_ms <= now_ms) {
            let Some((_, namespace, filter)) = self.unused.pop_front() else { break };
            let key = (namespace, filter);
            if self.filters.get(&key) == Some(&0) {
                self.filters.remove(&key);
                let filter = key.1.to_string();
                match self
                    .adding
                    .iter()
                    .position(|f| f.namespace == namespace.0 && f.filter == filter)
                {
                    Some(unsent) => drop(self.adding.swap_remove(unsent)),
                    None => self.removing.push(Filter { namespace: namespace.0, filter }),
                }
            }
        }
        self.flush(out);
        while self.waiting.front().is_some_and(|waiting| waiting.deadline_ms <= now_ms) {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let what = "the tail of a shard";
            self.answer(&waiting, Err(ClusterError::Unavailable { what }));
        }
    }

    // ---- records ----

    /// Posts a block to the sessions that it is for. Wills in it, which regular sessions want too, are
    /// added to `wills`.
    pub(crate) fn block(
        &mut self,
        site: SiteId,
        block: &Block,
        out: &mut Vec<Outgoing>,
        wills: &mut Vec<Placed>,
    ) {
        let Some(tail) = self.tails.get_mut(usize::from(block.shard.0)) else { return };
        if tail.site != Some(site) || tail.barrier.is_some() {
            return;
        }
        let begins = tail.next.0 == 0;
        if begins {
            tail.next = block.from;
        }
        if block.from > tail.next {
            if !tail.restarting {
                out.push(tail.start(site, block.shard, self.credit_bytes));
                tail.restarting = true;
            }
            return;
        }
        tail.restarting = false;
        tail.owed_bytes += block.bytes;
        if tail.owed_bytes * 4 >= self.credit_bytes {
            let bytes = std::mem::take(&mut tail.owed_bytes);
            let shard = u32::from(block.shard.0);
            out.push((site, Frame::TailCredit(TailCredit { shard, bytes })));
        }
        let known = tail.next;
        if block.next > known {
            self.post(block, known, wills);
            self.tails[usize::from(block.shard.0)].next = block.next;
        }
        let next = self.tails[usize::from(block.shard.0)].next;
        self.dispatched[usize::from(block.shard.0)].store(next.0, Ordering::Release);
        if begins {
            self.resolve();
        }
    }

    fn post(&mut self, block: &Block, known: Position, wills: &mut Vec<Placed>) {
        for (index, placed) in block.records.iter().enumerate() {
            if placed.position < known {
                continue;
            }
            let record = &placed.record;
            if record.is_will() {
                wills.push(placed.clone());
            }
            let (sessions, touched) = (&mut self.sessions, &mut self.touched);
            self.matcher.visit(record.namespace(), record.topic(), &mut |slot| {
                let Some(Some(session)) = sessions.get_mut(slot.0 as usize) else { return };
                if session.indexes.last() == Some(&(index as u32)) {
                    return;
                }
                if session.indexes.is_empty() {
                    if session.behind.contains(&block.shard) {
                        return;
                    }
                    touched.push(*slot);
                }
                session.indexes.push(index as u32);
            });
        }
        for slot in self.touched.drain(..) {
            let Some(Some(session)) = self.sessions.get_mut(slot.0 as usize) else { continue };
            let posted = session.inbox.offer_tail(Event::Tail {
                shard: block.shard,
                records: block.records.clone(),
                indexes: std::mem::take(&mut session.indexes),
                next: block.next,
            });
            if !posted {
                session.behind.push(block.shard);
                session.inbox.post(Event::Behind { shard: block.shard });
            }
        }
    }

    // ---- subscriptions that wait ----

    fn resolve(&mut self) {
        if self.waiting.is_empty() || self.tails.iter().any(|tail| tail.reached_from().0 == 0) {
            return;
        }
        let active = self.tails.iter().map(|tail| tail.active_change).min().unwrap_or(ALL_CHANGES);
        while self.waiting.front().is_some_and(|waiting| waiting.change <= active) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let from = self.tails.iter().map(Tail::reached_from).collect();
            self.answer(&waiting, Ok(from));
        }
    }

    fn answer(&self, waiting: &Waiting, result: Result<Vec<Position>, ClusterError>) {
        if let Some(Some(session)) = self.sessions.get(waiting.slot.0 as usize) {
            session.inbox.post(Event::Attached { token: waiting.token, result });
        }
    }
}

impl Tail {
    /// Everything from here on is posted to every session that wants it, 0 if that is not known.
    fn reached_from(&self) -> Position {
        if self.next.0 == 0 { self.next } else { self.next.max(self.floor) }
    }

    fn stop(&mut self) {
        self.site = None;
        self.active_change = ALL_CHANGES;
        self.barrier = None;
        self.restarting = false;
    }

    fn start(&mut self, site: SiteId, shard: ShardId, credit_bytes: u64) -> Outgoing {
        self.owed_bytes = 0;
        self.restarting = false;
        let shard = u32::from(shard.0);
        (site, Frame::TailStart(TailStart { shard, position: self.next.0, credit_bytes }))
    }
}

fn barrier(request_id: u64) -> Frame {
    Frame::TailFilters(TailFilters { request_id, ..TailFilters::default() })
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
