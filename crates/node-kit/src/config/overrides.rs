//! `--set FIELD=VALUE`: what differs from process to process though they share one file.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Places in the file are below it; what the n-th override brings stands at this place plus n.
const FIRST_PLACE: usize = usize::MAX / 2;

/// One field and the value that it gets instead of the file's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Names of the tables and, last, of the field; at least one.
    path: Vec<String>,
    /// TOML, or the text itself; empty: the field is left unset.
    value: String,
}

/// Why an override cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OverrideError {
    /// There is no field, or no `=`.
    #[error("--set {0:?}: FIELD=VALUE is expected, as in name=a or log.segment_bytes=1048576")]
    Form(String),
    /// A name on the way to the field is that of a value.
    #[error("--set {field}: {table:?} is no table")]
    NoTable {
        /// The whole path.
        field: String,
        /// Its part that is no table.
        table: String,
    },
    /// The value has another type than the field, or there is no such field.
    #[error("--set {field}={value:?}: {message}")]
    Refused {
        /// The whole path.
        field: String,
        /// As given.
        value: String,
        /// What was expected.
        message: String,
    },
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Override, OverrideError> {
        let form = || OverrideError::Form(text.to_owned());
        let (field, value) = text.split_once('=').ok_or_else(form)?;
        let path: Vec<String> = field.split('.').map(|name| name.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(form());
        }
        Ok(Override { path, value: value.to_owned() })
    }
}

impl Override {
    /// Whether it gives the value of `field`, or of a table or list that `field` is in.
    pub(super) fn sets(&self, field: &str) -> bool {
        let rest = field.strip_prefix(&self.field());
        !self.value.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Sets the field in the whole file's table, or removes it. Tables on the way are made.
    pub(super) fn apply<'t>(
        &'t self,
        index: usize,
        root: &mut DeTable<'t>,
        schema: &Value,
    ) -> Result<(), OverrideError> {
        let place = FIRST_PLACE + index..FIRST_PLACE + index + 1;
        let Some((last, tables)) = self.path.split_last() else { return Ok(()) };
        let mut table = root;
        for (depth, name) in tables.iter().enumerate() {
            if self.value.is_empty() && !table.contains_key(name.as_str()) {
                return Ok(());
            }
            let inner = table
                .entry(Spanned::new(place.clone(), Cow::Borrowed(name.as_str())))
                .or_insert_with(|| Spanned::new(place.clone(), DeValue::Table(DeTable::new())));
            let DeValue::Table(inner) = inner.get_mut() else {
                return Err(OverrideError::NoTable {
                    field: self.field(),
                    table: self.path[..=depth].join("."),
                });
            };
            table = inner;
        }
        // Removed first, so that a key of the file does not stand for the new value.
        table.remove(last.as_str());
        if !self.value.is_empty() {
            let value = moved(self.value(schema), &place);
            table.insert(Spanned::new(place, Cow::Borrowed(last.as_str())), value);
        }
        Ok(())
    }

    fn field(&self) -> String {
        self.path.join(".")
    }

    /// TOML if it is any, else the text. A field that takes text gets text though it looks like
    /// something else: zones are called `1` and hosts `1e3`.
    fn value<'t>(&'t self, schema: &Value) -> Spanned<DeValue<'t>> {
        let text = || Spanned::new(0..0, DeValue::String(Cow::Borrowed(self.value.as_str())));
        match DeValue::parse(&self.value) {
            Ok(value) if value.get_ref().is_str() => value,
            Ok(value) if !takes_text(schema, schema, &self.path) => value,
            _ => text(),
        }
    }
}

/// The override that a parser's error is about, if it is about one.
pub(super) fn refused(overrides: &[Override], error: &toml::de::Error) -> Option<OverrideError> {
    let index = error.span()?.start.checked_sub(FIRST_PLACE)?;
    let one = overrides.get(index)?;
    Some(OverrideError::Refused {
        field: one.field(),
        value: one.value.clone(),
        message: error.message().trim_end().replace('\n', ", "),
    })
}

/// The value with all that is in it, as standing at `place`.
fn moved<'t>(value: Spanned<DeValue<'t>>, place: &Range<usize>) -> Spanned<DeValue<'t>> {
    let value = match value.into_inner() {
        DeValue::Array(values) => {
            DeValue::Array(values.into_iter().map(|value| moved(value, place)).collect())
        }
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    (Spanned::new(place.clone(), key.into_inner()), moved(value, place))
                })
                .collect(),
        ),
        value => value,
    };
    Spanned::new(place.clone(), value)
}

/// Whether the field at `path` below `node` may be a string.
fn takes_text(schema: &Value, node: &Value, path: &[String]) -> bool {
    if let Some(target) = node["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        return schema.pointer(target).is_some_and(|node| takes_text(schema, node, path));
    }
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| node[key].as_array());
    if choices.flatten().any(|node| takes_text(schema, node, path)) {
        return true;
    }
    match path.split_first() {
        Some((name, rest)) => takes_text(schema, &node["properties"][name.as_str()], rest),
        None => match &node["type"] {
            Value::Array(types) => types.iter().any(|one| one == "string"),
            one => one == "string",
        },
    }
}
