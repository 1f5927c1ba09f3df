//! What is known of stored sessions outside of their clients: by the shards, and by the registry.

use std::io;
use std::process::Command;

use holdfast_e2e::cluster::{Cluster, program};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Prefix of session rows with the prefix that `holdfast up` gives a cluster in etcd.
const ETCD_SESSIONS: &[u8] = b"/holdfast/session/";

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
    let lines: Vec<Value> = serde_json::from_slice(&told.stdout).map_err(|_| {
        io::Error::other(format!("no listing: {}", String::from_utf8_lossy(&told.stderr)))
    })?;
    Ok(lines.len() as u64)
}

/// etcd's JSON gateway counts without sending a row.
async fn count_in_etcd(address: &str) -> io::Result<u64> {
    let mut end = ETCD_SESSIONS.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let body =
        json!({ "key": base64(ETCD_SESSIONS), "range_end": base64(&end), "count_only": true });
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let head = format!("POST /v3/kv/range HTTP/1.0\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let answer = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let answer: Value = serde_json::from_str(answer).map_err(io::Error::other)?;
    if answer.get("header").is_none() {
        return Err(io::Error::other(format!("etcd does not count: {answer}")));
    }
    // Left out when it is 0.
    let count = answer["count"].as_str().unwrap_or("0");
    count.parse().map_err(io::Error::other)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        for digit in 0..=part.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
        text.extend(std::iter::repeat_n('=', 3 - part.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, encoded) in cases {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
