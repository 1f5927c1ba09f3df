//! Every metric is described, and named as Prometheus has it.

use holdfast_docs::metrics_page::labels;
use holdfast_docs::program::Program;

#[test]
fn names_units_and_types_agree() {
    for program in Program::all().expect("built") {
        let metrics = program.metrics().expect("metrics");
        assert!(metrics.len() > 10, "{} describes {} metrics", program.name, metrics.len());
        for metric in metrics {
            let (name, kind) = (metric.name.as_str(), metric.kind.as_str());
            assert!(!metric.help.is_empty(), "{name} has no meaning");
            assert!(name.starts_with("holdfast_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
            let unit = metric.unit.unwrap_or_default();
            let base = name.strip_suffix("_total").unwrap_or(name);
            for suffix in ["seconds", "bytes"] {
                assert_eq!(base.ends_with(suffix), unit == suffix, "{name} is in {unit:?}");
            }
            assert!(["", "seconds", "bytes"].contains(&unit.as_str()), "{name} is in {unit:?}");
            for suffix in ["_count", "_sum", "_bucket", "_ms", "_info"] {
                let known = suffix == "_info" && kind == "gauge";
                assert!(!name.ends_with(suffix) || known, "{name} is a {kind}");
            }
        }
    }
}

/// The programs tell labels by these words, too: what has none begins at 0.
#[test]
fn labels_are_named_as_such() {
    for program in Program::all().expect("built") {
        for metric in program.metrics().expect("metrics") {
            let labels = labels(&metric.help);
            let quoted = metric.help.split('`').skip(1).step_by(2);
            let name = |word: &&str| word.bytes().all(|c| c.is_ascii_lowercase());
            for word in quoted.filter(name) {
                assert!(labels.contains(&word), "{}: \"by `{word}`\" is expected", metric.name);
            }
        }
    }
}
