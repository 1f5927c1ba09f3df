//! `holdfast down`: stops the cluster of a data folder.

use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::console;
use crate::local::data_dir::DataArgs;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Plan, PlanError};
use crate::local::process::{self, Signal};

/// The supervisor gives each of four roles 20 s before it kills.
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The cluster cannot be stopped.
#[derive(Debug, Error)]
pub(crate) enum DownError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("the supervisor (pid {0}) does not end")]
    Stuck(u32),
}

/// Asks the supervisor to stop everything; does it itself where none runs.
pub(crate) async fn run(args: &DataArgs) -> Result<(), DownError> {
    let Some(dir) = DataDir::open(&args.data) else {
        console::line(format!("no cluster in {}", args.data.display()));
        return Ok(());
    };
    if let Some(pid) = dir.supervisor_pid() {
        process::send(pid, Signal::Term);
        let deadline = Instant::now() + SUPERVISOR_TIMEOUT;
        while dir.supervisor_pid() == Some(pid) {
            if Instant::now() >= deadline {
                return Err(DownError::Stuck(pid));
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    let members = Plan::load(&dir)?.map(|plan| plan.members()).unwrap_or_default();
    for name in process::stop_all(&members, &dir, || ()).await {
        console::line(format!("{name} did not end in time and was killed"));
    }
    console::line("stopped");
    Ok(())
}
