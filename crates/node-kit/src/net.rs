//! Listening sockets.

use std::io;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// Connections that the kernel holds for us before they are accepted. A reconnect storm after a
/// gateway's death brings thousands at once.
const BACKLOG_CONNECTIONS: u32 = 4096;

/// An address cannot be listened on. Stop: the config or the machine must change.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    /// As configured.
    pub address: String,
    /// What the system says.
    pub source: io::Error,
}

/// Listens on `host:port`. A port that a dead process left in TIME_WAIT is no obstacle.
pub async fn bind(address: &str) -> Result<TcpListener, BindError> {
    bind_first(address).await.map_err(|source| BindError { address: address.to_owned(), source })
}

async fn bind_first(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in lookup_host(address).await? {
        let socket = if candidate.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(candidate).and_then(|()| socket.listen(BACKLOG_CONNECTIONS)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0").await.expect("a free port");
        let address = first.local_addr().expect("bound").to_string();
        let error = bind(&address).await.expect_err("taken");
        assert!(error.to_string().contains(&address), "{error}");
    }
}
