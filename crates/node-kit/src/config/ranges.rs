//! Numbers against the ranges that their fields state for the schema, `#[schemars(range(..))]`: what is
//! documented is what is enforced.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::{Invalid, check_range};

/// Reports the first number of `config` that is out of its field's range.
pub fn check_ranges<C: Serialize + JsonSchema>(config: &C) -> Result<(), Invalid> {
    // A config is read from TOML: there is no value in it that JSON does not have.
    let Ok(values) = serde_json::to_value(config) else { return Ok(()) };
    let settings = SchemaSettings::draft2020_12().with(|all| all.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<C>();
    check("", schema.as_value(), &values)
}

fn check(field: &str, schema: &Value, value: &Value) -> Result<(), Invalid> {
    let choices = schema["anyOf"].as_array();
    if let Some(choice) = choices.and_then(|all| all.iter().find(|one| one["type"] != "null")) {
        return check(field, choice, value);
    }
    match value {
        Value::Object(values) => values.iter().try_for_each(|(name, value)| {
            let path = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            check(&path, &schema["properties"][name], value)
        }),
        Value::Array(values) => {
            values.iter().try_for_each(|value| check(field, &schema["items"], value))
        }
        value => check_number(field, schema, value),
    }
}

fn check_number(field: &str, schema: &Value, value: &Value) -> Result<(), Invalid> {
    let Some(value) = value.as_u64() else { return Ok(()) };
    let bound = |name: &str, otherwise| schema[name].as_u64().unwrap_or(otherwise);
    check_range(field, value, bound("minimum", 0)..=bound("maximum", u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Serialize, JsonSchema)]
    struct Example {
        free: u64,
        inner: Inner,
        perhaps: Option<Inner>,
        list: Vec<Inner>,
    }

    #[derive(Serialize, JsonSchema)]
    struct Inner {
        #[schemars(range(min = 2, max = 5))]
        size: u64,
        #[schemars(range(min = 2, max = 5))]
        other: Option<u64>,
    }

    impl Default for Inner {
        fn default() -> Inner {
            Inner { size: 2, other: None }
        }
    }

    fn refused(example: Example) -> String {
        check_ranges(&example).expect_err("out of range").to_string()
    }

    #[test]
    fn numbers_in_range_and_without_one_pass() {
        let inner = Inner { size: 5, other: Some(2) };
        let example =
            Example { free: u64::MAX, inner, perhaps: Some(Inner::default()), list: vec![] };
        assert_eq!(check_ranges(&example), Ok(()));
    }

    #[test]
    fn a_number_out_of_range_is_named_wherever_it_is() {
        let wrong = |size, other| Inner { size, other };
        let told = refused(Example { inner: wrong(6, None), ..Example::default() });
        assert_eq!(told, "field \"inner.size\": value \"6\" is not allowed: 2 to 5");
        let told = refused(Example { inner: wrong(2, Some(1)), ..Example::default() });
        assert!(told.contains("inner.other"), "{told}");
        let told = refused(Example { perhaps: Some(wrong(0, None)), ..Example::default() });
        assert!(told.contains("perhaps.size"), "{told}");
        let list = vec![Inner::default(), wrong(7, None)];
        let told = refused(Example { list, ..Example::default() });
        assert!(told.contains("list.size"), "{told}");
    }
}
