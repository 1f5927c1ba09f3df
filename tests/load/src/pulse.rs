//! A modest flow of messages beside something else: how long its publishers wait meanwhile.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::report::Report;
use crate::run::{Bench, BenchError, Flow, Tally, end, join};

/// Eight pairs, so that several shards are in it, and all gateways.
const FLOW: Flow = Flow { name: "pulse", publishers: 8, subscribers: 8, rate: None };
/// Between two messages of one publisher: 200 a second in all.
const PACE: Duration = Duration::from_millis(40);

/// Publishers and durable subscribers that run.
pub(crate) struct Pulse {
    tally: Rc<Tally>,
    publishers: Vec<JoinHandle<io::Result<()>>>,
    subscribers: Vec<JoinHandle<io::Result<()>>>,
}

impl Pulse {
    /// Begins to publish.
    pub(crate) async fn start(bench: &Bench) -> Result<Pulse, BenchError> {
        let tally = Tally::new();
        let subscribers = bench.start_subscribers(FLOW, &tally).await?;
        let topic = |number: usize| format!("{}/{number}", FLOW.name);
        let publishers = bench
            .start_publishers(FLOW.name, FLOW.publishers, topic, Some(PACE), None, &tally)
            .await?;
        tally.record(true);
        Ok(Pulse { tally, publishers, subscribers })
    }

    /// Forgets what was so far.
    pub(crate) fn begin(&self) {
        self.tally.puback().clear();
    }

    /// Adds how long publishers waited since [`Pulse::begin`]. A message that is out now counts
    /// when it is answered, so a pause is seen at its end.
    pub(crate) fn add_to(&self, report: &mut Report) {
        if let Some(waits) = self.tally.puback().percentiles(&[50.0, 99.0, 100.0]) {
            report.add("publisher_p50_ms", waits[0]);
            report.add("publisher_p99_ms", waits[1]);
            report.add("publisher_longest_pause_ms", waits[2]);
        }
        report.add("publishes_refused", self.tally.refused() as f64);
    }

    /// Ends when everything is answered.
    pub(crate) async fn stop(self) -> Result<(), BenchError> {
        self.tally.stop.set(true);
        join(self.publishers).await?;
        end(self.subscribers);
        Ok(())
    }
}
