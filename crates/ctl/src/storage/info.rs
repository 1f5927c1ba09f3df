//! A look at the storage tier as a whole.

use clap::Args;
use holdfast_admin_api::{StorageTotals, TransitionList};

use crate::amount::size;
use crate::api::{Api, ApiArgs, Request};
use crate::console;
use crate::failure::Outcome;
use crate::table;

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn info(args: &InfoArgs) -> Outcome {
    let totals: StorageTotals = Api::find(&args.api)?.ask(Request::get("/storage")).await?;
    if args.api.json {
        console::json(&totals);
        return Ok(());
    }
    console::facts(&[
        ("sites", format!("{}, {} of them answered", totals.sites, totals.sites_asked)),
        ("shards", totals.shards.to_string()),
        ("replicas", format!("{}, {} of them behind", totals.replicas, totals.replicas_behind)),
        ("generations", totals.generations.to_string()),
        ("streams", totals.streams.to_string()),
        ("messages", totals.messages.to_string()),
        ("runs", format!("{}, {}", totals.runs, size(totals.run_bytes))),
        ("used", format!("{} of {}", size(totals.used_bytes), size(totals.capacity_bytes))),
        ("transitions", totals.transitions.len().to_string()),
        ("held back", totals.held_back.clone().unwrap_or_default()),
    ]);
    if !totals.transitions.is_empty() {
        console::line(format!("\n{}", table::render(&totals.transitions)));
    }
    Ok(())
}

pub(super) async fn transitions(args: &InfoArgs) -> Outcome {
    let list: TransitionList = Api::find(&args.api)?.ask(Request::get("/transitions")).await?;
    if args.api.json {
        console::json(&list);
        return Ok(());
    }
    table::show(&list.transitions, "no replica is on its way");
    if let Some(why) = list.held_back {
        console::note(format!("nothing is moved now: {why}"));
    }
    Ok(())
}
