//! What can happen, one step at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use stateright::{Model, Property};

use crate::controller::{Controllers, Entry, Event, RETIRE_MS, TICK_MS, Turn};
use crate::gateway::{Gateway, Update};

pub(crate) const GATEWAYS: usize = 2;

/// A mistake that a shell could make, or what the protocol does not withstand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A version is acknowledged while a turn under an older one runs.
    AcknowledgesBeforeTheTurnEnds,
    /// A lease is counted from its echo, not from its sending.
    CountsFromTheEcho,
    /// A new controller counts nobody as live before it reports.
    NoFreshLeases,
    /// A filter that nobody has is removed in one step.
    SweepsAtOnce,
    /// A turn of publishing takes longer than the lease's margin.
    EndlessTurn,
    /// A gateway without a lease trusts its old set when a client subscribes.
    TrustsWithoutALease,
    /// A controller goes on answering after the next one has started.
    DeposedGoesOn,
}

/// What has to be seen so that the promise is kept for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Seen {
    PassedBy,
    StoredWithoutLease,
    Confirmed,
    ConfirmedBySet,
    ConfirmedPastADeadGateway,
    Failover,
    Removed,
    Revived,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The filter is in the set from the start, and all gateways know it.
    pub(crate) known: bool,
    pub(crate) ticks: u8,
    pub(crate) controllers: u8,
    pub(crate) breaks: u8,
    pub(crate) sweeps: u8,
    pub(crate) turns: u8,
    /// The first gateway has lost the controller for good, and has been declared dead.
    pub(crate) cut_off: bool,
    /// The gateway at which nobody publishes.
    pub(crate) idle: Option<usize>,
    /// A report may wait for long before it is heard. That only makes leases longer and acknowledgements
    /// later for the controller, so most searches do without.
    pub(crate) slow_reports: bool,
}

#[derive(Debug)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    pub(crate) fault: Option<Fault>,
    pub(crate) controllers: Arc<Controllers>,
    pub(crate) seen: Arc<Mutex<BTreeSet<Seen>>>,
}

/// What the store has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    version: u64,
    has_filter: bool,
    /// Registered and not declared dead.
    live: [bool; GATEWAYS],
}

/// A controller, and what it has told each stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Meta {
    controller: u32,
    version: u64,
    entry: Entry,
    covered: u64,
    live: [bool; GATEWAYS],
    told: [Option<Told>; GATEWAYS],
    /// A request to cover waits for this version.
    waiting: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    set: Option<u64>,
    renewed: u8,
    covered: u64,
    /// The newest renewal that was heard.
    heard: u8,
}

/// The subscription of a durable session on the first gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subscription {
    None,
    /// The controller is asked.
    Asked,
    /// Every live gateway has the filter: the home shard is asked, since then.
    Covered(u8),
    /// SUBACK is sent; the registry does not know yet, since then.
    Confirmed(u8),
    Registered,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    now: u8,
    store: Store,
    meta: Option<Meta>,
    /// Replaced by `meta`, and does not know.
    deposed: Option<Meta>,
    started: u8,
    broken_streams: u8,
    turns: u8,
    gateways: [Gateway; GATEWAYS],
    subscription: Subscription,
    /// The registry was read: whether the filter is wanted, and when.
    read: Option<(bool, u8)>,
    sweeps: u8,
    is_broken: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Open(usize),
    Break(usize),
    Report(usize),
    Hear(usize),
    Learn(usize),
    Begin(usize),
    End(usize),
    Subscribe,
    Ask,
    Confirm,
    Register,
    Read,
    Sweep,
    Crash,
    Start,
    Depose,
    HearDeposed(usize),
    TellDeposed(usize),
    Tick,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: 0,
            store: Store { version: 1, has_filter: self.bounds.known, live: [false; GATEWAYS] },
            meta: None,
            deposed: None,
            started: 0,
            broken_streams: 0,
            turns: 0,
            gateways: std::array::from_fn(|_| Gateway::new()),
            subscription: Subscription::None,
            read: None,
            sweeps: 0,
            is_broken: false,
        };
        self.start(&mut state);
        // All are registered and know the set: what comes before is reached by breaking a stream.
        for at in 0..GATEWAYS {
            state.gateways[at].registering();
            for _ in 0..2 {
                self.report(&mut state, at);
                self.hear(&mut state, at, false);
                self.tell(&mut state, at, false);
                self.learn(&mut state, at);
            }
        }
        for at in 0..GATEWAYS {
            self.tell(&mut state, at, false);
            self.learn(&mut state, at);
        }
        if self.bounds.cut_off {
            close(&mut state, 0);
            while state.store.live[0] {
                state.now += 1;
                self.report(&mut state, 1);
                self.turn(&mut state, Event::Nothing);
                self.tell(&mut state, 1, false);
                self.learn(&mut state, 1);
            }
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_broken {
            return;
        }
        let bounds = &self.bounds;
        for (at, gateway) in state.gateways.iter().enumerate() {
            match &gateway.stream {
                None if bounds.cut_off && at == 0 => {}
                None if state.meta.is_some() => actions.push(Action::Open(at)),
                None => {}
                Some(stream) => {
                    if state.broken_streams < bounds.breaks {
                        actions.push(Action::Break(at));
                    }
                    let news = gateway.reported.as_ref().is_none_or(|last| {
                        last.sent != state.now + 1
                            || last.acknowledged != self.acknowledged(gateway)
                    });
                    if stream.up.is_empty() && news {
                        actions.push(Action::Report(at));
                    }
                    if !stream.up.is_empty() {
                        actions.push(Action::Hear(at));
                    }
                    if state.deposed.is_some() {
                        if !stream.up.is_empty() {
                            actions.push(Action::HearDeposed(at));
                        }
                        if stream.down.is_empty() && has_news(state.deposed.as_ref(), at) {
                            actions.push(Action::TellDeposed(at));
                        }
                    }
                    if !stream.down.is_empty() {
                        actions.push(Action::Learn(at));
                    }
                }
            }
            if gateway.publishing.is_some() {
                actions.push(Action::End(at));
            } else if state.turns < bounds.turns && bounds.idle != Some(at) {
                actions.push(Action::Begin(at));
            }
        }
        match state.subscription {
            Subscription::None => actions.push(Action::Subscribe),
            Subscription::Asked => {
                if state.meta.as_ref().is_some_and(|meta| meta.waiting.is_none()) {
                    actions.push(Action::Ask);
                }
            }
            Subscription::Covered(_) => actions.push(Action::Confirm),
            Subscription::Confirmed(_) => actions.push(Action::Register),
            Subscription::Registered => {}
        }
        if state.meta.is_some() {
            if state.started < bounds.controllers {
                actions.push(Action::Crash);
                if self.fault == Some(Fault::DeposedGoesOn) {
                    actions.push(Action::Depose);
                }
            }
            if state.sweeps < bounds.sweeps && state.read.is_none() {
                actions.push(Action::Read);
            }
            if state.read.is_some() {
                actions.push(Action::Sweep);
            }
        } else {
            actions.push(Action::Start);
        }
        if state.now < bounds.ticks && self.may_tick(state) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Open(at) => {
                state.gateways[at].registering();
                self.report(&mut state, at);
            }
            Action::Break(at) => {
                state.broken_streams += 1;
                close(&mut state, at);
            }
            Action::Report(at) => self.report(&mut state, at),
            Action::Hear(at) => {
                state.meta.as_ref()?;
                self.hear(&mut state, at, false);
            }
            Action::HearDeposed(at) => self.hear(&mut state, at, true),
            Action::TellDeposed(at) => self.tell(&mut state, at, true),
            Action::Learn(at) => self.learn(&mut state, at),
            Action::Begin(at) => {
                state.turns += 1;
                let now = state.now;
                state.gateways[at].begin(now);
            }
            Action::End(at) => {
                let turn = state.gateways[at].publishing.take()?;
                let confirmed = matches!(
                    state.subscription,
                    Subscription::Confirmed(_) | Subscription::Registered
                );
                if turn.is_durable {
                    if state.gateways[at].stores_everything(state.now) {
                        self.see(Seen::StoredWithoutLease);
                    }
                } else {
                    self.see(Seen::PassedBy);
                    state.is_broken |= confirmed;
                }
            }
            Action::Subscribe => {
                // cover.rs: by the set if it covers the filter, else the metadata service is asked.
                let gateway = &state.gateways[0];
                let trusted = self.fault == Some(Fault::TrustsWithoutALease)
                    || !gateway.stores_everything(state.now);
                state.subscription = if gateway.covers() && trusted {
                    self.see(Seen::ConfirmedBySet);
                    Subscription::Covered(state.now)
                } else {
                    Subscription::Asked
                };
            }
            Action::Ask => self.turn(&mut state, Event::Cover),
            Action::Confirm => {
                self.see(Seen::Confirmed);
                if state.store.live.contains(&false) {
                    self.see(Seen::ConfirmedPastADeadGateway);
                }
                if state.started > 1 {
                    self.see(Seen::Failover);
                }
                let Subscription::Covered(since) = state.subscription else { return None };
                state.subscription = Subscription::Confirmed(since);
            }
            Action::Register => state.subscription = Subscription::Registered,
            Action::Read => {
                let is_wanted = state.subscription == Subscription::Registered;
                state.read = Some((is_wanted, state.now));
                state.sweeps += 1;
            }
            Action::Sweep => {
                let (is_wanted, read) = state.read.take()?;
                let read_ms = u64::from(read) * TICK_MS;
                self.turn(&mut state, Event::Sweep { is_wanted, read_ms });
                let removed = self.fault == Some(Fault::SweepsAtOnce) && !is_wanted;
                if let Some(meta) = state.meta.as_mut().filter(|_| removed) {
                    meta.entry = Entry::Absent;
                    state.store.has_filter = false;
                }
            }
            Action::Crash => self.crash(&mut state),
            Action::Depose => {
                let deposed = state.meta.take();
                self.start(&mut state);
                state.deposed = deposed;
            }
            Action::Start => self.start(&mut state),
            Action::Tick => {
                state.now += 1;
                // Its loop turns often; one that stood still gives everybody a fresh lease.
                self.turn(&mut state, Event::Nothing);
            }
        }
        self.tell_news(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        vec![
            Property::always("suback_contract", |_, state: &State| !state.is_broken),
            Property::always("a_dead_gateway_stores_everything", |_, state: &State| {
                let Some(meta) = &state.meta else { return true };
                let mut gateways = state.gateways.iter().zip(meta.live);
                gateways.all(|(gateway, is_live)| is_live || gateway.stores_everything(state.now))
            }),
        ]
    }
}

fn has_news(meta: Option<&Meta>, at: usize) -> bool {
    let Some(meta) = meta else { return false };
    let Some(told) = &meta.told[at] else { return false };
    told.set.is_none_or(|set| set < meta.version)
        || told.renewed != told.heard
        || told.covered != meta.covered
}

/// A stream ends; what is under way on it is lost.
fn close(state: &mut State, at: usize) {
    state.gateways[at].stream = None;
    for meta in [&mut state.meta, &mut state.deposed].into_iter().flatten() {
        meta.told[at] = None;
    }
}

impl Protocol {
    fn see(&self, seen: Seen) {
        self.seen.lock().expect("no test panics under it").insert(seen);
    }

    fn acknowledged(&self, gateway: &Gateway) -> u64 {
        if self.fault == Some(Fault::AcknowledgesBeforeTheTurnEnds) {
            let mut idle = gateway.clone();
            idle.publishing = None;
            return idle.acknowledged();
        }
        gateway.acknowledged()
    }

    /// Time goes on unless something would take longer than it is assumed to: a turn of publishing no
    /// longer than the margin of the lease, a covered subscription less than `retire_ms` to the registry.
    fn may_tick(&self, state: &State) -> bool {
        let turns = state.gateways.iter().filter_map(|gateway| gateway.publishing.as_ref());
        let endless = self.fault == Some(Fault::EndlessTurn);
        if !endless && turns.into_iter().any(|turn| turn.began < state.now) {
            return false;
        }
        let retire = (RETIRE_MS / TICK_MS) as u8;
        match state.subscription {
            Subscription::Covered(since) | Subscription::Confirmed(since) => {
                state.now + 1 < since + retire
            }
            _ => true,
        }
    }

    fn start(&self, state: &mut State) {
        state.started += 1;
        let store = &mut state.store;
        if state.started > 1 {
            store.version += 1;
        }
        let known = (0..GATEWAYS).filter(|at| store.live[*at]);
        let mut gateways: Vec<u64> = known.map(|at| at as u64).collect();
        if self.fault == Some(Fault::NoFreshLeases) {
            gateways.clear();
        }
        let start = Event::Start { version: store.version, has_filter: store.has_filter, gateways };
        state.meta = Some(Meta {
            controller: self.controllers.none(),
            version: 0,
            entry: Entry::Absent,
            covered: 0,
            live: store.live,
            told: std::array::from_fn(|_| None),
            waiting: None,
        });
        state.read = None;
        self.turn(state, start);
    }

    /// All streams end, and a request that waits gets no answer.
    fn crash(&self, state: &mut State) {
        state.meta = None;
        state.read = None;
        for at in 0..GATEWAYS {
            close(state, at);
        }
        if state.subscription == Subscription::Asked {
            state.subscription = Subscription::None;
        }
    }

    /// A turn of the controller: what it decides is stored before anybody is told.
    fn turn(&self, state: &mut State, event: Event) {
        let Some(meta) = &mut state.meta else { return };
        let is_cover = event == Event::Cover;
        let now_ms = u64::from(state.now) * TICK_MS;
        let turn: Turn = self.controllers.turn(meta.controller, event, now_ms);
        meta.controller = turn.controller;
        (meta.version, meta.entry, meta.covered) = (turn.version, turn.entry, turn.covered);
        if is_cover {
            meta.waiting = Some(turn.version);
        }
        for gateway in &turn.dead {
            meta.live[*gateway as usize] = false;
            state.store.live[*gateway as usize] = false;
        }
        state.store.version = turn.version;
        state.store.has_filter = turn.entry != Entry::Absent;
        if turn.removed {
            self.see(Seen::Removed);
        }
        if turn.revived {
            self.see(Seen::Revived);
        }
        if meta.waiting.is_some_and(|version| version <= turn.covered) {
            meta.waiting = None;
            if state.subscription == Subscription::Asked {
                state.subscription = Subscription::Covered(state.now);
            }
        }
    }

    fn report(&self, state: &mut State, at: usize) {
        let acknowledged = self.acknowledged(&state.gateways[at]);
        let now = state.now;
        state.gateways[at].report(acknowledged, now);
        if !self.bounds.slow_reports && state.meta.is_some() {
            self.hear(state, at, false);
        }
    }

    fn hear(&self, state: &mut State, at: usize, by_deposed: bool) {
        let Some(stream) = &mut state.gateways[at].stream else { return };
        if stream.up.is_empty() {
            return;
        }
        let report = stream.up.remove(0);
        if by_deposed {
            // It writes nothing for a renewal, so nothing stops it.
            if let Some(told) = state.deposed.as_mut().and_then(|meta| meta.told[at].as_mut()) {
                told.heard = told.heard.max(report.sent);
            }
            return;
        }
        let event = Event::Report { gateway: at as u64, version: report.acknowledged };
        state.store.live[at] = true;
        if let Some(meta) = &mut state.meta {
            meta.live[at] = true;
            let told = meta.told[at].get_or_insert_default();
            told.heard = told.heard.max(report.sent);
        }
        self.turn(state, event);
    }

    /// `GatewayPeer::update` of `meta-service/src/streams.rs`.
    fn tell(&self, state: &mut State, at: usize, by_deposed: bool) {
        let meta = if by_deposed { &mut state.deposed } else { &mut state.meta };
        let Some(meta) = meta else { return };
        let Some(told) = &mut meta.told[at] else { return };
        let set = match told.set {
            Some(version) if version >= meta.version => None,
            known => Some((meta.version, known.is_none(), meta.entry)),
        };
        told.set = Some(meta.version);
        told.renewed = told.heard;
        told.covered = meta.covered;
        let update = Update { set, renewed: told.heard, covered: meta.covered };
        if let Some(stream) = &mut state.gateways[at].stream {
            stream.down.push(update);
        }
    }

    /// News go out at once; they arrive when [`Action::Learn`] says.
    fn tell_news(&self, state: &mut State) {
        for at in 0..GATEWAYS {
            let stream = state.gateways[at].stream.as_ref();
            let is_free = stream.is_some_and(|stream| stream.down.is_empty());
            if is_free && has_news(state.meta.as_ref(), at) {
                self.tell(state, at, false);
            }
        }
    }

    fn learn(&self, state: &mut State, at: usize) {
        let Some(stream) = &mut state.gateways[at].stream else { return };
        if stream.down.is_empty() {
            return;
        }
        let update = stream.down.remove(0);
        let now = state.now;
        let from_echo = self.fault == Some(Fault::CountsFromTheEcho);
        state.gateways[at].update(&update, |sent| if from_echo { now } else { sent });
    }
}
