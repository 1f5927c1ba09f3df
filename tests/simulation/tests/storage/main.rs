//! Random histories of three sites and two shards: entries, cuts, checkpoints, crashes that lose and tear
//! what was not synced, restarts, snapshots to replicas that lag, full and damaged disks. `HOLDFAST_SEED`
//! and `HOLDFAST_STEPS` choose one history; a failure prints them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod base;
mod group;
mod model;
mod replica;
mod requests;
mod site;
mod world;

use std::collections::BTreeMap;

use group::Group;
use world::World;

/// Histories of each test.
const SEEDS: u64 = 8;
const STEPS: u64 = 4_000;
/// How often a history pauses, so that all replicas catch up and everything is compared.
const STEPS_PER_ROUND: u64 = 500;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect(name))
}

/// Runs histories; `at_round` looks at the world when it has settled.
fn histories(first_seed: u64, seeds: u64, mut at_round: impl FnMut(&mut World)) -> Vec<World> {
    let (first_seed, seeds) =
        from_env("HOLDFAST_SEED").map_or((first_seed, seeds), |seed| (seed, 1));
    let steps = from_env("HOLDFAST_STEPS").unwrap_or(STEPS);
    (first_seed..first_seed + seeds)
        .map(|seed| {
            let mut world = World::new(seed);
            for step in 1..=steps {
                world.step();
                if step % STEPS_PER_ROUND == 0 || step == steps {
                    world.settle();
                    at_round(&mut world);
                }
            }
            world
        })
        .collect()
}

#[test]
fn committed_entries_survive_any_crash_no_acked_loss() {
    let worlds = histories(1, SEEDS, World::check);
    check_reach(&worlds);
}

#[test]
fn replicas_agree_on_positions_and_runs_stored_once() {
    let worlds = histories(101, SEEDS, World::check_bases);
    check_reach(&worlds);
}

/// The histories came to everything that they are to try; a replayed one may not.
fn check_reach(worlds: &[World]) {
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    let mut add = |what, count| *reached.entry(what).or_default() += count;
    for world in worlds {
        for Group { model, counts, .. } in &world.groups {
            add("entries committed", model.commit_index());
            add("records stored", model.stored_count());
            add("records acknowledged", model.acknowledged_count() as u64);
            add("runs", model.run_count() as u64);
            add("cuts", model.counts.cuts);
            add("generations dropped", model.counts.drops);
            add("batches repeated", model.counts.repeated_batches);
            add("records repeated", model.counts.repeated_records);
            add("elections", counts.elections);
            add("snapshots", counts.snapshots);
            add("conflicting entries truncated", counts.truncates);
            add("appends refused by a full disk", counts.refused);
            add("damaged replicas replaced", counts.joined);
        }
        for counts in world.sites.iter().map(|site| site.counts) {
            add("ends of sites", counts.ends);
            add("torn tails", counts.torn_tails);
            add("damaged replicas", counts.damaged);
            add("harmless flips", counts.harmless_flips);
            add("bytes copied to free segments", counts.bytes_copied);
            add("bytes written to site logs", counts.bytes_written);
        }
    }
    println!("{reached:#?}");
    if from_env("HOLDFAST_SEED").is_none() && from_env("HOLDFAST_STEPS").is_none() {
        assert!(reached.values().all(|count| *count > 0));
    }
}
