//! A client's connection: one task, from the first byte to the last.
//!
//! The task waits for its socket, its inbox and its timer at once, applies what came to the session
//! core and writes everything that is ready in one go.

mod apply;
mod closing;
mod handshake;
mod live;
mod registry;
mod scratch;

use std::sync::Arc;

use holdfast_node_kit::clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::config::{ClusterLimits, MqttConfig};
use crate::figures::Remote;
use crate::inbox::Inbox;
use crate::{metrics, tally};

pub(crate) use registry::Registry;

/// What carries MQTT: TCP now; anything that is a stream of bytes later.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) config: MqttConfig,
    pub(crate) cluster: Cluster,
    pub(crate) registry: Registry,
    page_bytes: usize,
    leave_timeout_ms: u64,
    clock: Clock,
}

impl Shared {
    /// For connections to this cluster.
    pub(crate) fn new(config: MqttConfig, limits: &ClusterLimits, cluster: Cluster) -> Arc<Shared> {
        let registry = Registry::new(config.max_connections);
        tokio::spawn(tally::keep_telling());
        Arc::new(Shared {
            config,
            cluster,
            registry,
            page_bytes: limits.page_bytes_max as usize,
            leave_timeout_ms: limits.propose_deadline_ms,
            clock: Clock::start(),
        })
    }
}

/// Time that does not jump, in ms since the Unix epoch as it was at the start.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    fn start() -> Clock {
        Clock { start: Instant::now(), start_ms: clock::now_ms() }
    }

    fn now_ms(&self) -> u64 {
        self.ms_at(Instant::now())
    }

    fn ms_at(&self, now: Instant) -> u64 {
        self.start_ms + now.duration_since(self.start).as_millis() as u64
    }

    fn us_at(&self, now: Instant) -> u64 {
        now.duration_since(self.start).as_micros() as u64
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + std::time::Duration::from_millis(ms.saturating_sub(self.start_ms))
    }
}

/// Serves one client. What is rare is boxed, so that a waiting connection is small.
pub(crate) async fn serve<T: Transport>(io: T, remote: Remote, shared: Arc<Shared>) {
    let inbox = Inbox::new(shared.config.inbox_bytes_max);
    let Some(_entry) = Registry::enter(&shared, inbox.clone()) else {
        metrics::refused("max_connections", None);
        return;
    };
    let Some(mut live) = Box::pin(handshake::open(io, remote, shared.clone(), inbox)).await else {
        return;
    };
    let end = live.run().await;
    Box::pin(closing::close(live, end)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_connection_is_small() {
        fn size<F: Future>(
            _: impl FnOnce(tokio::net::TcpStream, Remote, Arc<Shared>) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let task = size(serve::<tokio::net::TcpStream>);
        let live = size_of::<live::Live<tokio::net::TcpStream>>();
        assert!(task < 400, "the task's future takes {task} bytes");
        assert!(live < 1800, "a live connection takes {live} bytes");
    }
}
