//! `holdfast scale`: more or fewer storage nodes and gateways on a running cluster.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::console;
use crate::local::data_dir::DataArgs;
use crate::local::plan::{Member, Plan};
use crate::local::process;
use crate::local::request::{self, Change, RequestError};
use crate::local::status::Status;

/// How long all processes may take to be ready, or gone.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How many there shall be. Numbers that are not given stay as they are.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Number of storage nodes; one that is to go must be drained first
    #[arg(long, value_name = "N", required_unless_present = "gateways", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) storage: Option<u16>,
    /// Number of gateways; those with the highest numbers go
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) gateways: Option<u16>,
}

/// Asks the supervisor and waits until the cluster is as wanted.
pub(crate) async fn run(args: &ScaleArgs) -> Result<(), RequestError> {
    let (dir, old) = request::running(&args.data.data)?;
    // What was stopped, or died, before is no part of this.
    let before = process::running(&old.members(), &dir);
    let is_away = |name: &str| {
        old.members().iter().any(|member| member.name == name) && !before.contains_key(name)
    };
    let change = Change::Scale { storage: args.storage, gateways: args.gateways };
    request::ask(&dir, change).await?;
    let not_running = || RequestError::NotRunning(args.data.data.clone());
    let plan = Plan::load(&dir)?.ok_or_else(not_running)?;
    let members = plan.members();
    let removed: Vec<Member> =
        old.members().into_iter().filter(|member| !members.contains(member)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = Status::of(&plan, &dir).await;
        let is_ready =
            status.processes.iter().all(|process| process.ready || is_away(&process.name));
        if is_ready && process::running(&removed, &dir).is_empty() {
            console::line(status.table());
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RequestError::Slow(status.table()));
        }
        sleep(POLL_INTERVAL).await;
    }
}
