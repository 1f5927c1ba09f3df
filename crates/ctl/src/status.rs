//! `holdfast status`: whether the cluster is well; on this machine also which processes run.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use holdfast_admin_api::{ClusterStatus, Liveness};
use tokio::time::sleep;

use crate::api::{Api, ApiArgs, Request};
use crate::console::{self, Tone};
use crate::failure::{Exit, Failure, Outcome};
use crate::local::data_dir::DataDir;
use crate::local::plan::Plan;
use crate::local::status::Status;
use crate::table;

/// How to tell the status.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    #[command(flatten)]
    api: ApiArgs,
}

/// What one look shows.
struct Look {
    healthy: bool,
    text: String,
    json: String,
}

/// Tells it once, or again and again. Exit code 0 says that the cluster is healthy.
pub(crate) async fn run(args: &StatusArgs) -> Outcome {
    let Some(interval) = args.watch.map(Duration::from_secs) else {
        let look = look(args).await?;
        console::line(if args.api.json { &look.json } else { &look.text });
        return match look.healthy {
            true => Ok(()),
            false if args.api.json => Err(Failure::quiet(Exit::Failed)),
            false => Err(Failure::failed("the cluster is not healthy")),
        };
    };
    loop {
        let look = look(args).await;
        let text = match &look {
            Ok(look) if args.api.json => look.json.clone(),
            Ok(look) => look.text.clone(),
            // It may come back while somebody watches.
            Err(failure) if failure.exit == Exit::NoAnswer => failure.message.clone(),
            Err(failure) => return Err(failure.clone()),
        };
        if std::io::stdout().is_terminal() && !args.api.json {
            // Clears the screen and goes to its first line.
            console::line(format!("\u{1b}[2J\u{1b}[H{text}"));
        } else {
            console::line(text);
        }
        tokio::select! {
            () = sleep(interval) => {}
            Ok(()) = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn look(args: &StatusArgs) -> Outcome<Look> {
    if args.api.named_url().is_some() {
        let cluster: ClusterStatus = Api::find(&args.api)?.ask(Request::get("/status")).await?;
        return Ok(Look {
            healthy: cluster.healthy,
            text: cluster_text(&cluster),
            json: serde_json::to_string(&cluster).unwrap_or_default(),
        });
    }
    let data = &args.api.data.data;
    let plan = match DataDir::open(data) {
        Some(dir) => Plan::load(&dir)?.map(|plan| (plan, dir)),
        None => None,
    };
    let Some((plan, dir)) = plan else {
        if args.api.json {
            let status = Status::default();
            return Ok(Look { healthy: false, text: String::new(), json: status.json() });
        }
        return Err(Failure::new(Exit::NoAnswer, format!("no cluster in {}", data.display()))
            .hint("`holdfast up` starts one; --api or HOLDFAST_API names one elsewhere"));
    };
    let status = Status::of(&plan, &dir).await;
    let ready = match status.ready {
        true => Tone::Good.paint("ready"),
        false => Tone::Bad.paint("not ready"),
    };
    let mut text = format!("{}\n{ready}", status.table());
    text += "\n\n";
    text += &status
        .cluster
        .as_ref()
        .map_or_else(nothing_told, |cluster| summary(cluster, &status.missed()));
    Ok(Look { healthy: status.healthy, json: status.json(), text })
}

/// The whole cluster, for people.
fn cluster_text(cluster: &ClusterStatus) -> String {
    format!(
        "{}\n\n{}\n\n{}",
        summary(cluster, &[]),
        table::render(&cluster.sites),
        table::render(&cluster.gateways)
    )
}

fn nothing_told() -> String {
    let not_healthy = Tone::Bad.paint("not healthy");
    format!("{not_healthy}\n  - no meta-service tells how the cluster is")
}

/// What the cluster says, and which processes are missed here.
fn summary(cluster: &ClusterStatus, missed: &[String]) -> String {
    let up = |liveness: &Liveness| *liveness == Liveness::Up;
    let sites = cluster.sites.iter().filter(|site| up(&site.liveness)).count();
    let gateways = cluster.gateways.iter().filter(|gateway| up(&gateway.liveness)).count();
    let mut lines = vec![match cluster.healthy && missed.is_empty() {
        true => Tone::Good.paint("healthy"),
        false => Tone::Bad.paint("not healthy"),
    }];
    lines.extend(cluster.problems.iter().chain(missed).map(|problem| format!("  - {problem}")));
    lines.push(format!(
        "cluster {}: {} of {} sites and {} of {} gateways up, {} shards x {} replicas, {} durable filters",
        cluster.cluster_id,
        sites,
        cluster.sites.len(),
        gateways,
        cluster.gateways.len(),
        cluster.shards,
        cluster.replication_factor,
        cluster.durable_filters
    ));
    for (what, shards) in [
        ("without a leader", &cluster.shards_without_leader),
        ("under-replicated", &cluster.shards_under_replicated),
    ] {
        if !shards.is_empty() {
            let shards: Vec<String> = shards.iter().map(u32::to_string).collect();
            lines.push(format!("shards {what}: {}", shards.join(" ")));
        }
    }
    lines.push(format!(
        "{} is elected, metadata in {}, version {}",
        cluster.elected, cluster.store, cluster.version
    ));
    lines.join("\n")
}
