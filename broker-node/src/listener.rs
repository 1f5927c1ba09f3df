//! Accepts clients.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::connection::{self, Shared};
use crate::metrics;

/// Pause after a failed accept: it mostly means that there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop` is there.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => return,
        };
        match accepted {
            Ok((socket, remote)) => {
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%error, "socket option");
                }
                tokio::spawn(connection::serve(socket, remote.into(), shared.clone()));
            }
            Err(error) => {
                metrics::refused("accept", None);
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
