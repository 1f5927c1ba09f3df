//! README and schema of the chart say what values.yaml says.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;

use holdfast_deploy::chart::folder;
use holdfast_deploy::readme;
use holdfast_deploy::schema::Schema;
use serde_json::Value;

fn values() -> String {
    fs::read_to_string(folder().join("values.yaml")).unwrap()
}

#[test]
fn every_value_is_described() {
    assert_eq!(readme::undescribed(&values()), Vec::<String>::new());
}

#[test]
fn the_readme_has_the_table() {
    let text = fs::read_to_string(folder().join("README.md")).unwrap();
    let wanted = readme::with_table(&text, &values());
    assert!(text == wanted, "run `cargo run -p holdfast-deploy --bin chart-readme`");
}

#[test]
fn the_schema_knows_every_value_and_nothing_else() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(folder().join("values.schema.json")).unwrap())
            .unwrap();
    let values: Value = serde_yaml_ng::from_str(&values()).unwrap();
    assert_eq!(Schema::new(&schema).differences(&values), Vec::<String>::new());
}
