//! Sites: the data of storage nodes.

use axum::{Json, http::StatusCode};
use holdfast_admin_api::{Problem, Site, SiteList, Steered, TransitionList};
use holdfast_control::steering::Steer;
use holdfast_proto::ids::SiteId;

use super::{
    cluster,
    extract::{Lead, Named},
    problem::Refused,
};
use crate::leading::Leading;

/// Has the controller do it; durable when this answers.
pub(crate) async fn steer(leading: &Leading, steer: Steer) -> Result<SiteId, Refused> {
    let steered = leading.controller.steer(steer).await;
    Ok(steered.ok_or_else(Refused::stopping)??)
}

async fn steered(leading: &Leading, asked: Steer) -> Result<Json<Steered>, Refused> {
    let site = steer(leading, asked).await?;
    let name = cluster::view(leading).await?.site_name(site);
    Ok(Json(Steered { site_id: site.to_string(), name }))
}

/// All sites, and what moves between them.
#[utoipa::path(
    get, path = "/sites", tag = "sites",
    responses((status = OK, body = SiteList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(Lead(leading): Lead) -> Result<Json<SiteList>, Refused> {
    let view = cluster::view(&leading).await?;
    let (sites, transitions) = (cluster::sites(&view), cluster::transitions(&view));
    Ok(Json(SiteList { sites, transitions, held_back: view.held_back }))
}

/// One site.
#[utoipa::path(
    get, path = "/sites/{site}", tag = "sites",
    params(("site" = String, Path, description = "Its id in hexadecimal, or its name")),
    responses((status = OK, body = Site), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    Lead(leading): Lead,
    Named(site): Named<String>,
) -> Result<Json<Site>, Refused> {
    let view = cluster::view(&leading).await?;
    Ok(Json(cluster::site(cluster::find_site(&view, &site)?)))
}

/// Forgets a site that is down and holds nothing. Its data directory cannot come back.
#[utoipa::path(
    delete, path = "/sites/{site}", tag = "sites",
    params(("site" = String, Path, description = "Its id in hexadecimal, or its name")),
    responses((status = NO_CONTENT), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn forget(
    Lead(leading): Lead,
    Named(site): Named<String>,
) -> Result<StatusCode, Refused> {
    steer(&leading, Steer::Forget { site }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins to move everything away from a site; watch its `state` become `drained`. Repeating it changes nothing.
#[utoipa::path(
    post, path = "/sites/{site}/drain", tag = "sites",
    params(("site" = String, Path, description = "Its id in hexadecimal, or its name")),
    responses((status = OK, body = Steered), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn drain(
    Lead(leading): Lead,
    Named(site): Named<String>,
) -> Result<Json<Steered>, Refused> {
    steered(&leading, Steer::Drain { site, cancel: false }).await
}

/// Calls a drain off; what has moved stays where it is.
#[utoipa::path(
    delete, path = "/sites/{site}/drain", tag = "sites",
    params(("site" = String, Path, description = "Its id in hexadecimal, or its name")),
    responses((status = OK, body = Steered), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn call_off(
    Lead(leading): Lead,
    Named(site): Named<String>,
) -> Result<Json<Steered>, Refused> {
    steered(&leading, Steer::Drain { site, cancel: true }).await
}

/// Gives a site that is down up for lost: others take its place. It is used again if it comes back.
#[utoipa::path(
    post, path = "/sites/{site}/replace", tag = "sites",
    params(("site" = String, Path, description = "Its id in hexadecimal, or its name")),
    responses((status = OK, body = Steered), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn replace(
    Lead(leading): Lead,
    Named(site): Named<String>,
) -> Result<Json<Steered>, Refused> {
    steered(&leading, Steer::Replace { site }).await
}

/// Replicas on their way from one site to another.
#[utoipa::path(
    get, path = "/transitions", tag = "sites",
    responses((status = OK, body = TransitionList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn transitions(Lead(leading): Lead) -> Result<Json<TransitionList>, Refused> {
    let view = cluster::view(&leading).await?;
    let transitions = cluster::transitions(&view);
    Ok(Json(TransitionList { transitions, held_back: view.held_back }))
}
