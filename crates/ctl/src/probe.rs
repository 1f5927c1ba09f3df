//! Asks a process for its health.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
}

/// Asks `/health/ready` at `address`.
pub(crate) async fn readiness(address: &str) -> Readiness {
    match timeout(ANSWER_TIMEOUT, ask(address)).await {
        Ok(Ok(answer)) => parse(&answer),
        Ok(Err(_)) => Readiness::NotReady("no answer".to_owned()),
        Err(_) => Readiness::NotReady("no answer within 1 s".to_owned()),
    }
}

/// Whether the process answers at all at `address`.
pub(crate) async fn is_live(address: &str) -> bool {
    matches!(timeout(ANSWER_TIMEOUT, ask(address)).await, Ok(Ok(_)))
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
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
        assert!(matches!(readiness("127.0.0.1:1").await, Readiness::NotReady(_)));
        assert!(!is_live("127.0.0.1:1").await);
    }
}
