//! What `holdfast scale`, `stop` and `start` ask of the supervisor. It owns the processes, so it is asked
//! through two files of the data folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan, PlanError};

/// The supervisor looks for a request ten times a second, once the cluster has been ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    /// So many there shall be; what is absent stays.
    Scale { storage: Option<u16>, gateways: Option<u16> },
    /// These processes shall end and stay away.
    Stop { names: Vec<String>, kill: bool },
    /// These shall run again.
    Start { names: Vec<String> },
}

/// A change and who asks for it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Pid of who asks.
    asker: u32,
    pub(crate) change: Change,
}

/// What the supervisor says.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    asker: u32,
    /// Why not.
    refused: Option<String>,
}

/// The cluster stays as it is, or is not yet as it was asked for.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("no cluster runs in {}: start it with `holdfast up`", .0.display())]
    NotRunning(PathBuf),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the supervisor does not answer: does the cluster become ready?")]
    NoAnswer,
    #[error("no process is called {name}: there are {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    #[error("{0}")]
    Refused(String),
    #[error("not yet as wanted:\n{0}")]
    Slow(String),
}

/// The running cluster in a folder.
pub(crate) fn running(data: &Path) -> Result<(DataDir, Plan), RequestError> {
    let not_running = || RequestError::NotRunning(data.to_owned());
    let dir = DataDir::open(data).ok_or_else(not_running)?;
    let plan = Plan::load(&dir)?.ok_or_else(not_running)?;
    dir.supervisor_pid().ok_or_else(not_running)?;
    Ok((dir, plan))
}

/// Finds processes by their names.
pub(crate) fn named(plan: &Plan, names: &[String]) -> Result<Vec<Member>, RequestError> {
    let members = plan.members();
    if let Some(name) = names.iter().find(|name| members.iter().all(|it| it.name != **name)) {
        let known = members.into_iter().map(|member| member.name).collect();
        return Err(RequestError::Unknown { name: name.clone(), known });
    }
    Ok(members.into_iter().filter(|member| names.contains(&member.name)).collect())
}

/// Asks the supervisor and waits for its answer.
pub(crate) async fn ask(dir: &DataDir, change: Change) -> Result<(), RequestError> {
    let asker = std::process::id();
    write(&dir.request(), &Request { asker, change })?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    while Instant::now() < deadline {
        match read::<Answer>(&dir.answer())? {
            Some(Answer { asker: to, refused }) if to == asker => {
                return refused.map_or(Ok(()), |why| Err(RequestError::Refused(why)));
            }
            _ => sleep(POLL_INTERVAL).await,
        }
    }
    // Nobody shall find it later.
    let _ = fs::remove_file(dir.request());
    Err(RequestError::NoAnswer)
}

impl Request {
    /// Takes what was asked, if anything was.
    pub(crate) fn take(dir: &DataDir) -> Result<Option<Request>, RequestError> {
        let path = dir.request();
        let request = read(&path)?;
        if request.is_some() {
            fs::remove_file(&path).map_err(|source| RequestError::File { path, source })?;
        }
        Ok(request)
    }

    /// Says what became of it.
    pub(crate) fn answer(
        &self,
        dir: &DataDir,
        refused: Option<String>,
    ) -> Result<(), RequestError> {
        write(&dir.answer(), &Answer { asker: self.asker, refused })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RequestError> {
    let file_error = |source| RequestError::File { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| file_error(e.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(error)),
    }
}

/// The reader finds nothing or the whole.
fn write(path: &Path, value: &impl Serialize) -> Result<(), RequestError> {
    let fresh = path.with_extension("new");
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&fresh, text))
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|source| RequestError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_and_answered_to_who_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        assert!(Request::take(&dir).expect("read").is_none());
        let change = Change::Stop { names: vec!["storage-1".to_owned()], kill: true };
        write(&dir.request(), &Request { asker: 7, change: change.clone() }).expect("written");
        let taken = Request::take(&dir).expect("read").expect("there");
        assert_eq!(taken.change, change);
        assert!(Request::take(&dir).expect("read").is_none());
        taken.answer(&dir, Some("no".to_owned())).expect("written");
        let answer: Answer = read(&dir.answer()).expect("read").expect("there");
        assert_eq!((answer.asker, answer.refused.as_deref()), (7, Some("no")));
    }
}
