//! Hand-over of a shard's leadership to another site: to the one that the placement prefers, or because
//! this one stops or leaves the replica set.
//!
//! openraft 0.9 has no leadership transfer. So the leader stops serving, waits until the target has
//! everything, and asks it to elect; the voters let the target pass because it names the leader's term
//! (see [`super::voting`] for why that is safe). Requests that come meanwhile wait in the queue; the
//! gateways send them to the new leader when this one answers that it leads no more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_proto::storage::{ElectNow, raft_message::Body};
use openraft::{RaftMetrics, ServerState};

use super::Replica;
use super::voting::HandedOver;
use crate::raft::Member;
use crate::raft::peers::{PeerError, Peers};

/// How long a leader must have led before it hands over to the preferred one: a site that has just come
/// back is not trusted at once.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(20);
/// How long the target may take to get everything, and to answer.
const READY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it may take until another leads: longer than an election after a leader's death.
const ELECTED_TIMEOUT: Duration = Duration::from_secs(2);
/// Protocol version from which voters look at who handed over.
const LEASE_ENDED_VERSION: u32 = 2;
/// Pause between attempts to be elected.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

impl Replica {
    /// Hands leadership to replica `target` at `site`, if it is ready; goes on leading if it is not.
    /// True if another leads now.
    pub(crate) async fn hand_over(
        self: Arc<Self>,
        peers: Arc<Peers>,
        site: u64,
        target: u64,
    ) -> bool {
        if !self.may_hand_over_to(target) || peers.reachable_for(site).is_zero() {
            return false;
        }
        let shard = self.key.shard.0;
        let started = Instant::now();
        {
            // What is under way is finished, nothing new is begun.
            let turn = tokio::time::timeout(READY_TIMEOUT, self.proposing.lock()).await;
            if turn.is_err() || self.handing_over.swap(true, Ordering::AcqRel) {
                return false;
            }
        }
        tracing::info!(shard, site = format!("{site:016x}"), "handing over leadership");
        let handed_over = match self.resign(target).await {
            Some(leader) => self.let_elect(&peers, site, target, leader).await,
            None => false,
        };
        self.handing_over.store(false, Ordering::Release);
        self.queue_wakes();
        self.tails.wakes();
        let took_ms = started.elapsed().as_millis() as u64;
        tracing::info!(shard, handed_over, took_ms, "hand-over ended");
        handed_over
    }

    /// Whether the replica votes and lacks next to nothing.
    pub(crate) fn may_hand_over_to(&self, target: u64) -> bool {
        self.votes(target) && self.has_caught_up(target)
    }

    /// Waits until the target has the whole log. Nothing is served any more when it returns.
    async fn resign(&self, target: u64) -> Option<HandedOver> {
        let ready = self.wait_until(READY_TIMEOUT, |metrics| {
            metrics.state != ServerState::Leader || has_everything(metrics, target)
        });
        if !ready.await {
            return None;
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        (metrics.state == ServerState::Leader).then_some(metrics.vote.leader_id)
    }

    async fn let_elect(
        &self,
        peers: &Arc<Peers>,
        site: u64,
        target: u64,
        leader: HandedOver,
    ) -> bool {
        // Before the request leaves: from here on this replica never serves in this term again.
        self.voting.abdicate(leader);
        let request = ElectNow { term: leader.term, replica_id: leader.node_id };
        let asked = peers.ask(site, self.key.shard.0, target, Body::ElectNow(request));
        match tokio::time::timeout(READY_TIMEOUT, asked).await {
            Ok(Err(PeerError::Refused(reason))) => {
                tracing::info!(shard = self.key.shard.0, reason, "hand-over refused");
                self.voting.abdication_refused();
                return false;
            }
            Ok(Ok(Body::ElectNow(_))) => {}
            _ => tracing::warn!(shard = self.key.shard.0, "no answer to the hand-over"),
        }
        let own = self.key.replica.0;
        self.wait_until(ELECTED_TIMEOUT, |metrics| {
            metrics.current_leader.is_some_and(|leader| leader != own)
        })
        .await
    }

    async fn wait_until(
        &self,
        timeout: Duration,
        reached: impl FnMut(&RaftMetrics<u64, Member>) -> bool,
    ) -> bool {
        let mut metrics = self.raft.metrics();
        let reached = metrics.wait_for(reached);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }

    pub(crate) fn is_raft_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// The leader is silent from now on and asks this replica to lead.
    pub(crate) async fn elect_now(self: Arc<Self>, peers: Arc<Peers>, request: ElectNow) {
        let started = Instant::now();
        if request.term > 0 && self.voters_look(&peers) {
            self.elect(Some(HandedOver::new(request.term, request.replica_id))).await;
            self.wait_until(READY_TIMEOUT, |metrics| metrics.state == ServerState::Leader).await;
        }
        // An older leader, or older voters: all leases have to end first.
        while !self.is_raft_leader() && started.elapsed() < ELECTED_TIMEOUT {
            let silent = self.last_contact().elapsed();
            if silent < self.limits.voter_lease() {
                tokio::time::sleep(self.limits.voter_lease() - silent + ATTEMPT_PAUSE / 10).await;
                continue;
            }
            self.elect(None).await;
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
    }

    /// Whether enough voters know what it means that a leader has handed over.
    fn voters_look(&self, peers: &Peers) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let looks = |id: &u64| {
            let site = membership.get_node(id).map(|member| member.site);
            *id == metrics.id || site.is_some_and(|site| peers.version(site) >= LEASE_ENDED_VERSION)
        };
        membership.get_joint_config().iter().all(|voters| {
            let looking = voters.iter().filter(|id| looks(id)).count();
            looking > voters.len() / 2
        })
    }
}

fn has_everything(metrics: &RaftMetrics<u64, Member>, target: u64) -> bool {
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&target).copied().flatten());
    let matched = matched.map(|matched| matched.index);
    matched == metrics.last_log_index
        && metrics.last_applied.map(|applied| applied.index) == metrics.last_log_index
}
