//! Subscriptions: of durable sessions by the registry, of others by the gateways that they are connected to.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use holdfast_admin_api::{Problem, SubscriptionInfo, SubscriptionPage, SubscriptionQuery};
use holdfast_proto::{
    shard::{ClientKey, Subscription},
    topic,
};

use super::{
    Api,
    asking::Asking,
    clients::{Wanted, connected, live},
    cluster, cursor,
    extract::{Asked, Lead, limit, prefix},
    problem::{Kind, Refused},
};
use crate::sessions;

/// What one client subscribes to.
struct Held {
    durable: bool,
    connected: bool,
    subscriptions: Vec<Subscription>,
}

type Key = (u32, String);

/// A page of subscriptions, by client id.
#[utoipa::path(
    get, path = "/subscriptions", tag = "sessions", params(SubscriptionQuery),
    responses((status = OK, body = SubscriptionPage), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Asked(query): Asked<SubscriptionQuery>,
) -> Result<Json<SubscriptionPage>, Refused> {
    let wanted = Wanted {
        after: cursor::read(query.after.as_deref())?,
        prefix: prefix(query.prefix)?,
        limit: limit(query.limit)?,
        with_subscriptions: true,
    };
    check(query.filter.as_deref(), query.topic.as_deref())?;
    let of_registry = sessions::Wanted {
        after: wanted.after.clone(),
        prefix: wanted.prefix.clone(),
        limit: wanted.limit,
    };
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let (page, found) = tokio::join!(
        leading.sessions.list(of_registry),
        connected(&asking, live(&view.gateways), &wanted)
    );
    let page = page?;
    let mut held: BTreeMap<Key, Held> = BTreeMap::new();
    for (key, (_, client)) in found.clients {
        let durable = client.expiry_interval_s > 0;
        held.insert(key, Held { durable, connected: true, subscriptions: client.subscriptions });
    }
    let mut whole_to = found.whole_to;
    if page.more {
        let last = page.sessions.last().map(|(client, _)| key(client));
        whole_to = whole_to.into_iter().chain(last).min();
    }
    for (client, row) in page.sessions {
        let connected = row.owner.is_some() || held.contains_key(&key(&client));
        // Subscriptions of others are not kept in their rows.
        if row.expiry_interval_s > 0 {
            let subscriptions = row.subscriptions;
            held.insert(key(&client), Held { durable: true, connected, subscriptions });
        }
    }
    if let Some(last) = &whole_to {
        held.retain(|key, _| key <= last);
    }
    let cut = held.len() > wanted.limit;
    let held: Vec<(Key, Held)> = held.into_iter().take(wanted.limit).collect();
    let last = match cut {
        true => held.last().map(|(key, _)| key.clone()),
        false => whole_to,
    };
    let next =
        last.map(|(namespace, client_id)| cursor::write(&ClientKey { namespace, client_id }));
    let is_asked = |one: &Subscription| {
        query.filter.as_ref().is_none_or(|filter| one.filter == *filter)
            && query
                .topic
                .as_ref()
                .is_none_or(|name| topic::matches(messages_of(&one.filter), name))
    };
    let subscriptions = held.into_iter().flat_map(|((_, client_id), held)| {
        let Held { durable, connected, subscriptions } = held;
        let asked = subscriptions.into_iter().filter(is_asked);
        asked.map(move |one| SubscriptionInfo {
            client_id: client_id.clone(),
            qos: (one.options & 0b11) as u8,
            filter: one.filter,
            durable,
            connected,
        })
    });
    let subscriptions = subscriptions.collect();
    Ok(Json(SubscriptionPage { subscriptions, unanswered: found.unanswered, next }))
}

fn key(client: &ClientKey) -> Key {
    (client.namespace, client.client_id.clone())
}

/// The filter of a shared subscription without its share.
fn messages_of(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, filter)| filter)
}

fn check(filter: Option<&str>, name: Option<&str>) -> Result<(), Refused> {
    let filter = filter.map(|filter| ("filter", filter, topic::check_filter(filter)));
    let name = name.map(|name| ("topic", name, topic::check_name(name)));
    for (field, value, checked) in filter.into_iter().chain(name) {
        if let Err(error) = checked {
            let detail = format!("{field} {value:?} is none: {error}");
            return Err(Refused::new(Kind::Malformed, detail));
        }
    }
    Ok(())
}
