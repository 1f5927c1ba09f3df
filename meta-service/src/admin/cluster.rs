//! The controller's view of the cluster in the words of the API.

use holdfast_admin_api::{GatewayInfo, Liveness, Replica, Shard, Site, SiteState, Transition};
use holdfast_control::storage_view::{ClusterView, ReplicaView, ShardView, SiteView};
use holdfast_proto::{ids::SiteId, meta};

use super::problem::{Kind, Refused};
use crate::leading::Leading;

/// Everything that operators see, as of now.
pub(crate) async fn view(leading: &Leading) -> Result<ClusterView, Refused> {
    leading.controller.describe().await.ok_or_else(Refused::stopping)
}

pub(crate) fn liveness(liveness: meta::Liveness) -> Liveness {
    match liveness {
        meta::Liveness::Up => Liveness::Up,
        meta::Liveness::Down => Liveness::Down,
        meta::Liveness::Dead => Liveness::Dead,
    }
}

fn site_state(state: meta::SiteState) -> SiteState {
    match state {
        meta::SiteState::Active => SiteState::Active,
        meta::SiteState::Draining => SiteState::Draining,
        meta::SiteState::Drained => SiteState::Drained,
        meta::SiteState::Lost => SiteState::Lost,
    }
}

/// A site.
pub(crate) fn site(view: &SiteView) -> Site {
    let info = &view.info;
    let mut labels: std::collections::BTreeMap<_, _> =
        info.labels.iter().map(|(label, value)| (label.clone(), value.clone())).collect();
    Site {
        site_id: SiteId(info.site_id).to_string(),
        name: info.name.clone(),
        address: info.address.clone(),
        zone: labels.remove("zone").unwrap_or_default(),
        labels,
        state: site_state(info.state()),
        liveness: liveness(info.liveness()),
        replicas: view.replicas,
        leading: view.leading,
        holding: view.holding,
        used_bytes: view.used_bytes,
        capacity_bytes: view.capacity_bytes,
        missing_bytes: view.missing_bytes,
    }
}

/// All sites, by name.
pub(crate) fn sites(view: &ClusterView) -> Vec<Site> {
    let mut sites: Vec<Site> = view.sites.iter().map(site).collect();
    sites.sort_by(|one, other| (&one.name, &one.site_id).cmp(&(&other.name, &other.site_id)));
    sites
}

/// A site by its name, or by its id in hexadecimal, as steering finds it.
pub(crate) fn find_site<'a>(view: &'a ClusterView, asked: &str) -> Result<&'a SiteView, Refused> {
    let named: Vec<&SiteView> = view.sites.iter().filter(|site| site.info.name == asked).collect();
    let id = u64::from_str_radix(asked.trim_start_matches("0x"), 16).map(SiteId);
    match (named.as_slice(), id.ok().and_then(|id| view.site(id))) {
        ([site], _) => Ok(*site),
        ([], Some(site)) => Ok(site),
        ([], None) => {
            let known: Vec<&str> = view.sites.iter().map(|site| &*site.info.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let detail = format!("no site has the id or the name {asked:?}; there are {known}");
            Err(Refused::new(Kind::UnknownSite, detail))
        }
        (several, _) => {
            let id = |site: &&SiteView| SiteId(site.info.site_id).to_string();
            let ids: Vec<String> = several.iter().map(id).collect();
            let detail = format!(
                "several sites are called {asked:?}, name one by its id: {}",
                ids.join(", ")
            );
            Err(Refused::new(Kind::AmbiguousSite, detail))
        }
    }
}

/// Replicas on their way.
pub(crate) fn transitions(view: &ClusterView) -> Vec<Transition> {
    let name = |site: Option<SiteId>| site.map(|site| view.site_name(site));
    let transition = |under_way: &holdfast_control::storage_view::TransitionView| Transition {
        shard: under_way.shard,
        from: name(under_way.from),
        to: name(under_way.to),
        votes_moved: under_way.votes_moved,
        missing_bytes: under_way.missing_bytes,
    };
    view.transitions.iter().map(transition).collect()
}

/// A shard by its number.
pub(crate) fn find_shard(view: &ClusterView, asked: u32) -> Result<&ShardView, Refused> {
    let found = view.shards.iter().find(|shard| shard.shard == asked);
    found.ok_or_else(|| {
        let there = match view.shards.len() {
            0 => "the cluster is not formed yet, it waits for storage nodes".to_owned(),
            count => format!("they are 0 to {}", count - 1),
        };
        Refused::new(Kind::UnknownShard, format!("there is no shard {asked}: {there}"))
    })
}

/// A shard, without its generations.
pub(crate) fn shard(view: &ClusterView, shard: &ShardView) -> Shard {
    let replica = |replica: &ReplicaView| Replica {
        replica_id: format!("{:x}", replica.replica_id),
        site: view.site_name(replica.site),
        member: replica.member,
        votes: replica.votes,
        caught_up: replica.caught_up,
        missing_runs: replica.missing_runs,
        missing_bytes: replica.missing_bytes,
    };
    Shard {
        shard: shard.shard,
        leader: shard.leader.map(|site| view.site_name(site)),
        term: shard.term,
        preferred_leader: view.site_name(shard.preferred),
        pinned: shard.pin.is_some(),
        replicas: shard.replicas.iter().map(replica).collect(),
        next_position: shard.next_position,
        run_bytes: shard.run_bytes,
        generations: None,
    }
}

/// All gateways, by name.
pub(crate) fn gateways(view: &ClusterView) -> Vec<GatewayInfo> {
    let gateway = |info: &meta::GatewayInfo| {
        let known = info.gateway.clone().unwrap_or_default();
        GatewayInfo {
            name: known.name,
            incarnation: format!("{:016x}", known.incarnation),
            liveness: liveness(info.liveness()),
            mqtt_address: info.mqtt_address.clone(),
            address: known.address,
        }
    };
    let mut gateways: Vec<GatewayInfo> = view.gateways.iter().map(gateway).collect();
    gateways.sort_by(|one, other| {
        (&one.name, &one.incarnation).cmp(&(&other.name, &other.incarnation))
    });
    gateways
}
