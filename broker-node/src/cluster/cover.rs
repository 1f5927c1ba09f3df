//! Making filters of durable sessions known to every gateway before they are confirmed.

use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::meta_addresses::MetaAddresses;
use holdfast_proto::ids::Namespace;
use holdfast_proto::meta::CoverFiltersRequest;
use holdfast_proto::storage::Filter;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

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
        match timeout(self.subscribe_deadline(), answer).await {
            Ok(answered) => answered.unwrap_or(Err(ClusterError::Stopping)),
            Err(_) => Err(ClusterError::Unavailable { what: "the metadata service" }),
        }
    }

    /// One call for all of the filters, until the deadline.
    async fn call_cover(&self, filters: Vec<Filter>) -> Answer {
        let request = CoverFiltersRequest { cluster_id: self.cluster_id.clone(), filters };
        let tries = Tries {
            addresses: self.control.meta_addresses(),
            until: Instant::now() + self.subscribe_deadline(),
            pause: Duration::from_millis(self.config.retry_ms),
        };
        tries
            .run(|address| {
                let request = request.clone();
                async move {
                    let unreachable = |error| Status::unavailable(format!("{error}"));
                    let mut client = control::client(&address).await.map_err(unreachable)?;
                    client.cover_filters(request).await.map(drop)
                }
            })
            .await
    }

    fn subscribe_deadline(&self) -> Duration {
        Duration::from_millis(self.config.subscribe_deadline_ms)
    }
}

/// Tries of one call: for some seconds nobody may be elected, and then somebody else.
struct Tries {
    addresses: MetaAddresses,
    until: Instant,
    /// After a failure that names nobody else to ask.
    pause: Duration,
}

impl Tries {
    async fn run<F>(mut self, call: impl Fn(String) -> F) -> Answer
    where
        F: Future<Output = Result<(), Status>>,
    {
        let mut hints = 0;
        let mut tries = 0;
        loop {
            let address = self.addresses.current().to_owned();
            tries += 1;
            let status = match timeout_at(self.until, call(address.clone())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                    return Err(ClusterError::Refused { reason: status.message().to_owned() });
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if Instant::now() + self.pause >= self.until {
                tracing::warn!(address, tries, error = %status, "filters cannot be made durable");
                return Err(ClusterError::Unavailable { what: "the metadata service" });
            }
            tracing::debug!(address, error = %status, "filters are not durable yet");
            if self.addresses.refused(&status) && hints < control::HINTS_IN_A_ROW_MAX {
                hints += 1;
            } else {
                hints = 0;
                sleep(self.pause).await;
            }
        }
    }
}

/// Sends what gathers, as long as the process runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        shared.covers.more.notified().await;
        let Ok(call) = calls.clone().acquire_owned().await else { return };
        let waiting = shared.covers.take();
        if waiting.is_empty() {
            continue;
        }
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
        // Those that waited in vain for a call to end.
        waiting.retain(|one| !one.answer.is_closed());
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

#[cfg(test)]
mod tests {
    use holdfast_node_kit::meta_addresses::LEADER_METADATA;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(1);

    fn tries(until: Duration, pause: Duration) -> Tries {
        let addresses = MetaAddresses::new(vec!["a:1".into(), "b:1".into()]);
        Tries { addresses, until: Instant::now() + until, pause }
    }

    fn nobody() -> Status {
        Status::unavailable("nobody is known to be elected")
    }

    fn naming(leader: &str) -> Status {
        let mut status = nobody();
        status.metadata_mut().insert(LEADER_METADATA, leader.parse().unwrap());
        status
    }

    /// What each try in turn is answered; whom they asked, and the outcome.
    async fn run(tries: Tries, answers: Vec<Result<(), Status>>) -> (Vec<String>, Answer) {
        let answers = Mutex::new(answers.into_iter());
        let asked = Mutex::new(Vec::new());
        let call = |address: String| {
            asked.lock().push(address);
            std::future::ready(answers.lock().next().unwrap_or(Err(nobody())))
        };
        let answer = tries.run(call).await;
        (asked.into_inner(), answer)
    }

    #[tokio::test]
    async fn nobody_elected_is_waited_for() {
        let mut answers = vec![Err(nobody()); 50];
        answers.push(Ok(()));
        let (asked, answer) = run(tries(LONG, SHORT), answers).await;
        assert_eq!((asked.len(), answer), (51, Ok(())));
    }

    #[tokio::test]
    async fn one_that_is_named_is_asked_without_a_pause() {
        let answers = vec![Err(naming("c:1")), Ok(())];
        // A pause would outlive the test.
        let (asked, answer) = run(tries(2 * LONG, LONG), answers).await;
        assert_eq!((asked, answer), (vec!["a:1".to_owned(), "c:1".to_owned()], Ok(())));
    }

    #[tokio::test]
    async fn a_deadline_ends_it() {
        let unavailable = Err(ClusterError::Unavailable { what: "the metadata service" });
        let (_, answer) = run(tries(50 * SHORT, SHORT), Vec::new()).await;
        assert_eq!(answer, unavailable);
        let silent = tries(SHORT, SHORT).run(|_| std::future::pending()).await;
        assert_eq!(silent, unavailable);
    }

    #[tokio::test]
    async fn what_is_malformed_is_refused_at_once() {
        let answers = vec![Err(Status::invalid_argument("malformed filter"))];
        let (asked, answer) = run(tries(LONG, SHORT), answers).await;
        let reason = "malformed filter".to_owned();
        assert_eq!((asked.len(), answer), (1, Err(ClusterError::Refused { reason })));
    }
}
