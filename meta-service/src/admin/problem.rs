//! Why a request is not done, as `application/problem+json`.

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use holdfast_admin_api::{PROBLEM_JSON, Problem};
use holdfast_control::steering::SteerRefusal;

use crate::{sessions::ListError, store::StoreError};

/// Names of problems, with the HTTP status of each. Names are stable: scripts know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Malformed,
    UnknownQueryField,
    Limit,
    Cursor,
    Name,
    Password,
    Credentials,
    Role,
    UnknownPath,
    UnknownSite,
    UnknownShard,
    UnknownSession,
    UnknownGateway,
    UnknownUser,
    UnknownToken,
    Method,
    AmbiguousSite,
    TooFewSites,
    SiteUp,
    SiteLost,
    SiteHolds,
    StoreSetBack,
    Replica,
    SiteUnusable,
    UnderWay,
    SameZone,
    NotConnected,
    TokenExists,
    AdminUser,
    Conflict,
    BodyTooLarge,
    MediaType,
    DamagedRow,
    NobodyElected,
    TooManyRequests,
    Timeout,
    Unavailable,
}

impl Kind {
    /// After `urn:holdfast:`.
    pub(crate) fn name(self) -> &'static str {
        self.parts().1
    }

    pub(crate) fn status(self) -> StatusCode {
        self.parts().0
    }

    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Kind::Malformed => (StatusCode::BAD_REQUEST, "malformed-request"),
            Kind::UnknownQueryField => (StatusCode::BAD_REQUEST, "unknown-query-field"),
            Kind::Limit => (StatusCode::BAD_REQUEST, "limit-out-of-range"),
            Kind::Cursor => (StatusCode::BAD_REQUEST, "malformed-cursor"),
            Kind::Name => (StatusCode::BAD_REQUEST, "malformed-name"),
            Kind::Password => (StatusCode::BAD_REQUEST, "unfit-password"),
            Kind::Credentials => (StatusCode::UNAUTHORIZED, "credentials"),
            Kind::Role => (StatusCode::FORBIDDEN, "role"),
            Kind::UnknownPath => (StatusCode::NOT_FOUND, "unknown-path"),
            Kind::UnknownSite => (StatusCode::NOT_FOUND, "unknown-site"),
            Kind::UnknownShard => (StatusCode::NOT_FOUND, "unknown-shard"),
            Kind::UnknownSession => (StatusCode::NOT_FOUND, "unknown-session"),
            Kind::UnknownGateway => (StatusCode::NOT_FOUND, "unknown-gateway"),
            Kind::UnknownUser => (StatusCode::NOT_FOUND, "unknown-user"),
            Kind::UnknownToken => (StatusCode::NOT_FOUND, "unknown-token"),
            Kind::Method => (StatusCode::METHOD_NOT_ALLOWED, "wrong-method"),
            Kind::AmbiguousSite => (StatusCode::CONFLICT, "ambiguous-site"),
            Kind::TooFewSites => (StatusCode::CONFLICT, "too-few-sites"),
            Kind::SiteUp => (StatusCode::CONFLICT, "site-up"),
            Kind::SiteLost => (StatusCode::CONFLICT, "site-lost"),
            Kind::SiteHolds => (StatusCode::CONFLICT, "site-holds"),
            Kind::StoreSetBack => (StatusCode::CONFLICT, "store-set-back"),
            Kind::Replica => (StatusCode::CONFLICT, "replica"),
            Kind::SiteUnusable => (StatusCode::CONFLICT, "site-unusable"),
            Kind::UnderWay => (StatusCode::CONFLICT, "under-way"),
            Kind::SameZone => (StatusCode::CONFLICT, "same-zone"),
            Kind::NotConnected => (StatusCode::CONFLICT, "not-connected"),
            Kind::TokenExists => (StatusCode::CONFLICT, "token-exists"),
            Kind::AdminUser => (StatusCode::CONFLICT, "admin-user"),
            Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
            Kind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Kind::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type"),
            Kind::DamagedRow => (StatusCode::INTERNAL_SERVER_ERROR, "damaged-row"),
            Kind::NobodyElected => (StatusCode::SERVICE_UNAVAILABLE, "nobody-elected"),
            Kind::TooManyRequests => (StatusCode::SERVICE_UNAVAILABLE, "too-many-requests"),
            Kind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

/// A request that is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Refused {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
}

impl Refused {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Refused {
        Refused { kind, detail: detail.into() }
    }

    /// The elected process is about to stop, or is elected no longer.
    pub(crate) fn stopping() -> Refused {
        Refused::new(Kind::NobodyElected, "this meta-service is elected no longer: ask again")
    }

    fn body(&self) -> Problem {
        let status = self.kind.status();
        Problem {
            kind: format!("urn:holdfast:{}", self.kind.name()),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: self.detail.clone(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let ways = [r#"Basic realm="holdfast", charset="UTF-8""#, r#"Bearer realm="holdfast""#];
            for way in ways {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(way));
            }
        }
        response
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused::new(Kind::Unavailable, format!("{error}: ask again"))
    }
}

impl From<SteerRefusal> for Refused {
    fn from(refusal: SteerRefusal) -> Refused {
        let kind = match refusal {
            SteerRefusal::Unknown { .. } => Kind::UnknownSite,
            SteerRefusal::Ambiguous { .. } => Kind::AmbiguousSite,
            SteerRefusal::TooFewSites { .. } => Kind::TooFewSites,
            SteerRefusal::Up { .. } => Kind::SiteUp,
            SteerRefusal::Lost { .. } => Kind::SiteLost,
            SteerRefusal::Holds { .. } => Kind::SiteHolds,
            SteerRefusal::UnknownShard { .. } => Kind::UnknownShard,
            SteerRefusal::NoReplica { .. } | SteerRefusal::HasReplica { .. } => Kind::Replica,
            SteerRefusal::Unusable { .. } => Kind::SiteUnusable,
            SteerRefusal::Leaving { .. } | SteerRefusal::UnderWay { .. } => Kind::UnderWay,
            SteerRefusal::SameZone { .. } => Kind::SameZone,
            SteerRefusal::SetBack => Kind::StoreSetBack,
        };
        Refused::new(kind, refusal.to_string())
    }
}

impl From<ListError> for Refused {
    fn from(error: ListError) -> Refused {
        match error {
            ListError::Store(error) => error.into(),
            ListError::Row(bad) => {
                Refused::new(Kind::DamagedRow, format!("{bad}: restore the store"))
            }
        }
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Refused {
        let kind = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Kind::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::MediaType,
            _ => Kind::Malformed,
        };
        Refused::new(kind, rejection.body_text())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Refused {
        let text = rejection.body_text();
        let unknown = text.contains("unknown field");
        Refused::new(if unknown { Kind::UnknownQueryField } else { Kind::Malformed }, text)
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Refused {
        let hint = "percent-encode every part of a path as UTF-8";
        Refused::new(Kind::Malformed, format!("{}: {hint}", rejection.body_text()))
    }
}
