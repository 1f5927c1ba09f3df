//! Why a line of the matrix could not be run. Stop: the line has no verdict on Holdfast.

use std::fmt::Display;

use thiserror::Error;

/// What went wrong around the cluster.
#[derive(Debug, Error)]
pub(crate) enum Trouble {
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A program of the system failed.
    #[error("{command}: {output}")]
    Tool {
        /// With its arguments.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something did not come about in time.
    #[error("waited {seconds} s in vain: {what}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// This machine or this cluster cannot do it.
    #[error("{0}")]
    Impossible(String),
}

impl Trouble {
    /// For `map_err`.
    pub(crate) fn system(what: impl Display) -> impl FnOnce(std::io::Error) -> Trouble {
        move |source| Trouble::System { what: what.to_string(), source }
    }
}
