//! `holdfast scale`: more or fewer storage nodes and gateways on a running cluster. The supervisor
//! owns the processes, so it is asked through two files of the data folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::console;
use crate::local::data_dir::DataArgs;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan, PlanError, Wish};
use crate::local::process;
use crate::local::status::Status;

/// The supervisor looks for a request ten times a second, once the cluster has been ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long all processes may take to be ready, or gone.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How many there shall be. Numbers that are not given stay as they are.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Number of storage nodes; one that is to go must be drained first
    #[arg(long, value_name = "N")]
    pub(crate) storage: Option<u16>,
    /// Number of gateways; those with the highest numbers go
    #[arg(long, value_name = "N")]
    pub(crate) gateways: Option<u16>,
}

/// What the supervisor is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Pid of who asks.
    asker: u32,
    storage: Option<u16>,
    gateways: Option<u16>,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    asker: u32,
    /// Why not.
    refused: Option<String>,
}

/// The cluster stays as it is, or is not yet as it was asked for.
#[derive(Debug, Error)]
pub(crate) enum ScaleError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("no cluster runs in {}: start it with `holdfast up`", .0.display())]
    NotRunning(PathBuf),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the supervisor does not answer: does the cluster become ready?")]
    NoAnswer,
    #[error("{0}")]
    Refused(String),
    #[error("not yet as wanted:\n{0}")]
    Slow(String),
}

/// Asks the supervisor and waits until the cluster is as wanted.
pub(crate) async fn run(args: &ScaleArgs) -> Result<(), ScaleError> {
    let data = &args.data.data;
    let not_running = || ScaleError::NotRunning(data.clone());
    let dir = DataDir::open(data).ok_or_else(not_running)?;
    let old = Plan::load(&dir)?.ok_or_else(not_running)?;
    dir.supervisor_pid().ok_or_else(not_running)?;
    ask(&dir, args).await?;
    let plan = Plan::load(&dir)?.ok_or_else(not_running)?;
    let members = plan.members();
    let removed: Vec<Member> =
        old.members().into_iter().filter(|member| !members.contains(member)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = Status::of(&plan, &dir).await;
        let is_ready = status.ready && status.processes.iter().all(|process| process.ready);
        if is_ready && process::running(&removed, &dir).is_empty() {
            console::line(status.table());
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ScaleError::Slow(status.table()));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn ask(dir: &DataDir, args: &ScaleArgs) -> Result<(), ScaleError> {
    let asker = std::process::id();
    let request = Request { asker, storage: args.storage, gateways: args.gateways };
    write(&dir.scale_request(), &request)?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    while Instant::now() < deadline {
        match read::<Answer>(&dir.scale_answer())? {
            Some(Answer { asker: to, refused }) if to == asker => {
                return refused.map_or(Ok(()), |why| Err(ScaleError::Refused(why)));
            }
            _ => sleep(POLL_INTERVAL).await,
        }
    }
    // Nobody shall find it later.
    let _ = fs::remove_file(dir.scale_request());
    Err(ScaleError::NoAnswer)
}

impl Request {
    /// Takes what was asked, if anything was.
    pub(crate) fn take(dir: &DataDir) -> Result<Option<Request>, ScaleError> {
        let path = dir.scale_request();
        let request = read(&path)?;
        if request.is_some() {
            fs::remove_file(&path).map_err(|source| ScaleError::File { path, source })?;
        }
        Ok(request)
    }

    /// As a wish for a plan.
    pub(crate) fn wish(&self) -> Wish {
        Wish { storage: self.storage, gateways: self.gateways, ..Wish::default() }
    }

    /// Says what became of it.
    pub(crate) fn answer(&self, dir: &DataDir, refused: Option<String>) -> Result<(), ScaleError> {
        write(&dir.scale_answer(), &Answer { asker: self.asker, refused })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ScaleError> {
    let file_error = |source| ScaleError::File { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| file_error(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(error)),
    }
}

/// The reader finds nothing or the whole.
fn write(path: &Path, value: &impl Serialize) -> Result<(), ScaleError> {
    let fresh = path.with_extension("new");
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| ScaleError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_and_answered_to_who_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        assert!(Request::take(&dir).expect("read").is_none());
        let request = Request { asker: 7, storage: Some(4), gateways: None };
        write(&dir.scale_request(), &request).expect("written");
        let taken = Request::take(&dir).expect("read").expect("there");
        assert_eq!(taken.wish().storage, Some(4));
        assert!(Request::take(&dir).expect("read").is_none());
        taken.answer(&dir, Some("no".to_owned())).expect("written");
        let answer: Answer = read(&dir.scale_answer()).expect("read").expect("there");
        assert_eq!((answer.asker, answer.refused.as_deref()), (7, Some("no")));
    }
}
