//! Sessions: pages of the registry, with what the sessions' home shards know of them.

use std::sync::Arc;

use axum::{Json, extract::State};
use holdfast_admin_api::{Lag, Problem, Session, SessionPage, SessionQuery, SessionSubscription};
use holdfast_node_kit::clock;
use holdfast_proto::shard::{ClientKey, SessionRow, Subscription};

use super::{
    Api,
    asking::Asking,
    cluster, cursor,
    extract::{Asked, Lead, Named, limit, prefix},
    lag::{self, AtHome},
    messages,
    problem::{Kind, Refused},
};
use crate::sessions::{Listed, Wanted};

/// Expiry interval of sessions that never end.
const FOR_EVER: u32 = u32::MAX;

/// Rows that are looked at for a page of which a filter may leave out most.
const FILTERED_ROWS: usize = 200;

/// The client of a path. There is one tenant only.
pub(crate) fn client(client_id: String) -> ClientKey {
    ClientKey { namespace: 0, client_id }
}

pub(crate) fn unknown(client: &ClientKey) -> Refused {
    let id = &client.client_id;
    let detail = format!("there is no session of a client {id:?}");
    Refused::new(Kind::UnknownSession, detail)
}

/// A session in the words of the API, without lag and subscriptions.
fn session(client: &ClientKey, row: &SessionRow, shards: u16) -> Session {
    let connected = row.owner.is_some();
    let left_ms = (!connected && row.disconnected_at_ms > 0).then_some(row.disconnected_at_ms);
    let expires = row.expiry_interval_s != FOR_EVER;
    let life_ms = u64::from(row.expiry_interval_s) * 1_000;
    Session {
        client_id: client.client_id.clone(),
        namespace: client.namespace,
        shard: lag::home(client, shards),
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
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Asked(query): Asked<SessionQuery>,
) -> Result<Json<SessionPage>, Refused> {
    let limit = limit(query.limit)?;
    let is_filtered = query.connected.is_some() || query.lag_min.is_some();
    let wanted = Wanted {
        after: cursor::read(query.after.as_deref())?,
        prefix: prefix(query.prefix)?,
        limit: if is_filtered { limit.max(FILTERED_ROWS) } else { limit },
    };
    let Listed { sessions: mut found, more } = leading.sessions.list(wanted).await?;
    let mut next = found.last().filter(|_| more).map(|(client, _)| cursor::write(client));
    found.retain(|(_, row)| query.connected.is_none_or(|is| is == row.owner.is_some()));
    let shards = leading.controller.shards;
    let mut sessions: Vec<Session> =
        found.iter().map(|(client, row)| session(client, row, shards)).collect();
    if query.lag.unwrap_or(false) || query.lag_min.is_some() {
        let view = cluster::view(&leading).await?;
        let asking = Asking::new(&view, &api.peers);
        let clients: Vec<ClientKey> = found.into_iter().map(|(client, _)| client).collect();
        let rows = lag::rows(&asking, &clients).await;
        for (session, lag) in sessions.iter_mut().zip(lags(&asking, &clients, &rows).await) {
            session.lag = lag;
        }
        let mut rows = rows.iter();
        sessions.retain(|_| rows.next() != Some(&AtHome::Gone));
    }
    if let Some(least) = query.lag_min {
        // Whoever's lag is not known may have as much.
        let has = |lag: &Lag| lag.messages >= least;
        sessions.retain(|session| session.lag.as_ref().is_none_or(has));
    }
    if sessions.len() > limit {
        sessions.truncate(limit);
        next = sessions.last().map(|last| cursor::write(&client(last.client_id.clone())));
    }
    Ok(Json(SessionPage { sessions, next }))
}

/// Lags of sessions, by the rows of their home shards.
async fn lags(asking: &Asking<'_>, clients: &[ClientKey], rows: &[AtHome]) -> Vec<Option<Lag>> {
    let known: Vec<(&ClientKey, &SessionRow)> = clients
        .iter()
        .zip(rows)
        .filter_map(|(client, at_home)| match at_home {
            AtHome::Row(row) => Some((client, &**row)),
            AtHome::Unknown | AtHome::Gone => None,
        })
        .collect();
    let mut counted = lag::count(asking, &known).await.into_iter();
    rows.iter()
        .map(|at_home| match at_home {
            AtHome::Row(_) => counted.next().flatten(),
            AtHome::Unknown | AtHome::Gone => None,
        })
        .collect()
}

/// One session as its home shard knows it, with lag and subscriptions.
#[utoipa::path(
    get, path = "/sessions/{client_id}", tag = "sessions",
    params(("client_id" = String, Path, description = "Percent-encoded")),
    responses((status = OK, body = Session), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Named(client_id): Named<String>,
) -> Result<Json<Session>, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let client = client(client_id);
    let row = lag::row(&asking, &client).await?.ok_or_else(|| unknown(&client))?;
    let mut session = session(&client, &row, asking.shards());
    session.subscriptions = Some(row.subscriptions.iter().map(subscription).collect());
    if let Some(lag) = lag::count(&asking, &[(&client, &row)]).await.pop().flatten() {
        let oldest_ms = oldest_in_flight_ms(&asking, &row).await;
        session.lag = Some(lag::with_oldest(lag, oldest_ms, clock::now_ms()));
    }
    Ok(Json(session))
}

fn subscription(row: &Subscription) -> SessionSubscription {
    SessionSubscription {
        filter: row.filter.clone(),
        qos: (row.options & 0b11) as u8,
        no_local: row.options & 0b100 != 0,
        retain_as_published: row.options & 0b1000 != 0,
        retain_handling: (row.options >> 4 & 0b11) as u8,
        identifier: (row.identifier > 0).then_some(row.identifier),
    }
}

/// When the oldest message in flight was stored: of each shard its first one is looked at.
async fn oldest_in_flight_ms(asking: &Asking<'_>, row: &SessionRow) -> Option<u64> {
    let mut first = std::collections::BTreeMap::new();
    for sent in &row.in_flight {
        let position = first.entry(sent.shard).or_insert(sent.position);
        *position = (*position).min(sent.position);
    }
    let mut oldest_ms = None;
    for (shard, position) in first {
        // A shard that does not answer is left out: the others tell as much as is known.
        let page = messages::at(asking, shard, vec![position]).await.ok();
        let time_ms = page.and_then(|page| page.placed.first().map(|placed| placed.time_ms));
        oldest_ms = time_ms.into_iter().chain(oldest_ms).min();
    }
    oldest_ms
}
