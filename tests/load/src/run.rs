//! The scenarios.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::latency::{Clock, Latencies};
use crate::link::Link;
use crate::meter::{Meter, Usage};
use crate::publisher::{Publisher, Template};
use crate::report::Report;
use crate::scenario::Scenario;
use crate::{sessions, subscriber};

const CLIENTS: usize = 8;
/// Before a rate is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the last publish, for what is still on its way.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Messages for each session that is drained.
const DRAIN_MESSAGES: u64 = 20_000;
const OFFLINE_SESSIONS: [usize; 4] = [1, 10, 100, 1000];

/// The measurement cannot go on.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error("no gateway runs there")]
    NoGateway,
    #[error("sessions cannot be made: {0}")]
    Refused(io::Error),
    #[error("{0} does not come about within {1:?}")]
    Late(&'static str, Duration),
    #[error("this scenario starts a cluster of its own: --data and --connect do not fit")]
    OwnCluster,
    #[error("a connection failed: {0}")]
    Connection(#[from] io::Error),
    #[error("stuck with {acknowledged} acknowledged and {delivered} delivered of {wanted}")]
    Stuck { acknowledged: u64, delivered: u64, wanted: u64 },
}

/// Shared by all connections of a scenario.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) clock: Clock,
    /// Publishers begin no message any more.
    pub(crate) stop: Cell<bool>,
    /// Latencies are kept.
    recording: Cell<bool>,
    acknowledged: Cell<u64>,
    refused: Cell<u64>,
    delivered: Cell<u64>,
    puback: Latencies,
    delivery: Latencies,
}

impl Tally {
    pub(crate) fn new() -> Rc<Tally> {
        Rc::new(Tally {
            clock: Clock::new(),
            stop: Cell::new(false),
            recording: Cell::new(false),
            acknowledged: Cell::new(0),
            refused: Cell::new(0),
            delivered: Cell::new(0),
            puback: Latencies::default(),
            delivery: Latencies::default(),
        })
    }

    /// Keeps latencies from now on, or keeps none any more.
    pub(crate) fn record(&self, recording: bool) {
        self.recording.set(recording);
    }

    /// From publishes to their answers.
    pub(crate) fn puback(&self) -> &Latencies {
        &self.puback
    }

    /// Publishes that were answered with an error.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// A publish was answered.
    pub(crate) fn acknowledge(&self, nanos: u64, refused: bool) {
        let counter = if refused { &self.refused } else { &self.acknowledged };
        counter.set(counter.get() + 1);
        if self.recording.get() {
            self.puback.add(nanos);
        }
    }

    /// A message arrived.
    pub(crate) fn deliver(&self, nanos: u64) {
        self.delivered.set(self.delivered.get() + 1);
        if self.recording.get() {
            self.delivery.add(nanos);
        }
    }
}

/// A flow of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    /// The scenario's; a topic begins with it.
    pub(crate) name: &'static str,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    /// All messages a second; none for as many as possible.
    pub(crate) rate: Option<u32>,
}

/// What is measured, and how.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) addresses: Vec<String>,
    pub(crate) meter: Meter,
    pub(crate) duration: Duration,
    pub(crate) payload_bytes: usize,
    pub(crate) window: u16,
    pub(crate) storm_sessions: usize,
    pub(crate) idle_connections: usize,
}

impl Bench {
    /// Measures one scenario.
    pub(crate) async fn run(&self, scenario: Scenario) -> Result<Vec<Report>, BenchError> {
        let flow =
            |name, publishers, subscribers, rate| Flow { name, publishers, subscribers, rate };
        let reports = match scenario {
            Scenario::Idle => vec![self.idle().await],
            Scenario::Pairwise => vec![self.flow(flow("pairwise", 8, 8, None)).await?],
            Scenario::FanIn => vec![self.flow(flow("fan-in", 8, 1, None)).await?],
            Scenario::FanOut => vec![self.flow(flow("fan-out", 1, 8, None)).await?],
            Scenario::Rate => vec![self.flow(flow("rate", 8, 8, Some(1000))).await?],
            Scenario::Drain => vec![self.drain().await?],
            Scenario::Storm => vec![self.storm().await?],
            Scenario::Connections => vec![self.connections().await?],
            Scenario::Offline => self.offline().await?,
            Scenario::Sessions => return Err(BenchError::OwnCluster),
        };
        Ok(reports)
    }

    async fn idle(&self) -> Report {
        let before = self.meter.read();
        let started = Instant::now();
        sleep(self.duration).await;
        let usage = self.meter.read().since(&before);
        let mut report = Report::new("idle");
        if self.meter.sees_processes() {
            let seconds = started.elapsed().as_secs_f64();
            report.add("cpu_percent_of_a_core", 100.0 * usage.cpu_sum() / seconds);
            for (role, cpu) in &usage.cpu {
                report.add(format!("{role}_cpu_percent"), 100.0 * cpu / seconds);
            }
            report.add_memory(&usage);
        }
        report
    }

    /// Measures one flow.
    pub(crate) async fn flow(&self, flow: Flow) -> Result<Report, BenchError> {
        let tally = Tally::new();
        let subscribers = self.start_subscribers(flow, &tally).await?;
        let pace = flow.rate.map(|rate| Duration::from_secs(1) * CLIENTS as u32 / rate);
        let topic = |number: usize| match (flow.publishers, flow.subscribers) {
            (1, _) => format!("{}/all", flow.name),
            _ => format!("{}/{number}", flow.name),
        };
        let publishers =
            self.start_publishers(flow.name, flow.publishers, topic, pace, None, &tally).await?;
        sleep(WARM_UP).await;
        let (acknowledged, usage, seconds) = self.measure(&tally).await;
        tally.stop.set(true);
        join(publishers).await?;
        let copies = flow.subscribers as u64 / flow.publishers.min(flow.subscribers) as u64;
        let copies = if flow.publishers == 1 { copies } else { 1 };
        self.await_delivered(&tally, tally.acknowledged.get() * copies, &subscribers).await?;
        let mut report = Report::new(flow.name);
        report.add("acknowledged_per_s", acknowledged as f64 / seconds);
        report.add("delivered_per_s", (acknowledged * copies) as f64 / seconds);
        report.add_latencies("puback", &tally.puback);
        report.add_latencies("delivery", &tally.delivery);
        report.add_cost(&usage, acknowledged, seconds);
        report.add("refused", tally.refused.get() as f64);
        let extra = tally.delivered.get().saturating_sub(tally.acknowledged.get() * copies);
        report.add("delivered_again", extra as f64);
        report.add_memory(&usage);
        end(subscribers);
        Ok(report)
    }

    /// Acknowledged messages, usage and time of the measured span.
    async fn measure(&self, tally: &Tally) -> (u64, Usage, f64) {
        let (before, first) = (self.meter.read(), tally.acknowledged.get());
        let started = Instant::now();
        tally.recording.set(true);
        sleep(self.duration).await;
        tally.recording.set(false);
        let seconds = started.elapsed().as_secs_f64();
        (tally.acknowledged.get() - first, self.meter.read().since(&before), seconds)
    }

    /// The subscribers of a flow; they run until they are aborted.
    pub(crate) async fn start_subscribers(
        &self,
        flow: Flow,
        tally: &Rc<Tally>,
    ) -> Result<Vec<JoinHandle<io::Result<()>>>, BenchError> {
        let mut tasks = Vec::new();
        for number in 0..flow.subscribers {
            let filter = match (flow.publishers, flow.subscribers) {
                (1, _) => format!("{}/all", flow.name),
                (_, 1) => format!("{}/#", flow.name),
                _ => format!("{}/{number}", flow.name),
            };
            // Half of the pairs are on one gateway, half on two.
            let address = self.address(number / 2);
            let connect = sessions::durable(&format!("{}-subscriber-{number}", flow.name));
            let (mut link, _) = Link::busy(&address, &connect).await?;
            link.subscribe(&filter).await?;
            tasks.push(tokio::task::spawn_local(subscriber::run(link, tally.clone())));
        }
        Ok(tasks)
    }

    /// Publishers; they run until the tally says stop.
    pub(crate) async fn start_publishers(
        &self,
        name: &str,
        publishers: usize,
        topic: impl Fn(usize) -> String,
        pace: Option<Duration>,
        count: Option<u64>,
        tally: &Rc<Tally>,
    ) -> Result<Vec<JoinHandle<io::Result<()>>>, BenchError> {
        let mut tasks = Vec::new();
        for number in 0..publishers {
            let connect = sessions::regular(&format!("{name}-publisher-{number}"));
            let (link, _) = Link::busy(&self.address(number), &connect).await?;
            let publisher = Publisher {
                link,
                template: Template::new(&topic(number), self.payload_bytes),
                window: self.window,
                pace,
                count,
                tally: tally.clone(),
            };
            tasks.push(tokio::task::spawn_local(publisher.run()));
        }
        Ok(tasks)
    }

    async fn drain(&self) -> Result<Report, BenchError> {
        let topic = |number: usize| format!("drain/{number}");
        let id = |number: usize| format!("drain-subscriber-{number}");
        sessions::for_each(CLIENTS, sessions::AT_ONCE, |number| {
            sessions::make_offline(self.address(number), id(number), topic(number))
        })
        .await?;
        let tally = Tally::new();
        let publishers = self
            .start_publishers("drain", CLIENTS, topic, None, Some(DRAIN_MESSAGES), &tally)
            .await?;
        join(publishers).await?;
        let wanted = tally.acknowledged.get();
        let before = self.meter.read();
        let started = Instant::now();
        let mut tasks = Vec::new();
        for number in 0..CLIENTS {
            // The gateway that they did not use before.
            let connect = sessions::durable(&id(number));
            let (link, _) = Link::busy(&self.address(number + 1), &connect).await?;
            tasks.push(tokio::task::spawn_local(subscriber::run(link, tally.clone())));
        }
        self.await_delivered(&tally, wanted, &tasks).await?;
        let seconds = started.elapsed().as_secs_f64();
        let usage = self.meter.read().since(&before);
        end(tasks);
        let mut report = Report::new("drain");
        report.add("delivered_per_s", wanted as f64 / seconds);
        report.add_cost(&usage, wanted, seconds);
        Ok(report)
    }

    async fn offline(&self) -> Result<Vec<Report>, BenchError> {
        let mut reports = Vec::new();
        let mut made = 0;
        for count in OFFLINE_SESSIONS {
            sessions::for_each(count - made, sessions::AT_ONCE, |number| {
                let id = format!("offline-subscriber-{}", made + number);
                sessions::make_offline(self.address(number), id, "offline/#".to_owned())
            })
            .await?;
            made = count;
            let tally = Tally::new();
            let topic = |number: usize| format!("offline/{number}");
            let publishers =
                self.start_publishers("offline", CLIENTS, topic, None, None, &tally).await?;
            sleep(WARM_UP).await;
            let (acknowledged, usage, seconds) = self.measure(&tally).await;
            tally.stop.set(true);
            join(publishers).await?;
            let mut report = Report::new(format!("offline sessions: {count}"));
            report.add("acknowledged_per_s", acknowledged as f64 / seconds);
            report.add_latencies("puback", &tally.puback);
            report.add_cost(&usage, acknowledged, seconds);
            reports.push(report);
        }
        Ok(reports)
    }

    async fn storm(&self) -> Result<Report, BenchError> {
        let count = self.storm_sessions;
        let id = |number: usize| format!("storm-{number}");
        sessions::for_each(count, sessions::AT_ONCE, |number| {
            let filter = format!("storm/{}", number % 100);
            sessions::make_offline(self.address(number), id(number), filter)
        })
        .await?;
        let before = self.meter.read();
        let started = Instant::now();
        // All of them on the other gateway, as after the death of one.
        let links = sessions::for_each(count, sessions::AT_ONCE, |number| {
            sessions::resume(self.address(number + 1), id(number))
        })
        .await?;
        let seconds = started.elapsed().as_secs_f64();
        let usage = self.meter.read().since(&before);
        drop(links);
        let mut report = Report::new("reconnect storm");
        report.add("resumed_per_s", count as f64 / seconds);
        if self.meter.sees_processes() {
            report.add("server_cpu_us_per_resume", usage.cpu_sum() * 1e6 / count as f64);
        }
        report.add("own_cpu_share", usage.own_cpu / seconds);
        Ok(report)
    }

    async fn connections(&self) -> Result<Report, BenchError> {
        let gateways = self.meter.gateways();
        let resident = |usage: &Usage| -> u64 {
            gateways.iter().filter_map(|name| usage.resident.get(name)).sum()
        };
        let before = resident(&self.meter.read());
        let links = sessions::for_each(self.idle_connections, sessions::AT_ONCE, |number| {
            sessions::connect_regular(self.address(number), format!("idle-{number}"))
        })
        .await?;
        let first = self.meter.read();
        let started = Instant::now();
        sleep(self.duration / 2).await;
        let usage = self.meter.read().since(&first);
        let mut report = Report::new("idle connections");
        report.add("connections", links.len() as f64);
        if self.meter.sees_processes() {
            let grown = resident(&usage).saturating_sub(before);
            report.add("bytes_per_connection", grown as f64 / links.len() as f64);
            let percent = 100.0 * usage.cpu_sum() / started.elapsed().as_secs_f64();
            report.add("cpu_percent_of_a_core", percent);
        }
        Ok(report)
    }

    async fn await_delivered(
        &self,
        tally: &Tally,
        wanted: u64,
        tasks: &[JoinHandle<io::Result<()>>],
    ) -> Result<(), BenchError> {
        let started = Instant::now();
        while tally.delivered.get() < wanted {
            let ended = tasks.iter().any(JoinHandle::is_finished);
            if ended || started.elapsed() > PATIENCE {
                let (acknowledged, delivered) = (tally.acknowledged.get(), tally.delivered.get());
                return Err(BenchError::Stuck { acknowledged, delivered, wanted });
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// The gateway of the connection with this number.
    pub(crate) fn address(&self, number: usize) -> String {
        self.addresses[number % self.addresses.len()].clone()
    }
}

/// Waits for the end of tasks.
pub(crate) async fn join(tasks: Vec<JoinHandle<io::Result<()>>>) -> Result<(), BenchError> {
    for task in tasks {
        task.await.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Ends tasks.
pub(crate) fn end(tasks: Vec<JoinHandle<io::Result<()>>>) {
    tasks.into_iter().for_each(|task| task.abort());
}
