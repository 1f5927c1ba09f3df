//! Making filters of durable sessions known to every gateway before they are confirmed.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::ids::Namespace;
use holdfast_proto::meta::CoverFiltersRequest;
use holdfast_proto::storage::Filter;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::error::ClusterError;
use super::{Shared, control};

/// Calls under way; further filters wait and go into one call.
const CALLS_MAX: usize = 8;

/// Filters in one call.
const FILTERS_MAX: usize = 5_000;

type Answer = Result<(), ClusterError>;

/// One subscription's filters, and who waits for them.
#[derive(Debug)]
struct Waiting {
    filters: Vec<Filter>,
    answer: oneshot::Sender<Answer>,
}

/// Filters that wait to be covered.
#[derive(Debug, Default)]
pub(crate) struct Covers {
    waiting: Mutex<Vec<Waiting>>,
    more: Notify,
}

impl Shared {
    /// Whether all of the filters are known to every live gateway.
    #[must_use]
    pub(crate) fn are_covered(&self, namespace: Namespace, filters: &[String]) -> bool {
        let routes = self.control.routes.read();
        filters.iter().all(|filter| routes.covers(namespace, filter))
    }

    /// Returns when every live gateway treats what the filters match as durable.
    pub(crate) async fn cover(&self, namespace: Namespace, filters: &[String]) -> Answer {
        if self.are_covered(namespace, filters) {
            return Ok(());
        }
        let (sender, answer) = oneshot::channel();
        let of = |filter: &String| Filter { namespace: namespace.0, filter: filter.clone() };
        let filters = filters.iter().map(of).collect();
        self.covers.waiting.lock().push(Waiting { filters, answer: sender });
        self.covers.more.notify_one();
        answer.await.unwrap_or(Err(ClusterError::Stopping))
    }

    async fn call_cover(&self, filters: Vec<Filter>) -> Answer {
        let request = CoverFiltersRequest { cluster_id: self.cluster_id.clone(), filters };
        let deadline = Duration::from_millis(self.config.subscribe_deadline_ms);
        let mut addresses = self.control.meta_addresses();
        // Each once, and the elected one that they name.
        for _ in 0..=self.config.meta.len() {
            let address = addresses.current().to_owned();
            let Ok(mut client) = control::client(&address).await else {
                addresses.failed();
                continue;
            };
            let call = client.cover_filters(request.clone());
            match tokio::time::timeout(deadline, call).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) if status.code() == tonic::Code::InvalidArgument => {
                    return Err(ClusterError::Refused { reason: status.message().to_owned() });
                }
                Ok(Err(status)) => {
                    if !addresses.refused(&status) {
                        tracing::warn!(address, error = %status, "filters cannot be made durable");
                    }
                }
                Err(_) => {
                    addresses.failed();
                    tracing::warn!(address, "filters were not made durable in time");
                }
            }
        }
        Err(ClusterError::Unavailable { what: "the metadata service" })
    }
}

/// Sends what gathers, as long as the process runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        shared.covers.more.notified().await;
        let Ok(call) = calls.clone().acquire_owned().await else { return };
        let waiting = shared.covers.take();
        let filters = waiting.iter().flat_map(|one| one.filters.iter().cloned()).collect();
        let shared = shared.clone();
        tokio::spawn(async move {
            let answer = shared.call_cover(filters).await;
            for one in waiting {
                // A subscriber that has gone needs no answer.
                let _ = one.answer.send(answer.clone());
            }
            drop(call);
        });
    }
}

impl Covers {
    /// Takes what waits, up to the limit of one call.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock();
        let mut filters = 0;
        let fits = |one: &&Waiting| {
            filters += one.filters.len();
            filters <= FILTERS_MAX
        };
        let count = waiting.iter().take_while(fits).count().max(1).min(waiting.len());
        let rest = waiting.split_off(count);
        if !rest.is_empty() {
            self.more.notify_one();
        }
        std::mem::replace(&mut *waiting, rest)
    }
}
