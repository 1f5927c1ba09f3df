//! What handlers take of a request; what does not fit is refused as a problem, here alone.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::request::Parts,
};
use holdfast_admin_api::{Identity, LIMIT_DEFAULT, LIMIT_MAX};
use serde::de::DeserializeOwned;

use super::{
    Api,
    problem::{Kind, Refused},
};
use crate::leading::Leading;

/// The query, which may have no field that `T` has not.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Asked<T>, Refused> {
        let Query(query) = Query::from_request_parts(parts, api).await?;
        Ok(Asked(query))
    }
}

/// A part of the path, decoded.
pub(crate) struct Named<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Api>> for Named<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Named<T>, Refused> {
        let Path(name) = Path::from_request_parts(parts, api).await?;
        Ok(Named(name))
    }
}

/// The number of a shard in the path. What is no number is no shard.
pub(crate) struct Shard(pub(crate) u32);

impl FromRequestParts<Arc<Api>> for Shard {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Shard, Refused> {
        let Named(text) = Named::<String>::from_request_parts(parts, api).await?;
        let no_number = |_| {
            let detail = format!("{text:?} is no shard: shards are numbered from 0");
            Refused::new(Kind::UnknownShard, detail)
        };
        text.parse().map(Shard).map_err(no_number)
    }
}

/// The body, as JSON.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Body<T>, Refused> {
        let Json(body) = Json::from_request(request, api).await?;
        Ok(Body(body))
    }
}

/// What the elected process serves with. The guard puts it there.
pub(crate) struct Lead(pub(crate) Arc<Leading>);

impl FromRequestParts<Arc<Api>> for Lead {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Lead, Refused> {
        parts.extensions.get().cloned().map(Lead).ok_or_else(Refused::stopping)
    }
}

/// Who asks. The guard puts it there.
pub(crate) struct Asker(pub(crate) Identity);

impl FromRequestParts<Arc<Api>> for Asker {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Asker, Refused> {
        parts.extensions.get().cloned().map(Asker).ok_or_else(Refused::stopping)
    }
}

/// Items of a page.
pub(crate) fn limit(asked: Option<u32>) -> Result<usize, Refused> {
    match asked {
        None => Ok(LIMIT_DEFAULT as usize),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit as usize),
        Some(limit) => {
            let detail = format!("limit {limit} is not allowed: 1 to {LIMIT_MAX}");
            Err(Refused::new(Kind::Limit, detail))
        }
    }
}

/// Longest client id, and with it the longest prefix of one.
const PREFIX_BYTES_MAX: usize = 65_535;

/// The beginning of client ids.
pub(crate) fn prefix(asked: Option<String>) -> Result<String, Refused> {
    let prefix = asked.unwrap_or_default();
    if prefix.len() > PREFIX_BYTES_MAX {
        let detail = format!(
            "a prefix of {} bytes is not allowed: client ids have {PREFIX_BYTES_MAX} at most",
            prefix.len()
        );
        return Err(Refused::new(Kind::Malformed, detail));
    }
    Ok(prefix)
}
