//! `holdfast shards`: parts of the log, who leads them and who has replicas.

mod show;
mod steer;

use clap::{Args, Subcommand};

use self::steer::{MoveLeaderArgs, MoveReplicaArgs, ReleaseArgs};
use crate::api::ApiArgs;
use crate::failure::Outcome;

/// What to do with shards.
#[derive(Debug, Subcommand)]
pub(crate) enum ShardsCommand {
    /// Show all shards with leader and replicas
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  holdfast shards list
  holdfast shards list --json | jq '.shards[] | select(.leader == null) | .shard'"
    )]
    List(ListArgs),
    /// Show one shard with its replicas and generations
    #[command(
        visible_alias = "get",
        alias = "describe",
        after_help = "\
Examples:
  holdfast shards show 3
  holdfast shards show 3 --json | jq .generations"
    )]
    Show(ShowArgs),
    /// Make a site the leader of a shard, and keep it so while it can
    #[command(after_help = "\
Examples:
  holdfast shards move-leader 3 storage-2
  holdfast shards release 3                        # let the cluster decide again")]
    MoveLeader(MoveLeaderArgs),
    /// Move a replica of a shard to another site, and keep it there
    #[command(after_help = "\
Examples:
  holdfast shards move-replica 3 storage-1 storage-4
  holdfast shards move-replica 3 storage-1 storage-4 --no-wait
  holdfast storage transitions                     # what is on its way

Safe to interrupt: the cluster goes on by itself.")]
    MoveReplica(MoveReplicaArgs),
    /// Let the cluster place a shard again that an operator has placed
    #[command(after_help = "\
Examples:
  holdfast shards release 3
  holdfast shards list --json | jq '.shards[] | select(.pinned) | .shard'")]
    Release(ReleaseArgs),
}

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

/// Which one to show.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Number of the shard, from 0 on
    shard: u32,
    #[command(flatten)]
    api: ApiArgs,
}

/// Does it.
pub(crate) async fn run(command: ShardsCommand) -> Outcome {
    match command {
        ShardsCommand::List(args) => show::list(&args).await,
        ShardsCommand::Show(args) => show::show(&args).await,
        ShardsCommand::MoveLeader(args) => steer::move_leader(&args).await,
        ShardsCommand::MoveReplica(args) => steer::move_replica(&args).await,
        ShardsCommand::Release(args) => steer::release(&args).await,
    }
}
