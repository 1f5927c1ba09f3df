//! What can happen, one step at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use holdfast_proto::shard::outcome::Outcome as Detail;
use holdfast_proto::shard::{Outcome, Status};
use stateright::{Model, Property};

use crate::shard::{Applied, Ask, Shards};
use crate::state::{
    Broken, Client, Connection, Flight, Gateway, Kept, Publish, Seen, State, Told, Truth,
};

/// Messages that wait in the log for the session.
const LOG: u8 = 2;

/// A mistake that a shell could make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An entry of an older term is applied.
    NoTermCheck,
    /// What a gateway sends late goes under the newest epoch that its process has heard of.
    BorrowedEpoch,
    /// A cursor is committed when messages are sent, not when they are acknowledged.
    CommitsWhatIsSent,
    /// A packet id is released with PUBREC, not with PUBREL.
    ReleasesEarly,
    /// Answers go out when the entry is decided.
    AnswersBeforeCommit,
}

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) connections: u8,
    pub(crate) clean_starts: bool,
    pub(crate) messages: u8,
    pub(crate) acknowledges: bool,
    pub(crate) disconnects: bool,
    pub(crate) ticks: u8,
    pub(crate) leader_changes: u8,
    pub(crate) crashes: u8,
    pub(crate) deaths: bool,
}

#[derive(Debug)]
pub(crate) struct Protocol {
    pub(crate) bounds: Bounds,
    pub(crate) fault: Option<Fault>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) seen: Arc<Mutex<BTreeSet<Seen>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    /// The new leader does not have it.
    Lost,
    /// The new leader has it, applies it, and knows nobody who waits for it.
    Kept,
    /// It was not written yet: whoever decided it writes it when it leads again.
    Late,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Connect {
        gateway: usize,
        clean: bool,
    },
    Publish,
    Release,
    Acknowledge,
    Disconnect,
    Commit {
        gateway: usize,
    },
    Send {
        gateway: usize,
        at: usize,
    },
    /// The new owner tells the old one, which hands over what it has not committed.
    TakeOver {
        from: usize,
    },
    Decide,
    Apply,
    LeaderChange(Fate),
    WriteLate,
    /// The leader asks what is due and takes dead gateways' sessions from them.
    Own,
    Crash {
        gateway: usize,
    },
    DeclareDead {
        gateway: usize,
    },
    Tick,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let gateway = Gateway {
            up: true,
            declared_dead: false,
            sequence: 0,
            asked: Vec::new(),
            connection: None,
        };
        vec![State {
            shard: self.shards.first(),
            ticks: 0,
            leader_changes: 0,
            crashes: 0,
            queue: Vec::new(),
            flight: None,
            late: None,
            gateways: [gateway.clone(), gateway],
            client: Client {
                connections: 0,
                gateway: None,
                connected: false,
                message: 1,
                publish: Publish::Idle,
            },
            truth: Truth::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.truth.broken.is_empty() {
            return;
        }
        let bounds = &self.bounds;
        self.client_actions(state, actions);
        for (at, gateway) in state.gateways.iter().enumerate() {
            if !gateway.up {
                if bounds.deaths && !gateway.declared_dead {
                    actions.push(Action::DeclareDead { gateway: at });
                }
                continue;
            }
            if bounds.deaths && !gateway.declared_dead && gateway.connection.is_some() {
                actions.push(Action::DeclareDead { gateway: at });
            }
            if state.crashes < bounds.crashes {
                actions.push(Action::Crash { gateway: at });
            }
            let unsent = |ask: &Ask| {
                !state.queue.contains(ask)
                    && !state.flight.as_ref().is_some_and(|flight| flight.asks.contains(ask))
            };
            let sent = gateway.asked.iter().enumerate().filter(|(_, ask)| unsent(ask));
            actions.extend(sent.map(|(ask, _)| Action::Send { gateway: at, at: ask }));
            if let Some(connection) = &gateway.connection
                && connection.epoch != 0
            {
                let ahead = u8::from(self.fault == Some(Fault::CommitsWhatIsSent));
                let moved = (connection.acknowledged + ahead).min(LOG) > connection.committed;
                if moved && !gateway.asked.iter().any(|ask| matches!(ask, Ask::Commit { .. })) {
                    actions.push(Action::Commit { gateway: at });
                }
                let other = &state.gateways[1 - at];
                let newer = |newer: &Connection| newer.epoch > connection.epoch;
                if other.connection.as_ref().is_some_and(newer) {
                    actions.push(Action::TakeOver { from: at });
                }
            }
        }
        match &state.flight {
            None if !state.queue.is_empty() => actions.push(Action::Decide),
            None => {}
            Some(_) => actions.push(Action::Apply),
        }
        if state.leader_changes < bounds.leader_changes {
            actions.push(Action::LeaderChange(Fate::Lost));
            if state.flight.is_some() {
                actions.push(Action::LeaderChange(Fate::Kept));
                actions.push(Action::LeaderChange(Fate::Late));
            }
        }
        if state.late.is_some() {
            actions.push(Action::WriteLate);
        }
        if !self.own(state).is_empty() {
            actions.push(Action::Own);
        }
        if state.ticks < bounds.ticks {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Connect { gateway, clean } => connect(&mut state, gateway, clean),
            Action::Publish => self.publish(&mut state),
            Action::Release => {
                state.client.publish = Publish::Releasing;
                let (gateway, epoch, _) = current(&state)?;
                ask(&mut state.gateways[gateway], Ask::Release { epoch });
            }
            Action::Acknowledge => {
                let (gateway, _, instance) = current(&state)?;
                let connection = state.gateways[gateway].connection.as_mut()?;
                connection.acknowledged += 1;
                let known = state.truth.acknowledged.entry(instance).or_default();
                *known = (*known).max(connection.acknowledged);
            }
            Action::Disconnect => {
                let (gateway, epoch, instance) = current(&state)?;
                let connection = state.gateways[gateway].connection.take()?;
                let cursor = connection.acknowledged;
                ask(&mut state.gateways[gateway], Ask::Disconnect { epoch, instance, cursor });
                state.client.gateway = None;
                state.client.connected = false;
            }
            Action::Commit { gateway } => {
                let ahead = u8::from(self.fault == Some(Fault::CommitsWhatIsSent));
                let connection = state.gateways[gateway].connection.as_mut()?;
                let cursor = (connection.acknowledged + ahead).min(LOG);
                connection.committed = cursor;
                let (epoch, instance) = (connection.epoch, connection.instance);
                ask(&mut state.gateways[gateway], Ask::Commit { epoch, instance, cursor });
            }
            Action::Send { gateway, at } => {
                let mut sent = state.gateways[gateway].asked[at].clone();
                if self.fault == Some(Fault::BorrowedEpoch) {
                    borrow_epoch(&mut sent, state.truth.epoch);
                    state.gateways[gateway].asked[at] = sent.clone();
                }
                state.queue.push(sent);
            }
            Action::TakeOver { from } => {
                let old = state.gateways[from].connection.take()?;
                let new = state.gateways[1 - from].connection.as_mut()?;
                if old.instance == new.instance && old.acknowledged > new.committed {
                    new.committed = old.acknowledged;
                    new.acknowledged = new.acknowledged.max(old.acknowledged);
                    let (epoch, instance, cursor) = (new.epoch, new.instance, old.acknowledged);
                    ask(&mut state.gateways[1 - from], Ask::Commit { epoch, instance, cursor });
                }
            }
            Action::Decide => {
                let asks = std::mem::take(&mut state.queue);
                let decided = self.shards.decide(state.shard, &asks, state.ticks);
                let answers: Vec<Kept> = decided.answers.iter().map(Kept::of).collect();
                if decided.entry.is_none() {
                    self.answer(&mut state, &asks, &answers, &[]);
                } else {
                    if self.fault == Some(Fault::AnswersBeforeCommit) {
                        let entry = decided.entry.as_ref()?;
                        let early = self.shards.apply(state.shard, entry);
                        let told: Vec<Told> = early.outcomes.iter().map(Told::of).collect();
                        self.answer(&mut state, &asks, &answers, &told);
                    }
                    state.flight = Some(Flight { entry: decided.entry, asks, answers });
                }
            }
            Action::Apply => {
                let flight = state.flight.take()?;
                let told = self.apply(&mut state, &flight)?;
                self.answer(&mut state, &flight.asks, &flight.answers, &told);
            }
            Action::LeaderChange(fate) => {
                state.leader_changes += 1;
                state.queue.clear();
                let flight = state.flight.take();
                match (fate, flight) {
                    (Fate::Kept, Some(flight)) => drop(self.apply(&mut state, &flight)?),
                    (Fate::Late, Some(flight)) => state.late = Some(flight),
                    _ => {}
                }
            }
            Action::WriteLate => {
                // storage-node/src/raft/machine.rs: an entry of another term is not given to the shard.
                let late = state.late.take()?;
                if self.fault == Some(Fault::NoTermCheck) {
                    let told = self.apply(&mut state, &late)?;
                    self.answer(&mut state, &late.asks, &late.answers, &told);
                } else {
                    self.see(Seen::VoidEntry);
                }
            }
            Action::Own => {
                let own = self.own(&state);
                state.queue.extend(own);
            }
            Action::Crash { gateway } => {
                state.crashes += 1;
                let crashed = &mut state.gateways[gateway];
                crashed.up = false;
                crashed.connection = None;
                crashed.asked.clear();
                if state.client.gateway == Some(gateway) {
                    state.client.gateway = None;
                    state.client.connected = false;
                }
            }
            Action::DeclareDead { gateway } => state.gateways[gateway].declared_dead = true,
            Action::Tick => state.ticks += 1,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        fn kept(state: &State, broken: Broken) -> bool {
            !state.truth.broken.contains(&broken)
        }
        vec![
            Property::always("single_owner", |_, state| kept(state, Broken::SingleOwner)),
            Property::always("no_early_cursor", |_, state| kept(state, Broken::NoEarlyCursor)),
            Property::always("exactly_once_q2", |_, state| kept(state, Broken::ExactlyOnce)),
            Property::always("no_acked_loss", |_, state| kept(state, Broken::Acknowledged)),
            Property::always("ended_stays_ended", |_, state| kept(state, Broken::Resumed)),
            Property::always("a_will_fires_once", |_, state| kept(state, Broken::WillTwice)),
        ]
    }
}

/// Gateway, epoch and instance of the client's connection.
fn current(state: &State) -> Option<(usize, u8, u8)> {
    let gateway = state.client.gateway.filter(|_| state.client.connected)?;
    let connection = state.gateways[gateway].connection.as_ref()?;
    Some((gateway, connection.epoch, connection.instance))
}

fn ask(gateway: &mut Gateway, ask: Ask) {
    if !gateway.asked.contains(&ask) {
        gateway.asked.push(ask);
    }
}

fn connect(state: &mut State, gateway: usize, clean: bool) {
    let client = &mut state.client;
    client.connections += 1;
    client.gateway = Some(gateway);
    client.connected = false;
    let connection = client.connections;
    let host = &mut state.gateways[gateway];
    host.connection = Some(Connection {
        number: connection,
        epoch: 0,
        instance: 0,
        acknowledged: 0,
        committed: 0,
    });
    ask(host, Ask::Claim { gateway: gateway as u8 + 1, clean, connection });
}

fn borrow_epoch(ask: &mut Ask, newest: u8) {
    match ask {
        Ask::Append { epoch, .. } | Ask::Commit { epoch, .. } | Ask::Release { epoch } => {
            *epoch = newest;
        }
        _ => {}
    }
}

impl Protocol {
    fn see(&self, seen: Seen) {
        self.seen.lock().expect("no test panics under it").insert(seen);
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (bounds, client) = (&self.bounds, &state.client);
        if client.connections < bounds.connections {
            for gateway in (0..2).filter(|at| state.gateways[*at].up) {
                actions.push(Action::Connect { gateway, clean: false });
                if bounds.clean_starts && client.connections > 0 {
                    actions.push(Action::Connect { gateway, clean: true });
                }
            }
        }
        let Some((gateway, ..)) = current(state) else { return };
        match client.publish {
            Publish::Idle if client.message <= bounds.messages => actions.push(Action::Publish),
            Publish::Received => actions.push(Action::Release),
            _ => {}
        }
        let connection = state.gateways[gateway].connection.as_ref();
        if bounds.acknowledges && connection.is_some_and(|known| known.acknowledged < LOG) {
            actions.push(Action::Acknowledge);
        }
        if bounds.disconnects {
            actions.push(Action::Disconnect);
        }
    }

    /// What the leader would ask by itself and has not.
    fn own(&self, state: &State) -> Vec<Ask> {
        let dead = (0..2u8).filter(|at| state.gateways[usize::from(*at)].declared_dead);
        let dead: Vec<u8> = dead.map(|at| at + 1).collect();
        let asked = |ask: &Ask| {
            state.queue.contains(ask)
                || state.flight.as_ref().is_some_and(|flight| flight.asks.contains(ask))
        };
        let own = self.shards.own(state.shard, &dead, state.ticks);
        own.into_iter().filter(|ask| !asked(ask)).collect()
    }

    /// PUBLISH, or its repeat with DUP, comes to the gateway.
    fn publish(&self, state: &mut State) {
        let Some((gateway, epoch, _)) = current(state) else { return };
        let message = state.client.message;
        state.client.publish = Publish::Sent;
        let host = &mut state.gateways[gateway];
        host.sequence += 1;
        let sequence = host.sequence;
        ask(host, Ask::Append { gateway: gateway as u8 + 1, sequence, epoch, message });
    }

    fn apply(&self, state: &mut State, flight: &Flight) -> Option<Vec<Told>> {
        let applied = self.shards.apply(state.shard, flight.entry.as_ref()?);
        let told: Vec<Told> = applied.outcomes.iter().map(Told::of).collect();
        state.shard = applied.shard;
        self.check(state, flight, &applied, &told);
        Some(told)
    }

    /// Holds what an entry did against what was allowed.
    fn check(&self, state: &mut State, flight: &Flight, applied: &Applied, told: &[Told]) {
        let truth = &mut state.truth;
        let mut accepted = 0;
        for (ask, answer) in flight.asks.iter().zip(&flight.answers) {
            let Kept::AtOp(op) = answer else { continue };
            let told = &told[*op];
            match (ask, told) {
                (Ask::Claim { connection, .. }, Told::Claimed { epoch, instance, present, .. }) => {
                    *truth.claims.entry(*connection).or_default() += 1;
                    if *present && truth.ended.contains(instance) {
                        truth.broken.insert(Broken::Resumed);
                    }
                    if truth.instance != 0 && truth.instance != *instance {
                        truth.ended.insert(truth.instance);
                    }
                    if truth.instance != *instance {
                        truth.cursor = 0;
                    }
                    (truth.epoch, truth.instance) = (*epoch, *instance);
                }
                (Ask::Append { epoch, .. }, Told::Stored | Told::Repeated) => {
                    accepted += usize::from(*told == Told::Stored);
                    if *epoch != truth.epoch {
                        truth.broken.insert(Broken::SingleOwner);
                    }
                }
                (
                    Ask::Commit { epoch, .. }
                    | Ask::Release { epoch }
                    | Ask::Disconnect { epoch, .. },
                    Told::Done,
                ) if *epoch != truth.epoch => {
                    truth.broken.insert(Broken::SingleOwner);
                }
                (Ask::Expire { epoch, .. }, Told::Done) if *epoch == truth.epoch => {
                    self.see(Seen::Expired);
                }
                _ => {}
            }
        }
        if accepted < applied.messages.len() {
            truth.broken.insert(Broken::SingleOwner);
        }
        for message in &applied.messages {
            let stored = truth.stored.entry(*message).or_default();
            *stored += 1;
            if *stored > 1 {
                truth.broken.insert(Broken::ExactlyOnce);
            }
        }
        for connection in &applied.wills {
            self.see(Seen::WillFired);
            let fired = truth.wills.entry(*connection).or_default();
            *fired += 1;
            if *fired > truth.claims.get(connection).copied().unwrap_or(0) {
                truth.broken.insert(Broken::WillTwice);
            }
        }
        match &applied.row {
            Some(row) => {
                let cursor = row.cursor.first().copied().unwrap_or(0) as u8;
                let read = truth.acknowledged.get(&(row.instance as u8)).copied().unwrap_or(0);
                if cursor > read || cursor < truth.cursor {
                    truth.broken.insert(Broken::NoEarlyCursor);
                }
                truth.cursor = cursor;
            }
            None if truth.instance != 0 => drop(truth.ended.insert(truth.instance)),
            None => {}
        }
    }

    /// Gives the answers to the gateways that wait for them.
    fn answer(&self, state: &mut State, asks: &[Ask], answers: &[Kept], told: &[Told]) {
        for (ask, answer) in asks.iter().zip(answers) {
            let told = match answer {
                Kept::Now(told) => told.clone(),
                Kept::AtOp(op) => told.get(*op).cloned().unwrap_or(Told::Unavailable),
            };
            match (ask, &told) {
                (_, Told::Unavailable) => continue,
                (Ask::Append { .. } | Ask::Commit { .. }, Told::Fenced) => {
                    self.see(Seen::LateWriteRefused);
                }
                _ => {}
            }
            for at in 0..2 {
                let asked = &mut state.gateways[at].asked;
                let Some(place) = asked.iter().position(|known| known == ask) else { continue };
                asked.remove(place);
                self.answered(state, at, ask, &told);
            }
        }
    }

    fn answered(&self, state: &mut State, at: usize, asked: &Ask, told: &Told) {
        let Some(connection) = &mut state.gateways[at].connection else { return };
        let (number, own) = (connection.number, connection.epoch);
        let is_client = state.client.gateway == Some(at) && number == state.client.connections;
        match (asked, told) {
            (
                Ask::Claim { connection: claimed, .. },
                Told::Claimed { epoch, instance, cursor, present, previous },
            ) if *claimed == number => {
                connection.epoch = *epoch;
                connection.instance = *instance;
                connection.acknowledged = *cursor;
                connection.committed = *cursor;
                if *previous != 0 && usize::from(*previous) != at + 1 {
                    self.see(Seen::TakeOver);
                }
                if is_client {
                    state.client.connected = true;
                    self.connected(state, *present);
                }
            }
            (Ask::Append { epoch, message, .. }, Told::Stored | Told::Repeated)
                if *epoch == own =>
            {
                if self.fault == Some(Fault::ReleasesEarly) {
                    ask(&mut state.gateways[at], Ask::Release { epoch: *epoch });
                }
                if !is_client {
                    // PUBREC finds nobody.
                    return;
                }
                if *told == Told::Repeated {
                    self.see(Seen::Repeat);
                }
                if state.truth.stored.get(message) != Some(&1) {
                    state.truth.broken.insert(Broken::Acknowledged);
                }
                if state.client.publish == Publish::Sent && state.client.message == *message {
                    state.client.publish = Publish::Received;
                    if *message > 1 {
                        self.see(Seen::IdReused);
                    }
                }
            }
            (Ask::Release { epoch }, Told::Done)
                if *epoch == own && is_client && state.client.publish == Publish::Releasing =>
            {
                state.client.publish = Publish::Idle;
                state.client.message += 1;
            }
            (
                Ask::Append { epoch, .. } | Ask::Commit { epoch, .. } | Ask::Release { epoch },
                Told::Fenced,
            ) if *epoch == own => {
                state.gateways[at].connection = None;
                if is_client {
                    state.client.gateway = None;
                    state.client.connected = false;
                }
            }
            _ => {}
        }
    }

    /// CONNACK: what was under way is repeated, or forgotten with the session.
    fn connected(&self, state: &mut State, present: bool) {
        if present {
            self.see(Seen::Resumed);
            match state.client.publish {
                Publish::Idle => {}
                Publish::Sent => self.publish(state),
                Publish::Received | Publish::Releasing => state.client.publish = Publish::Received,
            }
        } else if state.client.publish != Publish::Idle {
            state.client.publish = Publish::Idle;
            state.client.message += 1;
        }
    }
}

impl Told {
    pub(crate) fn of(outcome: &Outcome) -> Told {
        match (outcome.status(), &outcome.outcome) {
            (Status::Ok, Some(Detail::Claim(claim))) => {
                let row = claim.row.as_ref().expect("a claim answers with the row");
                Told::Claimed {
                    epoch: row.epoch as u8,
                    instance: row.instance as u8,
                    cursor: row.cursor[0] as u8,
                    present: claim.session_present,
                    previous: claim
                        .previous_owner
                        .as_ref()
                        .map_or(0, |owner| owner.incarnation as u8),
                }
            }
            (Status::Ok, Some(Detail::Append(append))) => {
                if append.refused.iter().all(|bits| *bits == 0) {
                    Told::Stored
                } else if append.repeats.is_empty() {
                    Told::Fenced
                } else {
                    Told::Repeated
                }
            }
            (Status::Ok, None) => Told::Done,
            (Status::Fenced | Status::NoSession, _) => Told::Fenced,
            // A gap: an earlier batch of this gateway was overtaken.
            (Status::Unavailable | Status::Gap, _) => Told::Unavailable,
            (status, _) => panic!("nobody asks for {status:?}"),
        }
    }
}
