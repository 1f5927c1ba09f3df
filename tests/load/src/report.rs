//! The result of a scenario, for people and for scripts.

use serde_json::{Map, Value, json};

use crate::latency::Latencies;
use crate::meter::Usage;

/// Figures of one scenario, in order.
#[derive(Debug)]
pub(crate) struct Report {
    name: String,
    figures: Vec<(String, f64)>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(name: impl Into<String>) -> Report {
        Report { name: name.into(), figures: Vec::new() }
    }

    /// The same figures under another name.
    pub(crate) fn named(self, name: impl Into<String>) -> Report {
        Report { name: name.into(), ..self }
    }

    /// Adds a figure; the unit is the end of its name.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }

    /// Adds p50 and p99 of something.
    pub(crate) fn add_latencies(&mut self, what: &str, latencies: &Latencies) {
        if let Some(percentiles) = latencies.percentiles(&[50.0, 99.0]) {
            self.add(format!("{what}_p50_ms"), percentiles[0]);
            self.add(format!("{what}_p99_ms"), percentiles[1]);
        }
    }

    /// Adds what a number of publishes cost.
    pub(crate) fn add_cost(&mut self, usage: &Usage, publishes: u64, seconds: f64) {
        let millions = publishes as f64 / 1e6;
        if !usage.cpu.is_empty() && publishes > 0 {
            self.add("server_cpu_s_per_million", usage.cpu_sum() / millions);
            for (role, cpu) in &usage.cpu {
                self.add(format!("{role}_cpu_s_per_million"), cpu / millions);
            }
            self.add("disk_bytes_per_publish", usage.written as f64 / publishes as f64);
        }
        self.add("own_cpu_share", usage.own_cpu / seconds);
    }

    /// Adds the largest resident set.
    pub(crate) fn add_memory(&mut self, usage: &Usage) {
        for (name, bytes) in &usage.resident {
            self.add(format!("{name}_resident_mb"), *bytes as f64 / 1e6);
        }
    }

    /// Prints to stdout.
    pub(crate) fn print(&self, as_json: bool) {
        if as_json {
            let figures: Map<String, Value> =
                self.figures.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            println!("{}", json!({ "scenario": self.name, "figures": figures }));
            return;
        }
        println!("\n{}", self.name);
        for (name, value) in &self.figures {
            println!("  {name:<34} {}", format_value(*value));
        }
    }
}

fn format_value(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:>12.0}") } else { format!("{value:>12.3}") }
}
