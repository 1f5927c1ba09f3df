//! `holdfast stop` and `holdfast start`: single processes of the cluster on this machine, to see what the
//! others do meanwhile.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use crate::console;
use crate::local::data_dir::DataArgs;
use crate::local::process::{self, STOP_TIMEOUT};
use crate::local::request::{self, Change, RequestError};
use crate::local::status::Status;

/// How long a started process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Which processes shall end.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Names, as `holdfast status` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// As a crash: SIGKILL instead of a planned stop
    #[arg(long)]
    kill: bool,
}

/// Which processes shall run again.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Names, as `holdfast status` shows them
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Ends processes; they stay away until they are started, or all of the cluster is.
pub(crate) async fn stop(args: &StopArgs) -> Result<(), RequestError> {
    let (dir, plan) = request::running(&args.data.data)?;
    let members = request::named(&plan, &args.names)?;
    let change = Change::Stop { names: args.names.clone(), kill: args.kill };
    request::ask(&dir, change).await?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        let left = process::running(&members, &dir);
        if left.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            let left: Vec<String> = left.into_keys().collect();
            return Err(RequestError::Slow(format!(
                "{} did not end yet; --kill ends it at once",
                left.join(", ")
            )));
        }
        sleep(POLL_INTERVAL).await;
    }
    let (names, done) = (args.names.join(" "), if args.kill { "killed" } else { "stopped" });
    console::line(format!("{done}: {names}; to start again: `holdfast start {names}`"));
    Ok(())
}

/// Starts processes that were stopped or died, and waits until they are ready.
pub(crate) async fn start(args: &StartArgs) -> Result<(), RequestError> {
    let (dir, plan) = request::running(&args.data.data)?;
    request::named(&plan, &args.names)?;
    request::ask(&dir, Change::Start { names: args.names.clone() }).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = Status::of(&plan, &dir).await;
        let mut asked =
            status.processes.iter().filter(|process| args.names.contains(&process.name));
        if asked.all(|process| process.ready) {
            console::line("ready");
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(RequestError::Slow(status.table()));
        }
        sleep(POLL_INTERVAL).await;
    }
}
