//! The admin API of a cluster: finds it, asks it, and waits for an election where that does no harm.

mod error;
mod find;
mod pages;
mod request;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use holdfast_admin_api::{PROBLEM_JSON, Problem};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::error::ApiError;
pub(crate) use self::find::{ApiArgs, password};
pub(crate) use self::pages::{Page, PageArgs, note_more};
pub(crate) use self::request::{Request, segment};
use crate::console;
use crate::failure::Outcome;
use crate::local::data_dir::DataDir;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an API that does not answer is asked again: an election takes a moment.
const PATIENCE: Duration = Duration::from_secs(15);
/// After this long people are told what they wait for.
const SILENCE: Duration = Duration::from_secs(2);
/// Before an API is asked again, if it does not say itself.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A process that ends closes connections once or twice; one that does so again speaks something else.
const CLOSED_MAX: usize = 3;
/// An answer that is larger is not ours.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The API of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    found: find::Found,
    patience: Duration,
}

/// How one try ended.
enum Tried {
    /// With an answer, be it good or bad.
    Answered(Result<Bytes, ApiError>),
    /// Nobody took the request: it may always be sent again.
    NotTaken { why: String, pause: Duration, heard: bool },
    /// Perhaps it was done, perhaps not.
    Unknown { why: String },
    /// The connection was closed without a word.
    Closed { why: String },
}

impl Api {
    /// The API of the arguments, or of the cluster in the data folder.
    pub(crate) fn find(args: &ApiArgs) -> Outcome<Api> {
        Ok(Api::at(args.find()?))
    }

    /// The API of the cluster in a folder, at these URLs; none if nobody may be asked yet.
    pub(crate) fn local(dir: &DataDir, urls: Vec<String>) -> Option<Api> {
        Some(Api::at(find::Found::local(dir, urls)?))
    }

    fn at(found: find::Found) -> Api {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Api { client, found, patience: PATIENCE }
    }

    /// Waits for nobody longer than this.
    pub(crate) fn with_patience(self, patience: Duration) -> Api {
        Api { patience, ..self }
    }

    /// Asks, and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T, ApiError> {
        let body = self.send(&request).await?;
        // 204 has nothing to read.
        let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
        serde_json::from_slice(&body).map_err(|error| self.foreign(format!("its answer: {error}")))
    }

    /// Tries one address after the other until one answers.
    async fn send(&self, request: &Request) -> Result<Bytes, ApiError> {
        let started = Instant::now();
        let (mut told, mut heard, mut closed) = (false, false, 0);
        for at in 0.. {
            let url = &self.found.urls[at % self.found.urls.len()];
            let (why, pause, is_over) = match self.try_at(url, request).await? {
                Tried::Answered(answer) => return answer,
                Tried::NotTaken { why, pause, heard: one } => {
                    heard |= one;
                    (why, pause, false)
                }
                Tried::Unknown { why } => (why, PAUSE, !request.may_repeat),
                Tried::Closed { why } => {
                    closed += 1;
                    if closed >= CLOSED_MAX * self.found.urls.len() {
                        return Err(self.foreign(why));
                    }
                    (why, PAUSE, !request.may_repeat)
                }
            };
            let is_round = (at + 1) % self.found.urls.len() == 0;
            if is_over || (is_round && started.elapsed() >= self.patience) {
                let (at, last) = (self.found.urls.join(", "), why);
                return Err(match heard {
                    true => ApiError::Unavailable { at, last },
                    false => ApiError::NoAnswer { at, last },
                });
            }
            if started.elapsed() >= SILENCE && !told {
                let seconds = self.patience.as_secs();
                console::note(format!("{url}: {why}; waiting up to {seconds} s"));
                told = true;
            }
            if is_round {
                sleep(pause).await;
            }
        }
        unreachable!("the attempts do not end")
    }

    async fn try_at(&self, url: &str, request: &Request) -> Result<Tried, ApiError> {
        let target = format!("{url}{}", request.path);
        let mut builder = hyper::Request::builder()
            .method(&request.method)
            .uri(&target)
            .header(ACCEPT, "application/json");
        if let Some(authorization) = &self.found.authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        if !request.body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        let sent = builder
            .body(Full::new(request.body.clone()))
            .map_err(|_| ApiError::BadUrl(target.clone()))?;
        let limit = request.timeout.unwrap_or(Duration::MAX);
        let answer = async {
            match self.client.request(sent).await {
                Ok(answer) => Ok(self.read(request, answer).await),
                Err(error) => self.unsent(&error),
            }
        };
        timeout(limit, answer).await.unwrap_or_else(|_| {
            Ok(Tried::Unknown { why: format!("no answer within {} s", limit.as_secs()) })
        })
    }

    /// Why there is no answer.
    fn unsent(&self, error: &hyper_util::client::legacy::Error) -> Result<Tried, ApiError> {
        let why = cause(error);
        let http = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
        if error.is_connect() {
            return Ok(Tried::NotTaken { why, pause: PAUSE, heard: false });
        }
        match http {
            Some(http) if http.is_parse() => Err(self.foreign(why)),
            Some(http) if http.is_incomplete_message() => Ok(Tried::Closed { why }),
            _ => Ok(Tried::Unknown { why }),
        }
    }

    async fn read(&self, request: &Request, answer: Response<Incoming>) -> Tried {
        let status = answer.status();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause =
            retry_after.and_then(|value| value.parse().ok()).map_or(PAUSE, Duration::from_secs);
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_problem = kind.is_some_and(|kind| kind.starts_with(PROBLEM_JSON));
        let body = match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Tried::Unknown { why: error.to_string() },
        };
        if status.is_success() {
            return Tried::Answered(Ok(body));
        }
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
        match problem {
            // Nothing of it was done, yet what must not happen twice is left to the user.
            Some(problem) if status == StatusCode::SERVICE_UNAVAILABLE && request.may_repeat => {
                Tried::NotTaken { why: problem.detail, pause: pause.min(PAUSE_MAX), heard: true }
            }
            Some(problem) => Tried::Answered(Err(ApiError::Refused(problem))),
            None => Tried::Answered(Err(self.foreign(format!("status {status}")))),
        }
    }

    fn foreign(&self, what: String) -> ApiError {
        ApiError::Foreign { at: self.found.urls.join(", "), what }
    }
}

/// The last cause says what happened; those before it only where.
pub(crate) fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    // The number of an error says nothing that its name does not.
    text.split_once(" (os error").map_or(text.clone(), |(name, _)| name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::failure::{Exit, Failure};

    /// Answers one request after the other with these, the last one for ever; counts them.
    async fn server(answers: &'static [&'static str]) -> (Api, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let at = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answers[at].as_bytes()).await;
            }
        });
        (Api::at(find::Found { urls: vec![url], authorization: None }), asked)
    }

    const DOWN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 0\r\nconnection: close\r\n\r\n{\"type\":\"urn:holdfast:x\",\"title\":\"\",\"status\":503,\"detail\":\"nobody is elected\"}";
    const SEVEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\nconnection: close\r\n\r\n7";
    const PAGE: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";

    #[tokio::test]
    async fn an_election_is_waited_for_unless_twice_would_do_harm() {
        let (api, asked) = server(&[DOWN, DOWN, SEVEN]).await;
        assert_eq!(api.ask::<u32>(Request::get("/x")).await.expect("at last"), 7);
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        let (api, asked) = server(&[DOWN, SEVEN]).await;
        let error = api.ask::<u32>(Request::post("/x").once()).await.expect_err("not repeated");
        assert!(matches!(&error, ApiError::Refused(problem) if problem.status == 503), "{error}");
        assert_eq!((asked.load(Ordering::SeqCst), Failure::from(error).exit), (1, Exit::NoAnswer));
    }

    #[tokio::test]
    async fn patience_ends_and_tells_nobody_from_nobody_elected() {
        let (api, _) = server(&[DOWN]).await;
        let error = api.with_patience(Duration::ZERO).ask::<u32>(Request::get("/x")).await;
        assert!(matches!(error, Err(ApiError::Unavailable { .. })), "{error:?}");
        let urls = vec!["http://127.0.0.1:1".to_owned()];
        let api = Api::at(find::Found { urls, authorization: None });
        let error = api.with_patience(Duration::ZERO).ask::<u32>(Request::get("/x")).await;
        let error = error.expect_err("nobody is there");
        assert!(error.is_nobody() && error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_ours_is_named() {
        let (api, _) = server(&[PAGE]).await;
        let error = api.ask::<u32>(Request::get("/x")).await.expect_err("a web page");
        assert!(matches!(error, ApiError::Foreign { .. }), "{error}");
        for other in [&["SSH-2.0-x\r\n"][..], &[""]] {
            let (api, asked) = server(other).await;
            let error = api.ask::<u32>(Request::get("/x")).await.expect_err("no HTTP");
            assert!(matches!(error, ApiError::Foreign { .. }), "{other:?}: {error}");
            assert!(asked.load(Ordering::SeqCst) <= CLOSED_MAX);
        }
    }
}
