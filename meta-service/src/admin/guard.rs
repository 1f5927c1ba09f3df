//! What every request passes before its handler: limits, who is elected, who asks, and what they may do.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use holdfast_admin_api::{BASE, Role};
use tokio::time::{Instant, timeout};

use super::{
    Api,
    forward::FORWARDED,
    openapi,
    problem::{Kind, Refused},
};
use crate::{leading::Standing, metrics};

/// Verifying a shard reads all of it.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(3600);

/// The middleware.
pub(crate) async fn guard(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = match &path {
        // The router's own answer.
        None => next.run(request).await,
        Some(path) => {
            let passed = pass(&api, path, request, next).await;
            passed.unwrap_or_else(IntoResponse::into_response)
        }
    };
    metrics::admin_request(response.status().as_u16(), began.elapsed());
    response
}

async fn pass(
    api: &Arc<Api>,
    path: &str,
    request: Request,
    next: Next,
) -> Result<Response, Refused> {
    if path == openapi::PATH {
        return Ok(next.run(request).await);
    }
    let Ok(_permit) = api.requests.try_acquire() else {
        let detail = format!("{} requests are under way: ask again", api.limits.requests_max);
        return Err(Refused::new(Kind::TooManyRequests, detail));
    };
    let limit = match path.ends_with("/verify") {
        true => VERIFY_TIMEOUT,
        false => Duration::from_millis(api.limits.request_timeout_ms),
    };
    let late = |_| {
        let detail = format!(
            "no answer within {} s; what was asked for may still be done: look before you ask again",
            limit.as_secs_f32()
        );
        Refused::new(Kind::Timeout, detail)
    };
    timeout(limit, answer(api, path, request, next)).await.map_err(late)?
}

async fn answer(
    api: &Arc<Api>,
    path: &str,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let leading = match api.role.standing() {
        Standing::Leading(leading) => leading,
        Standing::Standby(_) if request.headers().contains_key(FORWARDED) => {
            let detail = "the one that was asked is elected no longer: ask again";
            return Err(Refused::new(Kind::NobodyElected, detail));
        }
        Standing::Standby(place) => {
            return api.forwarder.forward(&place, request, api.limits.body_bytes_max).await;
        }
        Standing::Unknown(reason) => {
            let detail = format!("nobody is known to be elected ({reason}): ask again");
            return Err(Refused::new(Kind::NobodyElected, detail));
        }
    };
    let identity = leading.access()?.identify(request.headers()).await?;
    let needed = needed(request.method(), path);
    if identity.role < needed {
        let detail = format!(
            "this needs the role {}, and {} has the role {}",
            name(needed),
            identity.name,
            name(identity.role)
        );
        return Err(Refused::new(Kind::Role, detail));
    }
    check_query(api, path, &request)?;
    request.extensions_mut().insert(leading);
    request.extensions_mut().insert(identity);
    Ok(next.run(request).await)
}

/// Looking needs a viewer; messages and changes need an admin.
fn needed(method: &Method, path: &str) -> Role {
    let looks = method == Method::GET || method == Method::HEAD;
    match looks && !path.ends_with("/backlog") {
        true => Role::Viewer,
        false => Role::Admin,
    }
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Admin => "admin",
    }
}

/// Operations without a query take none.
fn check_query(api: &Api, path: &str, request: &Request) -> Result<(), Refused> {
    let method = match request.method() {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    let query = request.uri().query().unwrap_or_default();
    if query.is_empty() || api.queried.contains(&(method.clone(), path.to_owned())) {
        return Ok(());
    }
    let operation = path.strip_prefix(BASE).unwrap_or(path);
    let detail = format!("{method} {operation} takes no query, and {query:?} was given");
    Err(Refused::new(Kind::UnknownQueryField, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_may_look_at_everything_but_messages() {
        assert_eq!(needed(&Method::GET, "/api/v1/sites"), Role::Viewer);
        assert_eq!(needed(&Method::HEAD, "/api/v1/sites"), Role::Viewer);
        assert_eq!(needed(&Method::GET, "/api/v1/sessions/{client_id}/backlog"), Role::Admin);
        assert_eq!(needed(&Method::DELETE, "/api/v1/sessions/{client_id}"), Role::Admin);
        assert_eq!(needed(&Method::POST, "/api/v1/shards/{shard}/verify"), Role::Admin);
    }
}
