//! A look at shards.

use holdfast_admin_api::{Generation, Replica, Shard, ShardList};

use super::{ListArgs, ShowArgs};
use crate::amount::{ago, size};
use crate::api::{Api, Request};
use crate::console::{self, Tone};
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};

impl Row for Shard {
    const TITLES: &'static [&'static str] =
        &[">shard", "leader", "->term", "replicas", "-placed", "->next position", ">runs"];

    fn cells(&self) -> Vec<Cell> {
        let leader = match &self.leader {
            Some(leader) if *leader == self.preferred_leader => Cell::from(leader.as_str()),
            Some(leader) => {
                Cell::toned(format!("{leader} ({} should)", self.preferred_leader), Tone::Warn)
            }
            None => Cell::toned("none", Tone::Bad),
        };
        let is_well = self.replicas.iter().all(|replica| replica.trouble().is_none());
        let replicas: Vec<String> = self.replicas.iter().map(Replica::short).collect();
        vec![
            self.shard.into(),
            leader,
            self.term.into(),
            Cell::toned(replicas.join(" "), if is_well { Tone::Plain } else { Tone::Warn }),
            if self.pinned { "by an operator" } else { "by the cluster" }.into(),
            self.next_position.into(),
            size(self.run_bytes).into(),
        ]
    }
}

/// What is asked of a replica beside its name.
trait Health {
    fn trouble(&self) -> Option<&'static str>;
    fn short(&self) -> String;
}

impl Health for Replica {
    fn trouble(&self) -> Option<&'static str> {
        match self {
            Replica { member: false, .. } => Some("history only"),
            Replica { votes: false, .. } => Some("no vote"),
            Replica { caught_up: false, .. } => Some("behind"),
            Replica { missing_runs, .. } if *missing_runs > 0 => Some("lacks history"),
            _ => None,
        }
    }

    fn short(&self) -> String {
        match self.trouble() {
            Some(trouble) => format!("{}({trouble})", self.site),
            None => self.site.clone(),
        }
    }
}

impl Row for Replica {
    const TITLES: &'static [&'static str] =
        &["site", "replica", "state", ">missing runs", ">missing"];

    fn cells(&self) -> Vec<Cell> {
        let state = match self.trouble() {
            Some(trouble) => Cell::toned(trouble, Tone::Warn),
            None => Cell::toned("whole", Tone::Good),
        };
        vec![
            self.site.as_str().into(),
            self.replica_id.as_str().into(),
            state,
            self.missing_runs.into(),
            size(self.missing_bytes).into(),
        ]
    }
}

impl Row for Generation {
    const TITLES: &'static [&'static str] =
        &[">generation", ">from", ">to", "began", "sealed", ">runs", ">bytes"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.generation.into(),
            self.first_position.into(),
            Cell::or_dash(self.end_position),
            format!("{} ago", ago(self.started_ms)).into(),
            self.sealed_ms.map_or("current".to_owned(), |at| format!("{} ago", ago(at))).into(),
            self.runs.into(),
            size(self.run_bytes).into(),
        ]
    }
}

pub(super) async fn list(args: &ListArgs) -> Outcome {
    let listing: ShardList = Api::find(&args.api)?.ask(Request::get("/shards")).await?;
    match args.api.json {
        true => console::json(&listing),
        false => table::show(&listing.shards, "no shards: the cluster has not formed yet"),
    }
    Ok(())
}

pub(super) async fn show(args: &ShowArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let shard: Shard = api.ask(Request::get(format!("/shards/{}", args.shard))).await?;
    if args.api.json {
        console::json(&shard);
        return Ok(());
    }
    console::facts(&[
        ("shard", shard.shard.to_string()),
        ("leader", shard.leader.clone().unwrap_or_else(|| "none".to_owned())),
        ("should lead", shard.preferred_leader.clone()),
        ("placed", if shard.pinned { "by an operator" } else { "by the cluster" }.to_owned()),
        ("term", shard.term.to_string()),
        ("next position", shard.next_position.to_string()),
        ("runs", size(shard.run_bytes)),
    ]);
    console::line(format!("\n{}", table::render(&shard.replicas)));
    if let Some(generations) = &shard.generations {
        console::line(format!("\n{}", table::render(generations)));
    }
    Ok(())
}
