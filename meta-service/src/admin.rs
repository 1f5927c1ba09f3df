//! The admin API: REST under `/api/v1`, on a port of its own. Bodies are the types of `holdfast-admin-api`; the
//! OpenAPI document is made from the handlers.
//!
//! A request passes the guard (`guard.rs`): limits, then who is elected (a standby hands it on, `forward.rs`),
//! then who asks and what they may do. Handlers find in it what the elected process serves with.

pub(crate) mod access;
mod asking;
mod backlog;
mod clients;
mod cluster;
mod cursor;
mod ending;
mod extract;
mod forward;
mod gateways;
mod guard;
mod lag;
mod listener;
mod messages;
mod openapi;
mod password;
mod password_file;
mod peers;
pub(crate) mod problem;
mod rows;
mod sessions;
mod shards;
mod sites;
mod status;
mod storage;
mod subscriptions;
mod tokens;
mod users;
mod verify;

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, http::Method, middleware};
use holdfast_admin_api::BASE;
use holdfast_node_kit::shutdown::Shutdown;
use tokio::{net::TcpListener, sync::Semaphore};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{
    forward::Forwarder,
    peers::Peers,
    problem::{Kind, Refused},
};
use crate::{
    config::{AdminConfig, AdminLimits, Config, StoreKind},
    leading::Role,
};

/// What all requests share.
pub(crate) struct Api {
    role: Role,
    store: StoreKind,
    name: String,
    limits: AdminLimits,
    requests: Semaphore,
    verifications: Semaphore,
    peers: Peers,
    forwarder: Forwarder,
    /// Operations that take a query; others take none.
    queried: HashSet<(Method, String)>,
    /// As JSON text.
    document: String,
}

/// Serves until `shutdown`.
pub(crate) fn serve(
    config: &Config,
    admin: &AdminConfig,
    role: Role,
    listener: TcpListener,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + use<> {
    let (routes, mut document) = routes().split_for_parts();
    openapi::name_operations(&mut document);
    let limits = admin.limits.clone();
    let api = Arc::new(Api {
        role,
        store: config.store,
        name: config.name.clone(),
        requests: Semaphore::new(limits.requests_max),
        verifications: Semaphore::new(limits.verifications_max),
        peers: Peers::default(),
        forwarder: Forwarder::new(Duration::from_millis(limits.request_timeout_ms)),
        queried: openapi::queried(&document),
        document: openapi::text(&document),
        limits,
    });
    let connections_max = admin.limits.connections_max;
    listener::serve(listener, router(routes, api), connections_max, shutdown)
}

/// All operations, and their document.
fn routes() -> OpenApiRouter<Arc<Api>> {
    let routes = OpenApiRouter::new()
        .routes(routes!(openapi::document))
        .routes(routes!(status::show))
        .routes(routes!(sites::list))
        .routes(routes!(sites::show, sites::forget))
        .routes(routes!(sites::drain, sites::call_off))
        .routes(routes!(sites::replace))
        .routes(routes!(sites::transitions))
        .routes(routes!(storage::totals))
        .routes(routes!(shards::list))
        .routes(routes!(shards::show))
        .routes(routes!(shards::move_leader))
        .routes(routes!(shards::move_replica))
        .routes(routes!(shards::release))
        .routes(routes!(storage::roll))
        .routes(routes!(verify::verify))
        .routes(routes!(gateways::list))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, ending::delete))
        .routes(routes!(ending::kick))
        .routes(routes!(backlog::show))
        .routes(routes!(clients::list))
        .routes(routes!(subscriptions::list))
        .routes(routes!(users::whoami))
        .routes(routes!(users::list))
        .routes(routes!(users::put, users::delete))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete));
    OpenApiRouter::with_openapi(openapi::head()).nest(BASE, routes)
}

fn router(routes: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    let unknown = || async {
        let detail = format!("there is no such path: see {BASE}/openapi.json");
        Refused::new(Kind::UnknownPath, detail)
    };
    let wrong_method = || async {
        let detail = format!("this path has no such method: see {BASE}/openapi.json");
        Refused::new(Kind::Method, detail)
    };
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(api.limits.body_bytes_max))
        .layer(middleware::from_fn_with_state(api.clone(), guard::guard))
        .with_state(api)
}
