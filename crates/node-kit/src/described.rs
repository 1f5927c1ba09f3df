//! The metrics that a process describes, as a list for people and for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use serde::Serialize;

use crate::process;

/// One metric, as described in the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Described {
    /// Name, as scraped; a histogram's is without `_bucket`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// `seconds`, `bytes` …; none for numbers of things.
    pub unit: Option<&'static str>,
    /// Meaning, and the labels in words.
    pub help: String,
}

impl Described {
    /// Whether it has labels: they are named in the help, as in "by `reason`".
    pub fn has_labels(&self) -> bool {
        self.help.contains("by `") || self.help.contains("by the `")
    }
}

/// All that `describe` and the process itself describe, by name.
pub fn metrics(describe: fn()) -> Vec<Described> {
    collected(|| {
        process::describe();
        describe();
    })
}

/// All that `describe` describes, by name.
pub(crate) fn collected(describe: impl FnOnce()) -> Vec<Described> {
    let recorder = Collector::default();
    with_local_recorder(&recorder, describe);
    let found = recorder.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.into_values().collect()
}

/// Keeps descriptions and ignores values.
#[derive(Default)]
struct Collector {
    found: Mutex<BTreeMap<String, Described>>,
}

impl Collector {
    fn keep(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>, help: &SharedString) {
        let unit = unit.filter(|unit| *unit != Unit::Count).map(|unit| unit.as_str());
        let name = name.as_str().to_owned();
        let one = Described { name: name.clone(), kind, unit, help: help.to_string() };
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(name, one);
    }
}

impl Recorder for Collector {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.keep(&name, "counter", unit, &help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.keep(&name, "gauge", unit, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.keep(&name, "histogram", unit, &help);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use metrics::{describe_counter, describe_histogram};

    use super::*;

    #[test]
    fn lists_what_the_program_and_the_process_describe() {
        let listed = metrics(|| {
            describe_histogram!("holdfast_a_seconds", Unit::Seconds, "Time of an a");
            describe_counter!("holdfast_b_total", Unit::Count, "Count of b by `reason`");
        });
        let of = |name: &str| listed.iter().find(|one| one.name == name).expect("described");
        let (a, b) = (of("holdfast_a_seconds"), of("holdfast_b_total"));
        assert_eq!((a.kind, a.unit), ("histogram", Some("seconds")));
        assert_eq!((b.kind, b.unit, b.help.as_str()), ("counter", None, "Count of b by `reason`"));
        assert_eq!(of("process_resident_memory_bytes").unit, Some("bytes"));
    }
}
