//! What a shard needs besides requests: cuts, generations, retention, wills and expiry at the leader;
//! snapshots and purges at every replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_proto::ids::{Incarnation, ShardId};
use holdfast_proto::meta::Liveness;
use holdfast_proto::shard::Command;
use holdfast_shard::policy::Policy;
use holdfast_shard::{FEATURE_LEVEL, LAYOUT_TOPIC, Request, Shard, ShardError};

use super::Replica;
use super::proposer::Waiter;
use super::retention::Look;
use crate::config::ShardConfig;
use crate::site::Site;
use crate::state_store::ReplicaStore;

/// Pause between two looks at all shards.
const INTERVAL: Duration = Duration::from_millis(200);
/// Pause between two looks whether the site log needs room.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that one look proposes for one shard.
const COMMANDS_MAX: usize = 250;
/// Rows of sessions that are read while a shard's state is locked.
const ROWS_AT_ONCE: usize = 50;

/// Looks after the shards that this site leads, until it stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let policy = site.config.retention.policy(site.config.shard.message_retention_ms);
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            _ = ticks.tick() => {}
        }
        let replicas = site.replicas();
        let in_memory: usize =
            replicas.iter().map(|replica| replica.cell.shard.lock().tail().bytes()).sum();
        let log_full = site.disk_state.log_full.load(Ordering::Relaxed);
        let pressed = pressed(&replicas, site.disk_state.excess_bytes.load(Ordering::Relaxed));
        let round = Round {
            site: &site,
            policy: &policy,
            crowded: log_full || in_memory > site.config.shard.tail_bytes_max,
            dead: &dead_gateways(&site),
            now_ms: if site.clocks.is_off() { 0 } else { site.clocks.now_ms() },
        };
        for replica in replicas {
            if replica.serving().is_ok() {
                replica.look_after(&round, pressed.get(&replica.key.shard).copied().unwrap_or(0));
                if let Some(placed) = site.placement(replica.key.shard) {
                    replica.reconcile(&site, &placed);
                }
            }
        }
    }
}

/// What one round over all shards goes by.
struct Round<'a> {
    site: &'a Site,
    policy: &'a Policy,
    crowded: bool,
    dead: &'a [Incarnation],
    /// 0 while the site's clock is off: then nothing is due by time.
    now_ms: u64,
}

/// What the disk needs of the shards that this site leads, as positions below which everything goes.
fn pressed(replicas: &[Arc<Replica>], excess_bytes: u64) -> BTreeMap<ShardId, u64> {
    if excess_bytes == 0 {
        return BTreeMap::new();
    }
    let mut sealed = Vec::new();
    for replica in replicas.iter().filter(|replica| replica.serving().is_ok()) {
        let rows = replica.cell.shard.lock().generations().to_vec();
        sealed.extend(rows.iter().filter(|row| row.sealed_at_ms != 0).map(|row| Sealed {
            at_ms: row.sealed_at_ms,
            shard: replica.key.shard,
            end: row.end_position,
            bytes: replica.cell.generation_bytes(row.generation),
        }));
    }
    oldest(sealed, excess_bytes)
}

/// A sealed generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sealed {
    at_ms: u64,
    shard: ShardId,
    end: u64,
    bytes: u64,
}

/// The oldest generations of all shards, until they are as many bytes: for each shard the end of its
/// newest among them.
fn oldest(mut sealed: Vec<Sealed>, bytes: u64) -> BTreeMap<ShardId, u64> {
    sealed.sort_unstable();
    let (mut freed, mut ends) = (0, BTreeMap::new());
    for generation in sealed {
        if freed >= bytes {
            break;
        }
        freed += generation.bytes;
        ends.insert(generation.shard, generation.end);
    }
    ends
}

fn dead_gateways(site: &Site) -> Vec<Incarnation> {
    let topology = site.topology();
    let dead = |gateway: &&holdfast_proto::meta::GatewayInfo| gateway.liveness() == Liveness::Dead;
    let of = |gateway: &holdfast_proto::meta::GatewayInfo| {
        gateway.gateway.as_ref().map(|gateway| Incarnation(gateway.incarnation))
    };
    topology.gateways.iter().filter(dead).filter_map(of).collect()
}

/// Commands that one look proposes: what is due by time, and what dead gateways have left.
fn due_commands(
    shard: &Shard<ReplicaStore>,
    round: &Round<'_>,
) -> Result<Vec<Command>, ShardError> {
    let mut commands = Vec::new();
    if shard.next_deadline_ms().is_some_and(|deadline| deadline <= round.now_ms) {
        commands.extend(shard.due(round.now_ms, COMMANDS_MAX)?);
    }
    for owner in shard.owners() {
        if round.dead.contains(&owner) {
            let room = COMMANDS_MAX.saturating_sub(commands.len());
            commands.extend(shard.owned_by(owner, room)?);
        }
    }
    Ok(commands)
}

impl Replica {
    fn look_after(&self, round: &Round<'_>, pressed_below: u64) {
        let mut upkeep = self.upkeep.lock();
        // What was asked for and is not answered yet would be asked for again.
        if upkeep.strong_count() > 0 {
            return;
        }
        let level = self.common_level(round.site);
        // In steps: rows may come from the disk, and appends wait for the lock.
        for limit in (ROWS_AT_ONCE..=COMMANDS_MAX).step_by(ROWS_AT_ONCE) {
            if let Err(error) = self.cell.shard.lock().load_due(round.now_ms, limit) {
                return self.fatal.stop("what is due", &error);
            }
        }
        let (mut requests, commands, generations) = {
            let shard = self.cell.shard.lock();
            let commands = match due_commands(&shard, round) {
                Ok(commands) => commands,
                Err(error) => return self.fatal.stop("what is due", &error),
            };
            let config = &round.site.config.shard;
            let mut requests = self.housekeeping(&shard, config, round.crowded, round.now_ms);
            if shard.feature_level() < level {
                requests.push(Request::SetFeatureLevel(level));
            }
            (requests, commands, shard.generations().to_vec())
        };
        let look = Look {
            policy: round.policy,
            config: &round.site.config.retention,
            now_ms: round.now_ms,
            pressed_below,
            consumed_below: round.site.retention.consumed_below(self.key.shard),
        };
        requests.extend(self.due_generation(&generations, &look).map(Request::DropGeneration));
        let batch = Arc::new(());
        *upkeep = Arc::downgrade(&batch);
        drop(upkeep);
        for request in commands.into_iter().map(Request::Command).chain(requests) {
            self.request(request, Waiter::Upkeep(batch.clone()));
        }
    }

    /// Cuts and rolls that are due.
    fn housekeeping(
        &self,
        shard: &Shard<ReplicaStore>,
        config: &ShardConfig,
        crowded: bool,
        now_ms: u64,
    ) -> Vec<Request> {
        let mut requests = Vec::new();
        let tail_bytes = shard.tail().bytes();
        let since_cut_bytes = self.cell.since_cut_bytes.load(Ordering::Relaxed);
        let cut_due = since_cut_bytes.max(tail_bytes) >= config.run_bytes_max
            || (crowded && since_cut_bytes >= config.run_bytes_max / 8)
            || self.entries_since_checkpoint() >= config.checkpoint_entries_max;
        let cut_under_way = shard.tail().first() < shard.cut_position();
        let generations = shard.generations();
        if let Some(current) = generations.last()
            && !cut_under_way
            && shard.next_position().0 > current.first_position
        {
            let runs = shard.runs().iter().filter(|run| run.generation == current.generation);
            let bytes = runs.map(|run| run.bytes).sum::<u64>() + tail_bytes as u64;
            let age_ms = now_ms.saturating_sub(current.started_at_ms);
            if age_ms >= config.generation_ms || bytes >= config.generation_bytes_max {
                requests.push(Request::Roll { layout: LAYOUT_TOPIC.into() });
            } else if cut_due {
                requests.push(Request::Cut);
            }
        } else if !cut_under_way && cut_due {
            requests.push(Request::Cut);
        }
        requests
    }

    /// The highest feature level that every replica of the group can follow, as far as its site is heard.
    fn common_level(&self, site: &Site) -> u32 {
        let members: Vec<u64> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            membership.nodes().map(|(_, member)| member.site).collect()
        };
        let own = site.config.versions().newest;
        let others = members.into_iter().filter(|member| *member != site.site_id.0);
        let common = others.map(|member| site.peers.version(member)).fold(own, u32::min);
        // Each protocol version came with the feature level of the same number.
        common.min(FEATURE_LEVEL)
    }

    fn entries_since_checkpoint(&self) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        applied.saturating_sub(metrics.snapshot.map_or(0, |id| id.index))
    }

    /// Tells Raft of each checkpoint and purges what no replica needs any more; ends with the replica.
    pub(crate) async fn purge_forever(self: Arc<Self>, log_bytes_max: u64) {
        let mut previous = 0;
        loop {
            tokio::select! {
                () = self.stopped.wait() => return,
                () = self.cell.checkpointed.notified() => {}
                () = tokio::time::sleep(PRESSURE_INTERVAL) => if !self.log_full() { continue },
            }
            let checkpoint = match self.cell.store.applied() {
                Ok(applied) => applied.and_then(|meta| meta.last).map_or(0, |id| id.index),
                Err(error) => return self.fatal.stop("read checkpoint", &error),
            };
            // A group that has ended says so to its proposer.
            let _ = self.raft.trigger().snapshot().await;
            if self.log_full() {
                self.log.look_for_room();
            }
            let pressed = self.log_full() || self.log.stats().room_bytes < log_bytes_max / 4;
            let slowest = self.slowest_index().unwrap_or(u64::MAX);
            let upto = if pressed { checkpoint } else { previous.min(slowest) };
            if upto > 0 {
                let _ = self.raft.trigger().purge_log(upto).await;
            }
            previous = checkpoint;
        }
    }

    /// At the leader: the index that every replica has.
    fn slowest_index(&self) -> Option<u64> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let replication = metrics.replication.as_ref()?;
        replication.values().map(|matched| matched.map_or(0, |id| id.index)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_generations_of_all_shards_make_room() {
        let sealed = |at_ms, shard, end| Sealed { at_ms, shard: ShardId(shard), end, bytes: 100 };
        let all = vec![sealed(5, 1, 20), sealed(1, 2, 10), sealed(3, 1, 10), sealed(9, 2, 30)];
        let of = |bytes| {
            let ends = oldest(all.clone(), bytes);
            [1, 2].map(|shard| ends.get(&ShardId(shard)).copied().unwrap_or(0))
        };
        assert_eq!(of(1), [0, 10]);
        assert_eq!(of(100), [0, 10]);
        assert_eq!(of(101), [10, 10]);
        assert_eq!(of(300), [20, 10]);
        assert_eq!(of(9_999), [20, 30]);
    }
}
