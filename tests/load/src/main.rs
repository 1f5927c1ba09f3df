//! `holdfast-load`: measures a cluster from outside and by what its processes use.
//!
//! One thread drives all connections; packets are encoded once and patched. It reports its own CPU
//! time, too: where that is near the measured time, it is the bottleneck.

mod latency;
mod link;
mod meter;
mod publisher;
mod report;
mod run;
mod scenario;
mod sessions;
mod subscriber;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use holdfast_e2e::cluster::{self, Cluster};

use crate::meter::Meter;
use crate::run::{Bench, BenchError};
use crate::scenario::Scenario;

/// Measures a Holdfast cluster. Starts one of its own unless told otherwise.
#[derive(Debug, Parser)]
#[command(name = "holdfast-load", version)]
struct Cli {
    /// What to measure: all, idle, pairwise, fan-in, fan-out, rate, drain, offline, storm, connections
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
    /// Idle connections whose memory is measured
    #[arg(long, value_name = "N", default_value_t = 5000)]
    connections: usize,
    /// One JSON object a scenario instead of text
    #[arg(long)]
    json: bool,
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
    addresses.extend(cli.connect);
    if addresses.is_empty() {
        return Err(BenchError::NoGateway);
    }
    let bench = Bench {
        addresses,
        meter: Meter::new(&processes),
        duration: Duration::from_secs(cli.seconds),
        payload_bytes: usize::from(cli.payload),
        window: cli.window,
        storm_sessions: cli.sessions,
        idle_connections: cli.connections,
    };
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
