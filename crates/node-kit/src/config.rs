//! One TOML file configures one process. A wrong one names field, value and what is allowed.

use std::fmt::Display;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::exit;

use clap::{Arg, Command, value_parser};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Exit code of a process whose config is wrong. A supervisor need not start it again.
pub const EXIT_CONFIG: i32 = 2;

/// What types alone cannot say about a config.
pub trait Validate {
    /// Checks the whole config and reports the first field that is wrong.
    fn validate(&self) -> Result<(), Invalid>;
}

/// A field whose value is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("field \"{field}\": value {value:?} is not allowed: {allowed}")]
pub struct Invalid {
    /// Name as in the file.
    pub field: String,
    /// Value as in the file.
    pub value: String,
    /// What would be allowed.
    pub allowed: String,
}

impl Invalid {
    /// Says that `field` may not be `value` but `allowed`.
    pub fn new(field: &str, value: impl Display, allowed: impl Into<String>) -> Invalid {
        Invalid { field: field.to_owned(), value: value.to_string(), allowed: allowed.into() }
    }
}

/// Why a config was not taken. Stop: a human must change the file.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no TOML, lacks a field, or has an unknown one or one of another type.
    #[error("config {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, field and what was expected.
        message: String,
    },
    /// A value is outside of what is allowed.
    #[error("config {path}: {source}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field.
        source: Invalid,
    },
}

/// Reads and checks the config in `path`.
pub fn load<T: DeserializeOwned + Validate>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let config: T = toml::from_str(&text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        message: explain(&text, &error),
    })?;
    config.validate().map_err(|source| ConfigError::Invalid { path: path.to_owned(), source })?;
    Ok(config)
}

/// Entry for `main`: parses `--config FILE` (also `--help`, `--version`) and loads it; prints what
/// is wrong and ends the process with [`EXIT_CONFIG`] otherwise.
pub fn from_args<T: DeserializeOwned + Validate>(about: &'static str) -> T {
    let matches = command(about).get_matches();
    let loaded = match matches.get_one::<PathBuf>("config") {
        Some(path) => load(path),
        None => exit(EXIT_CONFIG),
    };
    loaded.unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(EXIT_CONFIG)
    })
}

fn command(about: &'static str) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("TOML file with the configuration of this process")
        .required(true)
        .value_parser(value_parser!(PathBuf));
    Command::new("holdfast").about(about).version(env!("CARGO_PKG_VERSION")).arg(config)
}

/// Line and field are taken from the text: the parser's own message does not name the field when
/// a value has the wrong type.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end().replace('\n', ", ");
    let Some(span) = error.span().filter(|span| !span.is_empty() && span.start < text.len()) else {
        return message;
    };
    let line_start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let line_number = text[..span.start].matches('\n').count() + 1;
    let line = text[line_start..].lines().next().unwrap_or_default();
    match line.split_once('=') {
        Some((field, value)) if !message.starts_with("unknown field") => format!(
            "line {line_number}: field {:?}: value {} is not allowed: {message}",
            field.trim(),
            value.trim()
        ),
        _ => format!("line {line_number}: {message}"),
    }
}

/// Checks that `value` is `host:port`.
pub fn check_address(field: &str, value: &str) -> Result<(), Invalid> {
    let valid = value.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    });
    if valid { Ok(()) } else { Err(Invalid::new(field, value, "host:port")) }
}

/// Checks that there is at least one address and that each is `host:port`.
pub fn check_addresses(field: &str, values: &[String]) -> Result<(), Invalid> {
    if values.is_empty() {
        return Err(Invalid::new(field, "[]", "one host:port or more"));
    }
    values.iter().try_for_each(|value| check_address(field, value))
}

/// Checks that `value` lies in `allowed`.
pub fn check_range<N: PartialOrd + Display>(
    field: &str,
    value: N,
    allowed: RangeInclusive<N>,
) -> Result<(), Invalid> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(field, value, format!("{} to {}", allowed.start(), allowed.end())))
}

/// Checks the name of a process: it becomes part of file names and metric labels.
pub fn check_name(field: &str, value: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&value.len()) && value.chars().all(allowed) {
        return Ok(());
    }
    Err(Invalid::new(field, value, "1 to 63 letters, digits, '-', '_' or '.'"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        grpc_listen: String,
        #[serde(default)]
        shards: u16,
    }

    impl Validate for Example {
        fn validate(&self) -> Result<(), Invalid> {
            check_address("grpc_listen", &self.grpc_listen)?;
            check_range("shards", self.shards, 0..=1024)
        }
    }

    fn message(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("F");
        fs::write(&path, text).expect("written");
        load::<Example>(&path).expect_err("wrong").to_string()
    }

    #[test]
    fn a_wrong_value_is_named_with_field_and_allowed_form() {
        let text = message("grpc_listen = \"abc\"\n");
        assert!(
            text.ends_with("field \"grpc_listen\": value \"abc\" is not allowed: host:port"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_field_and_line() {
        let text = message("grpc_listen = \"a:1\"\nshards = \"many\"\n");
        assert!(text.contains("line 2: field \"shards\": value \"many\""), "{text}");
        assert!(text.contains("u16"), "{text}");
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        let text = message("grpc_listen = \"a:1\"\nshard = 3\n");
        assert!(text.contains("unknown field `shard`") && text.contains("`shards`"), "{text}");
        let text = message("shards = 3\n");
        assert!(text.contains("missing field `grpc_listen`"), "{text}");
    }

    #[test]
    fn a_value_out_of_range_names_the_range() {
        let text = message("grpc_listen = \"a:1\"\nshards = 2000\n");
        assert!(text.ends_with("value \"2000\" is not allowed: 0 to 1024"), "{text}");
    }

    #[test]
    fn names_that_cannot_be_file_names_are_refused() {
        assert!(check_name("name", "storage-1").is_ok());
        assert!(check_name("name", "a/b").is_err());
        assert!(check_name("name", "").is_err());
    }
}
