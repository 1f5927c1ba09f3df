//! Sessions: pages of the registry, with what the sessions' home shards know of them.

use axum::Json;
use holdfast_admin_api::{Problem, Session, SessionPage, SessionQuery};
use holdfast_proto::{
    ids::{Namespace, home_shard},
    meta::{ListSessionsRequest, SessionChange},
    shard::{ClientKey, SessionRow},
};

use super::{
    cursor,
    extract::{Asked, Lead, limit, prefix},
    problem::Refused,
};

/// Expiry interval of sessions that never end.
const FOR_EVER: u32 = u32::MAX;

/// A session in the words of the API, without lag and subscriptions.
pub(crate) fn session(client: &ClientKey, row: &SessionRow, shards: u16) -> Session {
    let connected = row.owner.is_some();
    let left_ms = (!connected && row.disconnected_at_ms > 0).then_some(row.disconnected_at_ms);
    let expires = row.expiry_interval_s != FOR_EVER;
    let life_ms = u64::from(row.expiry_interval_s) * 1_000;
    Session {
        client_id: client.client_id.clone(),
        namespace: client.namespace,
        shard: home_shard(Namespace(client.namespace), &client.client_id, shards).0.into(),
        epoch: row.epoch,
        connected,
        gateway: row.owner.as_ref().map(|owner| owner.name.clone()),
        expiry_interval_s: expires.then_some(row.expiry_interval_s),
        disconnected_ms: left_ms,
        expires_ms: left_ms.filter(|_| expires).map(|left_ms| left_ms + life_ms),
        last_used_ms: row.last_used_ms,
        protocol_level: row.protocol_level,
        subscription_count: u32::try_from(row.subscriptions.len()).unwrap_or(u32::MAX),
        lost: row.lost,
        lag: None,
        subscriptions: None,
    }
}

/// A page of sessions, by client id.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions", params(SessionQuery),
    responses((status = OK, body = SessionPage), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    Lead(leading): Lead,
    Asked(query): Asked<SessionQuery>,
) -> Result<Json<SessionPage>, Refused> {
    let request = ListSessionsRequest {
        after: cursor::read::<ClientKey>(query.after.as_deref())?,
        client_id_prefix: prefix(query.prefix)?,
        limit: u32::try_from(limit(query.limit)?).unwrap_or(u32::MAX),
    };
    let page = leading.sessions.list(request).await?;
    let last = page.sessions.last().and_then(|change| change.client.as_ref());
    let next = last.filter(|_| page.more).map(cursor::write);
    let shards = leading.controller.shards;
    let wanted = |row: &SessionRow| query.connected.is_none_or(|is| is == row.owner.is_some());
    let found = page.sessions.iter().filter_map(|SessionChange { client, row }| {
        Some((client.as_ref()?, row.as_ref().filter(|row| wanted(row))?))
    });
    let sessions = found.map(|(client, row)| session(client, row, shards)).collect();
    Ok(Json(SessionPage { sessions, next }))
}
