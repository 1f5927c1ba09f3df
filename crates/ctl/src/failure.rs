//! Why a command did not do what it was asked for: in words, and as the exit code of the process.

use std::fmt::Display;
use std::process::ExitCode;

use crate::local::down::DownError;
use crate::local::plan::PlanError;
use crate::local::request::RequestError;
use crate::local::supervisor::SupervisorError;
use crate::local::up::UpError;

/// What the exit code of a command means; 0 is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It failed, was refused, or found something that is not as it should be.
    Failed = 1,
    /// It was called wrongly, or a config is wrong. clap uses the same code.
    Usage = 2,
    /// What it names does not exist.
    NotFound = 3,
    /// No, wrong or too weak credentials.
    Credentials = 4,
    /// Nobody answers.
    NoAnswer = 5,
}

/// A command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its exit code.
    pub(crate) exit: Exit,
    /// One line: what is wrong.
    pub(crate) message: String,
    /// One line: what to do.
    pub(crate) hint: Option<String>,
}

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// With an exit code.
    pub(crate) fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string(), hint: None }
    }

    /// Failed or refused.
    pub(crate) fn failed(message: impl Display) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    /// Called wrongly.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Says nothing: the result says it all.
    pub(crate) fn quiet(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    /// Adds what to do.
    pub(crate) fn hint(self, hint: impl Display) -> Failure {
        Failure { hint: Some(hint.to_string()), ..self }
    }

    /// Of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl From<UpError> for Failure {
    fn from(error: UpError) -> Failure {
        match error {
            UpError::Plan(error) => error.into(),
            UpError::Supervisor(SupervisorError::Config { .. }) => Failure::usage(error),
            error => Failure::failed(error),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        let exit = match error {
            PlanError::NotAllowed { .. } => Exit::Usage,
            _ => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}

impl From<DownError> for Failure {
    fn from(error: DownError) -> Failure {
        Failure::failed(error)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        match error {
            RequestError::Plan(error) => error.into(),
            RequestError::NotRunning(_) | RequestError::NoAnswer => {
                Failure::new(Exit::NoAnswer, error)
            }
            RequestError::Unknown { .. } => Failure::new(Exit::NotFound, error),
            error => Failure::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_fixed() {
        let codes = [
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::NotFound, 3),
            (Exit::Credentials, 4),
            (Exit::NoAnswer, 5),
        ];
        for (exit, code) in codes {
            assert_eq!(Failure::new(exit, "x").exit_code(), ExitCode::from(code));
        }
    }

    #[test]
    fn a_wrong_number_is_wrong_usage_and_a_taken_port_is_not() {
        let wrong = PlanError::NotAllowed { option: "storage", value: 0, allowed: "1".to_owned() };
        assert_eq!(Failure::from(wrong).exit, Exit::Usage);
        assert_eq!(Failure::from(PlanError::NoPort).exit, Exit::Failed);
    }
}
