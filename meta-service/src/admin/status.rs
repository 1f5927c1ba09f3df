//! How the cluster is.

use std::sync::Arc;

use axum::{Json, extract::State};
use holdfast_admin_api::{ClusterStatus, GatewayInfo, Liveness, Problem, Site, SiteState};
use holdfast_control::storage_view::ClusterView;

use super::{Api, cluster, extract::Lead, problem::Refused};
use crate::config::StoreKind;

/// Shards or names that a sentence names.
const NAMED: usize = 10;

/// How the cluster is, and what is not as it should be.
#[utoipa::path(
    get, path = "/status", tag = "cluster",
    responses((status = OK, body = ClusterStatus), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
) -> Result<Json<ClusterStatus>, Refused> {
    let view = cluster::view(&leading).await?;
    let (sites, gateways) = (cluster::sites(&view), cluster::gateways(&view));
    let problems = problems(&view, &sites, &gateways);
    let gateway_up = gateways.iter().any(|gateway| gateway.liveness == Liveness::Up);
    let healthy = gateway_up
        && !view.shards.is_empty()
        && view.shards_without_leader.is_empty()
        && view.shards_under_replicated.is_empty();
    Ok(Json(ClusterStatus {
        healthy,
        problems,
        cluster_id: view.cluster_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: match api.store {
            StoreKind::Sled => "sled".to_owned(),
            StoreKind::Etcd => "etcd".to_owned(),
        },
        elected: api.name.clone(),
        shards: view.shard_count,
        replication_factor: view.replication_factor,
        shards_without_leader: view.shards_without_leader,
        shards_under_replicated: view.shards_under_replicated,
        sites,
        gateways,
        durable_filters: view.durable_filters as u64,
    }))
}

/// What is wrong, in words that an operator can act on; the worst first.
fn problems(view: &ClusterView, sites: &[Site], gateways: &[GatewayInfo]) -> Vec<String> {
    let mut problems = Vec::new();
    if view.shards.is_empty() {
        let up = sites.iter().filter(|site| site.liveness == Liveness::Up).count();
        problems.push(format!(
            "the cluster is not formed: {up} of {} storage nodes are up, start the others",
            view.replication_factor
        ));
    }
    if !view.shards_without_leader.is_empty() {
        problems.push(format!(
            "{} without a leader, publishers to them wait: bring back the sites that are down, most of a shard's replicas must be up",
            shards(&view.shards_without_leader)
        ));
    }
    if !gateways.iter().any(|gateway| gateway.liveness == Liveness::Up) {
        problems.push("no gateway is up: no client can connect, start a broker-node".to_owned());
    }
    let down = |site: &&Site| site.liveness != Liveness::Up && site.state == SiteState::Active;
    let down: Vec<&str> = sites.iter().filter(down).map(|site| site.name.as_str()).collect();
    if !down.is_empty() {
        let (sites, them) = match down.len() {
            1 => (format!("site {} is", listed(&down)), "it"),
            _ => (format!("sites {} are", listed(&down)), "them"),
        };
        problems.push(format!(
            "{sites} down: start {them}; others take over by themselves after a while, or at once by `replace`"
        ));
    }
    if !view.shards_under_replicated.is_empty() {
        problems.push(format!(
            "{} with a replica that is away, does not vote or lacks history: one more failure may stop publishers, see transitions for what is on its way",
            shards(&view.shards_under_replicated)
        ));
    }
    problems.extend(sites.iter().filter_map(full));
    if let Some(reason) = &view.held_back {
        problems.push(format!("nothing is moved: {reason}"));
    }
    problems
}

/// A site whose disk is nearly full.
fn full(site: &Site) -> Option<String> {
    let used = site.used_bytes as f64 / site.capacity_bytes.max(1) as f64;
    (site.capacity_bytes > 0 && used >= 0.9).then(|| {
        format!(
            "site {} uses {:.0} % of its disk: give it more room, add a storage node, or shorten retention",
            site.name,
            used * 100.0
        )
    })
}

fn shards(shards: &[u32]) -> String {
    let numbers: Vec<String> = shards.iter().map(u32::to_string).collect();
    let noun = if shards.len() == 1 { "shard" } else { "shards" };
    format!("{noun} {}", listed(&numbers.iter().map(String::as_str).collect::<Vec<_>>()))
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_short() {
        let many: Vec<u32> = (0..12).collect();
        assert_eq!(shards(&many), "shards 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(shards(&[7]), "shard 7");
    }

    #[test]
    fn what_is_missing_before_a_cluster_forms_is_named() {
        let view = ClusterView { replication_factor: 3, ..ClusterView::default() };
        let problems = problems(&view, &[], &[]);
        assert!(problems[0].contains("0 of 3 storage nodes"), "{problems:?}");
        assert!(problems[1].contains("no gateway"), "{problems:?}");
    }
}
