//! Random lives of a storage tier: sites come, go, return, are drained, wiped and given up, operators move
//! leaders and replicas, and the controller starts anew, while simulated leaders change their voters and replicas fetch history.

#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

mod world;

use proptest::prelude::*;

use crate::world::World;

/// What happens from outside.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Stop(usize),
    Leave(usize),
    Start(usize),
    Add,
    Wipe(usize),
    Drain(usize),
    CancelDrain(usize),
    Replace(usize),
    MoveLeader(u32, usize),
    MoveReplica(u32, usize, usize),
    Release(u32),
    NewController,
    Pause,
}

fn fault() -> impl Strategy<Value = Fault> {
    let (shard, site) = (0..world::SHARDS, 0usize..8);
    prop_oneof![
        3 => site.clone().prop_map(Fault::Stop),
        1 => site.clone().prop_map(Fault::Leave),
        4 => site.clone().prop_map(Fault::Start),
        2 => Just(Fault::Add),
        1 => site.clone().prop_map(Fault::Wipe),
        2 => site.clone().prop_map(Fault::Drain),
        1 => site.clone().prop_map(Fault::CancelDrain),
        1 => site.clone().prop_map(Fault::Replace),
        2 => (shard.clone(), site.clone()).prop_map(|(shard, site)| Fault::MoveLeader(shard, site)),
        3 => (shard.clone(), site.clone(), site)
            .prop_map(|(shard, from, to)| Fault::MoveReplica(shard, from, to)),
        1 => shard.prop_map(Fault::Release),
        2 => Just(Fault::NewController),
        1 => Just(Fault::Pause),
    ]
}

fn happen(world: &mut World, fault: Fault) {
    match fault {
        Fault::Stop(site) => world.stop(site, false),
        Fault::Leave(site) => world.stop(site, true),
        Fault::Start(site) => world.start(site),
        Fault::Add => world.add_site(),
        Fault::Wipe(site) => world.wipe(site),
        Fault::Drain(site) => world.drain(site, false),
        Fault::CancelDrain(site) => world.drain(site, true),
        Fault::Replace(site) => world.replace(site),
        Fault::MoveLeader(shard, site) => world.move_leader(shard, site),
        Fault::MoveReplica(shard, from, to) => world.move_replica(shard, from, to),
        Fault::Release(shard) => world.release(shard),
        Fault::NewController => world.new_controller(),
        Fault::Pause => world.pause(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_all_comes_to_rest(
        seed in any::<u64>(),
        width in 0usize..3,
        spare in 0usize..3,
        zones in 0usize..4,
        faults in proptest::collection::vec((fault(), 0usize..40), 0..40),
    ) {
        let replicas = [1, 3, 5][width];
        let mut world = World::new(seed, replicas, replicas + spare, zones);
        for (fault, steps) in faults {
            happen(&mut world, fault);
            (0..steps).for_each(|_| world.step());
        }
        world.start_all();
        world.rest();
        world.check_pins_are_kept();
        (0..world::SHARDS).for_each(|shard| world.release(shard));
        world.rest();
    }
}

#[test]
fn a_new_site_takes_its_share_while_few_shards_move_at_once() {
    let mut world = World::new(7, 3, 3, 0);
    world.rest();
    world.add_site();
    world.rest();
    assert_eq!(world.loads(), [5, 5, 4, 4]);
    assert!(world.most_under_way() <= world::TRANSITIONS_MAX, "{}", world.most_under_way());
    assert_eq!(world.moves(), 4);
}

#[test]
fn a_drained_site_ends_empty_and_only_then_is_called_so() {
    let mut world = World::new(3, 3, 4, 0);
    world.rest();
    world.drain(1, false);
    for _ in 0..3 {
        world.step();
        world.new_controller();
    }
    world.rest();
    assert_eq!(world.loads()[1], 0);
    assert!(world.is_drained(1));
}

#[test]
fn a_drain_that_is_called_off_leaves_the_site_in_use() {
    let mut world = World::new(3, 3, 4, 0);
    world.rest();
    world.drain(1, false);
    (0..20).for_each(|_| world.step());
    world.drain(1, true);
    world.rest();
    assert!(world.loads()[1] >= 4, "{:?}", world.loads());
}

#[test]
fn a_site_that_stays_away_is_replaced_and_is_used_again_when_it_returns() {
    let mut world = World::new(11, 3, 4, 0);
    world.rest();
    world.stop(2, false);
    world.until(|world| world.is_lost(2) && world.loads()[2] == 0 && world.under_way() == 0);
    world.start(2);
    world.rest();
    assert!(world.loads()[2] >= 4, "{:?}", world.loads());
}

#[test]
fn without_a_spare_site_nobody_is_replaced() {
    let mut world = World::new(11, 3, 3, 0);
    world.rest();
    world.stop(2, false);
    (0..400).for_each(|_| world.step());
    assert!(!world.is_lost(2));
    world.add_site();
    world.until(|world| world.is_lost(2) && world.loads()[2] == 0 && world.under_way() == 0);
}

#[test]
fn a_wiped_disk_is_a_new_site_at_once() {
    let mut world = World::new(5, 3, 4, 0);
    world.rest();
    world.wipe(0);
    let before = world.now_ms();
    world.until(|world| world.is_lost(0));
    assert!(world.now_ms() - before < world::REPLACE_AFTER_MS, "not by its silence");
    world.rest();
    assert_eq!(world.loads()[0], 0);
}

#[test]
fn a_site_that_is_gone_for_a_moment_keeps_everything() {
    let mut world = World::new(5, 3, 4, 0);
    world.rest();
    let before = world.placement();
    world.stop(1, true);
    (0..20).for_each(|_| world.step());
    world.start(1);
    world.rest();
    assert_eq!(world.placement(), before);
}

#[test]
fn a_replica_that_is_moved_by_hand_arrives_whole_and_stays() {
    let mut world = World::new(9, 3, 4, 0);
    world.rest();
    let from = world.site_of(2, 0);
    let to = (0..4).find(|site| !world.has(2, *site)).unwrap();
    world.move_replica(2, from, to);
    world.rest();
    assert!(world.has(2, to) && !world.has(2, from));
    world.move_leader(2, to);
    world.stop(to, false);
    (0..30).for_each(|_| world.step());
    world.new_controller();
    world.start(to);
    world.rest();
    assert_eq!(world.site_of(2, 0), to, "it leads again");
    world.check_pins_are_kept();
}
