//! One set of HTTP/2 settings for all gRPC between Holdfast processes.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Server};

/// Largest message that a process sends or accepts; set it on every generated client and server.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A channel to `host:port`. It connects at first use and again after a loss, so the peer need not
/// run yet; the only error is an address that is none.
pub async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// A server with the same windows; add services, then serve.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn connect_needs_no_peer_but_an_address() {
        assert!(super::connect("127.0.0.1:1").await.is_ok());
        assert!(super::connect("not an address").await.is_err());
    }
}
