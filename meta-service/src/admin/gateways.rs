//! Gateways.

use axum::Json;
use holdfast_admin_api::{GatewayList, Problem};

use super::{cluster, extract::Lead, problem::Refused};

/// All gateways; those that ended are remembered for a day.
#[utoipa::path(
    get, path = "/gateways", tag = "cluster",
    responses((status = OK, body = GatewayList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(Lead(leading): Lead) -> Result<Json<GatewayList>, Refused> {
    let view = cluster::view(&leading).await?;
    Ok(Json(GatewayList { gateways: cluster::gateways(&view) }))
}
