//! One TOML file configures one process, and the command line overrides fields of it. A wrong one
//! names field, value and what is allowed.

mod args;
mod checks;
mod overrides;
mod ranges;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use toml::de::{DeTable, Deserializer};

pub use args::{Program, from_args};
pub use checks::{check_address, check_addresses, check_name, check_range};
pub use overrides::{Override, OverrideError};
pub use ranges::check_ranges;

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

/// Why a config was not taken. Stop: a human must change the file, or the command line.
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
    /// An override cannot be applied, or its value has the wrong type.
    #[error(transparent)]
    Override(#[from] OverrideError),
    /// The value of an override is outside of what is allowed.
    #[error("--set {}={:?}: not allowed: {}", .0.field, .0.value, .0.allowed)]
    InvalidOverride(Invalid),
}

/// Reads and checks the config in `path`.
pub fn load<T: DeserializeOwned + Validate>(path: &Path) -> Result<T, ConfigError> {
    load_over(path, &[], &Value::Null)
}

/// Reads the config in `path`, sets the fields of `overrides` in it, in order, and checks the result.
pub fn load_with<T: DeserializeOwned + Validate + JsonSchema>(
    path: &Path,
    overrides: &[Override],
) -> Result<T, ConfigError> {
    load_over(path, overrides, schema_for!(T).as_value())
}

fn load_over<T: DeserializeOwned + Validate>(
    path: &Path,
    overrides: &[Override],
    schema: &Value,
) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let wrong = |error| match overrides::refused(overrides, &error) {
        Some(error) => ConfigError::Override(error),
        None => ConfigError::Parse { path: path.to_owned(), message: explain(&text, &error) },
    };
    let mut table = DeTable::parse(&text).map_err(wrong)?;
    for (index, one) in overrides.iter().enumerate() {
        one.apply(index, table.get_mut(), schema)?;
    }
    let config = T::deserialize(Deserializer::from(table)).map_err(wrong)?;
    config.validate().map_err(|source| {
        if overrides.iter().any(|one| one.sets(&source.field)) {
            ConfigError::InvalidOverride(source)
        } else {
            ConfigError::Invalid { path: path.to_owned(), source }
        }
    })?;
    Ok(config)
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
