//! The programs that are described, and what they print of themselves.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Binaries in the order of the pages.
pub const NAMES: [&str; 3] = ["broker-node", "storage-node", "meta-service"];

/// Why a program said nothing useful. Stop: build the programs.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It is not beside this one.
    #[error("{} is missing: build it with `make programs`", .0.display())]
    NotBuilt(PathBuf),
    /// It cannot be started, or this program does not know where it is itself.
    #[error("cannot run a program: {0}")]
    Run(#[from] io::Error),
    /// It refused.
    #[error("{name} {arguments}: {said}")]
    Refused {
        /// Name of the binary.
        name: String,
        /// What it was asked.
        arguments: String,
        /// What it wrote to stderr.
        said: String,
    },
    /// It printed something else.
    #[error("{name} printed something unexpected: {source}")]
    Unexpected {
        /// Name of the binary.
        name: String,
        /// Where it differs.
        source: serde_json::Error,
    },
}

/// One of the programs.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    path: PathBuf,
}

/// A metric, as `--print-metrics` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name, as scraped.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// `seconds`, `bytes` …
    pub unit: Option<String>,
    /// Meaning.
    pub help: String,
}

impl Program {
    /// The three programs beside the running one; a test runs one directory below.
    pub fn all() -> Result<Vec<Program>, ProgramError> {
        let own = env::current_exe()?;
        let folder = own.parent().unwrap_or(Path::new(""));
        let folder = if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() };
        let find = |name| {
            let path = folder.join(name);
            if path.is_file() {
                Ok(Program { name, path })
            } else {
                Err(ProgramError::NotBuilt(path))
            }
        };
        NAMES.into_iter().map(find).collect()
    }

    /// JSON schema of its config.
    pub fn schema(&self) -> Result<Value, ProgramError> {
        self.printed("--print-config-schema")
    }

    /// Its metrics, by name.
    pub fn metrics(&self) -> Result<Vec<Metric>, ProgramError> {
        self.printed("--print-metrics")
    }

    /// Checks the config in `file` with `FIELD=VALUE` set over it.
    pub fn check(&self, file: &Path, set: Option<&str>) -> Result<(), ProgramError> {
        let file = file.to_string_lossy();
        let mut arguments = vec!["--check", "--config", &file];
        arguments.extend(set.into_iter().flat_map(|set| ["--set", set]));
        self.run(&arguments).map(drop)
    }

    fn printed<T: for<'a> Deserialize<'a>>(&self, flag: &str) -> Result<T, ProgramError> {
        let text = self.run(&[flag])?;
        serde_json::from_str(&text)
            .map_err(|source| ProgramError::Unexpected { name: self.name.to_owned(), source })
    }

    fn run(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        let output = Command::new(&self.path).args(arguments).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(ProgramError::Refused {
            name: self.name.to_owned(),
            arguments: arguments.join(" "),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}
