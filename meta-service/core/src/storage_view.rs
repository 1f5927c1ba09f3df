//! What operators see of the cluster: sites with their loads, shards with their replicas, what moves, and what
//! is in the way. By the newest reports: what a site that is silent had to say is not shown.

use holdfast_proto::{
    ids::SiteId,
    meta::{
        GatewayInfo, Liveness, ReplicaInfo, ReplicaReport, ShardInfo, ShardPin, SiteInfo,
        SiteState, Topology,
    },
};

use crate::{
    membership::Membership,
    reports::{Leading, Reports},
    transitions,
};

/// Everything at once, as of one turn of the controller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// Made at the first start.
    pub cluster_id: String,
    /// Version of the topology.
    pub topology_version: u64,
    /// Shards; 0 until the cluster is formed.
    pub shard_count: u32,
    /// Replicas of a shard.
    pub replication_factor: u32,
    /// By site id.
    pub sites: Vec<SiteView>,
    /// By number; empty until the cluster is formed.
    pub shards: Vec<ShardView>,
    /// The dead, too.
    pub gateways: Vec<GatewayInfo>,
    /// Replicas on their way, by shard.
    pub transitions: Vec<TransitionView>,
    /// Why nothing is moved although something should be.
    pub held_back: Option<String>,
    /// Shards without a leader that serves.
    pub shards_without_leader: Vec<u32>,
    /// Shards with a replica whose site is silent, that does not vote, or that lacks something.
    pub shards_under_replicated: Vec<u32>,
    /// Filters of durable sessions that gateways route by.
    pub durable_filters: usize,
}

impl ClusterView {
    /// A site.
    pub fn site(&self, site: SiteId) -> Option<&SiteView> {
        self.sites.iter().find(|known| known.info.site_id == site.0)
    }

    /// Its name; its id if it is not known.
    pub fn site_name(&self, site: SiteId) -> String {
        self.site(site).map_or_else(|| site.to_string(), |known| known.info.name.clone())
    }
}

/// A site with its load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteView {
    /// Id, name, address, labels, liveness and state.
    pub info: SiteInfo,
    /// Shards whose replica set it is in.
    pub replicas: u32,
    /// Shards that it leads.
    pub leading: u32,
    /// Shards that it only keeps history of.
    pub holding: u32,
    /// Bytes that its data takes; 0 while it is silent, as are the others.
    pub used_bytes: u64,
    /// Bytes that its data may take.
    pub capacity_bytes: u64,
    /// History that it lacks.
    pub missing_bytes: u64,
}

/// A shard with its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardView {
    /// Its number.
    pub shard: u32,
    /// Where it is led from; nothing while no leader serves.
    pub leader: Option<SiteId>,
    /// The newest term that was heard of; 0: none.
    pub term: u64,
    /// Where it should be led from.
    pub preferred: SiteId,
    /// What an operator has pinned.
    pub pin: Option<ShardPin>,
    /// The replica set, preferred leader first, then those that only keep history.
    pub replicas: Vec<ReplicaView>,
    /// Next position of its log, by the leader's word; 0 while there is none.
    pub next_position: u64,
    /// Bytes of its runs at the leader; 0 while there is none.
    pub run_bytes: u64,
}

/// A replica of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its id.
    pub replica_id: u64,
    /// Where it is.
    pub site: SiteId,
    /// It is in the replica set; if not, it keeps history until others have it.
    pub member: bool,
    /// Its site is heard of and has it.
    pub reported: bool,
    /// It votes, by the leader's word.
    pub votes: bool,
    /// It has everything but the last moments, by the leader's word.
    pub caught_up: bool,
    /// Runs that it lacks, by its own word.
    pub missing_runs: u64,
    /// Their bytes.
    pub missing_bytes: u64,
}

/// A replica on its way from one site to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransitionView {
    /// The shard.
    pub shard: u32,
    /// Where one leaves.
    pub from: Option<SiteId>,
    /// Where one joins.
    pub to: Option<SiteId>,
    /// The new replica votes, the old one does not.
    pub votes_moved: bool,
    /// History that the new one still lacks.
    pub missing_bytes: u64,
}

/// Sites, shards and gateways, and what is under way.
pub fn describe(
    membership: &Membership,
    reports: &Reports,
    held_back: Option<String>,
    durable_filters: usize,
) -> ClusterView {
    let Topology { cluster_id, version, shards, replication_factor, gateways, .. } =
        membership.topology();
    let placement = membership.placement();
    let found = |is: fn(&ShardInfo, &Reports) -> bool| {
        placement.iter().filter(|shard| is(shard, reports)).map(|shard| shard.shard).collect()
    };
    ClusterView {
        cluster_id,
        topology_version: version,
        shard_count: shards,
        replication_factor,
        sites: membership.sites().values().map(|info| site(info, membership, reports)).collect(),
        shards: placement.iter().map(|info| shard(info, reports)).collect(),
        gateways,
        transitions: transitions(placement, reports),
        held_back,
        shards_without_leader: found(is_without_leader),
        shards_under_replicated: found(is_under_replicated),
        durable_filters,
    }
}

fn site(info: &SiteInfo, membership: &Membership, reports: &Reports) -> SiteView {
    let id = SiteId(info.site_id);
    let (replicas, holding) = membership.holdings(id);
    let held = reports.site(id);
    let said = held.map(|held| held.replicas()).unwrap_or_default();
    let leads =
        |shard: &&ShardInfo| reports.leader(shard.shard).is_some_and(|leading| leading.site == id);
    SiteView {
        info: info.clone(),
        replicas: count(replicas),
        leading: count(membership.placement().iter().filter(leads).count()),
        holding: count(holding),
        used_bytes: held.map_or(0, |held| held.used_bytes),
        capacity_bytes: held.map_or(0, |held| held.capacity_bytes),
        missing_bytes: said.iter().map(|replica| replica.missing_bytes).sum(),
    }
}

fn shard(info: &ShardInfo, reports: &Reports) -> ShardView {
    let leader = reports.leader(info.shard);
    let said = |of: fn(&ReplicaReport) -> u64| leader.map_or(0, |leading| of(leading.replica));
    let members = info.replicas.iter().map(|held| replica(info.shard, held, true, reports));
    let holders = info.holders.iter().map(|held| replica(info.shard, held, false, reports));
    ShardView {
        shard: info.shard,
        leader: leader.map(|leading| leading.site),
        term: reports.term(info.shard),
        preferred: SiteId(info.replicas.first().map_or(0, |replica| replica.site_id)),
        pin: info.pin.clone(),
        replicas: members.chain(holders).collect(),
        next_position: said(|leader| leader.next_position),
        run_bytes: said(|leader| leader.run_bytes),
    }
}

fn replica(shard: u32, held: &ReplicaInfo, member: bool, reports: &Reports) -> ReplicaView {
    let (site, replica_id) = (SiteId(held.site_id), held.replica_id);
    let (leader, said) = (reports.leader(shard), reports.replica(site, shard, replica_id));
    ReplicaView {
        replica_id,
        site,
        member,
        reported: said.is_some(),
        votes: leader.is_some_and(|leading| votes(leading, replica_id)),
        caught_up: leader.is_some_and(|leading| has_caught_up(leading, replica_id)),
        missing_runs: said.map_or(0, |said| said.missing_runs),
        missing_bytes: said.map_or(0, |said| said.missing_bytes),
    }
}

fn transitions(shards: &[ShardInfo], reports: &Reports) -> Vec<TransitionView> {
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
) -> TransitionView {
    let leader = reports.leader(shard.shard);
    let votes = |replica: Option<&ReplicaInfo>| {
        replica.zip(leader).map(|(replica, leading)| votes(leading, replica.replica_id))
    };
    let said = joining.and_then(|replica| {
        reports.replica(SiteId(replica.site_id), shard.shard, replica.replica_id)
    });
    TransitionView {
        shard: shard.shard,
        from: leaving.map(|replica| SiteId(replica.site_id)),
        to: joining.map(|replica| SiteId(replica.site_id)),
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
    /// Shards without a leader that serves.
    pub without_leader: usize,
    /// Shards with a replica that is silent, does not vote or lacks something.
    pub under_replicated: usize,
    /// Sites that are active, draining, drained, lost.
    pub states: [usize; 4],
    /// Sites that are not heard of and were not drained.
    pub sites_down: usize,
    /// The store is older than what sites have seen.
    pub set_back: bool,
}

/// Counts them.
pub fn figures(membership: &Membership, reports: &Reports) -> StorageFigures {
    let shards = membership.placement();
    let set_back = membership.set_back_from().is_some();
    let under_way = shards.iter().filter(|shard| !shard.holders.is_empty());
    let mut figures = StorageFigures {
        set_back,
        transitions: under_way.count(),
        without_leader: shards.iter().filter(|shard| is_without_leader(shard, reports)).count(),
        under_replicated: shards.iter().filter(|shard| is_under_replicated(shard, reports)).count(),
        ..StorageFigures::default()
    };
    for (site, info) in membership.sites() {
        let said = reports.site(*site).map(|held| held.replicas()).unwrap_or_default();
        figures.missing_bytes += said.iter().map(|replica| replica.missing_bytes).sum::<u64>();
        if let Some(count) = figures.states.get_mut(info.state() as usize) {
            *count += 1;
        }
        let missed = info.liveness() != Liveness::Up && info.state() != SiteState::Drained;
        figures.sites_down += usize::from(missed);
    }
    figures
}

fn is_without_leader(shard: &ShardInfo, reports: &Reports) -> bool {
    reports.leader(shard.shard).is_none()
}

/// Whether a replica of the set is silent, lacks something, or does not vote. While nobody leads, who votes
/// and who has everything is not known: what replicas say of themselves counts alone.
fn is_under_replicated(shard: &ShardInfo, reports: &Reports) -> bool {
    let leader = reports.leader(shard.shard);
    let whole = |replica: &ReplicaInfo| {
        let (site, id) = (SiteId(replica.site_id), replica.replica_id);
        reports.replica(site, shard.shard, id).is_some_and(|said| said.missing_runs == 0)
            && leader.is_none_or(|leading| votes(leading, id) && has_caught_up(leading, id))
    };
    !shard.replicas.iter().all(whole)
}

fn votes(leading: Leading<'_>, replica_id: u64) -> bool {
    leading.replica.voters.contains(&replica_id)
}

fn has_caught_up(leading: Leading<'_>, replica_id: u64) -> bool {
    replica_id == leading.replica.replica_id || leading.replica.caught_up.contains(&replica_id)
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
