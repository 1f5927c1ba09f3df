//! `holdfast`: runs a cluster on this machine, tells how it is, and steers the storage of any cluster.

mod console;
mod drain;
mod local;
mod sessions;
mod steering;
mod storage;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::local::data_dir::DataArgs;
use crate::local::scale::{self, ScaleArgs};
use crate::local::up::{self, UpArgs};
use crate::local::{down, status};
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
