//! Writes the table of values into the chart's README.

use std::fs;

use holdfast_deploy::{chart, readme};

fn main() -> std::io::Result<()> {
    let path = chart::folder().join("README.md");
    let values = fs::read_to_string(chart::folder().join("values.yaml"))?;
    let text = fs::read_to_string(&path)?;
    fs::write(path, readme::with_table(&text, &values))
}
