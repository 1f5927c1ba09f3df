//! The traffic of one line: publishers at a pace, and subscribers with durable sessions, some of them
//! away part of the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::ledger::{Ledger, Repeat};
use holdfast_e2e::packet::Version;
use holdfast_e2e::traffic::{
    Habits, PublisherPlan, Stop, SubscriberPlan, spawn_publisher_with, spawn_subscriber_with,
};
use holdfast_proto::ids::{Namespace, home_shard};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout_at};

use crate::roles::{Placement, ShardSites};
use crate::trouble::Trouble;

const PUBLISHERS: u32 = 6;
const WINDOW: usize = 20;
/// QoS of each subscriber, and whether it goes away now and then.
const SUBSCRIBERS: [(u8, bool); 5] = [(1, false), (2, false), (1, false), (1, true), (2, true)];
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const STAY: Duration = Duration::from_millis(2_500);
const AWAY: Duration = Duration::from_millis(2_500);
const PROGRESS_PATIENCE: Duration = Duration::from_secs(60);
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);
/// Until all subscribers are there.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Names that are tried until one lives on a shard that is wanted.
const NAMES_MAX: u32 = 10_000;
/// Numbers of publishers of one line.
const NUMBERS: u32 = 100_000;
/// A cursor is committed at most a second after it moved; a second for two busy cores.
const REDELIVERED_MAX: Duration = Duration::from_secs(2);

/// What one line sends and gets.
#[derive(Debug)]
pub(crate) struct Load {
    ledger: Arc<Ledger>,
    /// Of the publishers.
    stop: Stop,
    /// Of the subscribers: they compare with what is acknowledged, so they end later.
    end: Stop,
    publishers: Vec<JoinHandle<()>>,
    subscribers: Vec<JoinHandle<()>>,
    plans: Vec<(SubscriberPlan, bool)>,
    numbers: Vec<u32>,
}

/// How the traffic fared.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    pub(crate) publisher_outage: Duration,
    pub(crate) subscriber_outage: Duration,
    pub(crate) acknowledged: usize,
    pub(crate) refused: u64,
    pub(crate) lost: usize,
    /// QoS 2 from end to end, and yet more often than once.
    pub(crate) repeated_exactly_once: usize,
    /// At QoS 1, where it may happen.
    pub(crate) repeated_at_least_once: usize,
    /// Of these, what had been acknowledged too long before the fault to come again.
    pub(crate) repeated_late: usize,
    pub(crate) disordered: usize,
    pub(crate) errors: Vec<String>,
}

/// Where publishers and sessions must live for a fault to concern them.
pub(crate) type Wanted<'a> = &'a (dyn Fn(usize, &ShardSites) -> bool + Sync);

fn rotated(addresses: &[String], by: usize) -> Vec<String> {
    let mut addresses = addresses.to_vec();
    let length = addresses.len().max(1);
    addresses.rotate_left(by % length);
    addresses
}

/// A publisher's QoS.
fn qos_of(number: u32) -> u8 {
    if number.is_multiple_of(2) { 1 } else { 2 }
}

impl Load {
    /// Begins, and returns when everybody is served. `line` keeps the names of lines apart.
    pub(crate) async fn start(
        addresses: &[String],
        placement: &Placement,
        line: u32,
        rate: u32,
        wanted: Wanted<'_>,
    ) -> Result<Load, Trouble> {
        let lives_well = |at: usize, client: &str| {
            let shards = u16::try_from(placement.shards.len()).unwrap_or(u16::MAX);
            let shard = home_shard(Namespace(0), client, shards);
            placement.shards.get(usize::from(shard.0)).is_some_and(|sites| wanted(at, sites))
        };
        let mut load = Load {
            ledger: Arc::new(Ledger::default()),
            stop: Stop::default(),
            end: Stop::default(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            plans: Vec::new(),
            numbers: Vec::new(),
        };
        let deadline = tokio::time::Instant::now() + SUBSCRIBE_PATIENCE;
        for (at, (qos, away)) in SUBSCRIBERS.into_iter().enumerate() {
            let names = (0..NAMES_MAX).map(|n| format!("subscriber-{line}-{at}-{n}"));
            let name = names.into_iter().find(|name| lives_well(at, name));
            let plan = SubscriberPlan {
                addresses: rotated(addresses, at),
                name: name.ok_or_else(|| Trouble::Impossible("no such shard".to_owned()))?,
                filter: format!("line/{line}/+"),
                qos,
                version: if at % 2 == 0 { Version::V5 } else { Version::V3 },
            };
            load.subscribe(plan, away, deadline).await?;
        }
        load.publish(addresses, line, rate, &lives_well)?;
        load.await_progress(20).await?;
        Ok(load)
    }

    async fn subscribe(
        &mut self,
        plan: SubscriberPlan,
        away: bool,
        deadline: tokio::time::Instant,
    ) -> Result<(), Trouble> {
        let habits = Habits {
            answer_within: Some(ANSWER_WITHIN),
            publish_interval: Duration::ZERO,
            away: away.then_some((STAY, AWAY)),
        };
        let client = timeout_at(deadline, subscribed(&plan)).await.map_err(|_| Trouble::Late {
            what: format!("{} subscribes", plan.name),
            seconds: SUBSCRIBE_PATIENCE.as_secs(),
        })?;
        let (ledger, stop) = (self.ledger.clone(), self.end.clone());
        // The next connection is made elsewhere.
        let mut onwards = plan.clone();
        onwards.addresses = rotated(&plan.addresses, 1);
        let task = spawn_subscriber_with(habits, onwards, Some(client), ledger, stop);
        self.subscribers.push(task);
        self.plans.push((plan, away));
        Ok(())
    }

    fn publish(
        &mut self,
        addresses: &[String],
        line: u32,
        rate: u32,
        lives_well: &dyn Fn(usize, &str) -> bool,
    ) -> Result<(), Trouble> {
        let interval = Duration::from_secs(1) * PUBLISHERS / rate.max(1);
        for at in 0..PUBLISHERS {
            let index = at as usize;
            let mut numbers = (0..NAMES_MAX).map(|n| line * NUMBERS + n * PUBLISHERS + at);
            let number = numbers.find(|n| lives_well(index, &format!("publisher-{n}")));
            let number = number.ok_or_else(|| Trouble::Impossible("no such shard".to_owned()))?;
            let plan = PublisherPlan {
                addresses: rotated(addresses, index),
                publisher: number,
                topic: format!("line/{line}/{at}"),
                qos: qos_of(number),
                window: WINDOW,
                count: None,
                version: if at % 3 == 0 { Version::V3 } else { Version::V5 },
            };
            let habits = Habits {
                answer_within: Some(ANSWER_WITHIN),
                publish_interval: interval,
                away: None,
            };
            let (ledger, stop) = (self.ledger.clone(), self.stop.clone());
            self.publishers.push(spawn_publisher_with(habits, plan, ledger, stop));
            self.numbers.push(number);
        }
        Ok(())
    }

    /// Waits until every publisher has been acknowledged as many more messages.
    pub(crate) async fn await_progress(&self, count: usize) -> Result<(), Trouble> {
        let before = self.ledger.acknowledged_by_publisher();
        let deadline = Instant::now() + PROGRESS_PATIENCE;
        loop {
            let now = self.ledger.acknowledged_by_publisher();
            let of = |number: &u32| now.get(number).copied().unwrap_or(0);
            let was = |number: &u32| before.get(number).copied().unwrap_or(0);
            if self.numbers.iter().all(|number| of(number) >= was(number) + count) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let refused = self.ledger.refused_count();
                let what = format!(
                    "every publisher goes on: {before:?} then, {now:?} now, {refused} refused"
                );
                return Err(Trouble::Late { what, seconds: PROGRESS_PATIENCE.as_secs() });
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Forgets pauses from before the fault.
    pub(crate) fn restart_clock(&self) {
        self.ledger.restart_clock();
    }

    /// Lets everything drain and compares. `fault` is when the fault began.
    pub(crate) async fn finish(mut self, fault: Instant) -> Outcome {
        let connected: Vec<String> =
            self.plans.iter().filter(|(_, away)| !away).map(|(it, _)| it.name.clone()).collect();
        let mut outcome = Outcome {
            publisher_outage: self.ledger.longest_pause(),
            subscriber_outage: self.ledger.longest_silence(&connected),
            ..Outcome::default()
        };
        let deadline = tokio::time::Instant::now() + DRAIN_PATIENCE;
        self.stop.set();
        for task in self.publishers.drain(..) {
            outcome.errors.extend(ended(task, deadline).await);
        }
        self.end.set();
        for task in self.subscribers.drain(..) {
            outcome.errors.extend(ended(task, deadline).await);
        }
        self.compare(&mut outcome, fault);
        outcome
    }

    fn compare(&self, outcome: &mut Outcome, fault: Instant) {
        outcome.acknowledged = self.ledger.acknowledged_count();
        outcome.refused = self.ledger.refused_count();
        outcome.errors.extend(self.ledger.errors());
        for (plan, _) in &self.plans {
            let verdict = self.ledger.verdict(&plan.name);
            outcome.lost += verdict.lost.len();
            outcome.disordered += verdict.disordered.len();
            let repeats = self.ledger.repeats(&plan.name);
            let is_exact = |it: &&Repeat| plan.qos == 2 && qos_of(it.entry.publisher) == 2;
            let is_late = |it: &&Repeat| it.first + REDELIVERED_MAX < fault;
            let exact = repeats.iter().filter(is_exact).count();
            outcome.repeated_exactly_once += exact;
            outcome.repeated_at_least_once += repeats.len() - exact;
            outcome.repeated_late += repeats.iter().filter(is_late).count();
            for entry in verdict.lost.iter().take(3) {
                outcome
                    .errors
                    .push(format!("{} lost {}:{}", plan.name, entry.publisher, entry.number));
            }
            for entry in verdict.disordered.iter().take(3) {
                let (name, number) = (&plan.name, entry.number);
                outcome.errors.push(format!("{name} got {}:{number} late", entry.publisher));
            }
            for repeat in repeats.iter().filter(is_exact).take(3) {
                let (name, entry) = (&plan.name, repeat.entry);
                let after = repeat.again - repeat.first;
                outcome.errors.push(format!(
                    "{name} got {}:{} again after {after:?}",
                    entry.publisher, entry.number
                ));
            }
        }
    }
}

/// Of a line that ends early, too, nobody may go on into the next one.
impl Drop for Load {
    fn drop(&mut self) {
        self.publishers.iter().chain(&self.subscribers).for_each(JoinHandle::abort);
    }
}

/// A client that is refused asks again.
async fn subscribed(plan: &SubscriberPlan) -> Client {
    loop {
        // It fails by panicking, which must not end the run; dropped, it ends.
        let own = plan.clone();
        let mut attempt = JoinSet::new();
        attempt.spawn(async move { own.subscribe().await });
        if let Some(Ok(client)) = attempt.join_next().await {
            return client;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Waits for a client, and tells if it did not end well.
async fn ended(mut task: JoinHandle<()>, deadline: tokio::time::Instant) -> Option<String> {
    match timeout_at(deadline, &mut task).await {
        Ok(Ok(())) => None,
        Ok(Err(panic)) => Some(format!("a client failed: {panic}")),
        Err(_) => {
            task.abort();
            Some("a client never finished".to_owned())
        }
    }
}
