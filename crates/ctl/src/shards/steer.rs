//! Moves leaders and replicas, and gives a shard back to the cluster.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use holdfast_admin_api::{MoveLeader, MoveReplica, Shard, Site, Transition, TransitionList};
use serde::de::IgnoredAny;
use tokio::time::sleep;

use crate::amount::size;
use crate::api::{Api, ApiArgs, ApiError, Request, segment};
use crate::console::{self, Progress};
use crate::failure::{Failure, Outcome};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Who shall lead.
#[derive(Debug, Args)]
pub(crate) struct MoveLeaderArgs {
    /// Number of the shard
    shard: u32,
    /// Name or id of a site with a replica of it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    site: String,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which replica goes where.
#[derive(Debug, Args)]
pub(crate) struct MoveReplicaArgs {
    /// Number of the shard
    shard: u32,
    /// Name or id of a site with a replica of it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    from: String,
    /// Name or id of one without
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    to: String,
    /// Return at once
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which shard.
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Number of the shard
    shard: u32,
    #[command(flatten)]
    api: ApiArgs,
}

fn path(shard: u32) -> String {
    format!("/shards/{shard}")
}

/// The name of a site that may be given by its id.
async fn name_of(api: &Api, site: &str) -> Result<String, ApiError> {
    let site: Site = api.ask(Request::get(format!("/sites/{}", segment(site)))).await?;
    Ok(site.name)
}

async fn look(api: &Api, shard: u32) -> Result<Shard, ApiError> {
    api.ask(Request::get(path(shard))).await
}

fn tell(shard: &Shard, json: bool, text: impl Fn() -> String) {
    match json {
        true => console::json(shard),
        false => console::line(text()),
    }
}

pub(super) async fn move_leader(args: &MoveLeaderArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let body = MoveLeader { site: args.site.clone() };
    let _: IgnoredAny = api.ask(Request::put(path(args.shard) + "/leader").body(&body)).await?;
    let to = name_of(&api, &args.site).await?;
    let is_there = |shard: &Shard| shard.leader.as_deref() == Some(&to);
    let shard = match args.no_wait {
        true => look(&api, args.shard).await?,
        false => {
            let waiting = |shard: &Shard| {
                let leader = shard.leader.as_deref().unwrap_or("nobody");
                format!("shard {}: {leader} leads, {to} shall", shard.shard)
            };
            wait_for(&api, args.shard, is_there, async |shard| Ok(waiting(shard))).await?
        }
    };
    tell(&shard, args.api.json, || match is_there(&shard) {
        true => format!("{to} leads shard {}", args.shard),
        false => format!("{to} shall lead shard {}", args.shard),
    });
    Ok(())
}

pub(super) async fn move_replica(args: &MoveReplicaArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let body = MoveReplica { from: args.from.clone(), to: args.to.clone() };
    let _: IgnoredAny =
        api.ask(Request::post(path(args.shard) + "/replicas").body(&body).once()).await?;
    let (from, to) = (name_of(&api, &args.from).await?, name_of(&api, &args.to).await?);
    let is_there = |shard: &Shard| {
        let at = |site: &str| shard.replicas.iter().find(|replica| replica.site == site);
        at(&from).is_none() && at(&to).is_some_and(|replica| replica.member && replica.votes)
    };
    let shard = match args.no_wait {
        true => look(&api, args.shard).await?,
        false => {
            let moving = async |shard: &Shard| moving(&api, shard, &from, &to).await;
            wait_for(&api, args.shard, is_there, moving).await?
        }
    };
    tell(&shard, args.api.json, || match is_there(&shard) {
        true => format!("the replica of shard {} moved from {from} to {to}", args.shard),
        false => format!("the replica of shard {} moves from {from} to {to}", args.shard),
    });
    Ok(())
}

/// How far it is, in words.
async fn moving(api: &Api, shard: &Shard, from: &str, to: &str) -> Result<String, ApiError> {
    let list: TransitionList = api.ask(Request::get("/transitions")).await?;
    let is_it = |it: &&Transition| it.shard == shard.shard;
    Ok(match (list.transitions.iter().find(is_it), list.held_back) {
        (Some(it), _) => format!(
            "shard {}: {from} → {to}, votes {}, {} of history still to be fetched",
            shard.shard,
            if it.votes_moved { "moved" } else { "to be moved" },
            size(it.missing_bytes)
        ),
        (None, Some(why)) => format!("shard {}: held back: {why}", shard.shard),
        (None, None) => format!("shard {}: {from} → {to} is to begin", shard.shard),
    })
}

pub(super) async fn release(args: &ReleaseArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let _: IgnoredAny = api.ask(Request::delete(path(args.shard) + "/pin")).await?;
    let shard = look(&api, args.shard).await?;
    tell(&shard, args.api.json, || format!("the cluster places shard {} again", args.shard));
    Ok(())
}

/// Looks at a shard until it is as wanted. Ctrl-C leaves the rest to the cluster.
async fn wait_for(
    api: &Api,
    shard: u32,
    is_met: impl Fn(&Shard) -> bool,
    text: impl AsyncFn(&Shard) -> Result<String, ApiError>,
) -> Outcome<Shard> {
    let mut progress = Progress::default();
    let mut pinned = false;
    let waited = async {
        loop {
            let now = look(api, shard).await?;
            if is_met(&now) {
                return Ok(now);
            }
            if pinned && !now.pinned {
                return Err(Failure::failed(format!(
                    "the cluster places shard {shard} again itself"
                ))
                .hint("it was released, or one of its sites is drained or lost"));
            }
            pinned |= now.pinned;
            progress.show(text(&now).await?);
            sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        done = waited => done,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::failed(
            "interrupted: the move goes on without this command",
        )
        .hint(format!("`holdfast shards show {shard}` shows it, `holdfast shards release {shard}` gives it up"))),
    }
}
