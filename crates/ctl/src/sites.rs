//! `holdfast sites`: storage nodes' data, and what an operator may do with it.

mod follow;
mod list;
mod shrink;
mod steer;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use self::list::{ListArgs, ShowArgs};
pub(crate) use self::list::{liveness, state_name};
use self::shrink::ShrinkArgs;
use self::steer::{DrainArgs, SteerArgs};
use crate::failure::Outcome;

/// What to do with sites.
#[derive(Debug, Subcommand)]
pub(crate) enum SitesCommand {
    /// Show all sites and what they hold
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  holdfast sites list
  holdfast sites list --json | jq -r '.sites[] | select(.liveness != \"up\") | .name'"
    )]
    List(ListArgs),
    /// Show one site, and what is on its way from and to it
    #[command(
        visible_alias = "get",
        alias = "describe",
        after_help = "\
Examples:
  holdfast sites show storage-2
  holdfast sites show 5f0c31a2b7d94e18"
    )]
    Show(ShowArgs),
    /// Move everything away from a site; ends when its process may be stopped for good
    #[command(after_help = "\
Examples:
  holdfast sites drain storage-2            # ends when nothing is left on it
  holdfast sites drain storage-2 --no-wait  # only begins it
  holdfast sites drain storage-2 --cancel   # calls it off: the site gets its share again

Safe to interrupt and to repeat: the cluster goes on by itself.")]
    Drain(DrainArgs),
    /// Give a site that is down up for lost now, and let others take its place
    #[command(after_help = "\
Examples:
  holdfast sites replace storage-2          # do not wait for site_replace_after_s
  holdfast status --watch                   # see the others take over")]
    Replace(SteerArgs),
    /// Remove a site that holds nothing and is down
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  holdfast sites forget storage-2
  holdfast sites forget 5f0c31a2b7d94e18    # by id, if two have the same name"
    )]
    Forget(SteerArgs),
    /// Drain the sites with the highest numbers, so that a tier can be scaled in
    #[command(after_help = "\
Examples:
  holdfast sites shrink --prefix holdfast-storage- --to 3   # drains …-3, …-4 and so on
  holdfast sites shrink --prefix storage- --to 3 --no-wait

Exit code 0 if there is nothing to drain: safe to run before every upgrade.")]
    Shrink(ShrinkArgs),
}

/// Which site.
#[derive(Debug, Clone, Args)]
pub(crate) struct SiteArg {
    /// Name of the storage node, or site id in hexadecimal
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) site: String,
}

/// Does it.
pub(crate) async fn run(command: SitesCommand) -> Outcome {
    match command {
        SitesCommand::List(args) => list::list(&args).await,
        SitesCommand::Show(args) => list::show(&args).await,
        SitesCommand::Drain(args) => steer::drain(&args).await,
        SitesCommand::Replace(args) => steer::replace(&args).await,
        SitesCommand::Forget(args) => steer::forget(&args).await,
        SitesCommand::Shrink(args) => shrink::run(&args).await,
    }
}
