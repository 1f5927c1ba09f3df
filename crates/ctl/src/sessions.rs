//! `holdfast sessions list`: a look into the registry of sessions.

use clap::{Args, Subcommand};
use holdfast_proto::meta::{ListSessionsRequest, SessionChange};
use holdfast_proto::shard::{ClientKey, SessionRow};
use serde::Serialize;

use crate::console;
use crate::steering::{Steering, SteeringArgs, SteeringError};

/// Sessions of one request; the service may give fewer.
const PAGE: u32 = 1_000;
/// Session expiry of a session that never ends.
const NEVER: u32 = u32::MAX;

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Show sessions in the order of their client ids
    List(ListArgs),
}

/// Which ones.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    steering: SteeringArgs,
    /// At most as many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only client ids that begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// One session as scripts see it; fields are added, none is changed.
#[derive(Debug, Serialize)]
struct SessionLine {
    namespace: u32,
    client_id: String,
    /// Gateway of the connected client.
    owner: Option<String>,
    /// Seconds that it outlives its connection; absent: for ever.
    expiry_s: Option<u32>,
    subscriptions: usize,
    /// Messages that were removed before they were read.
    lost: u64,
}

impl SessionLine {
    fn of(change: SessionChange) -> SessionLine {
        let client = change.client.unwrap_or_default();
        let row: SessionRow = change.row.unwrap_or_default();
        let expiry = row.expiry_interval_s;
        SessionLine {
            namespace: client.namespace,
            client_id: client.client_id,
            owner: row.owner.map(|owner| owner.name),
            expiry_s: (expiry != NEVER).then_some(expiry),
            subscriptions: row.subscriptions.len(),
            lost: row.lost,
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.client_id.clone(),
            self.owner.clone().unwrap_or_else(|| "-".to_owned()),
            self.expiry_s.map_or_else(|| "never".to_owned(), |s| format!("{s} s")),
            self.subscriptions.to_string(),
            self.lost.to_string(),
        ]
    }
}

/// Does it.
pub(crate) async fn run(command: SessionsCommand) -> Result<(), SteeringError> {
    let SessionsCommand::List(args) = command;
    let mut steering = Steering::find(&args.steering)?;
    let (mut lines, mut after, mut more) = (Vec::new(), None::<ClientKey>, true);
    while more && lines.len() < args.limit {
        let left = u32::try_from(args.limit - lines.len()).unwrap_or(PAGE).min(PAGE);
        let request = ListSessionsRequest {
            after: after.take(),
            client_id_prefix: args.prefix.clone(),
            limit: left,
        };
        let page = steering.list_sessions(&request).await?;
        after = page.sessions.last().and_then(|last| last.client.clone());
        more = page.more && after.is_some();
        lines.extend(page.sessions.into_iter().map(SessionLine::of));
    }
    if args.json {
        console::json(&lines);
        return Ok(());
    }
    let titles = ["client", "owner", "expiry", "subscriptions", "lost"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(SessionLine::row));
    console::line(console::table(&rows));
    if more {
        console::line("there are more: --limit or --prefix");
    }
    Ok(())
}
