//! `holdfast storage`: sites, transitions, and what an operator may ask for.

use clap::{Args, Subcommand};
use holdfast_proto::meta::{SiteDetail, SiteInfo, StorageDescription, Transition};
use serde::Serialize;

use crate::console::{self, size};
use crate::drain::{self, DrainArgs, DrainError};
use crate::steering::{Steering, SteeringArgs, SteeringError, liveness_name, site_id, state_name};

/// What to do with storage.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Show all sites and what they hold
    List(ListArgs),
    /// Move everything away from a site; ends when its process may be stopped for good
    Drain(DrainArgs),
    /// Give a site that is down up for lost now, and let others take its place
    Replace(SiteArgs),
    /// Remove a site that holds nothing and is down
    Forget(SiteArgs),
    /// Show replicas on their way from one site to another
    Transitions(ListArgs),
}

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    steering: SteeringArgs,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Which site.
#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    /// Site id in hexadecimal, or name
    site: String,
    #[command(flatten)]
    steering: SteeringArgs,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Does it.
pub(crate) async fn run(command: StorageCommand) -> Result<(), DrainError> {
    match command {
        StorageCommand::List(args) => Ok(list(&args).await?),
        StorageCommand::Drain(args) => drain::run(&args).await,
        StorageCommand::Replace(args) => Ok(replace(&args).await?),
        StorageCommand::Forget(args) => Ok(forget(&args).await?),
        StorageCommand::Transitions(args) => Ok(transitions(&args).await?),
    }
}

/// One site as scripts see it; fields are added, none is changed.
#[derive(Debug, Serialize)]
struct SiteLine {
    site_id: String,
    name: String,
    address: String,
    zone: String,
    /// active, draining, drained, lost.
    state: &'static str,
    /// up, down, dead.
    liveness: &'static str,
    replicas: u32,
    leading: u32,
    holding: u32,
    used_bytes: u64,
    capacity_bytes: u64,
    missing_bytes: u64,
}

/// One transition as scripts see it.
#[derive(Debug, Serialize)]
struct TransitionLine {
    shard: u32,
    /// Absent: nobody leaves.
    from_site: Option<String>,
    /// Absent: nobody joins.
    to_site: Option<String>,
    votes_moved: bool,
    missing_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Listing {
    sites: Vec<SiteLine>,
    transitions: Vec<TransitionLine>,
}

impl Listing {
    fn of(description: &StorageDescription) -> Listing {
        Listing {
            sites: description.sites.iter().map(SiteLine::of).collect(),
            transitions: description.transitions.iter().map(TransitionLine::of).collect(),
        }
    }
}

impl SiteLine {
    fn of(site: &SiteDetail) -> SiteLine {
        let info: SiteInfo = site.info.clone().unwrap_or_default();
        SiteLine {
            site_id: site_id(info.site_id),
            zone: info.labels.get("zone").cloned().unwrap_or_default(),
            state: state_name(info.state()),
            liveness: liveness_name(info.liveness()),
            name: info.name,
            address: info.address,
            replicas: site.replicas,
            leading: site.leading,
            holding: site.holding,
            used_bytes: site.used_bytes,
            capacity_bytes: site.capacity_bytes,
            missing_bytes: site.missing_bytes,
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.site_id.clone(),
            self.name.clone(),
            self.address.clone(),
            if self.zone.is_empty() { "-".to_owned() } else { self.zone.clone() },
            format!("{}, {}", self.state, self.liveness),
            self.replicas.to_string(),
            self.leading.to_string(),
            self.holding.to_string(),
            format!("{} / {}", size(self.used_bytes), size(self.capacity_bytes)),
            size(self.missing_bytes),
        ]
    }
}

impl TransitionLine {
    fn of(transition: &Transition) -> TransitionLine {
        let site = |id: u64| (id != 0).then(|| site_id(id));
        TransitionLine {
            shard: transition.shard,
            from_site: site(transition.from_site),
            to_site: site(transition.to_site),
            votes_moved: transition.votes_moved,
            missing_bytes: transition.missing_bytes,
        }
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |site: &Option<String>| site.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            self.shard.to_string(),
            or_dash(&self.from_site),
            or_dash(&self.to_site),
            if self.votes_moved { "moved" } else { "to be moved" }.to_owned(),
            size(self.missing_bytes),
        ]
    }
}

async fn list(args: &ListArgs) -> Result<(), SteeringError> {
    let description = Steering::find(&args.steering)?.describe().await?;
    let listing = Listing::of(&description);
    if args.json {
        console::json(&listing);
        return Ok(());
    }
    let titles = [
        "site", "name", "address", "zone", "state", "replicas", "leading", "holding", "used",
        "missing",
    ];
    show(&titles, listing.sites.iter().map(SiteLine::row));
    if !listing.transitions.is_empty() {
        console::line(format!(
            "{} transition(s) under way: `holdfast storage transitions`",
            listing.transitions.len()
        ));
    }
    Ok(())
}

async fn transitions(args: &ListArgs) -> Result<(), SteeringError> {
    let description = Steering::find(&args.steering)?.describe().await?;
    let listing = Listing::of(&description);
    if args.json {
        console::json(&listing.transitions);
    } else if listing.transitions.is_empty() {
        console::line("none");
    } else {
        let titles = ["shard", "from", "to", "votes", "missing"];
        show(&titles, listing.transitions.iter().map(TransitionLine::row));
    }
    Ok(())
}

fn show(titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = vec![titles.iter().map(|title| (*title).to_owned()).collect()];
    table.extend(rows);
    console::line(console::table(&table));
}

#[derive(Debug, Serialize)]
struct Done {
    site_id: String,
}

async fn replace(args: &SiteArgs) -> Result<(), SteeringError> {
    let reply = Steering::find(&args.steering)?.replace(&args.site).await?;
    let site_id = site_id(reply.site_id);
    if args.json {
        console::json(&Done { site_id });
    } else {
        console::line(format!(
            "site {site_id} is given up; `holdfast storage list` shows progress"
        ));
    }
    Ok(())
}

async fn forget(args: &SiteArgs) -> Result<(), SteeringError> {
    let reply = Steering::find(&args.steering)?.forget(&args.site).await?;
    let site_id = site_id(reply.site_id);
    if args.json {
        console::json(&Done { site_id });
    } else {
        console::line(format!("site {site_id} is forgotten"));
    }
    Ok(())
}
