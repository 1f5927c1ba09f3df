//! Shards of the message log.

use std::sync::Arc;

use axum::{Json, extract::State};
use holdfast_admin_api::{MoveLeader, MoveReplica, Problem, Shard, ShardList};
use holdfast_control::steering::Steer;

use super::{
    Api,
    asking::Asking,
    cluster,
    extract::{self, Body, Lead},
    problem::Refused,
    sites::steer,
    storage,
};
use crate::leading::Leading;

/// All shards.
#[utoipa::path(
    get, path = "/shards", tag = "shards",
    responses((status = OK, body = ShardList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(Lead(leading): Lead) -> Result<Json<ShardList>, Refused> {
    let view = cluster::view(&leading).await?;
    let shards = view.shards.iter().map(|shard| cluster::shard(&view, shard)).collect();
    Ok(Json(ShardList { shards }))
}

/// One shard, with its generations.
#[utoipa::path(
    get, path = "/shards/{shard}", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on")),
    responses((status = OK, body = Shard), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    extract::Shard(shard): extract::Shard,
) -> Result<Json<Shard>, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let found = cluster::find_shard(&view, shard)?;
    let generations = storage::generations(&asking, &view, found).await;
    Ok(Json(Shard { generations, ..cluster::shard(&view, found) }))
}

async fn steered(leading: &Leading, shard: u32, asked: Steer) -> Result<Json<Shard>, Refused> {
    steer(leading, asked).await?;
    let view = cluster::view(leading).await?;
    Ok(Json(cluster::shard(&view, cluster::find_shard(&view, shard)?)))
}

/// Makes a site the leader of a shard, and pins that: placement leaves it so while it can.
#[utoipa::path(
    put, path = "/shards/{shard}/leader", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on")),
    request_body = MoveLeader,
    responses((status = OK, body = Shard, description = "As it is now: it leads in a moment"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn move_leader(
    Lead(leading): Lead,
    extract::Shard(shard): extract::Shard,
    Body(MoveLeader { site }): Body<MoveLeader>,
) -> Result<Json<Shard>, Refused> {
    steered(&leading, shard, Steer::MoveLeader { shard, site }).await
}

/// Moves a replica of a shard to another site, and pins the shard to its sites.
#[utoipa::path(
    post, path = "/shards/{shard}/replicas", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on")),
    request_body = MoveReplica,
    responses((status = OK, body = Shard, description = "As it is now: the replica moves"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn move_replica(
    Lead(leading): Lead,
    extract::Shard(shard): extract::Shard,
    Body(MoveReplica { from, to }): Body<MoveReplica>,
) -> Result<Json<Shard>, Refused> {
    steered(&leading, shard, Steer::MoveReplica { shard, from, to }).await
}

/// Ends what is pinned of a shard: placement may even it out again.
#[utoipa::path(
    delete, path = "/shards/{shard}/pin", tag = "shards",
    params(("shard" = u32, Path, description = "From 0 on")),
    responses((status = OK, body = Shard), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn release(
    Lead(leading): Lead,
    extract::Shard(shard): extract::Shard,
) -> Result<Json<Shard>, Refused> {
    steered(&leading, shard, Steer::Release { shard }).await
}
