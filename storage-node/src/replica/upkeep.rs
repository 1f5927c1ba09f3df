//! What a shard needs besides requests: cuts, generations, retention, wills and expiry at the leader;
//! snapshots and purges at every replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_node_kit::clock;
use holdfast_proto::ids::{Generation, Incarnation};
use holdfast_proto::meta::{Liveness, ShardInfo};
use holdfast_proto::shard::Command;
use holdfast_shard::{LAYOUT_TOPIC, Request};

use super::Replica;
use super::hand_over::SETTLED_AFTER;
use super::proposer::Waiter;
use crate::config::ShardConfig;
use crate::site::Site;

/// Pause between two looks at all shards.
const INTERVAL: Duration = Duration::from_millis(200);
/// Pause between two looks whether the site log needs room.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);
/// Commands that one look proposes for one shard.
const COMMANDS_MAX: usize = 1_000;

/// Looks after the shards that this site leads, until it stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            _ = ticks.tick() => {}
        }
        let replicas = site.replicas();
        let in_memory: usize =
            replicas.iter().map(|replica| replica.cell.shard.lock().tail().bytes()).sum();
        let log_full = site.disk_state.log_full.load(Ordering::Relaxed);
        let crowded = log_full || in_memory > site.config.shard.tail_bytes_max;
        let dead = dead_gateways(&site);
        let clock_ms = if site.clocks.is_off() { 0 } else { clock::now_ms() };
        for replica in replicas {
            if replica.serving().is_ok() {
                replica.look_after(&site.config.shard, crowded, &dead, clock_ms);
                if let Some(placed) = site.placement(replica.key.shard) {
                    replica.reconcile(&site, &placed);
                }
            }
        }
    }
}

fn dead_gateways(site: &Site) -> Vec<Incarnation> {
    let topology = site.topology();
    let dead = |gateway: &&holdfast_proto::meta::GatewayInfo| gateway.liveness() == Liveness::Dead;
    let of = |gateway: &holdfast_proto::meta::GatewayInfo| {
        gateway.gateway.as_ref().map(|gateway| Incarnation(gateway.incarnation))
    };
    topology.gateways.iter().filter(dead).filter_map(of).collect()
}

impl Replica {
    /// `now_ms` is 0 while the site's clock is off: then nothing is due by time.
    fn look_after(&self, config: &ShardConfig, crowded: bool, dead: &[Incarnation], now_ms: u64) {
        let (requests, commands) = {
            let shard = self.cell.shard.lock();
            let mut commands: Vec<Command> = Vec::new();
            if shard.next_deadline_ms().is_some_and(|deadline| deadline <= now_ms) {
                match shard.due(now_ms, COMMANDS_MAX) {
                    Ok(due) => commands.extend(due),
                    Err(error) => return self.fatal.stop("deadlines", &error),
                }
            }
            for owner in shard.owners() {
                if dead.contains(&owner) {
                    match shard.owned_by(owner, COMMANDS_MAX) {
                        Ok(owned) => commands.extend(owned),
                        Err(error) => return self.fatal.stop("sessions of a gateway", &error),
                    }
                }
            }
            (self.housekeeping(&shard, config, crowded, now_ms), commands)
        };
        for command in commands {
            self.request(Request::Command(command), Waiter::Nobody);
        }
        for request in requests {
            self.request(request, Waiter::Nobody);
        }
    }

    /// Cuts, rolls and drops that are due.
    fn housekeeping(
        &self,
        shard: &holdfast_shard::Shard<crate::state_store::ReplicaStore>,
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
        if let Some(oldest) = generations.first()
            && oldest.sealed_at_ms != 0
            && (oldest.sealed_at_ms + config.message_retention_ms <= now_ms || self.disk_full())
        {
            crate::metrics::generation_dropped(self.disk_full());
            tracing::warn!(
                shard = self.key.shard.0,
                generation = oldest.generation,
                by_disk = self.disk_full(),
                "dropping generation"
            );
            requests.push(Request::DropGeneration(Generation(oldest.generation)));
        }
        requests
    }

    fn entries_since_checkpoint(&self) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        applied.saturating_sub(metrics.snapshot.map_or(0, |id| id.index))
    }

    /// Takes one step towards the placement: its replica set first, then its preferred leader.
    fn reconcile(self: &Arc<Self>, site: &Site, placed: &ShardInfo) {
        let Some(mut step) = self.step.try_lock() else { return };
        if step.as_ref().is_some_and(|step| !step.is_finished()) {
            return;
        }
        let target: BTreeMap<u64, u64> =
            placed.replicas.iter().map(|one| (one.replica_id, one.site_id)).collect();
        if target.is_empty() {
            return;
        }
        if !self.has_voters(&target) {
            *step = Some(tokio::spawn(self.clone().approach(target)));
        } else if let Some(preferred) = placed.replicas.first()
            && preferred.site_id != site.site_id.0
            && self.leads_since().elapsed() >= SETTLED_AFTER
            && site.peers.reachable_for(preferred.site_id) >= SETTLED_AFTER
        {
            let (site_id, replica_id) = (preferred.site_id, preferred.replica_id);
            let step_taken = self.clone().hand_over(site.peers.clone(), site_id, replica_id);
            *step = Some(tokio::spawn(step_taken));
        }
    }

    fn has_voters(&self, target: &BTreeMap<u64, u64>) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        voters.len() == target.len() && voters.iter().all(|id| target.contains_key(id))
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
