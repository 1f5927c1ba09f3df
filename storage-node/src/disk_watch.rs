//! Watches the disk and the site as a whole: the mark above which appends are refused, syncs that
//! stall, readiness, gauges.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_node_kit::health::Health;

use crate::metrics::{self, ShardGauges, SiteGauges};
use crate::replica::Replica;
use crate::site::Site;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Looks at which a site that was ready may find a shard without a leader: leadership is handed over,
/// or a replica has just come here.
const LEADERLESS_LOOKS: u32 = 4;
/// Looks between two refreshes of the costlier figures.
const SLOW_EVERY: u32 = 20;

/// Watches until the site stops.
pub(crate) async fn run(site: Arc<Site>, health: Health) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut look, mut clock_was_off) = (0, false);
    let (mut was_ready, mut leaderless) = (false, 0);
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = site.shutdown.wait() => break,
            _ = ticks.tick() => {}
        }
        let stall = Duration::from_millis(site.config.log.stall_ms);
        let log = site.log.stats();
        let stalled = log.stalled_for >= stall;
        let crowded = log.room_bytes < site.config.log.reserve_bytes() * 2;
        if site.disk_state.log_full.swap(crowded, Ordering::Relaxed) != crowded {
            tracing::warn!(full = crowded, live_bytes = log.live_bytes, "site log");
        }
        if site.disk_state.stalled.swap(stalled, Ordering::Relaxed) != stalled {
            tracing::warn!(stalled, "disk");
        }
        let clock_off = site.clocks.is_off();
        if clock_off != clock_was_off {
            clock_was_off = clock_off;
            let skew_ms = site.clocks.skew_ms();
            tracing::error!(
                off = clock_off,
                skew_ms,
                "clock: while it is off nothing expires here by time"
            );
        }
        // While something has to go, what went is seen at once.
        if look % SLOW_EVERY == 0 || site.disk_state.excess_bytes.load(Ordering::Relaxed) > 0 {
            let site = site.clone();
            // Walks files and locks each shard: off the reactor.
            let measured = tokio::task::spawn_blocking(move || measure(&site)).await;
            let held = measured.unwrap_or_default();
            for gone in told.difference(&held) {
                metrics::shard(*gone, &ShardGauges::default());
            }
            told = held;
        }
        look = look.wrapping_add(1);
        leaderless = if lacks_leader(&site) { leaderless + 1 } else { 0 };
        let leaderless = leaderless > if was_ready { LEADERLESS_LOOKS } else { 0 };
        match readiness(&site, stalled, leaderless) {
            None => {
                was_ready = true;
                health.set_ready();
            }
            Some(reason) => health.set_not_ready(reason),
        }
    }
    health.set_not_ready("stopping");
}

/// Why this site cannot do its job now.
fn readiness(site: &Site, stalled: bool, leaderless: bool) -> Option<&'static str> {
    if site.is_leaving() {
        return Some("stopping");
    }
    if stalled {
        return Some("the disk does not answer");
    }
    if site.refused.load(Ordering::Acquire) {
        return Some("meta-service refuses this site, its log says why");
    }
    let topology = site.topology();
    if topology.placement.is_empty() {
        return Some("no shards placed yet");
    }
    if leaderless { Some("a shard has no leader") } else { None }
}

fn lacks_leader(site: &Site) -> bool {
    let member = |replica: &&Arc<Replica>| !replica.is_holder();
    site.replicas().iter().filter(member).any(|one| site.leader_of(one.key.shard.0) == 0)
}

/// Sets the gauges; the shards of which there are replicas.
fn measure(site: &Site) -> BTreeSet<u16> {
    if let Err(error) = site.remember_replicas() {
        site.fatal.stop("remember replicas", &error);
    }
    let stats = site.log.stats();
    let replicas = site.replicas();
    let mut gauges = SiteGauges {
        leaders: 0,
        replicas: replicas.len(),
        quarantined: site.damaged().len(),
        gateways: site.links.count(),
        sessions: 0,
        connected: 0,
        log_bytes: stats.bytes_on_disk,
        state_bytes: site.store.bytes_on_disk(),
        run_bytes: 0,
        runs_missing: 0,
        missing_bytes: 0,
        disk_used_bytes: 0,
        disk_capacity_bytes: 0,
        disk_high_bytes: 0,
        disk_full: false,
        feature_level: if replicas.is_empty() { 0 } else { u32::MAX },
        clock_skew_ms: site.clocks.skew_ms(),
    };
    for replica in &replicas {
        gauges.run_bytes += replica.cell.run_bytes();
        let missing = replica.cell.missing_runs();
        gauges.runs_missing += missing.len();
        gauges.missing_bytes += missing.iter().map(|row| row.bytes).sum::<u64>();
        let (last, applied) = {
            let metrics = replica.raft.data_metrics();
            let metrics = metrics.borrow();
            let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
            (index(metrics.last_log), index(metrics.last_applied))
        };
        let shard = replica.cell.shard.lock();
        gauges.feature_level = gauges.feature_level.min(shard.feature_level());
        if replica.cell.is_leading() {
            gauges.leaders += 1;
            gauges.sessions += shard.session_count();
            gauges.connected += shard.connected_count();
        }
        let lag = replica.cell.lag();
        let age_of = |stored_ms: u64| replica.cell.time_ms(&shard).saturating_sub(stored_ms);
        let of_shard = ShardGauges {
            leads: replica.cell.is_leading(),
            applied,
            last,
            next_position: shard.next_position().0,
            unread_messages: lag.messages,
            unread_age_ms: if lag.oldest_ms == 0 { 0 } else { age_of(lag.oldest_ms) },
        };
        metrics::shard(replica.key.shard.0, &of_shard);
    }
    let used = gauges.log_bytes + gauges.state_bytes + gauges.run_bytes;
    site.used_bytes.store(used, Ordering::Relaxed);
    let disk = Disk::of(site, used);
    let was_removing = site.disk_state.excess_bytes.load(Ordering::Relaxed) > 0;
    let excess_bytes = disk.excess_bytes(was_removing);
    site.disk_state.excess_bytes.store(excess_bytes, Ordering::Relaxed);
    gauges.disk_used_bytes = disk.used;
    gauges.disk_capacity_bytes = disk.total;
    gauges.disk_high_bytes = disk.mark(disk.high_percent);
    gauges.disk_full = disk.is_full();
    if site.disk_state.full.swap(gauges.disk_full, Ordering::Relaxed) != gauges.disk_full {
        tracing::warn!(full = gauges.disk_full, used_bytes = used, excess_bytes, "disk mark");
    }
    metrics::site(&gauges);
    replicas.iter().map(|replica| replica.key.shard.0).collect()
}

/// The site's quota, or the disk that it is on, and its marks.
struct Disk {
    used: u64,
    total: u64,
    high_percent: u8,
    low_percent: u8,
}

impl Disk {
    fn of(site: &Site, own_bytes: u64) -> Disk {
        let config = &site.config.shard;
        let (used, total) = match config.disk_quota_bytes {
            0 => match site.disk.space() {
                Ok(space) => {
                    (space.total_bytes.saturating_sub(space.free_bytes), space.total_bytes)
                }
                Err(error) => {
                    tracing::warn!(%error, "disk space unknown");
                    (0, 0)
                }
            },
            quota => (own_bytes, quota),
        };
        let (high_percent, low_percent) = (config.disk_high_percent, config.low_percent());
        Disk { used, total, high_percent, low_percent }
    }

    fn mark(&self, percent: u8) -> u64 {
        self.total / 100 * u64::from(percent)
    }

    fn above(&self, percent: u8) -> u64 {
        self.used.saturating_sub(self.mark(percent))
    }

    /// Whether it is above its high mark.
    fn is_full(&self) -> bool {
        self.above(self.high_percent) > 0
    }

    /// What has to go until it is below its low mark; 0 if it has not reached the high one since.
    fn excess_bytes(&self, was_removing: bool) -> u64 {
        if was_removing || self.is_full() { self.above(self.low_percent) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_begins_at_the_high_mark_and_ends_at_the_low_one() {
        let disk = |used| Disk { used, total: 1_000, high_percent: 90, low_percent: 70 };
        for (used, was_removing, is_full, excess) in [
            (900, false, false, 0),
            (901, false, true, 201),
            (901, true, true, 201),
            (899, true, false, 199),
            (701, true, false, 1),
            (700, true, false, 0),
            (701, false, false, 0),
        ] {
            let disk = disk(used);
            assert_eq!(disk.is_full(), is_full, "{used}");
            assert_eq!(disk.excess_bytes(was_removing), excess, "{used} {was_removing}");
        }
    }
}
