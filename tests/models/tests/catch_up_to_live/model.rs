//! What can happen, one step at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use stateright::{Model, Property};

use crate::dispatch::{Answer, Dispatch, Frame, Out};
use crate::session::{Event, Input, Sessions, Worked};

/// A mistake that the shell could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A tail that begins at a site takes blocks of its earlier run.
    NoBarrier,
    /// The session counts as attached before the sites have its filter.
    AttachesAtOnce,
    /// What is dispatched is read after the inbox was drained.
    HeadsAfterTheInbox,
}

/// What has to be seen so that the promise is kept for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Seen {
    Read,
    Live,
    Behind,
    AttachedAgain,
    CaughtUp,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Records of the log in the end; one is there from the start.
    pub(crate) records: u8,
    pub(crate) leader_changes: u8,
    pub(crate) full_sockets: u8,
}

#[derive(Debug)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    pub(crate) fault: Option<Fault>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) seen: Arc<Mutex<BTreeSet<Seen>>>,
}

/// A storage site as the gateway's stream sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    has_filter: bool,
    /// Next position of the tail that it pushes.
    tail: Option<u8>,
    frames: Vec<Frame>,
    answers: Vec<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    records: u8,
    leader: usize,
    leader_changes: u8,
    full_sockets: u8,
    /// Who leads, as the gateway knows it.
    known_leader: usize,
    sites: [Site; 2],
    dispatch: Dispatch,
    session: u32,
    is_idle: bool,
    read: Option<u8>,
    delivered: u8,
    is_broken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Append,
    ChangeLeader,
    HearOfLeader,
    Flush,
    Frame(usize),
    Push { next: u8 },
    Answer(usize),
    Page { next: u8, head: bool },
    PageFailed,
    Wake { is_timer: bool, has_room: bool },
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let running = Site { tail: Some(1), ..Site::default() };
        let mut dispatch = Dispatch::attaching();
        if self.fault == Some(Fault::AttachesAtOnce) {
            dispatch.attach();
        }
        vec![State {
            records: 1,
            leader: 0,
            leader_changes: 0,
            full_sockets: 0,
            known_leader: 0,
            sites: [running, Site::default()],
            dispatch,
            session: self.sessions.opened(),
            is_idle: false,
            read: None,
            delivered: 0,
            is_broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_broken {
            return;
        }
        let head = state.records + 1;
        if state.records < self.bounds.records {
            actions.push(Action::Append);
        }
        if state.leader_changes < self.bounds.leader_changes {
            actions.push(Action::ChangeLeader);
        }
        if state.known_leader != state.leader || !state.dispatch.is_led_by(state.leader) {
            actions.push(Action::HearOfLeader);
        }
        if state.dispatch.is_adding {
            actions.push(Action::Flush);
        }
        for (at, site) in state.sites.iter().enumerate() {
            if !site.frames.is_empty() {
                actions.push(Action::Frame(at));
            }
            if !site.answers.is_empty() {
                actions.push(Action::Answer(at));
            }
        }
        if let Some(tail) = state.sites[state.leader].tail {
            actions.extend((tail + 1..=head).map(|next| Action::Push { next }));
        }
        if let Some(from) = state.read {
            for next in from.min(head)..=head {
                // A replica that lags takes what it has for the head.
                actions.push(Action::Page { next, head: true });
                if from < next && next < head {
                    actions.push(Action::Page { next, head: false });
                }
            }
            actions.push(Action::PageFailed);
        }
        if !state.dispatch.inbox.is_empty() || !state.is_idle {
            for is_timer in [false, true] {
                actions.push(Action::Wake { is_timer, has_room: true });
            }
            if state.full_sockets < self.bounds.full_sockets {
                actions.push(Action::Wake { is_timer: false, has_room: false });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let mut out = Vec::new();
        match action {
            Action::Append => state.records += 1,
            Action::ChangeLeader => {
                state.leader_changes += 1;
                let old = &mut state.sites[state.leader];
                if old.tail.take().is_some() {
                    old.answers.push(Answer::Stopped);
                }
                state.leader = 1 - state.leader;
            }
            Action::HearOfLeader => {
                state.known_leader = state.leader;
                let with_barrier = self.fault != Some(Fault::NoBarrier);
                state.dispatch.lead(state.leader, with_barrier, &mut out);
            }
            Action::Flush => state.dispatch.flush(&mut out),
            Action::Frame(at) => frame(&mut state, at),
            Action::Push { next } => {
                let site = &mut state.sites[state.leader];
                let from = site.tail.replace(next)?;
                let is_matched = site.has_filter;
                site.answers.push(Answer::Block { from, next, is_matched });
            }
            Action::Answer(at) => {
                let answer = state.sites[at].answers.remove(0);
                state.dispatch.answer(at, answer, &mut out);
            }
            Action::Page { next, head } => {
                let from = state.read.take()?;
                state.dispatch.inbox.push(Event::Page { from, next, head });
            }
            Action::PageFailed => {
                state.read = None;
                state.dispatch.inbox.push(Event::PageFailed);
            }
            Action::Wake { is_timer, has_room } => self.wake(&mut state, is_timer, has_room),
        }
        send(&mut state, out);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        vec![
            Property::always("no_gap_no_repeat_in_order", |_, state: &State| !state.is_broken),
            Property::always("nothing_is_left_behind", |_, state: &State| {
                state.delivered == state.records || !is_quiet(state)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.dispatch.inbox.len() <= 4 && state.sites.iter().all(|site| site.answers.len() <= 3)
    }
}

/// Nothing is under way, and the tail has brought everything.
fn is_quiet(state: &State) -> bool {
    let dispatch = &state.dispatch;
    state.is_idle
        && state.read.is_none()
        && dispatch.inbox.is_empty()
        && dispatch.waiting.is_none()
        && !dispatch.is_adding
        && dispatch.barrier.is_none()
        && dispatch.next == state.records + 1
        && state.sites.iter().all(|site| site.frames.is_empty() && site.answers.is_empty())
}

fn send(state: &mut State, out: Out) {
    for (site, frame) in out {
        state.sites[site].frames.push(frame);
    }
}

/// A site takes a frame, in their order.
fn frame(state: &mut State, at: usize) {
    let leads = state.leader == at;
    let head = state.records + 1;
    let site = &mut state.sites[at];
    match site.frames.remove(0) {
        Frame::Filters { change } => {
            site.has_filter = true;
            site.answers.push(Answer::Active { change, from: leads.then_some(head) });
        }
        Frame::Barrier(barrier) => site.answers.push(Answer::Barrier(barrier)),
        Frame::Start { position } if leads => site.tail = Some(position),
        Frame::Start { .. } => site.answers.push(Answer::Stopped),
    }
}

impl Protocol {
    fn see(&self, seen: Seen) {
        self.seen.lock().expect("no test panics under it").insert(seen);
    }

    /// The connection's task: heads, inbox, session, effects (`connection/live.rs`).
    fn wake(&self, state: &mut State, is_timer: bool, has_room: bool) {
        state.full_sockets += u8::from(!has_room);
        let head = is_timer.then_some(state.dispatch.next);
        let mut events = std::mem::take(&mut state.dispatch.inbox);
        if is_timer
            && self.fault == Some(Fault::HeadsAfterTheInbox)
            && let Some(late) = events.pop()
        {
            state.dispatch.inbox.push(late);
        }
        if events.contains(&Event::Behind) {
            self.see(Seen::Behind);
        }
        let worked = self.sessions.work(state.session, Input::Wake { events, head, has_room });
        let attaches_shard = worked.attaches_shard;
        self.worked(state, worked);
        if attaches_shard {
            self.see(Seen::AttachedAgain);
            let from = state.dispatch.attach_shard();
            let input = Input::ShardAttached { from, has_room };
            let worked = self.sessions.work(state.session, input);
            self.worked(state, worked);
        }
    }

    fn worked(&self, state: &mut State, worked: Worked) {
        state.session = worked.session;
        state.is_idle = worked.is_idle;
        if worked.read.is_some() {
            self.see(Seen::Read);
            state.read = worked.read;
        }
        for position in worked.delivered {
            if state.read.is_none() && worked.is_idle {
                self.see(Seen::Live);
            }
            state.is_broken |= position != state.delivered + 1;
            state.delivered = position;
        }
        if state.delivered == self.bounds.records {
            self.see(Seen::CaughtUp);
        }
    }
}
