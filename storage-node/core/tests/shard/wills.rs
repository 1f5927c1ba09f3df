use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Abandon, Claim, Disconnect, FireWill, SessionRow, Status};

use holdfast_shard::Request;

use crate::support::*;

fn with_will(delay_s: u32) -> Claim {
    Claim { will: will("w", delay_s), ..claim("a", 1) }
}

fn lose(leader: &mut Leader, row: &SessionRow) -> Vec<String> {
    let abandon = Abandon { client: Some(client("a")), epoch: row.epoch };
    assert_eq!(leader.command(Kind::Abandon(abandon)), Status::Ok);
    leader.stored()
}

#[test]
fn a_will_without_delay_is_published_with_the_loss() {
    let mut leader = Leader::new();
    let row = leader.claim(with_will(0)).row.unwrap();
    assert_eq!(lose(&mut leader, &row), ["w"]);
    assert!(lose(&mut leader, &row).is_empty(), "once");
    let placed = &leader.shard.tail().at(holdfast_proto::ids::Position(1)).unwrap();
    assert!(placed.record.is_will());
}

#[test]
fn a_delayed_will_is_published_once_when_it_is_due() {
    let mut leader = Leader::new();
    let row = leader.claim(with_will(5)).row.unwrap();
    assert!(lose(&mut leader, &row).is_empty());
    let fire = FireWill { client: Some(client("a")), epoch: row.epoch, instance: row.instance };
    leader.pass_s(4);
    leader.command(Kind::FireWill(fire.clone()));
    assert!(leader.stored().is_empty(), "early");
    leader.restart();
    leader.pass_s(1);
    assert_eq!(leader.run_due(), ["w"]);
    leader.command(Kind::FireWill(fire));
    assert!(leader.stored().is_empty(), "once");
    assert!(leader.shard.due(leader.now_ms, 10).unwrap().is_empty());
}

#[test]
fn a_resume_within_the_delay_cancels_the_will() {
    let mut leader = Leader::new();
    let row = leader.claim(with_will(5)).row.unwrap();
    lose(&mut leader, &row);
    leader.pass_s(4);
    assert!(leader.claim(claim("a", 1)).session_present);
    assert!(leader.stored().is_empty());
    leader.pass_s(10);
    assert!(leader.run_due().is_empty());
}

#[test]
fn a_resume_after_the_delay_publishes_it_even_if_nobody_fired_it() {
    let mut leader = Leader::new();
    let row = leader.claim(with_will(5)).row.unwrap();
    lose(&mut leader, &row);
    leader.pass_s(5);
    leader.claim(claim("a", 1));
    assert_eq!(leader.stored(), ["w"]);
}

#[test]
fn a_take_over_publishes_the_will_unless_it_is_delayed_and_the_session_goes_on() {
    for (delay_s, clean_start, expiry_interval_s, published) in [
        (0, false, 60, true),
        (5, false, 60, false),
        (0, true, 60, true),
        (5, true, 60, true),
        (5, false, 0, true),
    ] {
        let mut leader = Leader::new();
        leader.claim(Claim { expiry_interval_s, ..with_will(delay_s) });
        leader.claim(Claim { clean_start, ..claim("a", 2) });
        assert_eq!(leader.stored().len(), usize::from(published), "{delay_s} {clean_start}");
    }
}

#[test]
fn the_end_of_a_session_does_not_wait_for_the_delay() {
    let mut leader = Leader::new();
    let row = leader.claim(Claim { expiry_interval_s: 3, ..with_will(60) }).row.unwrap();
    lose(&mut leader, &row);
    leader.pass_s(3);
    assert_eq!(leader.run_due(), ["w"]);
    let row = leader.claim(Claim { expiry_interval_s: 0, ..with_will(60) }).row.unwrap();
    assert_eq!(lose(&mut leader, &row), ["w"]);
    let row = leader.claim(with_will(60)).row.unwrap();
    lose(&mut leader, &row);
    leader.claim(Claim { clean_start: true, ..claim("a", 2) });
    assert_eq!(leader.stored(), ["w"]);
}

#[test]
fn a_clean_disconnect_discards_the_will_unless_it_asks_for_it() {
    for (discard_will, expected) in [(true, 0), (false, 1)] {
        let mut leader = Leader::new();
        let row = leader.claim(with_will(0)).row.unwrap();
        let leave = Disconnect { discard_will, ..disconnect("a", row.epoch, row.instance) };
        leader.command(Kind::Disconnect(leave));
        assert_eq!(leader.stored().len(), expected);
    }
}

/// The client's gateway stops; the will is given five seconds.
fn hand_over(leader: &mut Leader, row: &SessionRow) {
    let leave = Disconnect { will_grace_s: 5, ..disconnect("a", row.epoch, row.instance) };
    assert_eq!(leader.command(Kind::Disconnect(leave)), Status::Ok);
}

#[test]
fn when_the_gateway_stops_the_will_waits_for_the_client_to_come_back() {
    for expiry_interval_s in [0, 60] {
        let mut leader = Leader::new();
        leader.one(Request::SetFeatureLevel(2));
        let will = || Claim { expiry_interval_s, ..with_will(0) };
        let row = leader.claim(will()).row.unwrap();
        hand_over(&mut leader, &row);
        leader.pass_s(4);
        assert!(leader.run_due().is_empty());
        let row = leader.claim(will()).row.unwrap();
        hand_over(&mut leader, &row);
        leader.pass_s(4);
        let claim = Claim { clean_start: true, ..will() };
        assert!(!leader.claim(claim).session_present);
        assert!(leader.stored().is_empty(), "it came back in time");

        let row = leader.claim(will()).row.unwrap();
        assert_eq!(leader.stored(), ["w"], "a claim ends an open connection uncleanly");
        hand_over(&mut leader, &row);
        leader.pass_s(6);
        assert_eq!(leader.run_due(), ["w"]);
        leader.claim(will());
        assert!(leader.run_due().is_empty(), "once");
    }
}

#[test]
fn a_claim_after_the_grace_publishes_the_will() {
    for expiry_interval_s in [0, 60] {
        let mut leader = Leader::new();
        leader.one(Request::SetFeatureLevel(2));
        let row = leader.claim(Claim { expiry_interval_s, ..with_will(0) }).row.unwrap();
        hand_over(&mut leader, &row);
        leader.pass_s(6);
        leader.claim(claim("a", 2));
        assert_eq!(leader.stored(), ["w"]);
    }
}

#[test]
fn the_grace_is_unknown_at_the_first_feature_level() {
    let mut leader = Leader::new();
    let row = leader.claim(with_will(0)).row.unwrap();
    hand_over(&mut leader, &row);
    assert_eq!(leader.stored(), ["w"]);
}

#[test]
fn deadlines_come_in_their_order() {
    let mut leader = Leader::new();
    for (id, delay_s) in [("a", 9), ("b", 3), ("c", 6)] {
        let claim = Claim { will: will(id, delay_s), ..claim(id, 1) };
        let row = leader.claim(claim).row.unwrap();
        leader.command(Kind::Abandon(Abandon { client: Some(client(id)), epoch: row.epoch }));
    }
    leader.pass_s(20);
    assert_eq!(leader.shard.due(leader.now_ms, 2).unwrap().len(), 2);
    assert_eq!(leader.run_due(), ["b", "c", "a"]);
}
