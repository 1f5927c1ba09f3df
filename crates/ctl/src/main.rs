//! `holdfast`: runs a cluster on this machine, and shows and steers any cluster.

mod amount;
mod api;
mod bench;
mod capacity;
mod cli;
mod clients;
mod console;
mod failure;
mod gateways;
mod local;
mod mqtt;
mod probe;
mod sessions;
mod shards;
mod sites;
mod status;
mod storage;
mod table;
mod tokens;
mod users;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::cli::{Cli, Command};
use crate::failure::Outcome;
use crate::local::{down, halt, scale, up};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Wrong usage ends here, with code 2.
    let command = cli::command();
    let args = cli::early::moved(std::env::args_os(), &command);
    let cli = Cli::from_arg_matches(&command.get_matches_from(args));
    let done = match cli {
        Ok(cli) => run(cli.command).await,
        Err(error) => error.exit(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console::failure(&failure);
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> Outcome {
    match command {
        Command::Up(args) => Ok(up::run(args).await?),
        Command::Down(args) => Ok(down::run(&args).await?),
        Command::Stop(args) => Ok(halt::stop(&args).await?),
        Command::Start(args) => Ok(halt::start(&args).await?),
        Command::Scale(args) => Ok(scale::run(&args).await?),
        Command::Status(args) => status::run(&args).await,
        Command::Sites(command) => sites::run(command).await,
        Command::Shards(command) => shards::run(command).await,
        Command::Storage(command) => storage::run(command).await,
        Command::Gateways(args) => gateways::run(&args).await,
        Command::Sessions(command) => sessions::run(command).await,
        Command::Clients(args) => clients::clients(&args).await,
        Command::Subscriptions(args) => clients::subscriptions(&args).await,
        Command::Publish(args) => mqtt::publish::run(&args).await,
        Command::Subscribe(args) => mqtt::subscribe::run(&args).await,
        Command::Check(args) => mqtt::check::run(&args).await,
        Command::Bench(args) => bench::run(&args).await,
        Command::Capacity(args) => capacity::run(&args),
        Command::Users(command) => users::run(command).await,
        Command::Tokens(command) => tokens::run(command).await,
        Command::Completion(args) => {
            clap_complete::generate(
                args.shell,
                &mut cli::command(),
                "holdfast",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Probe(args) => probe::run(&args).await,
        Command::Wait(args) => probe::wait(&args).await,
    }
}
