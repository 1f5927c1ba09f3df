//! Connections of the admin API: a bounded number, closed when the process stops.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use holdfast_node_kit::shutdown::Shutdown;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a peer may take for the head of a request, and be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may still take when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// After a failure to accept: most often too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    shutdown: Shutdown,
) {
    let slots = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (listener.accept().await, slot)
        };
        let (accepted, slot) = tokio::select! {
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.wait() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, router, shutdown).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_TIMEOUT, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// A failed connection is its peer's affair.
async fn connection(stream: TcpStream, router: Router, shutdown: Shutdown) {
    // Answers are small and whole.
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.wait() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
