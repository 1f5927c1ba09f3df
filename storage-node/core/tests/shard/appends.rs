use holdfast_proto::ids::Position;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{Claim, Disconnect, ReleaseReceived, Repeat, Status};
use holdfast_shard::{FORGET_AFTER_MS, REMEMBERED_ANSWERS, Request};

use crate::support::*;

#[test]
fn a_batch_is_stored_once_and_its_repeat_gets_the_old_answer() {
    let mut leader = Leader::new();
    let two = [Publish("t", "a", 0, 0, "1"), Publish("t", "a", 0, 0, "2")];
    let first = leader.append(&two);
    assert_eq!((first.base_position, first.time_ms), (1, START_MS));
    assert_eq!(leader.stored(), ["1", "2"]);
    leader.pass_s(1);
    leader.restart();
    assert_eq!(appended(leader.one(append(1, 1, &two))), first);
    assert!(leader.applied.is_none());
    assert_eq!(leader.shard.next_position(), Position(3));
}

#[test]
fn a_gap_is_refused_and_says_what_is_expected() {
    let mut leader = Leader::new();
    for (sequence, expected) in [(2, 1), (9, 1)] {
        let outcome = leader.one(append(1, sequence, &[Publish("t", "a", 0, 0, "x")]));
        assert_eq!(outcome.status(), Status::Gap);
        assert_eq!(appended(outcome).expected_sequence, expected);
    }
    leader.append(&[]);
    let outcome = leader.one(append(1, 3, &[]));
    assert_eq!((outcome.status(), appended(outcome).expected_sequence), (Status::Gap, 2));
    assert_eq!(leader.shard.next_position(), Position::FIRST);
}

#[test]
fn batches_of_one_entry_see_each_other() {
    let mut leader = Leader::new();
    let one = |sequence| append(1, sequence, &[Publish("t", "a", 0, 0, "x")]);
    let outcomes = leader.run(&[one(1), one(2), one(1), one(4), one(3)]);
    let statuses: Vec<Status> = outcomes.iter().map(|outcome| outcome.status()).collect();
    assert_eq!(statuses, [Status::Ok, Status::Ok, Status::Ok, Status::Gap, Status::Ok]);
    assert_eq!(outcomes[0], outcomes[2]);
    assert_eq!(appended(outcomes[4].clone()).base_position, 3);
}

#[test]
fn only_the_newest_answers_are_remembered() {
    let mut leader = Leader::new();
    for _ in 0..=REMEMBERED_ANSWERS {
        leader.append(&[Publish("t", "a", 0, 0, "x")]);
    }
    assert_eq!(leader.one(append(1, 1, &[])).status(), Status::Expired);
    assert_eq!(leader.one(append(1, 2, &[])).status(), Status::Ok);
}

#[test]
fn a_late_batch_is_refused_and_takes_its_place_in_the_sequence() {
    let mut leader = Leader::new();
    let late = batch(1, 1, START_MS - 1, &[Publish("t", "a", 0, 0, "late")]);
    for _ in 0..2 {
        let outcome = leader.one(Request::Append(late.clone()));
        assert_eq!(outcome.status(), Status::Expired);
        assert_eq!(appended(outcome).expected_sequence, 2);
        assert!(leader.stored().is_empty());
    }
    leader.sequence = 1;
    leader.append(&[Publish("t", "a", 0, 0, "next")]);
    assert_eq!(leader.stored(), ["next"]);
}

#[test]
fn a_silent_producer_is_forgotten() {
    let mut leader = Leader::new();
    leader.append(&[]);
    leader.now_ms += FORGET_AFTER_MS - 1;
    leader.run(&[Request::Cut]);
    assert_eq!(leader.one(append(1, 1, &[])).status(), Status::Ok);
    leader.now_ms += 1;
    leader.run(&[Request::Cut]);
    leader.restart();
    assert_eq!(appended(leader.one(append(1, 2, &[]))).expected_sequence, 1);
}

#[test]
fn records_of_strangers_and_of_old_epochs_are_refused_single_owner() {
    let mut leader = Leader::new();
    let a = leader.claim(claim("a", 1)).row.unwrap();
    let outcome = leader.append(&[
        Publish("t", "a", a.epoch, 0, "1"),
        Publish("t", "z", a.epoch, 0, "unknown"),
        Publish("t", "a", a.epoch + 1, 0, "not yet"),
        Publish("t", "a", a.epoch, 0, "2"),
        Publish("t", "z", 0, 0, "not bound"),
    ]);
    assert_eq!((&outcome.refused[..], outcome.repeats.len()), (&[0b110][..], 0));
    assert_eq!(leader.stored(), ["1", "2", "not bound"]);
}

#[test]
fn a_claim_fences_what_follows_it_in_the_same_entry_single_owner() {
    let mut leader = Leader::new();
    let old = leader.claim(claim("a", 1)).row.unwrap();
    let outcomes = leader.run(&[
        append(1, 1, &[Publish("t", "a", old.epoch, 0, "before")]),
        command(Kind::Claim(claim("a", 2))),
        append(1, 2, &[Publish("t", "a", old.epoch, 0, "after")]),
        command(Kind::CommitCursor(commit("a", old.epoch, old.instance, 5))),
    ]);
    assert_eq!(leader.stored(), ["before"]);
    assert_eq!(&appended(outcomes[2].clone()).refused[..], [1]);
    assert_eq!(outcomes[3].status(), Status::Fenced);
}

#[test]
fn a_packet_id_is_taken_until_it_is_released_exactly_once_q2() {
    let mut leader = Leader::new();
    let row = leader.claim(claim("a", 1)).row.unwrap();
    let publish = |payload| Publish("t", "a", row.epoch, 7, payload);
    // In one batch, in one entry, in a later entry, after a restart: a repeat each time.
    let outcomes = leader.run(&[
        append(1, 1, &[publish("x"), Publish("t", "a", row.epoch, 0, "y"), publish("x")]),
        append(1, 2, &[publish("x")]),
    ]);
    assert_eq!(leader.stored(), ["x", "y"]);
    let first = appended(outcomes[0].clone());
    assert_eq!(&first.refused[..], [0b100]);
    assert_eq!(first.repeats, [Repeat { index: 2, position: 1 }]);
    assert_eq!(appended(outcomes[1].clone()).repeats, [Repeat { index: 0, position: 1 }]);
    leader.restart();
    leader.sequence = 2;
    assert_eq!(leader.append(&[publish("x")]).repeats, [Repeat { index: 0, position: 1 }]);
    // Another gateway claims the session: the id is still taken.
    let epoch = leader.claim(claim("a", 2)).row.unwrap().epoch;
    let again = leader.append(&[Publish("t", "a", epoch, 7, "x")]);
    assert_eq!(again.repeats, [Repeat { index: 0, position: 1 }]);
    let release = ReleaseReceived { client: Some(client("a")), epoch, packet_ids: vec![7, 8] };
    let release = command(Kind::ReleaseReceived(release));
    let new = append(1, 5, &[Publish("t", "a", epoch, 7, "new")]);
    let outcomes = leader.run(&[release.clone(), new, release]);
    assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Ok));
    assert_eq!(leader.stored(), ["new"]);
    let row = leader.shard.session(&client("a")).unwrap().unwrap();
    assert!(row.received.is_empty());
}

#[test]
fn a_new_session_has_its_packet_ids_free_exactly_once_q2() {
    let mut leader = Leader::new();
    let row = leader.claim(claim("a", 1)).row.unwrap();
    leader.append(&[Publish("t", "a", row.epoch, 7, "old")]);
    let leave =
        Disconnect { expiry_interval_s: Some(0), ..disconnect("a", row.epoch, row.instance) };
    // The end of the session and the next use of the id are in one entry.
    let outcomes = leader.run(&[
        command(Kind::Disconnect(leave)),
        append(1, 2, &[Publish("t", "a", row.epoch, 7, "late")]),
        command(Kind::Claim(claim("a", 1))),
    ]);
    assert_eq!(leader.stored(), ["late"]);
    let row = claimed(outcomes[2].clone()).row.unwrap();
    leader.sequence = 2;
    leader.append(&[Publish("t", "a", row.epoch, 7, "new")]);
    assert_eq!(leader.stored(), ["new"]);
}

#[test]
fn the_end_of_a_session_frees_its_packet_ids_within_an_entry_exactly_once_q2() {
    let mut leader = Leader::new();
    let regular = Claim { expiry_interval_s: 0, ..claim("a", 1) };
    let row = leader.claim(regular).row.unwrap();
    let leave = || command(Kind::Disconnect(disconnect("a", row.epoch, row.instance)));
    let publish =
        |sequence, payload| append(1, sequence, &[Publish("t", "a", row.epoch, 7, payload)]);
    let outcomes =
        leader.run(&[publish(1, "1"), leave(), publish(2, "2"), leave(), publish(3, "2")]);
    // Leaving twice ends it once: the last one is a repeat.
    assert_eq!(leader.stored(), ["1", "2"]);
    assert_eq!(appended(outcomes[4].clone()).repeats, [Repeat { index: 0, position: 2 }]);
}

#[test]
fn an_entry_that_was_decided_on_another_state_is_void() {
    let mut leader = Leader::new();
    let decide = |leader: &Leader, payload| {
        let request = append(1, 1, &[Publish("t", "a", 0, 0, payload)]);
        leader.shard.decide(&[request], START_MS).unwrap().entry.unwrap()
    };
    let (one, two) = (decide(&leader, "1"), decide(&leader, "2"));
    assert!(!leader.shard.apply(1, one).unwrap().void);
    let void = leader.shard.apply(2, two.clone()).unwrap();
    assert!(void.void && void.stored_records.is_empty());
    assert_eq!(void.outcomes[0].status(), Status::Unavailable);
    assert_eq!(leader.shard.next_position(), Position(2));
    assert!(leader.shard.apply(2, two).is_err(), "out of order");
}

#[test]
fn a_batch_that_is_not_whole_is_refused() {
    use holdfast_proto::batch::Batch;
    let mut leader = Leader::new();
    let whole = batch(1, 1, u64::MAX, &[Publish("t", "a", 0, 0, "x")]);
    let mut block = whole.as_bytes().to_vec();
    // The record says that it is longer than the batch.
    block[40] += 1;
    let damaged = Batch::trust(block.into()).unwrap();
    assert_eq!(leader.one(Request::Append(damaged)).status(), Status::Invalid);
    assert_eq!(leader.one(append(1, 0, &[])).status(), Status::Invalid);
    assert!(leader.applied.is_none());
}

#[test]
fn time_never_goes_back() {
    let mut leader = Leader::new();
    leader.append(&[]);
    leader.now_ms -= 500;
    assert_eq!(leader.append(&[]).time_ms, START_MS);
    assert_eq!(leader.shard.time_ms(), START_MS);
}
