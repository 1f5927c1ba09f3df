//! What people and scripts read: results on stdout, everything else on stderr. A closed pipe on the
//! other side ends no cluster.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};

/// How a word is shown, if colours are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As any other.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// To be watched.
    Warn,
    /// Not as it should be.
    Bad,
    /// A title.
    Title,
}

/// Where to.
#[derive(Debug, Clone, Copy)]
enum To {
    Stdout,
    Stderr,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("32"),
            Tone::Warn => Some("33"),
            Tone::Bad => Some("31"),
            Tone::Title => Some("1"),
        }
    }

    /// The text in its colour for stdout, where colours are wanted.
    pub(crate) fn paint(self, text: &str) -> String {
        self.paint_for(To::Stdout, text)
    }

    fn paint_for(self, to: To, text: &str) -> String {
        match self.code().filter(|_| shows_colours(to)) {
            Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }
}

/// On a terminal, unless NO_COLOR says otherwise (<https://no-color.org>).
fn shows_colours(to: To) -> bool {
    let is_terminal = match to {
        To::Stdout => io::stdout().is_terminal(),
        To::Stderr => io::stderr().is_terminal(),
    };
    is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints one line to stdout.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    // The reader is gone (`holdfast up | head`): nobody is left to tell.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints bytes to stdout as they are, and ends the line.
pub(crate) fn bytes(payload: &[u8]) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(payload).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
}

/// Prints one line to stderr: what is under way, or worth to know beside the result.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints why the command failed to stderr, and what to do.
pub(crate) fn failure(failure: &Failure) {
    if failure.message.is_empty() {
        return;
    }
    let name = Tone::Bad.paint_for(To::Stderr, "holdfast:");
    note(format!("{name} {}", failure.message));
    if let Some(hint) = &failure.hint {
        note(format!("  hint: {hint}"));
    }
}

/// Prints one line of JSON to stdout.
pub(crate) fn json(value: &impl Serialize) {
    // What we print consists of strings, numbers and lists, which always have a JSON form.
    line(serde_json::to_string(value).unwrap_or_default());
}

/// What goes on, on stderr: one line that is written over on a terminal, a line for each change
/// elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: String,
}

impl Progress {
    /// Shows how far it is.
    pub(crate) fn show(&mut self, text: impl Display) {
        let text = text.to_string();
        if self.shown == text {
            return;
        }
        match io::stderr().is_terminal() {
            true => {
                let _ = write!(io::stderr().lock(), "\r\u{1b}[K{text}");
            }
            false => note(&text),
        }
        self.shown = text;
    }

    /// Leaves the line for what follows.
    pub(crate) fn clear(&mut self) {
        if !self.shown.is_empty() && io::stderr().is_terminal() {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
        self.shown.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Asks a yes-or-no question on a terminal; elsewhere `--yes` is needed.
pub(crate) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} Nobody is here to be asked"))
            .hint("--yes says it beforehand"));
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done")),
    }
}

/// Columns of the terminal that stdout is, if it is one.
#[allow(unsafe_code, reason = "std does not tell the size of a terminal")]
pub(crate) fn width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes a winsize to where we say, which is one.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// Prints what is known of one thing, a line each; what is empty is left out.
pub(crate) fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let clean: String =
            value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        line(format!("{}{}  {clean}", Tone::Title.paint(name), " ".repeat(width - name.len())));
    }
}
