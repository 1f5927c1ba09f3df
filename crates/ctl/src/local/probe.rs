//! Asks a process for its health.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::local::plan::Member;
use crate::local::role::Role;

/// A process that takes longer to answer is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 4096;

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It can do its job.
    Ready,
    /// It cannot, and why.
    NotReady(String),
    /// It says nothing.
    Silent(String),
}

/// Asks a process for its health.
pub(crate) async fn readiness(member: &Member) -> Readiness {
    match timeout(ANSWER_TIMEOUT, ask(&member.http, health_path(member.role))).await {
        Ok(Ok(answer)) => parse(&answer),
        Ok(Err(_)) => Readiness::Silent("no answer".to_owned()),
        Err(_) => Readiness::Silent("no answer within 1 s".to_owned()),
    }
}

fn health_path(role: Role) -> &'static str {
    match role {
        // Whether it has a leader and a majority confirms a read.
        Role::Etcd => "/health",
        Role::Meta | Role::Storage | Role::Gateway => "/health/ready",
    }
}

/// Whether a process answers at all.
pub(crate) async fn is_live(member: &Member) -> bool {
    matches!(timeout(ANSWER_TIMEOUT, ask(&member.http, health_path(member.role))).await, Ok(Ok(_)))
}

async fn ask(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Readiness {
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    if status == "200" {
        return Readiness::Ready;
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    let reason = if body.is_empty() { format!("status {status:?}") } else { body.to_owned() };
    Readiness::NotReady(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_503_is_the_reason() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nready\n"), Readiness::Ready);
        assert_eq!(
            parse("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nno quorum\n"),
            Readiness::NotReady("no quorum".to_owned())
        );
    }

    #[tokio::test]
    async fn nobody_there_is_not_ready() {
        let nowhere = "127.0.0.1:1".to_owned();
        let member = Member {
            role: Role::Etcd,
            name: "etcd-1".to_owned(),
            grpc: nowhere.clone(),
            http: nowhere,
            mqtt: None,
            peer: None,
            admin: None,
            zone: None,
        };
        assert!(matches!(readiness(&member).await, Readiness::Silent(_)));
        assert!(!is_live(&member).await);
    }
}
