//! One flag that says "stop", waited for by everything that runs.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells all parts of the process to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    flag: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A flag that only [`Shutdown::trigger`] raises.
    pub fn new() -> Shutdown {
        Shutdown { flag: Arc::new(watch::Sender::new(false)) }
    }

    /// A flag that SIGTERM and SIGINT raise, too. Must be called inside a tokio runtime.
    pub fn on_signals() -> Shutdown {
        let shutdown = Shutdown::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            match signal(kind) {
                Ok(mut signals) => {
                    let raised = shutdown.clone();
                    tokio::spawn(async move {
                        if signals.recv().await.is_some() {
                            tracing::info!(signal = kind.as_raw_value(), "stopping");
                            raised.trigger();
                        }
                    });
                }
                Err(error) => tracing::error!(%error, "cannot listen for signals"),
            }
        }
        shutdown
    }

    /// Raises the flag. It stays raised.
    pub fn trigger(&self) {
        self.flag.send_replace(true);
    }

    /// Whether the flag is raised.
    pub fn is_triggered(&self) -> bool {
        *self.flag.borrow()
    }

    /// Returns once the flag is raised.
    pub async fn wait(&self) {
        let mut receiver = self.flag.subscribe();
        // The sender lives in self, so the channel cannot close while this waits.
        let _ = receiver.wait_for(|raised| *raised).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wait_returns_for_early_and_late_waiters() {
        let shutdown = Shutdown::new();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        tokio::task::yield_now().await;
        shutdown.trigger();
        early.await.expect("waiter ends");
        shutdown.wait().await;
        assert!(shutdown.is_triggered());
    }
}
