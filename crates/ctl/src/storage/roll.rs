//! `holdfast storage roll`: begins new generations.

use clap::Args;
use holdfast_admin_api::{Rolled, ShardList};

use crate::api::{Api, ApiArgs, Request};
use crate::console::{self, Progress};
use crate::failure::{Failure, Outcome};
use crate::table::{self, Cell, Row};

/// Which shards.
#[derive(Debug, Args)]
pub(crate) struct RollArgs {
    /// Only this shard
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for Rolled {
    const TITLES: &'static [&'static str] = &[">shard", ">generation"];

    fn cells(&self) -> Vec<Cell> {
        vec![self.shard.into(), self.generation.into()]
    }
}

/// Numbers of the wanted shards.
pub(super) async fn shards(api: &Api, only: Option<u32>) -> Outcome<Vec<u32>> {
    if let Some(only) = only {
        return Ok(vec![only]);
    }
    let list: ShardList = api.ask(Request::get("/shards")).await?;
    Ok(list.shards.iter().map(|shard| shard.shard).collect())
}

pub(super) async fn run(args: &RollArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let shards = shards(&api, args.shard).await?;
    let (mut rolled, mut failed) = (Vec::<Rolled>::new(), None);
    let mut progress = Progress::default();
    for shard in &shards {
        progress.show(format!("shard {shard}: {} of {} are rolled", rolled.len(), shards.len()));
        // Twice would make an empty generation.
        match api.ask(Request::post(format!("/shards/{shard}/roll")).once()).await {
            Ok(done) => rolled.push(done),
            Err(error) => {
                failed = Some((shard, Failure::from(error)));
                break;
            }
        }
    }
    progress.clear();
    match args.api.json {
        true => console::json(&rolled),
        false => table::show(&rolled, "no shard was rolled"),
    }
    match failed {
        None => Ok(()),
        Some((shard, failure)) => {
            let message = format!("shard {shard} is not rolled: {}", failure.message);
            Err(Failure { message, ..failure })
        }
    }
}
