//! `holdfast bench`: puts load on a running cluster through MQTT and measures it. `holdfast-load` is the
//! other one: it starts clusters of its own and counts what their processes use.

mod cpu;
mod latency;
mod publisher;
mod report;
mod stamp;
mod subscriber;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::publisher::{Plan, Published, publish};
use self::report::Report;
use self::stamp::STAMP_BYTES;
use self::subscriber::{end_all, make_away, receive};
use crate::amount::{Bytes, Count};
use crate::console::{self, Progress};
use crate::failure::{Failure, Outcome};
use crate::mqtt::gateway::{Address, MqttArgs};
use crate::mqtt::link::{Link, Session};
use crate::mqtt::{fresh_id, qos};

/// How long it is waited for what is on its way when the time is over.
const GRACE: Duration = Duration::from_secs(10);
/// Life of the sessions, if this command dies.
const EXPIRY_S: u32 = 600;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Sessions of one run; more are `holdfast-load`'s business.
const CLIENTS_MAX: i64 = 10_000;

/// What load.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Clients that publish, each on a topic of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    publishers: u32,
    /// Connected durable sessions that receive; 0 measures publishing alone
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=CLIENTS_MAX))]
    subscribers: u32,
    /// Durable sessions that subscribe to everything and stay away
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=CLIENTS_MAX))]
    sessions_offline: u32,
    /// Messages a second of all publishers together [default: as many as are acknowledged]
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<Count>,
    /// Bytes of a payload, at least 20
    #[arg(long, value_name = "BYTES", default_value = "256")]
    size: Bytes,
    /// 0: no answer, 1: at least once, 2: exactly once
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// How long to publish
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Unacknowledged messages of each publisher at a time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// What the topics begin with
    #[arg(long, value_name = "TOPIC", default_value = "holdfast/bench")]
    topic_prefix: String,
    #[command(flatten)]
    mqtt: MqttArgs,
}

/// What all tasks of a run count.
#[derive(Debug, Default)]
struct Meter {
    acknowledged: AtomicU64,
    delivered: AtomicU64,
    refused: AtomicU64,
    lost_connections: AtomicU64,
}

/// What all tasks of a run know.
#[derive(Debug, Clone)]
struct Run {
    began: Instant,
    publish_until: Instant,
    wait_until: Instant,
    meter: Arc<Meter>,
}

/// Names of a run.
struct Names {
    /// Topics begin with it.
    topic: String,
    subscribers: Vec<String>,
    publishers: Vec<String>,
    away: Vec<String>,
}

impl BenchArgs {
    fn check(&self) -> Outcome {
        if self.rate.is_some_and(|rate| rate.0 <= 0.0) {
            return Err(Failure::usage("--rate: more than 0 is wanted"));
        }
        if !(STAMP_BYTES as u64..=16 << 20).contains(&self.size.0) {
            return Err(Failure::usage(format!("--size: {STAMP_BYTES} B to 16 MiB are allowed")));
        }
        if self.topic_prefix.is_empty() || self.topic_prefix.contains(['+', '#']) {
            return Err(Failure::usage(format!(
                "--topic-prefix: {:?} is no topic",
                self.topic_prefix
            )));
        }
        Ok(())
    }

    fn names(&self) -> Names {
        let id = fresh_id("bench");
        let named =
            |kind: &str, count: u32| (0..count).map(|n| format!("{id}-{kind}-{n}")).collect();
        Names {
            topic: format!("{}/{id}", self.topic_prefix),
            subscribers: named("subscriber", self.subscribers),
            publishers: named("publisher", self.publishers),
            away: named("offline", self.sessions_offline),
        }
    }

    /// Publishers and subscribers meet in as many groups as there are of the fewer.
    fn groups(&self) -> u32 {
        self.publishers.min(self.subscribers).max(1)
    }
}

/// Puts the load on, and removes the sessions afterwards.
pub(crate) async fn run(args: &BenchArgs) -> Outcome {
    args.check()?;
    let addresses = args.mqtt.addresses().await?;
    let names = args.names();
    let measured = tokio::select! {
        measured = measure(args, &addresses, &names) => measured,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted: nothing was measured")),
    };
    console::note("removing the sessions of the run");
    let all = [&names.subscribers[..], &names.publishers[..], &names.away[..]].concat();
    let ended = end_all(&addresses, &all).await;
    let report = measured?;
    report.show(args.mqtt.api.json);
    ended?;
    match report.ok {
        true => Ok(()),
        false => Err(Failure::failed("the cluster lost or repeated messages")),
    }
}

async fn measure(args: &BenchArgs, addresses: &[Address], names: &Names) -> Outcome<Report> {
    let level = qos(args.qos);
    if !names.away.is_empty() {
        console::note(format!("making {} sessions that stay away", names.away.len()));
        make_away(addresses, &names.away, &format!("{}/#", names.topic), level, EXPIRY_S).await?;
    }
    let at = |n: usize| &addresses[n % addresses.len()];
    let links = |ids: &'_ [String]| {
        let session = |client_id: &String| Session {
            client_id: client_id.clone(),
            clean_start: true,
            expiry_s: EXPIRY_S,
        };
        try_join_all(
            ids.iter()
                .map(session)
                .enumerate()
                .map(async |(n, session)| Link::connect(at(n), &session).await),
        )
    };
    let mut subscribers = links(&names.subscribers).await?;
    for (n, link) in (0..).zip(&mut subscribers) {
        let filter = format!("{}/{}/+", names.topic, n % args.groups());
        link.subscribe(&[filter], level).await?;
    }
    let publishers = links(&names.publishers).await?;

    let began = Instant::now();
    let publish_until = began + Duration::from_secs(args.seconds);
    let meter = Arc::new(Meter::default());
    let run = Run { began, publish_until, wait_until: publish_until + GRACE, meter };
    let (stop, stopped) = watch::channel(false);
    // Dropped with this function, should it be interrupted: nobody connects again.
    let (mut receiving, mut publishing) = (JoinSet::new(), JoinSet::new());
    for (n, link) in subscribers.into_iter().enumerate() {
        let (run, stopped) = (run.clone(), stopped.clone());
        receiving.spawn(async move { (n, receive(link, run, stopped).await) });
    }
    for ((n, number), link) in (0..).enumerate().zip(publishers) {
        let (run, plan) = (run.clone(), plan(args, names, number));
        publishing.spawn(async move { (n, publish(link, plan, run).await) });
    }
    let mut following = JoinSet::new();
    following.spawn(follow(run.clone()));
    let cpu = cpu::used();
    let published = joined(publishing).await?.into_iter().collect::<Outcome<Vec<Published>>>()?;
    let seconds =
        began.elapsed().as_secs_f64().min(Duration::from_secs(args.seconds).as_secs_f64());
    let expected = expected(args, &run);
    while run.meter.delivered.load(Relaxed) < expected && Instant::now() < run.wait_until {
        sleep(POLL_INTERVAL).await;
    }
    let delivered_s = began.elapsed().as_secs_f64().max(seconds);
    following.shutdown().await;
    let own_cores = (cpu::used().saturating_sub(cpu)).as_secs_f64() / began.elapsed().as_secs_f64();
    // The receivers are there to hear it.
    let _ = stop.send(true);
    let received = joined(receiving).await?;
    Ok(Report::of(args, &run, (seconds, delivered_s), own_cores, &published, &received))
}

fn plan(args: &BenchArgs, names: &Names, number: u32) -> Plan {
    Plan {
        number,
        topic: format!("{}/{}/{number}", names.topic, number % args.groups()),
        qos: qos(args.qos),
        size: usize::try_from(args.size.0).unwrap_or(STAMP_BYTES),
        rate: args.rate.map(|rate| rate.0 / f64::from(args.publishers)),
        window: usize::from(args.in_flight),
    }
}

/// Results of all tasks, in their order.
async fn joined<T: 'static>(mut tasks: JoinSet<(usize, T)>) -> Outcome<Vec<T>> {
    let mut results = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.map_err(|error| Failure::failed(format!("a task ended: {error}")))?);
    }
    results.sort_by_key(|(n, _)| *n);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Deliveries that follow from the acknowledgements: exact if all groups have as many subscribers.
fn expected(args: &BenchArgs, run: &Run) -> u64 {
    let acknowledged = run.meter.acknowledged.load(Relaxed);
    acknowledged * u64::from(args.subscribers.div_ceil(args.groups()))
}

/// A line each second.
async fn follow(run: Run) {
    let mut progress = Progress::default();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let (mut acknowledged, mut delivered) = (0, 0);
    loop {
        ticks.tick().await;
        let now = (run.meter.acknowledged.load(Relaxed), run.meter.delivered.load(Relaxed));
        progress.show(format!(
            "{} s: {} acknowledged/s, {} delivered/s, {} refused",
            run.began.elapsed().as_secs(),
            now.0 - acknowledged,
            now.1 - delivered,
            run.meter.refused.load(Relaxed)
        ));
        (acknowledged, delivered) = now;
    }
}
