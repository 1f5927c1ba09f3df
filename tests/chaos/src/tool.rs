//! Programs of the system: `ip`, `nft`, `mount` and the like.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::trouble::Trouble;

/// None of them has much to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command line without quoting: words are split at spaces.
pub(crate) fn run(line: &str) -> Result<String, Trouble> {
    let words: Vec<&str> = line.split_whitespace().collect();
    run_words(&words)
}

/// Runs a program with arguments.
pub(crate) fn run_words(words: &[&str]) -> Result<String, Trouble> {
    let command = words.join(" ");
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let mut prepared = Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)));
    prepared.args(arguments).stdin(Stdio::null());
    let ended = within(PATIENCE, &command, move || prepared.output())?;
    let output = ended.map_err(Trouble::system(&command))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Trouble::Tool { command, output: format!("{}: {said}", output.status) })
}

/// Does something that may hang in the system: then it is left behind, in a thread of its own, for
/// which nobody waits when this program ends.
pub(crate) fn within<T: Send + 'static>(
    patience: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Trouble> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver
        .recv_timeout(patience)
        .map_err(|_| Trouble::Late { what: format!("{what} ends"), seconds: patience.as_secs() })
}

/// Where a program is, as a shell would find it or in the folders of the superuser.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}
