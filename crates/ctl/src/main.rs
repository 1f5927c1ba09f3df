//! `holdfast`: runs a cluster on this machine and tells how it is.

mod config_file;
mod console;
mod data_dir;
mod down;
mod plan;
mod ports;
mod probe;
mod process;
mod role;
mod status;
mod supervisor;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config_file::Setting;

/// Runs a Holdfast cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster, follow its health, stop it on Ctrl-C
    Up(UpArgs),
    /// Stop the cluster
    Down(DataArgs),
    /// Tell which processes run and whether a durable publish would be acknowledged now
    Status(StatusArgs),
}

/// Where the cluster keeps its data.
#[derive(Debug, Args)]
struct DataArgs {
    /// Folder with data, configs, logs and ports of the cluster
    #[arg(long, value_name = "DIR", default_value = ".holdfast")]
    data: PathBuf,
}

/// What to start. Numbers that are not given stay as they were at the last start.
#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Remove the data of an earlier cluster first
    #[arg(long)]
    fresh: bool,
    /// Number of gateways (2)
    #[arg(long, value_name = "N")]
    gateways: Option<u16>,
    /// Number of storage nodes (3)
    #[arg(long, value_name = "N")]
    storage: Option<u16>,
    /// Number of meta-service processes (1)
    #[arg(long, value_name = "N")]
    meta: Option<u16>,
    /// MQTT port of the first gateway, the others follow (1883); 0 picks free ones
    #[arg(long, value_name = "P")]
    mqtt_port: Option<u16>,
    /// Leave a process that died as it is
    #[arg(long)]
    no_restart: bool,
    /// Set a config field in all processes of a role, e.g. gateway.keep_alive_max_s=60
    #[arg(long, value_name = "ROLE.FIELD=VALUE")]
    set: Vec<Setting>,
}

/// How to tell the status.
#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    data: DataArgs,
    /// For scripts
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up::run(args).await.map_err(|error| error.to_string()),
        Command::Down(args) => down::run(&args).await.map_err(|error| error.to_string()),
        Command::Status(args) => {
            status::run(&args.data.data, args.json).await.map_err(|error| error.to_string())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::error(error);
            ExitCode::FAILURE
        }
    }
}
