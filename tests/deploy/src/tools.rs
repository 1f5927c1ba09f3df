//! Programs that `make tools` installs, and the places in the repository that they work on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A program below `target/tools`.
pub fn tool(path: &str) -> PathBuf {
    let program = root().join("target/tools").join(path);
    assert!(program.is_file(), "{} is missing: run `make tools`", program.display());
    program
}

/// What a program said on both of its outputs.
pub fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
