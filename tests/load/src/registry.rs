//! What is known of stored sessions outside of their clients: by the shards, and by the registry.

use std::io;
use std::process::Command;

use holdfast_e2e::cluster::{Cluster, program};
use serde_json::Value;

/// Prefix of session rows with the prefix that `holdfast up` gives a cluster in etcd.
const ETCD_SESSIONS: &str = "/holdfast/session/";

const ROWS_FED: &str = "holdfast_meta_session_changes_total";

/// Sessions that the leaders of the shards have.
pub(crate) async fn sessions_of_shards(cluster: &Cluster) -> u64 {
    sum(cluster, "storage", "holdfast_storage_sessions").await
}

/// Session rows that feeds brought to the meta-services that live.
pub(crate) async fn rows_fed(cluster: &Cluster) -> u64 {
    sum(cluster, "meta", ROWS_FED).await
}

/// Those of them that came to one meta-service.
pub(crate) async fn rows_fed_by(cluster: &Cluster, name: &str) -> u64 {
    count_of(cluster.metrics(name).await.get(ROWS_FED).copied())
}

/// Sum of a metric over the processes of a role.
pub(crate) async fn sum(cluster: &Cluster, role: &str, metric: &str) -> u64 {
    let mut sum = 0;
    for name in cluster.names(role) {
        sum += count_of(cluster.metrics(&name).await.get(metric).copied());
    }
    sum
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn count_of(value: Option<f64>) -> u64 {
    value.unwrap_or(0.0) as u64
}

/// Sessions in the registry: counted by etcd, or listed where the metadata lies in the meta-service.
pub(crate) async fn count(cluster: &Cluster) -> io::Result<u64> {
    let etcd = cluster.processes().iter().find(|process| process.role == "etcd");
    match etcd {
        Some(etcd) => count_in_etcd(&etcd.grpc).await,
        None => list(cluster, "", usize::MAX).await,
    }
}

/// Sessions that `holdfast sessions list` shows.
pub(crate) async fn list(cluster: &Cluster, prefix: &str, limit: usize) -> io::Result<u64> {
    let mut command = Command::new(program("holdfast"));
    command.args(["sessions", "list", "--json", "--prefix", prefix]);
    command.arg("--limit").arg(limit.to_string()).arg("--data").arg(cluster.data());
    let told = tokio::task::spawn_blocking(move || command.output()).await??;
    let listing: Option<Value> = serde_json::from_slice(&told.stdout).ok();
    let sessions = listing.as_ref().and_then(|listing| listing["sessions"].as_array());
    sessions.map(|sessions| sessions.len() as u64).ok_or_else(|| {
        io::Error::other(format!("no listing: {}", String::from_utf8_lossy(&told.stderr)))
    })
}

/// etcd counts all and sends one.
async fn count_in_etcd(address: &str) -> io::Result<u64> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", address, "get", "--prefix"]);
    command.args([ETCD_SESSIONS, "--keys-only", "--limit", "1", "--write-out", "fields"]);
    let told = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = String::from_utf8_lossy(&told.stdout);
    let count = text.lines().find_map(|line| line.strip_prefix("\"Count\" :"));
    let count = count.and_then(|count| count.trim().parse().ok());
    count.ok_or_else(|| {
        io::Error::other(format!(
            "etcdctl counts nothing: {}",
            String::from_utf8_lossy(&told.stderr)
        ))
    })
}
