//! Very many stored sessions: what they cost, and what goes on beside them.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::packet::{Connect, Version};
use tokio::time::sleep;

use crate::footprint::Footprint;
use crate::link::Link;
use crate::meter::Meter;
use crate::pulse::Pulse;
use crate::report::Report;
use crate::run::{Bench, BenchError, Flow};
use crate::{registry, sessions};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Sites refresh the number of their sessions every few seconds.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// For the registry, a restart or an expiry.
const PATIENCE: Duration = Duration::from_secs(900);
/// Longer than any measurement.
const EXPIRY_S: u32 = 86_400;
/// Input of a connection that gets no messages.
const INPUT_BYTES: usize = 128;
/// Loopback addresses that connections come from.
const SOURCES: usize = 200;
/// A gateway may be without its home shard for a moment.
const TRIES_MAX: usize = 50;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Sockets of this process that are not for the storm.
const OTHER_FILES: usize = 500;
/// Last sessions that are looked for in the registry before all are counted: one page.
const LAST_SESSIONS: usize = 1000;

/// How many, on what.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Sessions to store.
    pub(crate) count: usize,
    /// Sessions that expire at one time, afterwards.
    pub(crate) expire: usize,
    /// Connections that are being made at the same time.
    pub(crate) at_once: usize,
    /// Sessions that are resumed at once.
    pub(crate) storm: usize,
    /// Metadata in three etcd members with two meta-services.
    pub(crate) etcd: bool,
    /// `ROLE.FIELD=VALUE` of the cluster.
    pub(crate) settings: Vec<String>,
}

impl Wish {
    /// The cluster for it.
    pub(crate) fn shape(&self) -> Shape {
        let (meta, etcd) = if self.etcd { (2, 3) } else { (1, 0) };
        Shape { meta, etcd, restart: true, settings: self.settings.clone(), ..Shape::default() }
    }
}

/// A measurement of stored sessions on a cluster of its own.
pub(crate) struct Stored<'a> {
    pub(crate) bench: Bench,
    pub(crate) cluster: &'a Cluster,
    pub(crate) wish: Wish,
    pub(crate) json: bool,
}

impl Stored<'_> {
    /// Everything in turn; each part is printed when it is done.
    pub(crate) async fn run(mut self) -> Result<(), BenchError> {
        self.publish("publish rate without stored sessions").await?;
        let before = Footprint::read(self.cluster).await;
        let pulse = Pulse::start(&self.bench).await?;
        self.create(&pulse, &before).await?;
        pulse.stop().await?;
        self.publish("publish rate beside stored sessions").await?;
        self.storm().await?;
        let pulse = Pulse::start(&self.bench).await?;
        if self.wish.expire > 0 {
            self.expire(&pulse).await?;
        }
        for role in ["meta", "etcd", "storage"] {
            self.restart(role, Some(&pulse)).await?;
        }
        pulse.stop().await?;
        self.restart("gateway", None).await
    }

    async fn publish(&self, name: &'static str) -> Result<(), BenchError> {
        let flow = Flow { name: "stored-pairs", publishers: 8, subscribers: 8, rate: None };
        self.bench.flow(flow).await?.named(name).print(self.json);
        Ok(())
    }

    async fn create(&self, pulse: &Pulse, before: &Footprint) -> Result<(), BenchError> {
        let count = self.wish.count;
        let mut report = Report::new(format!("{count} sessions stored"));
        let first = registry::count(self.cluster).await?;
        pulse.begin();
        let making = self.make("device", count, |_| EXPIRY_S);
        making.await?.add_to(&mut report);
        pulse.add_to(&mut report);
        report.print(self.json);

        let mut report = Report::new("registry");
        let (started, wanted) = (Instant::now(), first + count as u64);
        self.await_registered(wanted).await?;
        report.add("lag_s", started.elapsed().as_secs_f64());
        report.add("sessions", wanted as f64);
        let rows = registry::rows_fed(self.cluster).await;
        report.add("rows_fed_per_session", rows as f64 / count as f64);
        report.print(self.json);

        let mut report = Report::new("bytes of a process of each role");
        Footprint::read(self.cluster).await.add_growth(before, count, &mut report);
        report.print(self.json);
        Ok(())
    }

    /// Makes sessions and leaves them.
    async fn make(
        &self,
        prefix: &'static str,
        count: usize,
        expiry_s: impl Fn(Instant) -> u32 + Clone + 'static,
    ) -> Result<Made, BenchError> {
        let meter = Meter::new(&self.cluster.status().await.processes);
        let before = meter.read();
        let started = Instant::now();
        let (done, retries) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0_u64)));
        let step = count.div_ceil(10);
        let one = |number: usize| {
            let (done, retries, expiry_s) = (done.clone(), retries.clone(), expiry_s.clone());
            let address = self.bench.address(number);
            async move {
                let id = client_id(prefix, number);
                let mut tries = 1;
                while let Err(error) = make_one(number, &address, &id, &expiry_s).await {
                    tries += 1;
                    retries.set(retries.get() + 1);
                    if tries > TRIES_MAX {
                        return Err(error);
                    }
                    sleep(RETRY_PAUSE).await;
                }
                done.set(done.get() + 1);
                if done.get() % step == 0 {
                    let seconds = started.elapsed().as_secs_f64();
                    eprintln!("{} sessions after {seconds:.0} s", done.get());
                }
                Ok(())
            }
        };
        sessions::for_each(count, self.wish.at_once, one).await.map_err(BenchError::Refused)?;
        let seconds = started.elapsed().as_secs_f64();
        let usage = meter.read().since(&before);
        let cpu = usage.cpu.into_iter().map(|(role, cpu)| (role, cpu * 1e6 / count as f64));
        Ok(Made {
            per_s: count as f64 / seconds,
            retries: retries.get(),
            own_cpu_share: usage.own_cpu / seconds,
            cpu_us_per_session: cpu.collect(),
        })
    }

    /// Until the registry has the last ones, and then all of them.
    async fn await_registered(&self, wanted: u64) -> Result<(), BenchError> {
        let started = Instant::now();
        let last = self.wish.count.saturating_sub(1) / LAST_SESSIONS;
        let prefix = format!("device-{last:06}");
        let of_last = (self.wish.count - last * LAST_SESSIONS) as u64;
        let mut all = false;
        while !all {
            if started.elapsed() > PATIENCE {
                return Err(BenchError::Late("a whole registry", PATIENCE));
            }
            sleep(POLL_INTERVAL).await;
            let has_last =
                registry::list(self.cluster, &prefix, LAST_SESSIONS).await.unwrap_or(0) >= of_last;
            all = has_last && registry::count(self.cluster).await.unwrap_or(0) >= wanted;
        }
        Ok(())
    }

    async fn storm(&self) -> Result<(), BenchError> {
        let files = crate::meter::raise_file_limit().saturating_sub(OTHER_FILES);
        let count = self.wish.count.min(self.wish.storm).min(files);
        let meter = Meter::new(&self.cluster.status().await.processes);
        let before = meter.read();
        let started = Instant::now();
        // Each on the gateway after the one that it was on.
        let links = sessions::for_each(count, count, |number| {
            let (address, id) = (self.bench.address(number + 1), client_id("device", number));
            async move { resume(number, &address, &id).await }
        })
        .await
        .map_err(BenchError::Refused)?;
        let seconds = started.elapsed().as_secs_f64();
        let usage = meter.read().since(&before);
        sessions::for_each_of(links, self.wish.at_once, Link::disconnect).await?;
        let mut report = Report::new("reconnect storm");
        report.add("sessions", count as f64);
        report.add("resumed_per_s", count as f64 / seconds);
        report.add("server_cpu_us_per_resume", usage.cpu_sum() * 1e6 / count as f64);
        report.add("own_cpu_share", usage.own_cpu / seconds);
        report.print(self.json);
        Ok(())
    }

    /// Sessions that are all over at the same moment.
    async fn expire(&self, pulse: &Pulse) -> Result<(), BenchError> {
        let count = self.wish.expire;
        // The figures of the sites are some seconds old.
        sleep(GAUGE_INTERVAL * 6).await;
        let stored = registry::sessions_of_shards(self.cluster).await;
        let registered = registry::count(self.cluster).await?;
        // As long as it takes to make them, by the rate of a slow machine.
        let deadline = Instant::now() + Duration::from_secs(20 + count as u64 / 500);
        let expiry_s = move |now: Instant| {
            let left = deadline.saturating_duration_since(now).as_secs();
            u32::try_from(left).unwrap_or(EXPIRY_S).max(1)
        };
        let mut report = Report::new(format!("{count} sessions expire at once"));
        self.make("short", count, expiry_s).await?.add_to(&mut report);
        tokio::time::sleep_until(deadline.into()).await;
        let made = registry::sessions_of_shards(self.cluster).await.saturating_sub(stored);
        report.add("stored_before_the_deadline", made as f64);
        pulse.begin();
        loop {
            let left = registry::sessions_of_shards(self.cluster).await.saturating_sub(stored);
            if left == 0 {
                break;
            }
            eprintln!("{left} sessions left after {:.0} s", deadline.elapsed().as_secs_f64());
            self.give_up_after(deadline, "expiry")?;
            sleep(GAUGE_INTERVAL).await;
        }
        report.add("all_gone_s", deadline.elapsed().as_secs_f64());
        loop {
            let left = registry::count(self.cluster).await?.saturating_sub(registered);
            if left == 0 {
                break;
            }
            eprintln!("{left} rows left after {:.0} s", deadline.elapsed().as_secs_f64());
            self.give_up_after(deadline, "expiry in the registry")?;
            sleep(GAUGE_INTERVAL).await;
        }
        report.add("gone_from_registry_s", deadline.elapsed().as_secs_f64());
        pulse.add_to(&mut report);
        report.print(self.json);
        Ok(())
    }

    /// kill -9 of one process of a role (the elected meta-service), until it is ready again.
    async fn restart(
        &mut self,
        role: &'static str,
        pulse: Option<&Pulse>,
    ) -> Result<(), BenchError> {
        let processes = self.cluster.status().await.processes;
        let mut of_role = processes.iter().filter(|process| process.role == role);
        let first = of_role.clone().next();
        let Some(victim) = of_role.find(|process| process.elected == Some(true)).or(first) else {
            return Ok(());
        };
        let fed = registry::rows_fed(self.cluster).await;
        let own_fed = match role {
            "meta" => registry::rows_fed_by(self.cluster, &victim.name).await,
            _ => 0,
        };
        if let Some(pulse) = pulse {
            pulse.begin();
        }
        self.cluster.signal(&victim.name, libc::SIGKILL).await;
        let killed = Instant::now();
        let mut report = Report::new(format!("kill -9 of {}", victim.name));
        loop {
            let status = self.cluster.status().await;
            let again = |process: &&holdfast_e2e::cluster::Process| {
                process.name == victim.name && process.ready && process.pid != victim.pid
            };
            if status.processes.iter().find(again).is_some() {
                break;
            }
            self.give_up_after(killed, "a restart")?;
            sleep(POLL_INTERVAL).await;
        }
        report.add("ready_again_s", killed.elapsed().as_secs_f64());
        if role == "meta" {
            // Its successor is fed every row of every shard once more.
            let wanted = fed - own_fed + self.wish.count as u64;
            while registry::rows_fed(self.cluster).await < wanted {
                self.give_up_after(killed, "the feed of all rows")?;
                sleep(POLL_INTERVAL).await;
            }
            report.add("all_rows_fed_again_s", killed.elapsed().as_secs_f64());
        }
        if let Some(pulse) = pulse {
            pulse.add_to(&mut report);
        }
        report.print(self.json);
        Ok(())
    }

    fn give_up_after(&self, started: Instant, what: &'static str) -> Result<(), BenchError> {
        if started.elapsed() > PATIENCE {
            return Err(BenchError::Late(what, PATIENCE));
        }
        Ok(())
    }
}

/// What it took to make sessions.
struct Made {
    per_s: f64,
    retries: u64,
    own_cpu_share: f64,
    cpu_us_per_session: Vec<(String, f64)>,
}

impl Made {
    fn add_to(&self, report: &mut Report) {
        report.add("made_per_s", self.per_s);
        report.add("tried_again", self.retries as f64);
        report.add("own_cpu_share", self.own_cpu_share);
        for (role, cpu) in &self.cpu_us_per_session {
            report.add(format!("{role}_cpu_us_per_session"), *cpu);
        }
    }
}

fn client_id(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number:09}")
}

fn stored(client_id: &str, expiry_s: u32) -> Connect {
    Connect { expiry_s: Some(expiry_s), ..Connect::durable(Version::V5, client_id) }
}

fn source(number: usize) -> Ipv4Addr {
    let last = u8::try_from(number % SOURCES).unwrap_or(0);
    Ipv4Addr::new(127, 0, 1, last + 1)
}

async fn make_one(
    number: usize,
    address: &str,
    id: &str,
    expiry_s: &impl Fn(Instant) -> u32,
) -> io::Result<()> {
    let connect = stored(id, expiry_s(Instant::now()));
    let (mut link, _) = Link::connect_from(source(number), address, &connect, INPUT_BYTES).await?;
    let (commands, firmware) = (format!("cmd/{id}/+/set/#"), format!("fw/{id}/release/new"));
    link.subscribe_all(&[&commands, &firmware]).await?;
    link.disconnect().await
}

async fn resume(number: usize, address: &str, id: &str) -> io::Result<Link> {
    let connect = stored(id, EXPIRY_S);
    match Link::connect_from(source(number), address, &connect, INPUT_BYTES).await? {
        (link, true) => Ok(link),
        (_, false) => Err(io::Error::other(format!("the session of {id} is lost"))),
    }
}
