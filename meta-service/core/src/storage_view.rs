//! What operators see of the storage tier: sites, what they hold, what moves, and what is in the way.

use holdfast_proto::{
    ids::SiteId,
    meta::{ReplicaInfo, ShardInfo, SiteDetail, StorageDescription, Transition},
};

use crate::{membership::Membership, reports::Reports, transitions};

/// Sites with their loads, and transitions with their progress.
pub fn describe(
    membership: &Membership,
    reports: &Reports,
    held_back: Option<String>,
) -> StorageDescription {
    let sites = membership.sites().iter().map(|(site, info)| {
        let (replicas, holding) = membership.holdings(*site);
        let held = reports.site(*site);
        let said = held.map(|held| held.replicas()).unwrap_or_default();
        let leads = |shard: &&ShardInfo| {
            reports.leader(shard.shard).is_some_and(|leading| leading.site == *site)
        };
        SiteDetail {
            info: Some(info.clone()),
            replicas: count(replicas),
            leading: count(membership.placement().iter().filter(leads).count()),
            holding: count(holding),
            used_bytes: held.map_or(0, |held| held.used_bytes),
            capacity_bytes: held.map_or(0, |held| held.capacity_bytes),
            missing_bytes: said.iter().map(|replica| replica.missing_bytes).sum(),
        }
    });
    StorageDescription {
        topology: Some(membership.topology()),
        sites: sites.collect(),
        transitions: transitions(membership.placement(), reports),
        held_back: held_back.unwrap_or_default(),
    }
}

fn transitions(shards: &[ShardInfo], reports: &Reports) -> Vec<Transition> {
    let under_way = shards.iter().filter(|shard| !shard.holders.is_empty());
    let of_shard = |shard: &ShardInfo| {
        let joining: Vec<&ReplicaInfo> = transitions::joining(shard).collect();
        let width = joining.len().max(shard.holders.len());
        let transition =
            |at: usize| transition(shard, shard.holders.get(at), joining.get(at).copied(), reports);
        (0..width).map(transition).collect::<Vec<_>>()
    };
    under_way.flat_map(of_shard).collect()
}

fn transition(
    shard: &ShardInfo,
    leaving: Option<&ReplicaInfo>,
    joining: Option<&ReplicaInfo>,
    reports: &Reports,
) -> Transition {
    let votes = |replica: Option<&ReplicaInfo>| {
        let voters = reports.leader(shard.shard).map(|leading| &leading.replica.voters);
        replica.zip(voters).map(|(replica, voters)| voters.contains(&replica.replica_id))
    };
    let said = joining.and_then(|replica| {
        reports.replica(SiteId(replica.site_id), shard.shard, replica.replica_id)
    });
    Transition {
        shard: shard.shard,
        from_site: leaving.map_or(0, |replica| replica.site_id),
        to_site: joining.map_or(0, |replica| replica.site_id),
        votes_moved: votes(joining) != Some(false) && votes(leaving) == Some(false),
        missing_bytes: said.map_or(0, |said| said.missing_bytes),
    }
}

/// Figures of the storage tier for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageFigures {
    /// Shards with holders.
    pub transitions: usize,
    /// Bytes that replicas lack, by their own word.
    pub missing_bytes: u64,
    /// Shards of which some replica lacks history, or says nothing.
    pub under_held: usize,
    /// Sites that are active, draining, drained, lost.
    pub states: [usize; 4],
    /// The store is older than what sites have seen.
    pub set_back: bool,
}

/// Counts them.
pub fn figures(membership: &Membership, reports: &Reports) -> StorageFigures {
    let shards = membership.placement();
    let set_back = membership.set_back_from().is_some();
    let mut figures = StorageFigures { set_back, ..StorageFigures::default() };
    for shard in shards {
        let said = shard.replicas.iter().map(|replica| {
            reports.replica(SiteId(replica.site_id), shard.shard, replica.replica_id)
        });
        let whole = said.filter(|said| said.is_some_and(|said| said.missing_runs == 0)).count();
        figures.under_held += usize::from(whole < shard.replicas.len());
        figures.transitions += usize::from(!shard.holders.is_empty());
    }
    for (site, info) in membership.sites() {
        let said = reports.site(*site).map(|held| held.replicas()).unwrap_or_default();
        figures.missing_bytes += said.iter().map(|replica| replica.missing_bytes).sum::<u64>();
        if let Some(count) = figures.states.get_mut(info.state() as usize) {
            *count += 1;
        }
    }
    figures
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
