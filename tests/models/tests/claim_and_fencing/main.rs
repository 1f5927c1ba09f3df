//! Claim, take over, append, commit, expire, with crashes at every step: the real shard between a client
//! that connects here and there, two gateways, and leaders that come and go.
//!
//! What the shells do is modelled: a gateway repeats what is not answered; a proposer has one entry in
//! flight (`storage-node/src/replica/proposer.rs`); an entry that was decided in another term than it is
//! written in is void (`storage-node/src/raft/machine.rs`); a new leader decides only after it has applied
//! what it has; answers go out when the entry is applied.

mod model;
mod shard;
mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use holdfast_models::{explore, refute};

use crate::model::{Bounds, Fault, Protocol};
use crate::state::Seen;

/// Nothing but one connection.
const STILL: Bounds = Bounds {
    connections: 1,
    clean_starts: false,
    messages: 0,
    acknowledges: false,
    disconnects: false,
    ticks: 0,
    leader_changes: 0,
    crashes: 0,
    deaths: false,
};

fn protocol(bounds: Bounds, fault: Option<Fault>) -> Protocol {
    Protocol { bounds, fault, shards: Arc::default(), seen: Arc::default() }
}

fn keeps_all_promises(name: &str, bounds: Bounds, wanted: &[Seen]) {
    let model = protocol(bounds, None);
    let (seen, shards): (Arc<Mutex<BTreeSet<Seen>>>, _) =
        (model.seen.clone(), model.shards.clone());
    explore(name, model);
    println!("{name}: {} shards", shards.len());
    let seen = seen.lock().expect("no test panics under it");
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted:?} never happens");
    }
}

#[test]
fn a_take_over_fences_late_publishes_single_owner_exactly_once_q2() {
    let bounds = Bounds { connections: 2, messages: 2, leader_changes: 2, crashes: 1, ..STILL };
    let wanted = [Seen::TakeOver, Seen::LateWriteRefused, Seen::VoidEntry, Seen::Repeat];
    keeps_all_promises("publishes", bounds, &wanted);
}

#[test]
fn a_take_over_moves_no_cursor_past_the_client_no_early_cursor() {
    let bounds =
        Bounds { connections: 2, acknowledges: true, leader_changes: 2, crashes: 1, ..STILL };
    keeps_all_promises("cursors", bounds, &[Seen::TakeOver, Seen::LateWriteRefused]);
}

#[test]
fn a_third_connection_changes_nothing_single_owner() {
    let bounds = Bounds { connections: 3, messages: 1, ..STILL };
    keeps_all_promises("three, publishes", bounds, &[Seen::TakeOver, Seen::Repeat]);
    let bounds = Bounds { connections: 3, acknowledges: true, ..STILL };
    keeps_all_promises("three, cursors", bounds, &[Seen::TakeOver]);
}

#[test]
fn sessions_end_once_and_wills_fire_once() {
    let bounds = Bounds {
        connections: 2,
        clean_starts: true,
        disconnects: true,
        ticks: 2,
        crashes: 1,
        deaths: true,
        ..STILL
    };
    keeps_all_promises("ends", bounds, &[Seen::Expired, Seen::WillFired, Seen::Resumed]);
}

#[test]
fn a_leader_change_repeats_no_end_and_no_will() {
    let bounds = Bounds { connections: 2, ticks: 2, leader_changes: 1, deaths: true, ..STILL };
    keeps_all_promises("ends, leader", bounds, &[Seen::Expired, Seen::WillFired, Seen::VoidEntry]);
}

#[test]
fn finds_a_missing_term_check() {
    let bounds = Bounds { connections: 2, messages: 1, leader_changes: 2, ..STILL };
    refute("term", "single_owner", protocol(bounds, Some(Fault::NoTermCheck)));
}

#[test]
fn finds_a_missing_fence() {
    let bounds = Bounds { connections: 2, messages: 2, ..STILL };
    refute("fence", "exactly_once_q2", protocol(bounds, Some(Fault::BorrowedEpoch)));
}

#[test]
fn finds_a_cursor_that_runs_ahead_of_the_client() {
    let bounds = Bounds { acknowledges: true, ..STILL };
    refute("cursor", "no_early_cursor", protocol(bounds, Some(Fault::CommitsWhatIsSent)));
}

#[test]
fn finds_a_packet_id_that_is_released_early() {
    let bounds = Bounds { connections: 2, messages: 1, ..STILL };
    refute("release", "exactly_once_q2", protocol(bounds, Some(Fault::ReleasesEarly)));
}

#[test]
fn finds_an_answer_before_the_commit() {
    let bounds = Bounds { messages: 1, leader_changes: 1, ..STILL };
    refute("answer", "no_acked_loss", protocol(bounds, Some(Fault::AnswersBeforeCommit)));
}
