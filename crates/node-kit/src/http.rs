//! The small HTTP server of every process: `/metrics`, `/health/live`, `/health/accepting`, `/health/ready`.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::process;
use crate::shutdown::Shutdown;
use crate::telemetry::PrometheusHandle;

/// How often histogram samples are folded into buckets when nobody scrapes; until then each takes
/// memory of its own.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves until `shutdown`.
///
/// * `/health/live`: 200 while the process runs.
/// * `/health/accepting`: 200 while it takes work: it has started, is not stopping, and can do at least a
///   part of its job; else 503 and the reason. For load balancers.
/// * `/health/ready`: 200 when it can do its job now, else 503 and the reason.
/// * `/metrics`: Prometheus text.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    health: Health,
    shutdown: Shutdown,
) {
    let upkeep = tokio::spawn(fold_histograms(metrics.clone()));
    let router = router(metrics, health);
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.wait().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "http server ended");
    }
    upkeep.abort();
}

fn router(metrics: PrometheusHandle, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(scrape).with_state(metrics))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/accepting", get(accepting).with_state(health.clone()))
        .route("/health/ready", get(ready).with_state(health))
}

async fn scrape(State(metrics): State<PrometheusHandle>) -> impl IntoResponse {
    let text = metrics.render() + &process::render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn accepting(State(health): State<Health>) -> (StatusCode, String) {
    answer("accepting", health.refusal())
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    answer("ready", health.reason())
}

fn answer(yes: &str, no: Option<String>) -> (StatusCode, String) {
    match no {
        None => (StatusCode::OK, format!("{yes}\n")),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn fold_histograms(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn tells_readiness_with_the_reason_and_serves_metrics() {
        let listener = crate::net::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (health, shutdown) = (Health::new(), Shutdown::new());
        let metrics = crate::telemetry::init("test", "http", || {
            metrics::describe_counter!("holdfast_tests_total", "Tests");
        });
        let server = tokio::spawn(serve(listener, metrics, health.clone(), shutdown.clone()));
        let answer = fetch(address, "/health/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("starting"), "{answer}");
        assert!(fetch(address, "/health/accepting").await.starts_with("HTTP/1.1 503"));
        health.set_degraded("no leader of shard 3");
        assert!(fetch(address, "/health/ready").await.starts_with("HTTP/1.1 503"));
        assert!(fetch(address, "/health/accepting").await.starts_with("HTTP/1.1 200"));
        health.set_ready();
        assert!(fetch(address, "/health/ready").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/health/live").await.starts_with("HTTP/1.1 200"));
        let told = fetch(address, "/metrics").await;
        assert!(told.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{told}");
        let cpu = "# TYPE process_cpu_seconds_total counter";
        assert_eq!(told.matches(cpu).count(), 1, "{told}");
        assert!(told.contains("\nholdfast_tests_total 0\n"), "{told}");
        assert!(told.contains("# HELP process_resident_memory_bytes "), "{told}");
        assert!(told.contains("\nholdfast_process_clock_seconds "), "{told}");
        assert!(told.contains("\nholdfast_build_info{version=\""), "{told}");
        shutdown.trigger();
        server.await.expect("ends on shutdown");
    }
}
