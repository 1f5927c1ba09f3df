//! The hand-over between catching up and live delivery: the real session core between pages of any
//! replica, a tail that follows its leader, and an inbox that overflows.
//!
//! One shard, one session that attaches while the tail runs for others. What the sites and the gateway's
//! dispatch do is modelled after `storage-node/src/serve` and `broker-node/src/cluster/dispatch.rs`.

mod dispatch;
mod model;
mod session;

use holdfast_models::{explore, refute};

use crate::model::{Bounds, Fault, Protocol, Seen};

fn protocol(bounds: Bounds, fault: Option<Fault>) -> Protocol {
    Protocol { bounds, fault, sessions: Default::default(), seen: Default::default() }
}

fn keeps_its_promise(name: &str, bounds: Bounds, wanted: &[Seen]) {
    let model = protocol(bounds, None);
    let (seen, sessions) = (model.seen.clone(), model.sessions.clone());
    explore(name, model);
    println!("{name}: {} sessions", sessions.len());
    let seen = seen.lock().expect("no test panics under it");
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted:?} never happens");
    }
}

#[test]
fn a_session_that_falls_behind_and_catches_up_misses_nothing() {
    let bounds = Bounds { records: 3, leader_changes: 0, full_sockets: 1 };
    let wanted = [Seen::Read, Seen::Live, Seen::Behind, Seen::AttachedAgain, Seen::CaughtUp];
    keeps_its_promise("overflow", bounds, &wanted);
}

#[test]
fn a_leader_change_makes_no_gap_and_repeats_nothing() {
    let bounds = Bounds { records: 2, leader_changes: 2, full_sockets: 0 };
    keeps_its_promise("leader", bounds, &[Seen::Read, Seen::Live, Seen::CaughtUp]);
}

#[test]
fn finds_a_missing_barrier() {
    let bounds = Bounds { records: 2, leader_changes: 2, full_sockets: 0 };
    refute("barrier", "no_gap_no_repeat_in_order", protocol(bounds, Some(Fault::NoBarrier)));
}

#[test]
fn finds_an_attachment_before_the_filter_is_active() {
    let bounds = Bounds { records: 2, leader_changes: 0, full_sockets: 0 };
    refute("attach", "no_gap_no_repeat_in_order", protocol(bounds, Some(Fault::AttachesAtOnce)));
}

#[test]
fn finds_heads_that_are_read_after_the_inbox() {
    let bounds = Bounds { records: 3, leader_changes: 0, full_sockets: 0 };
    let fault = Some(Fault::HeadsAfterTheInbox);
    refute("heads", "nothing_is_left_behind", protocol(bounds, fault));
}
