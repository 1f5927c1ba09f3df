//! `holdfast-load`: measures a cluster from outside and by what its processes use.
//!
//! One thread drives all connections; packets are encoded once and patched. It reports its own CPU
//! time, too: where that is near the measured time, it is the bottleneck.

mod footprint;
mod latency;
mod link;
mod meter;
mod publisher;
mod pulse;
mod registry;
mod report;
mod run;
mod scenario;
mod sessions;
mod stored;
mod subscriber;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use holdfast_e2e::cluster::{self, Cluster, Process};

use crate::meter::Meter;
use crate::run::{Bench, BenchError};
use crate::scenario::Scenario;
use crate::stored::{Stored, Wish};

/// Measures a Holdfast cluster. Starts one of its own unless told otherwise.
#[derive(Debug, Parser)]
#[command(name = "holdfast-load", version)]
struct Cli {
    /// What to measure: all, idle, pairwise, fan-in, fan-out, rate, drain, offline, storm, connections,
    /// and sessions, which is not a part of all
    #[arg(default_values_t = ["all".to_owned()])]
    scenarios: Vec<String>,
    /// How long each rate is measured
    #[arg(long, value_name = "N", default_value_t = 8)]
    seconds: u64,
    /// Measure the cluster that runs with data in DIR
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Measure any MQTT 5 server at these addresses, without what its processes use
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    connect: Vec<String>,
    /// Bytes of a payload
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(16..))]
    payload: u16,
    /// Unacknowledged messages of a publisher
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..1000))]
    window: u16,
    /// Sessions of the reconnect storm
    #[arg(long, value_name = "N", default_value_t = 5000)]
    sessions: usize,
    /// Scenario sessions: how many are stored
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = at_least_one)]
    count: usize,
    /// Scenario sessions: how many more are made that expire at one moment
    #[arg(long, value_name = "N", default_value_t = 0, num_args = 0..=1, default_missing_value = "20000")]
    expire: usize,
    /// Scenario sessions: connections that are being made at the same time
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one)]
    at_once: usize,
    /// Scenario sessions: sessions that are resumed at once
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = at_least_one)]
    storm: usize,
    /// Scenario sessions: with two meta-services on three etcd members
    #[arg(long)]
    etcd: bool,
    /// Scenario sessions: a setting of the cluster, as for `holdfast up`
    #[arg(long, value_name = "ROLE.FIELD=VALUE")]
    set: Vec<String>,
    /// Idle connections whose memory is measured
    #[arg(long, value_name = "N", default_value_t = 5000)]
    connections: usize,
    /// One JSON object a scenario instead of text
    #[arg(long)]
    json: bool,
}

impl Cli {
    fn bench(&self, addresses: Vec<String>, processes: &[Process]) -> Bench {
        Bench {
            addresses,
            meter: Meter::new(processes),
            duration: Duration::from_secs(self.seconds),
            payload_bytes: usize::from(self.payload),
            window: self.window,
            storm_sessions: self.sessions,
            idle_connections: self.connections,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(bad) => Err(format!("{bad}")),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let scenarios = match Scenario::parse_all(&cli.scenarios) {
        Ok(scenarios) => scenarios,
        Err(unknown) => {
            eprintln!("scenario {unknown:?} is not allowed: all, {}", Scenario::names());
            return ExitCode::from(2);
        }
    };
    meter::raise_file_limit();
    match tokio::task::LocalSet::new().run_until(measure(cli, scenarios)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(cli: Cli, scenarios: Vec<Scenario>) -> Result<(), BenchError> {
    let (stored, usual): (Vec<Scenario>, Vec<Scenario>) =
        scenarios.into_iter().partition(|scenario| *scenario == Scenario::Sessions);
    if !stored.is_empty() {
        measure_stored(&cli).await?;
    }
    if usual.is_empty() { Ok(()) } else { measure_usual(cli, usual).await }
}

async fn measure_stored(cli: &Cli) -> Result<(), BenchError> {
    if cli.data.is_some() || !cli.connect.is_empty() {
        return Err(BenchError::OwnCluster);
    }
    let (count, expire, at_once) = (cli.count, cli.expire, cli.at_once);
    let settings = cli.set.clone();
    let wish = Wish { count, expire, at_once, storm: cli.storm, etcd: cli.etcd, settings };
    eprintln!("starting a cluster");
    let mut cluster = Cluster::with(wish.shape()).await;
    let processes = cluster.status().await.processes;
    let addresses = processes.iter().filter_map(|process| process.mqtt.clone()).collect();
    let bench = cli.bench(addresses, &processes);
    Stored { bench, cluster: &cluster, wish, json: cli.json }.run().await?;
    cluster.down().await;
    Ok(())
}

async fn measure_usual(cli: Cli, scenarios: Vec<Scenario>) -> Result<(), BenchError> {
    let mut own = None;
    let processes = if !cli.connect.is_empty() {
        Vec::new()
    } else if let Some(data) = &cli.data {
        cluster::status_of(data).processes
    } else {
        eprintln!("starting a cluster");
        let cluster = own.insert(Cluster::start().await);
        cluster.status().await.processes
    };
    let mut addresses: Vec<String> = processes.iter().filter_map(|p| p.mqtt.clone()).collect();
    addresses.extend(cli.connect.iter().cloned());
    if addresses.is_empty() {
        return Err(BenchError::NoGateway);
    }
    let bench = cli.bench(addresses, &processes);
    for scenario in scenarios {
        for report in bench.run(scenario).await? {
            report.print(cli.json);
        }
    }
    if let Some(mut cluster) = own {
        cluster.down().await;
    }
    Ok(())
}
