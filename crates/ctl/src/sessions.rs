//! `holdfast sessions`: who is behind, who is connected where, and what waits for them.

mod backlog;
mod end;
mod list;

use clap::Subcommand;

use self::backlog::BacklogArgs;
use self::end::{DeleteArgs, KickArgs};
use self::list::{ListArgs, ShowArgs};
use crate::failure::Outcome;

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Show sessions in the order of their client ids
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  holdfast sessions list
  holdfast sessions list --prefix factory-1/ --disconnected --lag
  holdfast sessions list --lag-min 10000 --all      # who is far behind
  holdfast sessions list --all --json | jq -r '.sessions[].client_id'"
    )]
    List(ListArgs),
    /// Show one session with its subscriptions and what it has not read
    #[command(
        visible_alias = "get",
        alias = "describe",
        after_help = "\
Examples:
  holdfast sessions show sensor-17
  holdfast sessions show sensor-17 --json | jq .lag.oldest_age_s"
    )]
    Show(ShowArgs),
    /// Close the connection of a client; its session stays
    #[command(after_help = "\
Examples:
  holdfast sessions kick sensor-17

The client is told so (0x98, administrative action) and may connect again.")]
    Kick(KickArgs),
    /// End a session: its subscriptions and what waits for it are gone
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  holdfast sessions delete sensor-17
  holdfast sessions delete sensor-17 --yes          # in scripts"
    )]
    Delete(DeleteArgs),
    /// Show messages that a session has not acknowledged, and leave them where they are
    #[command(after_help = "\
Examples:
  holdfast sessions backlog sensor-17
  holdfast sessions backlog sensor-17 --limit 5 --json | jq -r '.messages[].payload'

Needs the role admin: it shows what clients have written.")]
    Backlog(BacklogArgs),
}

/// Does it.
pub(crate) async fn run(command: SessionsCommand) -> Outcome {
    match command {
        SessionsCommand::List(args) => list::list(&args).await,
        SessionsCommand::Show(args) => list::show(&args).await,
        SessionsCommand::Kick(args) => end::kick(&args).await,
        SessionsCommand::Delete(args) => end::delete(&args).await,
        SessionsCommand::Backlog(args) => backlog::run(&args).await,
    }
}
