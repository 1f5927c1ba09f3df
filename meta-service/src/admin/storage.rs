//! What the storage tier holds, by the word of its sites.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use futures_util::future::join_all;
use holdfast_admin_api::{Generation, Problem, Rolled, StorageTotals};
use holdfast_control::storage_view::{ClusterView, ReplicaView, ShardView, SiteView};
use holdfast_proto::{
    ids::SiteId,
    meta::Liveness,
    shard::{RunRow, Status},
    storage::{
        DescribeRequest, ReplicaDescription, RollShardRequest, storage_client::StorageClient,
    },
};

use super::{
    Api,
    asking::{Asking, CALL, LOOKED_FOR},
    cluster,
    extract::{Lead, Shard},
    problem::{Kind, Refused},
};

/// What a site says of all its replicas; nothing if it does not answer.
async fn describe(asking: &Asking<'_>, site: &SiteView) -> Option<Vec<ReplicaDescription>> {
    let call = |mut peer: StorageClient<_>| async move { peer.describe(DescribeRequest {}).await };
    let described = asking.peers.site(&site.info.address, CALL, call).await.ok()?;
    Some(described.replicas)
}

/// Of one shard, what its leader says, or else the replica that has most.
fn best(shard: &ShardView, said: &[(SiteId, ReplicaDescription)]) -> Option<ReplicaDescription> {
    let of_shard = said.iter().filter(|(_, replica)| replica.shard == shard.shard);
    let rank = |(site, replica): &&(SiteId, ReplicaDescription)| {
        (shard.leader == Some(*site), replica.applied_index)
    };
    of_shard.max_by_key(rank).map(|(_, replica)| replica.clone())
}

/// What the storage tier holds, all sites together.
#[utoipa::path(
    get, path = "/storage", tag = "shards",
    responses((status = OK, body = StorageTotals), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn totals(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
) -> Result<Json<StorageTotals>, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let up = view.sites.iter().filter(|site| site.info.liveness() == Liveness::Up);
    let asked =
        up.map(|site| async move { (SiteId(site.info.site_id), describe(&asking, site).await) });
    let answers = join_all(asked).await;
    let sites_asked = answers.iter().filter(|(_, said)| said.is_some()).count();
    let said = answers.into_iter().flat_map(|(site, said)| {
        said.unwrap_or_default().into_iter().map(move |replica| (site, replica))
    });
    let said: Vec<(SiteId, ReplicaDescription)> = said.collect();
    let mut totals = StorageTotals {
        sites_asked: count(sites_asked),
        sites: count(view.sites.len()),
        shards: view.shard_count,
        replicas: count(view.shards.iter().map(|shard| shard.replicas.len()).sum()),
        replicas_behind: count(view.shards.iter().map(behind).sum()),
        generations: 0,
        streams: 0,
        runs: 0,
        run_bytes: 0,
        messages: 0,
        used_bytes: view.sites.iter().map(|site| site.used_bytes).sum(),
        capacity_bytes: view.sites.iter().map(|site| site.capacity_bytes).sum(),
        transitions: cluster::transitions(&view),
        held_back: view.held_back.clone(),
    };
    for replica in view.shards.iter().filter_map(|shard| best(shard, &said)) {
        totals.generations += replica.generations.len() as u64;
        totals.streams += replica.streams;
        totals.runs += replica.runs.len() as u64;
        totals.run_bytes += replica.runs.iter().map(|run| run.bytes).sum::<u64>();
        totals.messages += replica.messages;
    }
    Ok(Json(totals))
}

/// Members of the replica set that are not as they should be. Who votes is known only while somebody leads.
fn behind(shard: &ShardView) -> usize {
    let whole = |replica: &ReplicaView| {
        let led = shard.leader.is_none() || (replica.votes && replica.caught_up);
        replica.reported && replica.missing_runs == 0 && led
    };
    shard.replicas.iter().filter(|replica| replica.member && !whole(replica)).count()
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Generations of a shard, as its leader or else another replica tells; nothing if none of them answers.
pub(crate) async fn generations(
    asking: &Asking<'_>,
    view: &ClusterView,
    shard: &ShardView,
) -> Option<Vec<Generation>> {
    let others = shard.replicas.iter().map(|replica| replica.site);
    let mut asked = Vec::new();
    for site in shard.leader.into_iter().chain(others) {
        let Some(known) = view.site(site).filter(|_| !asked.contains(&site)) else { continue };
        asked.push(site);
        if known.info.liveness() != Liveness::Up {
            continue;
        }
        let said = describe(asking, known).await.unwrap_or_default();
        if let Some(replica) = said.into_iter().find(|replica| replica.shard == shard.shard) {
            return Some(of_replica(&replica));
        }
    }
    None
}

fn of_replica(replica: &ReplicaDescription) -> Vec<Generation> {
    let mut runs: BTreeMap<u64, Vec<&RunRow>> = BTreeMap::new();
    for run in &replica.runs {
        runs.entry(run.generation).or_default().push(run);
    }
    let generation = |row: &holdfast_proto::shard::GenerationRow| {
        let runs = runs.get(&row.generation).map(Vec::as_slice).unwrap_or_default();
        Generation {
            generation: row.generation,
            first_position: row.first_position,
            end_position: (row.end_position > 0).then_some(row.end_position),
            started_ms: row.started_at_ms,
            sealed_ms: (row.sealed_at_ms > 0).then_some(row.sealed_at_ms),
            runs: runs.len() as u64,
            run_bytes: runs.iter().map(|run| run.bytes).sum(),
        }
    };
    replica.generations.iter().map(generation).collect()
}

/// Seals the current generation of a shard and begins another. One without messages stays the current one.
#[utoipa::path(
    post, path = "/shards/{shard}/roll", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on")),
    responses((status = OK, body = Rolled), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn roll(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Shard(shard): Shard,
) -> Result<Json<Rolled>, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let request = RollShardRequest { cluster_id: asking.cluster_id(), shard };
    let call = |mut peer: StorageClient<_>| {
        let request = request.clone();
        async move { peer.roll_shard(request).await }
    };
    let rolled = asking.leader(shard, LOOKED_FOR, call).await?;
    match rolled.status() {
        Status::Ok => {
            tracing::info!(shard, generation = rolled.generation, "an operator began a generation");
            Ok(Json(Rolled { shard, generation: rolled.generation }))
        }
        other => {
            let detail = format!("shard {shard} answers {}: ask again", other.as_str_name());
            Err(Refused::new(Kind::Unavailable, detail))
        }
    }
}
