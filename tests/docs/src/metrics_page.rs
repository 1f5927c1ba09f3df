//! The table of metrics.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::pages::cell;
use crate::program::{Metric, Program, ProgramError};

const HEAD: &str = "\
<!-- Made by `make docs` from the programs. Change the descriptions in the code, not this file. -->
# Metrics

Each process serves them at `http_listen`, `/metrics`, as Prometheus text. Counters begin at 0 when the process starts.
A histogram has `_bucket`, `_sum` and `_count`; quantiles are computed from its buckets:
`histogram_quantile(0.99, sum by (le) (rate(NAME_bucket[5m])))`. No client id and no topic is ever a label.
";

/// The whole page.
pub fn make(programs: &[Program]) -> Result<String, ProgramError> {
    let mut page = HEAD.to_owned();
    let mut all = Vec::new();
    for program in programs {
        all.push((program.name, program.metrics()?));
    }
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for metric in all.iter().flat_map(|(_, metrics)| metrics) {
        *count.entry(metric.name.clone()).or_default() += 1;
    }
    let shared = |metric: &&Metric| count.get(&metric.name).copied() == Some(programs.len());
    page += "\n## Every process\n\n";
    page += &table(all.iter().take(1).flat_map(|(_, metrics)| metrics).filter(shared));
    for (name, metrics) in &all {
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {name}\n\n");
        page += &table(metrics.iter().filter(|metric| !shared(metric)));
    }
    Ok(page)
}

fn table<'a>(metrics: impl Iterator<Item = &'a Metric>) -> String {
    let mut text =
        String::from("| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n");
    for metric in metrics {
        let Metric { name, kind, unit, help } = metric;
        let labels: Vec<String> =
            labels(help).into_iter().map(|label| format!("`{label}`")).collect();
        let (unit, labels, help) =
            (unit.as_deref().unwrap_or_default(), labels.join(", "), cell(help));
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
    }
    text
}

/// The labels that a help text names: `by` and then words in backticks.
pub fn labels(help: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut parts = help.split('`');
    let mut before = parts.next().unwrap_or_default();
    while let (Some(label), Some(after)) = (parts.next(), parts.next()) {
        let first = before.ends_with("by ") || before.ends_with("by the ");
        if first || (!found.is_empty() && matches!(before, ", " | " and ")) {
            found.push(label);
        }
        before = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_named_in_the_help() {
        assert_eq!(labels("Requests, by `reason`"), ["reason"]);
        assert_eq!(labels("Bytes by `kind` and `state`: a, b"), ["kind", "state"]);
        assert_eq!(labels("Ends, by `reason` and by the `code` of it"), ["reason", "code"]);
        assert!(labels("While `x` is held back by nothing").is_empty());
    }
}
