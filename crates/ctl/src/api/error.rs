//! What may go wrong between this command and the API.

use holdfast_admin_api::Problem;
use thiserror::Error;

use crate::failure::{Exit, Failure};

/// No answer, or one that says no.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    /// Reject, in the words of the API.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// Retry: later.
    #[error("nobody answers at {at}: {last}")]
    NoAnswer { at: String, last: String },
    /// Retry: later. Something is there, but nobody is elected.
    #[error("{at} cannot answer now: {last}")]
    Unavailable { at: String, last: String },
    /// Stop: it is something else.
    #[error("{at} does not speak the admin API of Holdfast: {what}")]
    Foreign { at: String, what: String },
    /// Stop: the request cannot be formed.
    #[error("{0:?} is no URL of an admin API")]
    BadUrl(String),
}

impl ApiError {
    /// Whether it may answer later.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, ApiError::NoAnswer { .. } | ApiError::Unavailable { .. })
    }

    /// Whether nothing is there at all.
    pub(crate) fn is_nobody(&self) -> bool {
        matches!(self, ApiError::NoAnswer { .. })
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        let (exit, hint) = match &error {
            ApiError::Refused(problem) => match problem.status {
                400 | 405 | 413 | 414 | 422 => (Exit::Usage, None),
                401 => (Exit::Credentials, Some(CREDENTIALS_HINT)),
                403 => (
                    Exit::Credentials,
                    Some(
                        "use the credentials of an admin: --token, or --user with --password-file",
                    ),
                ),
                404 => (Exit::NotFound, not_found_hint(problem)),
                503 => (Exit::NoAnswer, Some(ELECTION_HINT)),
                _ => (Exit::Failed, None),
            },
            ApiError::NoAnswer { .. } => (Exit::NoAnswer, Some(NO_ANSWER_HINT)),
            ApiError::Unavailable { .. } => (Exit::NoAnswer, Some(ELECTION_HINT)),
            ApiError::Foreign { .. } => (Exit::NoAnswer, Some(FOREIGN_HINT)),
            ApiError::BadUrl(_) => (Exit::Usage, Some(FOREIGN_HINT)),
        };
        let failure = Failure::new(exit, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

const CREDENTIALS_HINT: &str = "--token (HOLDFAST_TOKEN), --user with --password-file (HOLDFAST_USER, HOLDFAST_PASSWORD_FILE), or --data of `holdfast up`";
const NO_ANSWER_HINT: &str =
    "`holdfast status` tells what runs here; --api or HOLDFAST_API names a cluster elsewhere";
const ELECTION_HINT: &str = "try again: an election takes a few seconds";
const FOREIGN_HINT: &str = "--api is the address in [admin] of meta-service, as http://host:port";

/// Which listing shows what there is.
fn not_found_hint(problem: &Problem) -> Option<&'static str> {
    let nouns = [
        ("site", "`holdfast sites list` shows all"),
        ("session", "`holdfast sessions list --prefix TEXT` searches"),
        ("gateway", "`holdfast gateways` shows all"),
        ("shard", "`holdfast shards list` shows all"),
        ("user", "`holdfast users list` shows all"),
        ("token", "`holdfast tokens list` shows all"),
    ];
    nouns.into_iter().find(|(noun, _)| problem.kind.contains(noun)).map(|(_, hint)| hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, kind: &str) -> Failure {
        let title = String::new();
        let kind = format!("urn:holdfast:{kind}");
        ApiError::Refused(Problem { kind, title, status, detail: "no".to_owned() }).into()
    }

    #[test]
    fn a_status_of_the_api_is_an_exit_code() {
        let codes = [
            (400, Exit::Usage),
            (401, Exit::Credentials),
            (403, Exit::Credentials),
            (404, Exit::NotFound),
            (409, Exit::Failed),
            (500, Exit::Failed),
            (503, Exit::NoAnswer),
        ];
        for (status, exit) in codes {
            assert_eq!(refused(status, "x").exit, exit, "{status}");
        }
        let hint = refused(404, "unknown-site").hint.expect("a hint");
        assert!(hint.contains("sites list"), "{hint}");
    }
}
