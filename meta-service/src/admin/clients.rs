//! Connected clients, as all gateways know them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use futures_util::future::join_all;
use holdfast_admin_api::{ClientInfo, ClientPage, ClientQuery, Problem};
use holdfast_proto::{
    gateway::{ConnectedClient, ListClientsRequest, gateway_client::GatewayClient},
    meta::{GatewayInfo, Liveness},
    shard::{ClientKey, GatewayRef},
};

use super::{
    Api,
    asking::Asking,
    cluster, cursor,
    extract::{Asked, Lead, limit, prefix},
    problem::{Kind, Refused},
};

/// How long gateways may take, all together.
const LISTED_WITHIN: Duration = Duration::from_secs(2);
/// Expiry interval of sessions that never end.
const FOR_EVER: u32 = u32::MAX;

/// What is asked of every gateway.
pub(crate) struct Wanted {
    pub(crate) after: Option<ClientKey>,
    pub(crate) prefix: String,
    pub(crate) limit: usize,
    pub(crate) with_subscriptions: bool,
}

/// Clients of all gateways.
pub(crate) struct Connected {
    /// With the names of their gateways; by namespace and client id.
    pub(crate) clients: BTreeMap<(u32, String), (String, ConnectedClient)>,
    /// Up to here all are known that answered gateways have; nothing: to the end.
    pub(crate) whole_to: Option<(u32, String)>,
    pub(crate) unanswered: Vec<String>,
}

/// Asks these gateways at once. A client that has just moved is at the one where its epoch is higher.
pub(crate) async fn connected<'a>(
    asking: &Asking<'_>,
    gateways: impl Iterator<Item = &'a GatewayRef>,
    wanted: &Wanted,
) -> Connected {
    let asked = gateways.map(|gateway| async move {
        let request = ListClientsRequest {
            cluster_id: asking.cluster_id(),
            after: wanted.after.clone(),
            client_id_prefix: wanted.prefix.clone(),
            limit: u32::try_from(wanted.limit).unwrap_or(u32::MAX),
            with_subscriptions: wanted.with_subscriptions,
        };
        let call = |mut peer: GatewayClient<_>| async move { peer.list_clients(request).await };
        (&gateway.name, asking.peers.gateway(&gateway.address, LISTED_WITHIN, call).await)
    });
    let mut found = Connected { clients: BTreeMap::new(), whole_to: None, unanswered: Vec::new() };
    for (name, answer) in join_all(asked).await {
        let Ok(listed) = answer else {
            found.unanswered.push(name.clone());
            continue;
        };
        let key = |client: &ConnectedClient| {
            client.client.as_ref().map(|key| (key.namespace, key.client_id.clone()))
        };
        if listed.more {
            let last = listed.clients.last().and_then(key);
            found.whole_to = found.whole_to.into_iter().chain(last).min();
        }
        for client in listed.clients {
            let Some(key) = key(&client) else { continue };
            let known =
                found.clients.get(&key).is_some_and(|(_, known)| known.epoch > client.epoch);
            if !known {
                found.clients.insert(key, (name.clone(), client));
            }
        }
    }
    found.unanswered.sort_unstable();
    found
}

/// Gateways that are up.
pub(crate) fn live(gateways: &[GatewayInfo]) -> impl Iterator<Item = &GatewayRef> {
    let up = gateways.iter().filter(|info| info.liveness() == Liveness::Up);
    up.filter_map(|info| info.gateway.as_ref())
}

/// A page of connected clients, by client id.
#[utoipa::path(
    get, path = "/clients", tag = "sessions", params(ClientQuery),
    responses((status = OK, body = ClientPage), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Asked(query): Asked<ClientQuery>,
) -> Result<Json<ClientPage>, Refused> {
    let wanted = Wanted {
        after: cursor::read(query.after.as_deref())?,
        prefix: prefix(query.prefix)?,
        limit: limit(query.limit)?,
        with_subscriptions: false,
    };
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    if let Some(name) = &query.gateway {
        check_gateway(&view.gateways, name)?;
    }
    let is_asked =
        |gateway: &&GatewayRef| query.gateway.as_ref().is_none_or(|name| gateway.name == *name);
    let found = connected(&asking, live(&view.gateways).filter(is_asked), &wanted).await;
    let whole_to = found.whole_to.clone();
    let known = |key: &(u32, String)| whole_to.as_ref().is_none_or(|last| key <= last);
    let mut clients: Vec<_> = found.clients.into_iter().filter(|(key, _)| known(key)).collect();
    let more = clients.len() > wanted.limit || found.whole_to.is_some();
    clients.truncate(wanted.limit);
    let last = clients.last().map(|((namespace, client_id), _)| ClientKey {
        namespace: *namespace,
        client_id: client_id.clone(),
    });
    let next = last.filter(|_| more).as_ref().map(cursor::write);
    let clients =
        clients.into_iter().map(|(key, (gateway, client))| info(key, gateway, &client)).collect();
    Ok(Json(ClientPage { clients, unanswered: found.unanswered, next }))
}

fn check_gateway(gateways: &[GatewayInfo], name: &str) -> Result<(), Refused> {
    let named = |info: &GatewayInfo| info.gateway.as_ref().is_some_and(|known| known.name == name);
    if gateways.iter().any(named) {
        return Ok(());
    }
    let detail = format!("there is no gateway {name:?}: see gateways");
    Err(Refused::new(Kind::UnknownGateway, detail))
}

fn info(
    (namespace, client_id): (u32, String),
    gateway: String,
    client: &ConnectedClient,
) -> ClientInfo {
    let expiry = client.expiry_interval_s;
    ClientInfo {
        client_id,
        namespace,
        gateway,
        remote: client.remote.clone(),
        protocol_level: client.protocol_level,
        keep_alive_s: client.keep_alive_s,
        durable: expiry > 0,
        expiry_interval_s: (expiry != FOR_EVER).then_some(expiry),
        connected_ms: client.connected_at_ms,
        subscription_count: client.subscription_count,
        in_flight: client.in_flight,
        received: client.received,
        sent: client.sent,
    }
}
