//! A standby hands requests on to the elected process and passes its answers through.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::problem::{Kind, Refused};
use crate::election::Place;

/// Set on what is handed on: it is handed on once.
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("x-holdfast-forwarded");
/// What the elected one has to know.
const PASSED: [HeaderName; 3] = [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT];
/// Connections to the elected one that are kept while idle.
const IDLE_MAX: usize = 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Hands requests on.
pub(crate) struct Forwarder {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Forwarder {
    pub(crate) fn new(idle: Duration) -> Forwarder {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(idle)
            .build(connector);
        Forwarder { client }
    }

    /// The elected one's answer, as it comes.
    pub(crate) async fn forward(
        &self,
        elected: &Place,
        request: Request,
        body_bytes_max: usize,
    ) -> Result<Response, Refused> {
        let name = &elected.name;
        if elected.admin.is_empty() {
            let detail = format!(
                "the elected meta-service {name} has no admin API, or is of an older version: give it a section [admin]"
            );
            return Err(Refused::new(Kind::NobodyElected, detail));
        }
        let request = handed_on(&elected.admin, request, body_bytes_max).await?;
        let failed = |error: hyper_util::client::legacy::Error| {
            let detail = format!(
                "the elected meta-service {name} at {} does not answer ({error}): ask again",
                elected.admin
            );
            Refused::new(Kind::NobodyElected, detail)
        };
        let (mut head, body) = self.client.request(request).await.map_err(failed)?.into_parts();
        // Of that connection, not of this one.
        head.headers.remove(header::CONNECTION);
        head.headers.remove(header::TRANSFER_ENCODING);
        Ok(Response::from_parts(head, Body::new(body)).into_response())
    }
}

async fn handed_on(
    address: &str,
    request: Request,
    body_bytes_max: usize,
) -> Result<hyper::Request<Full<Bytes>>, Refused> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let malformed = |what: String| Refused::new(Kind::Malformed, what);
    let uri: Uri = format!("http://{address}{path}")
        .parse()
        .map_err(|_| malformed(format!("path {path:?}")))?;
    let body = Limited::new(body, body_bytes_max).collect().await.map_err(|error| {
        let kind = if error.is::<http_body_util::LengthLimitError>() {
            Kind::BodyTooLarge
        } else {
            Kind::Malformed
        };
        Refused::new(kind, format!("the body cannot be taken: {error}"))
    })?;
    let mut request = hyper::Request::new(Full::new(body.to_bytes()));
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    for name in PASSED {
        if let Some(value) = head.headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
    Ok(request)
}
