//! `holdfast probe` and `holdfast wait`: what a container without a shell needs for its health check
//! and before its stop.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};

use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// More of an answer than this is nobody's reason.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Of which so many characters are shown.
const SHOWN: usize = 200;

/// What to ask.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// An http:// URL
    url: String,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

/// How long to wait.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Seconds, at most an hour
    #[arg(value_parser = clap::value_parser!(u64).range(..=3600))]
    seconds: u64,
}

/// Succeeds if the answer is a 2xx; says what it is if not.
pub(crate) async fn run(args: &ProbeArgs) -> Outcome {
    let wrong = || Failure::usage(format!("{:?} is no http:// URL", args.url));
    let uri: Uri = args.url.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(wrong());
    }
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.get(uri).await.map_err(|error| crate::api::cause(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok::<_, String>((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
    };
    let limit = Duration::from_secs(args.timeout);
    let silent = |why: String| Failure::new(Exit::NoAnswer, format!("{}: {why}", args.url));
    let (status, body) = timeout(limit, asked)
        .await
        .map_err(|_| silent(format!("no answer within {} s", args.timeout)))?
        .map_err(silent)?;
    let text = String::from_utf8_lossy(&body);
    let first: String = text.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
    if status.is_success() {
        console::line(first);
        return Ok(());
    }
    Err(Failure::failed(format!("{}: {status} {first}", args.url)))
}

/// Waits, unless it is stopped before.
pub(crate) async fn wait(args: &WaitArgs) -> Outcome {
    sleep(Duration::from_secs(args.seconds)).await;
    Ok(())
}
