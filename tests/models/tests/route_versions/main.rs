//! Which topics are durable: the real filter set and leases of a controller, gateways with their tables,
//! streams between them that break, controllers that crash and are replaced, sweeps.
//!
//! One filter, two gateways; a session subscribes on the first, publishers publish on both. Assumed, and
//! shown to be needed: a turn of publishing takes no longer than a lease's margin, a covered subscription
//! is in the registry before `retire_ms` are over, and a controller is silent when the next one starts.

mod controller;
mod gateway;
mod model;

use holdfast_models::{explore, refute};

use crate::model::{Bounds, Fault, Protocol, Seen};

const GROWING: Bounds = Bounds {
    known: false,
    ticks: 4,
    controllers: 1,
    breaks: 0,
    sweeps: 0,
    turns: 2,
    cut_off: false,
    idle: None,
    slow_reports: false,
};

fn protocol(bounds: Bounds, fault: Option<Fault>) -> Protocol {
    Protocol { bounds, fault, controllers: Default::default(), seen: Default::default() }
}

fn keeps_its_promise(name: &str, bounds: Bounds, wanted: &[Seen]) {
    let model = protocol(bounds, None);
    let (seen, controllers) = (model.seen.clone(), model.controllers.clone());
    explore(name, model);
    println!("{name}: {} controllers", controllers.len());
    let seen = seen.lock().expect("no test panics under it");
    for wanted in wanted {
        assert!(seen.contains(wanted), "{wanted:?} never happens");
    }
}

#[test]
fn a_new_filter_is_known_everywhere_before_suback_suback_contract() {
    let bounds = Bounds { ticks: 3, breaks: 1, turns: 1, idle: Some(0), ..GROWING };
    let wanted = [Seen::PassedBy, Seen::Confirmed, Seen::ConfirmedPastADeadGateway];
    keeps_its_promise("growing", bounds, &wanted);
}

#[test]
fn a_new_controller_forgets_no_gateway_suback_contract() {
    let bounds = Bounds { controllers: 2, ticks: 2, turns: 1, idle: Some(0), ..GROWING };
    keeps_its_promise("fail-over", bounds, &[Seen::PassedBy, Seen::Failover]);
}

#[test]
fn a_sweep_removes_nothing_that_somebody_trusts_suback_contract() {
    let bounds = Bounds { known: true, sweeps: 2, ticks: 2, turns: 1, idle: Some(0), ..GROWING };
    let wanted = [Seen::PassedBy, Seen::ConfirmedBySet, Seen::Removed, Seen::Revived];
    keeps_its_promise("sweeps", bounds, &wanted);
}

#[test]
fn finds_an_acknowledgement_before_the_turn_ends() {
    refute(
        "turn",
        "suback_contract",
        protocol(GROWING, Some(Fault::AcknowledgesBeforeTheTurnEnds)),
    );
}

#[test]
fn finds_a_lease_that_is_counted_from_its_echo() {
    let property = "a_dead_gateway_stores_everything";
    refute("echo", property, protocol(GROWING, Some(Fault::CountsFromTheEcho)));
}

#[test]
fn finds_a_controller_that_gives_no_fresh_leases() {
    let bounds = Bounds { controllers: 2, ..GROWING };
    refute("fresh", "suback_contract", protocol(bounds, Some(Fault::NoFreshLeases)));
}

#[test]
fn finds_a_sweep_in_one_step() {
    let bounds = Bounds { known: true, sweeps: 1, ..GROWING };
    refute("sweep", "suback_contract", protocol(bounds, Some(Fault::SweepsAtOnce)));
}

#[test]
fn a_turn_must_not_outlast_the_margin() {
    refute("endless", "suback_contract", protocol(GROWING, Some(Fault::EndlessTurn)));
}

/// What `meta-service/DESIGN.md` says is left: the next sweep adds the filter again.
#[test]
fn a_gateway_that_is_cut_off_alone_must_not_trust_its_set() {
    let bounds = Bounds {
        known: true,
        cut_off: true,
        sweeps: 2,
        ticks: 5,
        turns: 1,
        idle: Some(0),
        ..GROWING
    };
    refute("cut off", "suback_contract", protocol(bounds, Some(Fault::TrustsWithoutALease)));
}

#[test]
fn a_controller_must_be_silent_when_the_next_one_starts() {
    let bounds = Bounds { controllers: 2, turns: 0, slow_reports: true, ..GROWING };
    let property = "a_dead_gateway_stores_everything";
    refute("deposed", property, protocol(bounds, Some(Fault::DeposedGoesOn)));
}
