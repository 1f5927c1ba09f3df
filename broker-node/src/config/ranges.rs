//! Checks every number of a config against the range that its schema states.

use holdfast_node_kit::config::{Invalid, check_range};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

/// Reports the first number that is out of its range.
pub(super) fn check<C: Serialize + JsonSchema>(config: &C) -> Result<(), Invalid> {
    // A config is read from TOML: there is no value in it that JSON does not have.
    let Ok(values) = serde_json::to_value(config) else { return Ok(()) };
    check_all("", schema::<C>().as_value(), &values)
}

/// The schema without references.
pub(super) fn schema<C: JsonSchema>() -> schemars::Schema {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<C>()
}

fn check_all(field: &str, schema: &Value, value: &Value) -> Result<(), Invalid> {
    let Some(values) = value.as_object() else { return check_one(field, schema, value) };
    values.iter().try_for_each(|(name, value)| {
        let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        check_all(&path, &schema["properties"][name], value)
    })
}

fn check_one(field: &str, schema: &Value, value: &Value) -> Result<(), Invalid> {
    let Some(value) = value.as_u64() else { return Ok(()) };
    let bound = |name: &str, otherwise| schema[name].as_u64().unwrap_or(otherwise);
    check_range(field, value, bound("minimum", 0)..=bound("maximum", u64::MAX))
}
