//! Watches the disk and the site as a whole: the mark above which appends are refused, syncs that
//! stall, readiness, gauges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_node_kit::health::Health;

use crate::metrics::{self, SiteGauges};
use crate::site::Site;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Looks between two refreshes of the costlier figures.
const SLOW_EVERY: u32 = 20;

/// Watches until the site stops.
pub(crate) async fn run(site: Arc<Site>, health: Health) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut look, mut clock_was_off) = (0, false);
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
        if look % SLOW_EVERY == 0 {
            let site = site.clone();
            // Walks files and locks each shard: off the reactor.
            let _ = tokio::task::spawn_blocking(move || measure(&site)).await;
        }
        look = look.wrapping_add(1);
        match readiness(&site, stalled) {
            None => health.set_ready(),
            Some(reason) => health.set_not_ready(reason),
        }
    }
    health.set_not_ready("stopping");
}

/// Why this site cannot do its job now.
fn readiness(site: &Site, stalled: bool) -> Option<&'static str> {
    if stalled {
        return Some("the disk does not answer");
    }
    let topology = site.topology();
    if topology.placement.is_empty() {
        return Some("no shards placed yet");
    }
    let leaderless = site.replicas().iter().any(|replica| site.leader_of(replica.key.shard.0) == 0);
    if leaderless { Some("a shard has no leader") } else { None }
}

fn measure(site: &Site) {
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
        disk_full: false,
        clock_skew_ms: site.clocks.skew_ms(),
    };
    for replica in &replicas {
        gauges.run_bytes += replica.cell.run_bytes();
        gauges.runs_missing += replica.cell.missing_runs().len();
        let (last, applied) = {
            let metrics = replica.raft.data_metrics();
            let metrics = metrics.borrow();
            let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
            (index(metrics.last_log), index(metrics.last_applied))
        };
        let shard = replica.cell.shard.lock();
        if replica.cell.is_leading() {
            gauges.leaders += 1;
            gauges.sessions += shard.session_count();
            gauges.connected += shard.connected_count();
        }
        metrics::shard(replica.key.shard.0, applied, last, shard.next_position().0);
    }
    let used = gauges.log_bytes + gauges.state_bytes + gauges.run_bytes;
    gauges.disk_full = is_full(site, used);
    if site.disk_state.full.swap(gauges.disk_full, Ordering::Relaxed) != gauges.disk_full {
        tracing::warn!(full = gauges.disk_full, used_bytes = used, "disk mark");
    }
    metrics::site(&gauges);
}

/// Whether the site is above its mark: of its quota, or of the disk that it is on.
fn is_full(site: &Site, used: u64) -> bool {
    let percent = u64::from(site.config.shard.disk_high_percent);
    match site.config.shard.disk_quota_bytes {
        0 => match site.disk.space() {
            Ok(space) => space.free_bytes * 100 < space.total_bytes * (100 - percent),
            Err(error) => {
                tracing::warn!(%error, "disk space unknown");
                false
            }
        },
        quota => used * 100 >= quota * percent,
    }
}
