//! A look at sites and at what moves between them.

use clap::Args;
use holdfast_admin_api::{Liveness, Site, SiteList, SiteState, Transition};

use super::SiteArg;
use crate::amount::size;
use crate::api::{Api, ApiArgs, Request, segment};
use crate::console::{self, Tone};
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

/// Which one to show.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    site: SiteArg,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for Site {
    const TITLES: &'static [&'static str] = &[
        "name",
        "state",
        "-site",
        "-address",
        "-zone",
        ">replicas",
        ">leading",
        "->holding",
        ">used",
        "->of",
        ">missing",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            state(self),
            self.site_id.as_str().into(),
            self.address.as_str().into(),
            Cell::or_dash(Some(&self.zone).filter(|zone| !zone.is_empty())),
            self.replicas.into(),
            self.leading.into(),
            self.holding.into(),
            size(self.used_bytes).into(),
            size(self.capacity_bytes).into(),
            size(self.missing_bytes).into(),
        ]
    }
}

impl Row for Transition {
    const TITLES: &'static [&'static str] = &[">shard", "from", "to", "votes", ">missing"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.shard.into(),
            Cell::or_dash(self.from.as_ref()),
            Cell::or_dash(self.to.as_ref()),
            if self.votes_moved { "moved" } else { "to be moved" }.into(),
            size(self.missing_bytes).into(),
        ]
    }
}

/// As people write it.
pub(crate) fn state_name(state: SiteState) -> &'static str {
    match state {
        SiteState::Active => "active",
        SiteState::Draining => "draining",
        SiteState::Drained => "drained",
        SiteState::Lost => "lost",
    }
}

/// As people write it, in the colour of the news.
pub(crate) fn liveness(liveness: Liveness) -> (&'static str, Tone) {
    match liveness {
        Liveness::Up => ("up", Tone::Good),
        Liveness::Down => ("down", Tone::Bad),
        Liveness::Dead => ("dead", Tone::Bad),
    }
}

fn state(site: &Site) -> Cell {
    let (liveness, tone) = liveness(site.liveness);
    let tone = match (site.state, tone) {
        (SiteState::Lost, _) => Tone::Bad,
        (SiteState::Draining | SiteState::Drained, Tone::Good) => Tone::Warn,
        (_, tone) => tone,
    };
    Cell::toned(format!("{}, {liveness}", state_name(site.state)), tone)
}

pub(super) async fn list(args: &ListArgs) -> Outcome {
    let listing: SiteList = Api::find(&args.api)?.ask(Request::get("/sites")).await?;
    if args.api.json {
        console::json(&listing);
        return Ok(());
    }
    table::show(&listing.sites, "no sites: no storage node has registered yet");
    if !listing.transitions.is_empty() {
        let count = listing.transitions.len();
        console::note(format!("replicas on their way: {count} (`holdfast storage transitions`)"));
    }
    if let Some(why) = &listing.held_back {
        console::note(format!("nothing is moved now: {why}"));
    }
    Ok(())
}

pub(super) async fn show(args: &ShowArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let site: Site = api.ask(Request::get(format!("/sites/{}", segment(&args.site.site)))).await?;
    if args.api.json {
        console::json(&site);
        return Ok(());
    }
    let labels = site.labels.iter().map(|(name, value)| format!("{name}={value}"));
    console::facts(&[
        ("name", site.name.clone()),
        ("site", site.site_id.clone()),
        ("state", format!("{}, {}", state_name(site.state), liveness(site.liveness).0)),
        ("address", site.address.clone()),
        ("zone", site.zone.clone()),
        ("labels", labels.collect::<Vec<_>>().join(" ")),
        ("replicas", format!("{} shards, {} of them led here", site.replicas, site.leading)),
        ("history only", format!("{} shards", site.holding)),
        ("used", format!("{} of {}", size(site.used_bytes), size(site.capacity_bytes))),
        ("missing", size(site.missing_bytes)),
    ]);
    let all: SiteList = api.ask(Request::get("/sites")).await?;
    let name = Some(&site.name);
    let moving: Vec<Transition> = all
        .transitions
        .into_iter()
        .filter(|it| it.from.as_ref() == name || it.to.as_ref() == name)
        .collect();
    if !moving.is_empty() {
        console::line(format!("\n{}", table::render(&moving)));
    }
    Ok(())
}
