//! `holdfast`: runs a cluster on this machine, tells how it is, and steers the storage of any cluster.

mod config_file;
mod console;
mod data_dir;
mod down;
mod drain;
mod plan;
mod ports;
mod probe;
mod process;
mod programs;
mod role;
mod scale;
mod sessions;
mod sites;
mod status;
mod steering;
mod storage;
mod supervisor;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config_file::Setting;
use crate::sessions::SessionsCommand;
use crate::storage::StorageCommand;

/// Runs a Holdfast cluster on this machine, and steers the storage of any cluster.
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
    /// Change the number of storage nodes or gateways of the running cluster
    Scale(ScaleArgs),
    /// Show and steer the storage nodes' sites
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Show sessions
    #[command(subcommand)]
    Sessions(SessionsCommand),
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
    /// Number of storage nodes (3); fewer than before only if the others are drained
    #[arg(long, value_name = "N")]
    storage: Option<u16>,
    /// Number of meta-service processes (1); more than one need --etcd
    #[arg(long, value_name = "N")]
    meta: Option<u16>,
    /// Keep metadata in an etcd of as many members, 1, 3 or 5 (0: in the meta-service itself)
    #[arg(long, value_name = "N")]
    etcd: Option<u16>,
    /// Replicas of each shard, 1, 3 or 5 (3, or 1 on fewer than 3 storage nodes)
    #[arg(long, value_name = "N")]
    replication_factor: Option<u16>,
    /// Zones over which storage nodes are spread in turn (0: none)
    #[arg(long, value_name = "N")]
    zones: Option<u16>,
    /// MQTT port of the first gateway, the others follow (1883); 0 picks free ones
    #[arg(long, value_name = "P")]
    mqtt_port: Option<u16>,
    /// Leave a process that died as it is
    #[arg(long)]
    no_restart: bool,
    /// Set a config field in all processes of a role, or in one process, e.g.
    /// gateway.mqtt.keep_alive_max_s=60 or storage-1.protocol_version_max=1
    #[arg(long, value_name = "ROLE|NAME.FIELD=VALUE")]
    set: Vec<Setting>,
}

/// How many there shall be. Numbers that are not given stay as they are.
#[derive(Debug, Args)]
struct ScaleArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Number of storage nodes; one that is to go must be drained first
    #[arg(long, value_name = "N")]
    storage: Option<u16>,
    /// Number of gateways; those with the highest numbers go
    #[arg(long, value_name = "N")]
    gateways: Option<u16>,
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
        Command::Scale(args) => scale::run(&args).await.map_err(|error| error.to_string()),
        Command::Storage(command) => storage::run(command).await.map_err(|error| error.to_string()),
        Command::Sessions(command) => {
            sessions::run(command).await.map_err(|error| error.to_string())
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
