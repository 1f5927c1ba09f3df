use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::*;

const MINIMAL: &str = r#"
name = "gateway-1"
mqtt_listen = "[::1]:1883"
grpc_listen = "127.0.0.1:7001"
http_listen = "127.0.0.1:8081"
meta = ["meta:7000"]
"#;

fn config(more: &str) -> Config {
    toml::from_str(&format!("{MINIMAL}{more}")).unwrap()
}

fn refused(more: &str) -> String {
    config(more).validate().expect_err(more).to_string()
}

/// Every number of the config with its schema.
fn numbers() -> Vec<(String, Value)> {
    let settings = SchemaSettings::draft2020_12().with(|all| all.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>();
    let mut found = Vec::new();
    let mut open = vec![(String::new(), schema.as_value().clone())];
    while let Some((path, schema)) = open.pop() {
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        for (name, schema) in properties {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            if schema["type"] == "integer" {
                found.push((path.clone(), schema.clone()));
            }
            open.push((path, schema));
        }
    }
    found
}

#[test]
fn the_defaults_are_allowed() {
    config("").validate().unwrap();
}

#[test]
fn every_number_has_a_default_and_a_range_that_is_kept() {
    let numbers = numbers();
    assert!(numbers.len() > 30, "{numbers:?}");
    for (path, schema) in numbers {
        let (min, max) = (schema["minimum"].as_u64(), schema["maximum"].as_u64());
        let (Some(min), Some(max)) = (min, max) else { panic!("{path} has no range: {schema}") };
        assert!(schema["description"].is_string(), "{path} is not described");
        let mut values = serde_json::to_value(config("")).unwrap();
        let at = |values: &mut Value, value: u64| {
            *values.pointer_mut(&format!("/{}", path.replace('.', "/"))).unwrap() = value.into();
        };
        let default = schema["default"].as_u64().unwrap_or_else(|| panic!("{path}: no default"));
        assert!((min..=max).contains(&default), "{path}");
        for wrong in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
            at(&mut values, wrong);
            // What the type does not hold is refused when the file is read.
            let Ok(config) = serde_json::from_value::<Config>(values.clone()) else { continue };
            let error = config.validate().expect_err(&path);
            assert_eq!((error.field, error.value), (path.clone(), wrong.to_string()));
        }
    }
}

#[test]
fn what_depends_on_another_field_is_checked() {
    let error = refused("[mqtt]\ndrain_timeout_ms = 100\ndrain_spread_ms = 101\n");
    assert!(error.contains("mqtt.drain_spread_ms") && error.contains("0 to 100"), "{error}");
    let error = refused("[cluster]\nbatch_bytes_max = 100_000\nshard_queue_bytes_max = 70_000\n");
    assert!(error.contains("cluster.batch_bytes_max"), "{error}");
    assert!(refused("[mqtt]\nallow_anonymous = false\n").contains("mqtt.allow_anonymous"));
}

#[test]
fn addresses_told_to_others_are_checked() {
    for good in ["[::1]:7001", "10.0.0.1:7001", "gateway-1.gateways:7001"] {
        config(&format!("grpc_advertise = \"{good}\"")).validate().unwrap();
        config(&format!("mqtt_advertise = \"{good}\"")).validate().unwrap();
    }
    for field in ["grpc_advertise", "mqtt_advertise"] {
        for wrong in ["7001", "host:", "host:99999", "0.0.0.0:7001", "[::]:7001"] {
            assert!(refused(&format!("{field} = \"{wrong}\"")).contains(field));
        }
        // As $(POD_IP):7001 has it.
        let error = refused(&format!("{field} = \"fd00::1:7001\""));
        assert!(error.contains("brackets"), "{error}");
    }
    let everywhere = MINIMAL.replace("[::1]:1883", "0.0.0.0:1883");
    let parsed = |text: &str| toml::from_str::<Config>(text).unwrap();
    let error = parsed(&everywhere).validate().expect_err("nowhere to go to");
    assert_eq!(error.field, "mqtt_advertise");
    parsed(&format!("{everywhere}mqtt_advertise = \"gateway-1:1883\"")).validate().unwrap();
}
