//! Live delivery on one gateway, for one shard and one session: mirrors `Dispatch` of
//! `broker-node/src/cluster/dispatch.rs` and the limit of `Inbox`, function by function.

use crate::session::Event;

/// Value of `active_change` of a stopped tail.
const ALL_CHANGES: u8 = u8::MAX;
/// Records that the inbox takes before it refuses blocks.
const INBOX_MAX: u8 = 1;

/// From the gateway to a site.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    /// The session's filter, as this change.
    Filters {
        change: u8,
    },
    Barrier(u8),
    Start {
        position: u8,
    },
}

/// From a site to the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// A change is active; from which position on, if the site leads the shard.
    Active {
        change: u8,
        from: Option<u8>,
    },
    Barrier(u8),
    /// Positions of the log; whether its records were matched against the session's filter.
    Block {
        from: u8,
        next: u8,
        is_matched: bool,
    },
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Dispatch {
    site: Option<usize>,
    pub(crate) next: u8,
    active_change: u8,
    floor: u8,
    pub(crate) barrier: Option<u8>,
    restarting: bool,
    change: u8,
    last_barrier: u8,
    /// The filter has gathered and is not sent.
    pub(crate) is_adding: bool,
    /// The session waits for this change.
    pub(crate) waiting: Option<u8>,
    is_behind: bool,
    pub(crate) inbox: Vec<Event>,
}

pub(crate) type Out = Vec<(usize, Frame)>;

impl Dispatch {
    /// A tail runs for other sessions; this one attaches: `attach`, `add_filters`, `wait_active`.
    pub(crate) fn attaching() -> Dispatch {
        Dispatch {
            site: Some(0),
            next: 1,
            active_change: 1,
            floor: 0,
            barrier: None,
            restarting: false,
            change: 1,
            last_barrier: 0,
            is_adding: true,
            waiting: Some(2),
            is_behind: false,
            inbox: Vec::new(),
        }
    }

    pub(crate) fn flush(&mut self, out: &mut Out) {
        if !std::mem::take(&mut self.is_adding) {
            return;
        }
        self.change += 1;
        out.extend((0..2).map(|site| (site, Frame::Filters { change: self.change })));
        self.resolve();
    }

    pub(crate) fn lead(&mut self, site: usize, with_barrier: bool, out: &mut Out) {
        self.flush(out);
        if self.site == Some(site) {
            return;
        }
        self.site = Some(site);
        self.active_change = self.change;
        self.restarting = false;
        if with_barrier {
            self.last_barrier += 1;
            self.barrier = Some(self.last_barrier);
            out.push((site, Frame::Barrier(self.last_barrier)));
        }
        out.push((site, Frame::Start { position: self.next }));
        self.resolve();
    }

    pub(crate) fn answer(&mut self, site: usize, answer: Answer, out: &mut Out) {
        match answer {
            Answer::Active { change, from } => {
                if self.site == Some(site) {
                    self.active_change = self.active_change.max(change);
                }
                self.floor = self.floor.max(from.unwrap_or(0));
                self.resolve();
            }
            Answer::Barrier(barrier) => {
                if self.site == Some(site) && self.barrier == Some(barrier) {
                    self.barrier = None;
                }
            }
            Answer::Block { from, next, is_matched } => {
                self.block(site, (from, next), is_matched, out);
            }
            Answer::Stopped => {
                if self.site == Some(site) && self.barrier.is_none() {
                    self.stop();
                    self.resolve();
                }
            }
        }
    }

    fn block(&mut self, site: usize, (from, next): (u8, u8), is_matched: bool, out: &mut Out) {
        if self.site != Some(site) || self.barrier.is_some() {
            return;
        }
        if from > self.next {
            if !self.restarting {
                out.push((site, Frame::Start { position: self.next }));
                self.restarting = true;
            }
            return;
        }
        self.restarting = false;
        if next > self.next {
            if is_matched && !self.is_behind {
                self.post(next);
            }
            self.next = next;
        }
    }

    /// `Inbox::offer_tail`: refused if there is something already and it is too much.
    fn post(&mut self, next: u8) {
        let bytes = |event: &Event| match event {
            Event::Tail { matched, next } => next - matched,
            _ => 0,
        };
        let queued: u8 = self.inbox.iter().map(bytes).sum();
        if queued > 0 && queued + (next - self.next) > INBOX_MAX {
            self.is_behind = true;
            self.inbox.push(Event::Behind);
        } else {
            self.inbox.push(Event::Tail { matched: self.next, next });
        }
    }

    fn stop(&mut self) {
        self.site = None;
        self.active_change = ALL_CHANGES;
        self.barrier = None;
        self.restarting = false;
    }

    pub(crate) fn attach_shard(&mut self) -> u8 {
        self.is_behind = false;
        self.reached_from()
    }

    fn reached_from(&self) -> u8 {
        self.next.max(self.floor)
    }

    fn resolve(&mut self) {
        if self.waiting.is_some_and(|change| change <= self.active_change) {
            self.attach();
        }
    }

    /// Says that everything from here on is posted.
    pub(crate) fn attach(&mut self) {
        self.waiting = None;
        let from = self.reached_from();
        self.inbox.push(Event::Attached { from });
    }

    pub(crate) fn is_led_by(&self, site: usize) -> bool {
        self.site == Some(site)
    }
}
