//! The planned stop of a site: its leaderships go to others before it ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use crate::replica::Replica;
use crate::site::Site;

/// Shards that are handed over at once.
const HAND_OVERS_MAX: usize = 4;
/// Pause before a shard whose other replicas were not ready is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Hands over what this site leads, as far as others can take it; bounded by the config.
pub(crate) async fn run(site: &Arc<Site>) {
    site.leave();
    let leads = |replica: &Arc<Replica>| replica.is_raft_leader();
    let led: Vec<Arc<Replica>> = site.replicas().into_iter().filter(leads).collect();
    let shards = led.len();
    tracing::info!(shards, "handing over what this site leads");
    let all = futures_util::stream::iter(led)
        .for_each_concurrent(HAND_OVERS_MAX, |replica| hand_over(site, replica));
    let timeout = Duration::from_millis(site.config.drain_timeout_ms);
    let timed_out = tokio::time::timeout(timeout, all).await.is_err();
    let kept = site.replicas().iter().filter(|replica| leads(replica)).count();
    tracing::info!(shards, kept, timed_out, "leaderships handed over");
}

/// Tries the others in the order of the placement until one leads, or none is there.
async fn hand_over(site: &Arc<Site>, replica: Arc<Replica>) {
    while replica.is_raft_leader() {
        let Some(placed) = site.placement(replica.key.shard) else { return };
        let others = placed.replicas.iter().filter(|other| other.site_id != site.site_id.0);
        let mut hope = false;
        for other in others.filter(|other| !site.peers.reachable_for(other.site_id).is_zero()) {
            if !replica.may_hand_over_to(other.replica_id) {
                hope = true;
                continue;
            }
            let peers = site.peers.clone();
            if replica.clone().hand_over(peers, other.site_id, other.replica_id).await {
                return;
            }
        }
        if !hope {
            // The whole cluster stops, or the others are down: waiting would not help.
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
