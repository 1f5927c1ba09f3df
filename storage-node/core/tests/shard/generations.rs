use holdfast_proto::ids::{Generation, Position};
use holdfast_proto::shard::{RunRow, Status};
use holdfast_shard::{CutInfo, LAYOUT_TOPIC, Request};

use crate::support::*;

fn roll() -> Request {
    Request::Roll { layout: LAYOUT_TOPIC.into() }
}

fn cut_of(leader: &Leader) -> CutInfo {
    leader.applied.as_ref().unwrap().cut.unwrap()
}

#[test]
fn a_cut_stands_after_every_record_of_its_entry() {
    let mut leader = Leader::new();
    let outcomes = leader.run(&[
        Request::Cut,
        append(1, 1, &[Publish("t", "a", 0, 0, "1"), Publish("t", "a", 0, 0, "2")]),
        Request::Cut,
    ]);
    assert!(outcomes.iter().all(|outcome| outcome.status() == Status::Ok));
    let (first, end) = (Position(1), Position(3));
    assert_eq!(cut_of(&leader), CutInfo { first, end, generation: Generation(1), sealed: false });
    assert_eq!(leader.shard.cut_position(), end);
    assert_eq!(leader.shard.tail().below(end).len(), 2);
    leader.restart();
    assert_eq!((leader.shard.tail().first(), leader.shard.next_position()), (end, end));
    leader.run(&[Request::Cut]);
    assert_eq!((cut_of(&leader).first, cut_of(&leader).end), (end, end));
}

#[test]
fn a_roll_seals_and_positions_go_on() {
    let mut leader = Leader::new();
    leader.append(&[Publish("t", "a", 0, 0, "1")]);
    leader.pass_s(1);
    leader.run(&[roll(), Request::Cut]);
    assert!(cut_of(&leader).sealed && cut_of(&leader).generation == Generation(1));
    leader.sequence = 1;
    leader.append(&[Publish("t", "a", 0, 0, "2")]);
    leader.restart();
    let rows = leader.shard.generations();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].started_at_ms, rows[0].sealed_at_ms), (START_MS, START_MS + 1000));
    assert_eq!((rows[0].first_position, rows[0].end_position), (1, 2));
    assert_eq!((rows[1].generation, rows[1].first_position, rows[1].end_position), (2, 2, 0));
    assert_eq!(leader.shard.next_position(), Position(3));
    let unknown = Request::Roll { layout: "other".into() };
    assert_eq!(leader.one(unknown).status(), Status::Invalid);
}

#[test]
fn only_the_oldest_sealed_generation_is_dropped_with_its_runs() {
    let mut leader = Leader::new();
    leader.append(&[Publish("t", "a", 0, 0, "1")]);
    assert_eq!(leader.one(Request::DropGeneration(Generation(1))).status(), Status::Invalid);
    leader.run(&[roll()]);
    leader.run(&[roll()]);
    let run = |generation| RunRow {
        generation,
        first_position: generation,
        end_position: generation + 1,
        ..RunRow::default()
    };
    assert!(leader.shard.run_written(run(1)) && leader.shard.run_written(run(2)));
    leader.restart();
    assert_eq!(leader.shard.runs(), [run(1), run(2)]);
    assert_eq!(leader.one(Request::DropGeneration(Generation(2))).status(), Status::Invalid);
    assert_eq!(leader.one(Request::DropGeneration(Generation(1))).status(), Status::Ok);
    assert_eq!(leader.applied.as_ref().unwrap().dropped[0].generation, 1);
    assert!(!leader.shard.run_written(run(1)), "it is gone");
    leader.restart();
    assert_eq!(leader.shard.runs(), [run(2)]);
    assert_eq!(leader.shard.generations()[0].generation, 2);
    assert_eq!(leader.one(Request::DropGeneration(Generation(1))).status(), Status::Invalid);
}

#[test]
fn the_feature_level_only_rises() {
    let mut leader = Leader::new();
    assert_eq!(leader.shard.feature_level(), 1);
    for (level, expected) in [(3, 3), (2, 3)] {
        leader.run(&[Request::SetFeatureLevel(level)]);
        leader.restart();
        assert_eq!(leader.shard.feature_level(), expected);
    }
}

#[test]
fn a_checkpoint_that_was_not_written_is_part_of_the_next() {
    let mut leader = Leader::new();
    leader.claim(claim("a", 1));
    leader.run(&[Request::Cut]);
    drop(leader.shard.freeze());
    leader.claim(claim("b", 1));
    leader.restart();
    assert_eq!(leader.shard.session_count(), 2);
}

#[test]
fn what_changes_during_a_checkpoint_is_in_the_next() {
    use holdfast_proto::shard::command::Command as Kind;
    let mut leader = Leader::new();
    let row = leader.claim(claim("a", 1)).row.unwrap();
    let frozen = leader.shard.freeze();
    leader.command(Kind::CommitCursor(commit("a", row.epoch, row.instance, 7)));
    leader.command(Kind::Disconnect(disconnect("a", row.epoch, row.instance)));
    leader.base.write(&frozen);
    leader.shard.thaw();
    let cursor = |leader: &Leader| leader.shard.session(&client("a")).unwrap().unwrap().cursor;
    assert_eq!(cursor(&leader), [7]);
    leader.restart();
    assert_eq!(cursor(&leader), [7]);
}
