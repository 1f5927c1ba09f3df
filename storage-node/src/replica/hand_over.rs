//! Hand-over of a shard's leadership to the site that the placement prefers.
//!
//! openraft 0.9 has no leadership transfer, and its voters refuse a candidate while the old leader's
//! lease lasts. So the leader stops proposing, waits until the target has everything, asks it to
//! elect, and stays silent until the lease is over. Requests that come meanwhile wait in the queue; the
//! gateways send them to the new leader when this one answers that it leads no more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_proto::storage::{ElectNow, raft_message::Body};
use openraft::ServerState;

use super::Replica;
use crate::raft::peers::Peers;

/// How long a leader must have led before it hands over: a site that has just come back is not trusted
/// at once.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(20);
/// How long the target may take to get everything, and then to be elected.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks at the target's progress.
const LOOK: Duration = Duration::from_millis(10);

impl Replica {
    /// Hands leadership to replica `target` at `site`, if it is ready; goes on leading if it is not.
    pub(crate) async fn hand_over(self: Arc<Self>, peers: Arc<Peers>, site: u64, target: u64) {
        let shard = self.key.shard.0;
        if !self.has_caught_up(target) {
            return;
        }
        tracing::info!(shard, site = format!("{site:016x}"), "handing over leadership");
        self.handing_over.store(true, Ordering::Release);
        if self.wait_until(|replica| replica.has_everything(target)).await {
            let asked = peers.ask(site, shard, target, Body::ElectNow(ElectNow::default()));
            match tokio::time::timeout(STEP_TIMEOUT, asked).await {
                Ok(Ok(Body::ElectNow(_))) => {
                    self.wait_until(|replica| !replica.is_raft_leader()).await;
                }
                _ => tracing::warn!(shard, "the preferred leader does not answer"),
            }
        }
        self.handing_over.store(false, Ordering::Release);
        self.queue_wakes();
    }

    async fn wait_until(&self, reached: impl Fn(&Replica) -> bool) -> bool {
        let started = Instant::now();
        while started.elapsed() < STEP_TIMEOUT {
            if reached(self) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    fn has_everything(&self, target: u64) -> bool {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&target).copied());
        matched.flatten() == metrics.last_log && metrics.last_applied == metrics.last_log
    }

    pub(crate) fn is_raft_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// The leader is silent from now on and asks this replica to lead.
    pub(crate) async fn elect_now(self: Arc<Self>) {
        let lease = Duration::from_millis(self.limits.voter_lease_ms()) + LOOK;
        let started = Instant::now();
        while !self.is_raft_leader() && started.elapsed() < STEP_TIMEOUT {
            let silent = self.last_contact().elapsed();
            if silent < lease {
                tokio::time::sleep(lease - silent).await;
                continue;
            }
            // A group that has ended says so to its proposer.
            let _ = self.raft.trigger().elect().await;
            tokio::time::sleep(LOOK * 10).await;
        }
    }
}
