//! Brings a shard's Raft group to the replica set that the placement names, at its leader.
//!
//! One step at a time, each decided anew from what is committed: who joins becomes a learner first and
//! a voter when it has caught up; who left is forgotten; a leader that is to leave hands over first.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_proto::meta::ShardInfo;
use openraft::error::RaftError;
use openraft::{ChangeMembers, RaftMetrics};

use super::Replica;
use super::hand_over::SETTLED_AFTER;
use crate::raft::Member;
use crate::raft::peers::Peers;
use crate::site::Site;

/// Entries that a learner may lack when it is made a voter.
const LEARNER_LAG_MAX: u64 = 200;

/// A group as its leader sees it.
#[derive(Debug, Clone, Default)]
struct Group {
    /// One set of voters; two while the group changes.
    configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    members: BTreeSet<u64>,
    /// The leader.
    own: u64,
    /// Members that lack next to nothing.
    caught_up: BTreeSet<u64>,
    /// The membership is committed.
    settled: bool,
}

/// What brings a group nearer to its replica set.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing can be done now, or all is done.
    Wait,
    Learn(Vec<u64>),
    Forget(BTreeSet<u64>),
    Vote(BTreeSet<u64>),
    /// To the first of them that is ready.
    HandOver(Vec<u64>),
}

/// `target` with the preferred leader first.
fn next_step(group: &Group, target: &[u64]) -> Step {
    let wanted: BTreeSet<u64> = target.iter().copied().collect();
    let Some(voters) = group.configs.last().filter(|_| group.settled && !wanted.is_empty()) else {
        return Step::Wait;
    };
    if group.configs.len() > 1 {
        // A change that was cut short is finished first.
        return Step::Vote(voters.clone());
    }
    let unknown: Vec<u64> = wanted.difference(&group.members).copied().collect();
    if !unknown.is_empty() {
        return Step::Learn(unknown);
    }
    let useless: BTreeSet<u64> = group
        .members
        .iter()
        .filter(|id| !wanted.contains(id) && !voters.contains(id))
        .copied()
        .collect();
    if !useless.is_empty() {
        return Step::Forget(useless);
    }
    if *voters == wanted {
        return Step::Wait;
    }
    if !wanted.iter().all(|id| voters.contains(id) || group.caught_up.contains(id)) {
        return Step::Wait;
    }
    if wanted.contains(&group.own) {
        return Step::Vote(wanted);
    }
    // A leader outside of the group would leave it without one for as long as its lease lasts.
    let heirs: Vec<u64> = target
        .iter()
        .filter(|id| voters.contains(id) && group.caught_up.contains(id))
        .copied()
        .collect();
    if heirs.is_empty() {
        Step::Vote(wanted.union(&BTreeSet::from([group.own])).copied().collect())
    } else {
        Step::HandOver(heirs)
    }
}

impl Replica {
    /// Takes one step towards the placement: its replica set first, then its preferred leader.
    pub(super) fn reconcile(self: &Arc<Self>, site: &Site, placed: &ShardInfo) {
        let Some(mut taken) = self.step.try_lock() else { return };
        if site.is_leaving() || taken.as_ref().is_some_and(|step| !step.is_finished()) {
            return;
        }
        let target: Vec<u64> = placed.replicas.iter().map(|one| one.replica_id).collect();
        let step = next_step(&self.group(), &target);
        if step != Step::Wait {
            let (replica, peers, placed) = (self.clone(), site.peers.clone(), placed.clone());
            *taken = Some(tokio::spawn(replica.take_step(step, peers, placed)));
        } else if let Some(preferred) = placed.replicas.first()
            && preferred.site_id != site.site_id.0
            && (is_asked(placed) || self.leads_since().elapsed() >= SETTLED_AFTER)
            && site.peers.reachable_for(preferred.site_id) >= SETTLED_AFTER
        {
            let (peers, preferred) = (site.peers.clone(), *preferred);
            let replica = self.clone();
            *taken = Some(tokio::spawn(async move {
                replica.hand_over(peers, preferred.site_id, preferred.replica_id).await;
            }));
        }
    }

    async fn take_step(self: Arc<Self>, step: Step, peers: Arc<Peers>, placed: ShardInfo) {
        let shard = self.key.shard.0;
        let site_of = |id: &u64| placed.replicas.iter().find(|one| one.replica_id == *id);
        match step {
            Step::Wait => {}
            Step::Learn(learners) => {
                for one in learners.iter().filter_map(site_of) {
                    tracing::info!(shard, replica = one.replica_id, "adding learner");
                    let member = Member { site: one.site_id };
                    let added = self.raft.add_learner(one.replica_id, member, false).await;
                    self.report("add learner", added.err());
                }
            }
            Step::Forget(useless) => {
                tracing::info!(shard, replicas = ?useless, "forgetting learners");
                let change = ChangeMembers::RemoveNodes(useless);
                let forgotten = self.raft.change_membership(change, true).await;
                self.report("forget learners", forgotten.err());
            }
            Step::Vote(voters) => {
                let replicas = format!("{voters:?}");
                let changed = self.raft.change_membership(voters, false).await;
                if changed.is_ok() {
                    tracing::info!(shard, replicas, "voters changed");
                }
                self.report("change voters", changed.err());
            }
            Step::HandOver(heirs) => {
                for heir in heirs.iter().filter_map(site_of) {
                    if self.clone().hand_over(peers.clone(), heir.site_id, heir.replica_id).await {
                        return;
                    }
                }
            }
        }
    }

    fn group(&self) -> Group {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let members: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        Group {
            configs: membership.get_joint_config().clone(),
            own: metrics.id,
            caught_up: members.iter().filter(|id| has_caught_up(&metrics, **id)).copied().collect(),
            members,
            settled: *metrics.membership_config.log_id() <= metrics.last_applied,
        }
    }

    /// Whether the replica is a voter.
    pub(super) fn votes(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.voter_ids().any(|voter| voter == id)
    }

    /// At the leader: whether the replica has all but the last moments.
    pub(crate) fn has_caught_up(&self, id: u64) -> bool {
        has_caught_up(&self.raft.metrics().borrow(), id)
    }

    /// At the leader: all replicas that have caught up.
    pub(crate) fn caught_up(&self) -> Vec<u64> {
        self.group().caught_up.into_iter().collect()
    }

    fn report<E: std::error::Error>(&self, what: &str, error: Option<RaftError<u64, E>>) {
        if let Some(error) = error {
            tracing::warn!(shard = self.key.shard.0, what, %error, "membership unchanged");
        }
    }
}

/// Whether an operator wants the preferred leader: who leads now need not have led for a while.
fn is_asked(placed: &ShardInfo) -> bool {
    let preferred = placed.replicas.first().map(|first| first.site_id);
    placed.pin.as_ref().is_some_and(|pin| pin.leader != 0 && Some(pin.leader) == preferred)
}

/// The metrics must be borrowed once only: who borrows them again while Raft waits to write them waits for
/// itself.
fn has_caught_up(metrics: &RaftMetrics<u64, Member>, id: u64) -> bool {
    let last = metrics.last_log_index.unwrap_or(0);
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
    matched.is_some_and(|matched| matched.index + LEARNER_LAG_MAX >= last)
}

#[cfg(test)]
mod tests {
    use holdfast_proto::meta::{ReplicaInfo, ShardPin};

    use super::*;

    #[test]
    fn only_a_pinned_leader_that_is_preferred_is_asked_for() {
        let placed = |leader: Option<u64>| ShardInfo {
            replicas: vec![ReplicaInfo { replica_id: 1, site_id: 7 }],
            pin: leader.map(|leader| ShardPin { leader, sites: Vec::new() }),
            ..ShardInfo::default()
        };
        assert!(is_asked(&placed(Some(7))));
        assert!(![None, Some(0), Some(8)].map(|leader| is_asked(&placed(leader))).contains(&true));
    }

    fn group(own: u64, voters: &[u64], learners: &[u64]) -> Group {
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        let members: BTreeSet<u64> = voters.iter().chain(learners).copied().collect();
        let caught_up = members.clone();
        Group { configs: vec![voters], members, own, caught_up, settled: true }
    }

    fn behind(mut group: Group, id: u64) -> Group {
        group.caught_up.remove(&id);
        group
    }

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn who_joins_learns_first_and_votes_when_it_has_caught_up() {
        let target = [1, 2, 4];
        assert_eq!(next_step(&group(1, &[1, 2, 3], &[]), &target), Step::Learn(vec![4]));
        let learning = group(1, &[1, 2, 3], &[4]);
        assert_eq!(next_step(&behind(learning.clone(), 4), &target), Step::Wait);
        assert_eq!(next_step(&learning, &target), Step::Vote(set(&target)));
        assert_eq!(next_step(&group(1, &target, &[]), &target), Step::Wait);
    }

    #[test]
    fn a_dead_voter_is_replaced() {
        let target = [1, 2, 4];
        assert_eq!(
            next_step(&behind(group(1, &[1, 2, 3], &[4]), 3), &target),
            Step::Vote(set(&target))
        );
    }

    #[test]
    fn a_learner_that_is_not_wanted_any_more_is_forgotten() {
        let changed_again = behind(group(1, &[1, 2, 3], &[4]), 4);
        assert_eq!(next_step(&changed_again, &[1, 2, 5]), Step::Learn(vec![5]));
        let with_both = behind(group(1, &[1, 2, 3], &[4, 5]), 4);
        assert_eq!(next_step(&with_both, &[1, 2, 5]), Step::Forget(set(&[4])));
    }

    #[test]
    fn a_leader_that_leaves_hands_over_first() {
        let target = [4, 2, 3];
        assert_eq!(next_step(&group(1, &[1, 2, 3], &[4]), &target), Step::HandOver(vec![2, 3]));
        assert_eq!(next_step(&group(1, &[1], &[4]), &[4]), Step::Vote(set(&[1, 4])));
        assert_eq!(next_step(&group(1, &[1, 4], &[]), &[4]), Step::HandOver(vec![4]));
        assert_eq!(next_step(&group(4, &[1, 4], &[]), &[4]), Step::Vote(set(&[4])));
    }

    #[test]
    fn a_change_under_way_is_finished_before_another_begins() {
        let mut changing = group(1, &[1, 2, 3], &[4]);
        changing.configs.push(set(&[1, 2, 4]));
        assert_eq!(next_step(&changing, &[1, 2, 5]), Step::Vote(set(&[1, 2, 4])));
        changing.settled = false;
        assert_eq!(next_step(&changing, &[1, 2, 5]), Step::Wait);
    }

    #[test]
    fn nothing_is_done_without_a_placement() {
        assert_eq!(next_step(&group(1, &[1, 2, 3], &[]), &[]), Step::Wait);
    }
}
