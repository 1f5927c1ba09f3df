//! One request to the API: method, path, query and body.

use std::time::Duration;

use bytes::Bytes;
use holdfast_admin_api::BASE;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

/// An answer that takes longer will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(super) method: Method,
    /// With the query.
    pub(super) path: String,
    pub(super) body: Bytes,
    /// It may be sent again if it is not known whether it was done.
    pub(super) may_repeat: bool,
    /// None: it takes as long as it takes.
    pub(super) timeout: Option<Duration>,
}

impl Request {
    /// Looks at something. The path follows `/api/v1`.
    pub(crate) fn get(path: impl AsRef<str>) -> Request {
        Request::new(Method::GET, path)
    }

    /// Sets something; twice is as good as once.
    pub(crate) fn put(path: impl AsRef<str>) -> Request {
        Request::new(Method::PUT, path)
    }

    /// Asks for something; twice is as good as once.
    pub(crate) fn post(path: impl AsRef<str>) -> Request {
        Request::new(Method::POST, path)
    }

    /// Removes something.
    pub(crate) fn delete(path: impl AsRef<str>) -> Request {
        Request::new(Method::DELETE, path)
    }

    fn new(method: Method, path: impl AsRef<str>) -> Request {
        let path = format!("{BASE}{}", path.as_ref());
        let (body, timeout) = (Bytes::new(), Some(ANSWER_TIMEOUT));
        Request { method, path, body, may_repeat: true, timeout }
    }

    /// Adds what is set in a query; what is none is left out.
    pub(crate) fn query(mut self, query: &impl Serialize) -> Request {
        // The queries of the API are flat and have a JSON form.
        let Ok(Value::Object(fields)) = serde_json::to_value(query) else { return self };
        for (name, value) in fields {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            self.path.push(if self.path.contains('?') { '&' } else { '?' });
            self.path.push_str(&format!("{name}={}", segment(&text)));
        }
        self
    }

    /// Adds a body.
    pub(crate) fn body(mut self, body: &impl Serialize) -> Request {
        // The bodies of the API have a JSON form.
        self.body = serde_json::to_vec(body).unwrap_or_default().into();
        self
    }

    /// Is not sent again if it is not known whether it was done.
    pub(crate) fn once(mut self) -> Request {
        self.may_repeat = false;
        self
    }

    /// May take as long as it takes.
    pub(crate) fn slow(mut self) -> Request {
        self.timeout = None;
        self
    }
}

/// A name as a part of a path or query.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use holdfast_admin_api::SessionQuery;

    use super::*;

    #[test]
    fn a_query_holds_what_is_set() {
        let query = SessionQuery {
            prefix: Some("a b&c/é".to_owned()),
            connected: Some(false),
            limit: Some(7),
            ..SessionQuery::default()
        };
        let path = Request::get("/sessions").query(&query).path;
        let (path, query) = path.split_once('?').expect("a query");
        let mut fields: Vec<&str> = query.split('&').collect();
        fields.sort_unstable();
        assert_eq!(path, "/api/v1/sessions");
        assert_eq!(fields, ["connected=false", "limit=7", "prefix=a%20b%26c%2F%C3%A9"]);
    }

    #[test]
    fn a_client_id_cannot_leave_its_segment() {
        assert_eq!(segment("../users?x=1#"), "%2E%2E%2Fusers%3Fx%3D1%23");
    }
}
