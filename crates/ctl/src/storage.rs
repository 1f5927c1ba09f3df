//! `holdfast storage`: what all sites hold together, and whether it is whole.

mod info;
mod roll;
mod verify;

use clap::Subcommand;

use self::info::InfoArgs;
use self::roll::RollArgs;
use self::verify::VerifyArgs;
use crate::failure::Outcome;

/// What to do with storage.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Show what the storage tier holds: shards, generations, streams, runs, messages, bytes
    #[command(after_help = "\
Examples:
  holdfast storage info
  holdfast storage info --json | jq .messages")]
    Info(InfoArgs),
    /// Show replicas on their way from one site to another
    #[command(after_help = "\
Examples:
  holdfast storage transitions
  watch -n 2 holdfast storage transitions")]
    Transitions(InfoArgs),
    /// Seal the current generation of shards, so that retention can drop it
    #[command(after_help = "\
Examples:
  holdfast storage roll               # all shards
  holdfast storage roll --shard 3")]
    Roll(RollArgs),
    /// Read all files of sites, compute their checksums and compare replicas
    #[command(after_help = "\
Examples:
  holdfast storage verify                                # everything
  holdfast storage verify --site storage-2 --shard 3
  holdfast storage verify --bytes-per-s 50MB             # leave the disks to others

Exit code 1 if anything is damaged, missing or different, or a site could not be asked.")]
    Verify(VerifyArgs),
}

/// Does it.
pub(crate) async fn run(command: StorageCommand) -> Outcome {
    match command {
        StorageCommand::Info(args) => info::info(&args).await,
        StorageCommand::Transitions(args) => info::transitions(&args).await,
        StorageCommand::Roll(args) => roll::run(&args).await,
        StorageCommand::Verify(args) => verify::run(&args).await,
    }
}
