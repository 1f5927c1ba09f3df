//! Watches the disk and the site as a whole: the mark above which appends are refused, syncs that
//! stall, readiness, gauges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_node_kit::health::Health;

use crate::metrics::{self, SiteGauges};
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
            let _ = tokio::task::spawn_blocking(move || measure(&site)).await;
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
        missing_bytes: 0,
        disk_full: false,
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
        if replica.cell.is_leading() {
            gauges.leaders += 1;
            gauges.sessions += shard.session_count();
            gauges.connected += shard.connected_count();
        }
        metrics::shard(replica.key.shard.0, applied, last, shard.next_position().0);
    }
    let used = gauges.log_bytes + gauges.state_bytes + gauges.run_bytes;
    site.used_bytes.store(used, Ordering::Relaxed);
    let was_full = site.disk_state.full.load(Ordering::Relaxed);
    let excess = excess_bytes(site, used, was_full);
    gauges.disk_full = excess > 0;
    site.disk_state.excess_bytes.store(excess, Ordering::Relaxed);
    if site.disk_state.full.swap(gauges.disk_full, Ordering::Relaxed) != gauges.disk_full {
        tracing::warn!(
            full = gauges.disk_full,
            used_bytes = used,
            excess_bytes = excess,
            "disk mark"
        );
    }
    metrics::site(&gauges);
}

/// What has to go until the site is below its low mark, of its quota or of the disk that it is on; 0 if
/// it has not reached the high one since.
fn excess_bytes(site: &Site, own_bytes: u64, was_full: bool) -> u64 {
    let config = &site.config.shard;
    let (used, total) = match config.disk_quota_bytes {
        0 => match site.disk.space() {
            Ok(space) => (space.total_bytes.saturating_sub(space.free_bytes), space.total_bytes),
            Err(error) => {
                tracing::warn!(%error, "disk space unknown");
                return 0;
            }
        },
        quota => (own_bytes, quota),
    };
    let marks = Marks { high_percent: config.disk_high_percent, low_percent: config.low_percent() };
    marks.excess(used, total, was_full)
}

/// The marks of the disk.
struct Marks {
    high_percent: u8,
    low_percent: u8,
}

impl Marks {
    fn excess(&self, used: u64, total: u64, was_full: bool) -> u64 {
        let above = |percent: u8| used.saturating_sub(total / 100 * u64::from(percent));
        if was_full || above(self.high_percent) > 0 { above(self.low_percent) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_begins_at_the_high_mark_and_ends_at_the_low_one() {
        let marks = Marks { high_percent: 90, low_percent: 70 };
        assert_eq!(marks.excess(900, 1_000, false), 0);
        assert_eq!(marks.excess(901, 1_000, false), 201);
        assert_eq!(marks.excess(899, 1_000, true), 199, "goes on below the high mark");
        assert_eq!(marks.excess(701, 1_000, true), 1);
        assert_eq!(marks.excess(700, 1_000, true), 0);
        assert_eq!(marks.excess(701, 1_000, false), 0, "does not begin again");
    }
}
