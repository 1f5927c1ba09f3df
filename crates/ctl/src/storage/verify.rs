//! `holdfast storage verify`: reads everything and compares it.

use clap::Args;
use holdfast_admin_api::{RunCheck, Shard, ShardList, Site, SiteCheck, Verified, Verify};
use serde::Serialize;

use super::roll::shards;
use crate::amount::{Bytes, size};
use crate::api::{Api, ApiArgs, Request, segment};
use crate::console::{self, Progress, Tone};
use crate::failure::{Failure, Outcome};
use crate::table::{self, Cell, Row};

/// What to read, and how fast.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Only replicas of this site (name or id)
    #[arg(long)]
    site: Option<String>,
    /// Only this shard
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// How much each site reads in a second, as 50MB [default: as much as it can]
    #[arg(long, value_name = "BYTES")]
    bytes_per_s: Option<Bytes>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Everything that was verified. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    shards: Vec<Verified>,
}

impl Row for Verified {
    const TITLES: &'static [&'static str] = &[">shard", "result", ">sites", ">runs", ">read"];

    fn cells(&self) -> Vec<Cell> {
        let (result, tone) = if self.ok { ("whole", Tone::Good) } else { ("NOT WHOLE", Tone::Bad) };
        let sum = |of: fn(&SiteCheck) -> u64| self.sites.iter().map(of).sum::<u64>();
        vec![
            self.shard.into(),
            Cell::toned(result, tone),
            self.sites.len().to_string().into(),
            sum(|site| site.runs).into(),
            size(sum(|site| site.bytes)).into(),
        ]
    }
}

/// What is wrong with a shard, a line each.
fn complaints(verified: &Verified) -> Vec<String> {
    let of_shard = |text: String| format!("shard {}: {text}", verified.shard);
    let bad = |site: &SiteCheck, run: &RunCheck| {
        format!(
            "{}: generation {}, positions {} to {}: {}",
            site.site, run.generation, run.first_position, run.end_position, run.problem
        )
    };
    let sites = verified.sites.iter().flat_map(|site| {
        let unasked =
            site.error.iter().map(|why| format!("{} could not be asked: {why}", site.site));
        unasked.chain(site.bad.iter().map(|run| bad(site, run))).collect::<Vec<_>>()
    });
    sites.chain(verified.differences.iter().cloned()).map(of_shard).collect()
}

/// Shards that have a replica on a site.
async fn shards_of(api: &Api, site: &str) -> Outcome<Vec<u32>> {
    let site: Site = api.ask(Request::get(format!("/sites/{}", segment(site)))).await?;
    let list: ShardList = api.ask(Request::get("/shards")).await?;
    let has = |shard: &Shard| shard.replicas.iter().any(|replica| replica.site == site.name);
    Ok(list.shards.into_iter().filter(has).map(|shard| shard.shard).collect())
}

pub(super) async fn run(args: &VerifyArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let wanted = match (&args.site, args.shard) {
        (Some(site), None) => shards_of(&api, site).await?,
        (_, shard) => shards(&api, shard).await?,
    };
    let bytes_per_s = args.bytes_per_s.map(|bytes| bytes.0);
    let query = Verify { site: args.site.clone(), bytes_per_s };
    let mut shards: Vec<Verified> = Vec::new();
    let mut progress = Progress::default();
    for shard in &wanted {
        let read: u64 = shards.iter().flat_map(|it| &it.sites).map(|site| site.bytes).sum();
        let done = shards.len();
        progress.show(format!(
            "shard {shard}: {done} of {} verified, {} read",
            wanted.len(),
            size(read)
        ));
        let request = Request::post(format!("/shards/{shard}/verify")).query(&query).slow();
        shards.push(api.ask(request).await?);
    }
    progress.clear();
    let report = Report { ok: shards.iter().all(|shard| shard.ok), shards };
    if args.api.json {
        console::json(&report);
    } else {
        table::show(&report.shards, "there is nothing to verify");
    }
    let complaints: Vec<String> = report.shards.iter().flat_map(complaints).collect();
    if report.ok {
        return Ok(());
    }
    complaints.iter().for_each(console::note);
    let count = report.shards.iter().filter(|shard| !shard.ok).count();
    Err(Failure::failed(format!("{count} of {} shards are not whole", report.shards.len()))
        .hint("a damaged replica is rebuilt from the others: `holdfast sites drain SITE`, or wipe its data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_complaint_names_shard_and_site() {
        let run = RunCheck {
            generation: 4,
            first_position: 10,
            end_position: 20,
            problem: "checksum differs".to_owned(),
        };
        let site = |name: &str, error: Option<&str>, bad: Vec<RunCheck>| SiteCheck {
            site: name.to_owned(),
            error: error.map(str::to_owned),
            applied_index: 1,
            runs: 1,
            bytes: 1,
            bad,
        };
        let verified = Verified {
            shard: 3,
            ok: false,
            sites: vec![site("a", Some("down"), vec![]), site("b", None, vec![run])],
            differences: vec!["a lacks run 10 to 20".to_owned()],
        };
        let told = complaints(&verified);
        assert_eq!(told.len(), 3);
        assert!(told.iter().all(|line| line.starts_with("shard 3: ")), "{told:?}");
        assert!(told[1].contains("b: generation 4, positions 10 to 20"), "{told:?}");
    }
}
