//! The end of this process after an error that may not be outlived.

use std::fmt::Display;

/// Exit code after a storage error.
const EXIT_STORAGE: i32 = 74;

/// Ends the process: after a failed sync nobody knows what the disk holds, so nothing is retried and
/// nothing more is acknowledged. What was acknowledged is on a majority; this site recovers from its
/// log when it is started again.
#[derive(Clone, Default)]
pub(crate) struct Fatal(());

impl Fatal {
    /// Logs why and exits.
    pub(crate) fn stop(&self, what: &str, error: &(impl Display + ?Sized)) {
        tracing::error!(what, %error, "this site cannot go on");
        std::process::exit(EXIT_STORAGE);
    }
}
