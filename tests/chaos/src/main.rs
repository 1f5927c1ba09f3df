//! Faults on a cluster of real processes, one after the other, with a ledger of every message.
//!
//! Two processes: the outer one holds the lock and takes everything away in the end, however the
//! inner one ended, which runs the matrix.

// The harness that this is made of reports by panicking.
#![allow(clippy::unwrap_used)]

mod cluster;
mod delay;
mod disk;
mod fault;
mod ground;
mod inject;
mod load;
mod matrix;
mod member;
mod network;
mod process;
mod report;
mod roles;
mod tool;
mod trouble;
mod victims;
mod wall_clock;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::fault::Fault;
use crate::ground::Lock;
use crate::matrix::Matrix;
use crate::member::Shape;
use crate::trouble::Trouble;

/// Set in the inner process.
const INNER: &str = "HOLDFAST_CHAOS_INNER";
const EXIT_BROKEN: u8 = 1;
const EXIT_TROUBLE: u8 = 2;
const EXIT_SIGNAL: u8 = 130;

/// Runs a Holdfast cluster of its own, damages it in every way there is, and checks that nothing is
/// lost, repeated at QoS 2 or out of order. As root each process is a host of its own in a network
/// namespace; else all of them share loopback and the lines that cut networks are left out.
#[derive(Debug, Parser)]
#[command(name = "holdfast-chaos", version)]
struct Cli {
    /// Only lines whose name holds one of these
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Lists the lines and ends
    #[arg(long)]
    list: bool,
    /// Writes the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Decides the names of clients and so the shards that they live on
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// Behind meta-service; with sled there is one meta-service [default: etcd if it is installed]
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// How long all of etcd is down, s
    #[arg(long, value_name = "S", default_value_t = 60)]
    etcd_outage: u64,
    /// Publishes a second of all publishers together; each is delivered five times
    #[arg(long, value_name = "N", default_value_t = 90)]
    rate: u32,
    /// How often each line is run
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// Do not even try network namespaces
    #[arg(long)]
    loopback: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Etcd,
    Sled,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let faults = chosen(&cli);
    if cli.list {
        faults.iter().for_each(|fault| println!("{}", fault.name));
        return ExitCode::SUCCESS;
    }
    if faults.is_empty() {
        eprintln!("no line has such a name; --list shows them all");
        return ExitCode::from(EXIT_TROUBLE);
    }
    let is_inner = std::env::var_os(INNER).is_some();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::from(EXIT_TROUBLE);
        }
    };
    if is_inner {
        return runtime.block_on(run(&cli, &faults));
    }
    match runtime.block_on(guard()) {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            eprintln!("{trouble}");
            ExitCode::from(EXIT_TROUBLE)
        }
    }
}

fn chosen(cli: &Cli) -> Vec<Fault> {
    let mut faults = fault::matrix(Duration::from_secs(cli.etcd_outage));
    if !cli.only.is_empty() {
        faults.retain(|fault| cli.only.iter().any(|part| fault.name.contains(part.as_str())));
    }
    faults
}

/// Runs this program again and cleans up after it. Never a `?` between start and sweep.
async fn guard() -> Result<u8, Trouble> {
    let _lock = Lock::take()?;
    ground::sweep(false);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Trouble::system("signals"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Trouble::system("signals"))?;
    let own = std::env::current_exe().map_err(Trouble::system("find this program"))?;
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1)).env(INNER, "1");
    process::prepare(&mut command, None);
    let mut child = command.spawn().map_err(Trouble::system("start the inner process"))?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let waited = tokio::task::spawn_blocking(move || child.wait());
    let ended = async {
        match waited.await {
            Ok(Ok(status)) => status.code().and_then(|code| u8::try_from(code).ok()),
            _ => None,
        }
    };
    tokio::pin!(ended);
    let code = tokio::select! {
        code = &mut ended => code,
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    if code.is_none() {
        // Its processes die with it.
        process::signal(pid, libc::SIGKILL);
    }
    ground::sweep(false);
    Ok(code.unwrap_or(EXIT_SIGNAL))
}

async fn run(cli: &Cli, faults: &[Fault]) -> ExitCode {
    let store = cli.store.unwrap_or_else(|| {
        if cluster::etcd().is_some() {
            return Store::Etcd;
        }
        println!("etcd is not installed: one meta-service on sled, the lines of etcd are left out");
        Store::Sled
    });
    let (etcd, metas) = if store == Store::Etcd { (3, 2) } else { (0, 1) };
    let shape = Shape { etcd, metas, storage: 4, gateways: 3, lease_ms: 3_000 };
    println!(
        "{} gateways, {metas} meta-services, {etcd} etcd, {} storage nodes; seed {}",
        shape.gateways, shape.storage, cli.seed
    );
    println!("{}", report::heading());
    // Clients of the harness fail by panicking, which the line then tells.
    std::panic::set_hook(Box::new(|panic| eprintln!("    {panic}")));
    let mut matrix = Matrix::new(shape, cli.loopback, cli.rate, cli.seed);
    let mut lines = Vec::new();
    for round in 0..cli.times {
        for (at, fault) in faults.iter().enumerate() {
            let number = u32::try_from(at).unwrap_or(0) + round * 100;
            let line = matrix.run(fault, number).await;
            println!("{}", line.text());
            lines.push(line);
        }
    }
    if let Some(path) = &cli.json {
        let values: Vec<Value> = lines.iter().map(report::Line::json).collect();
        if let Err(error) = std::fs::write(path, format!("{:#}\n", Value::Array(values))) {
            eprintln!("{}: {error}", path.display());
        }
    }
    let broken = lines.iter().filter(|line| line.is_broken()).count();
    println!("{broken} of {} lines broken", lines.len());
    if broken > 0 { ExitCode::from(EXIT_BROKEN) } else { ExitCode::SUCCESS }
}
