//! Brings a shard's Raft group to the replica set that the placement names, at its leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::error::RaftError;

use super::Replica;
use crate::raft::Member;

/// Entries that a learner may lack when it is made a voter.
const LEARNER_LAG_MAX: u64 = 200;

impl Replica {
    /// One step towards `target` (replica id to site). Returns when it is done or cannot go on now;
    /// the next call takes the next step.
    pub(crate) async fn approach(self: Arc<Self>, target: BTreeMap<u64, u64>) {
        let (voters, known) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let voters: Vec<u64> = membership.voter_ids().collect();
            let known: Vec<u64> = membership.nodes().map(|(id, _)| *id).collect();
            (voters, known)
        };
        for (id, site) in &target {
            if !known.contains(id) {
                tracing::info!(shard = self.key.shard.0, replica = id, "adding learner");
                let added = self.raft.add_learner(*id, Member { site: *site }, false).await;
                self.report("add learner", added.err());
            }
        }
        if target.keys().all(|id| voters.contains(id) || self.has_caught_up(*id)) {
            let voters: std::collections::BTreeSet<u64> = target.keys().copied().collect();
            let changed = self.raft.change_membership(voters, false).await;
            if changed.is_ok() {
                tracing::info!(shard = self.key.shard.0, replicas = ?target.keys(), "voters changed");
            }
            self.report("change voters", changed.err());
        }
    }

    pub(crate) fn has_caught_up(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        matched.is_some_and(|matched| matched.index + LEARNER_LAG_MAX >= last)
    }

    fn report<E: std::error::Error>(&self, what: &str, error: Option<RaftError<u64, E>>) {
        if let Some(error) = error {
            tracing::warn!(shard = self.key.shard.0, what, %error, "membership unchanged");
        }
    }
}
