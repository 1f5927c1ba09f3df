//! A service with an admin API, and a client of it that speaks plain HTTP.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, body::Bytes, header};
use hyper_util::{
    client::legacy::Client, client::legacy::connect::HttpConnector, rt::TokioExecutor,
};
use serde_json::Value;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The name of the problem, which must be a whole one.
    pub(crate) fn problem(&self) -> &str {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert!(self.detail().len() > 10 && self.body["title"].is_string(), "{self:?}");
        self.body["type"].as_str().unwrap().strip_prefix("urn:holdfast:").unwrap()
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }
}

/// A client with credentials.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) address: String,
    pub(crate) authorization: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

pub(crate) fn basic(user: &str, password: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

impl Rest {
    pub(crate) fn new(address: &str, authorization: Option<String>) -> Rest {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Rest { address: address.to_owned(), authorization, client }
    }

    /// As the user admin, whose password is in this file once it is made.
    pub(crate) async fn admin(address: &str, file: &Path) -> Rest {
        let password = loop {
            match std::fs::read_to_string(file) {
                Ok(password) if password.ends_with('\n') => break password,
                _ => tokio::task::yield_now().await,
            }
        };
        Rest::new(address, basic("admin", password.trim()))
    }

    pub(crate) fn with(&self, authorization: Option<String>) -> Rest {
        Rest { authorization, ..self.clone() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| (body.to_string(), "application/json"));
        self.raw(method, path, body).await
    }

    /// Asks again while nobody is elected.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Option<(String, &str)>,
    ) -> Answer {
        loop {
            let answer = self.once(method.clone(), path, body.clone()).await;
            let again = answer
                .as_ref()
                .is_none_or(|answer| answer.status == 503 && answer.problem() == "nobody-elected");
            match answer {
                Some(answer) if !again => return answer,
                _ => tokio::task::yield_now().await,
            }
        }
    }

    /// Nothing: nobody listens.
    pub(crate) async fn once(
        &self,
        method: Method,
        path: &str,
        body: Option<(String, &str)>,
    ) -> Option<Answer> {
        let uri = format!("http://{}/api/v1{path}", self.address);
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut bytes = Bytes::new();
        if let Some((body, media_type)) = body {
            request = request.header(header::CONTENT_TYPE, media_type);
            bytes = body.into();
        }
        let answer = self.client.request(request.body(Full::new(bytes)).unwrap()).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let body =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}
