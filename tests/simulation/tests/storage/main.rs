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

use world::World;

/// Histories of each test.
const SEEDS: u64 = 6;
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
    println!("{}", summary(&worlds));
}

#[test]
fn replicas_agree_on_positions_and_runs_stored_once() {
    let worlds = histories(101, SEEDS, World::check_bases);
    println!("{}", summary(&worlds));
}

fn summary(worlds: &[World]) -> String {
    let mut lines = Vec::new();
    for world in worlds {
        for group in &world.groups {
            let model = &group.model;
            lines.push(format!(
                "committed {} stored {} acknowledged {} runs {} {:?} {:?}",
                model.commit_index(),
                model.stored_count(),
                model.acknowledged_count(),
                model.run_count(),
                model.counts,
                group.counts
            ));
        }
        for site in &world.sites {
            lines.push(format!("{:?}", site.counts));
        }
    }
    lines.join("\n")
}
