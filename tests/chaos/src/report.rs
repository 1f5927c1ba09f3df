//! What the matrix shows: a line for each fault, and all of it as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Outcome;

/// How a line ended.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Every promise was kept.
    Kept,
    /// At least one was not, or the cluster did not recover.
    Broken,
    /// Not run, and why.
    LeftOut(String),
}

/// One fault and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Processes that it was done to.
    pub(crate) victims: Vec<String>,
    pub(crate) outcome: Outcome,
    /// Until everybody was ready again after the fault was mended.
    pub(crate) recovery: Duration,
    pub(crate) verdict: Verdict,
}

impl Line {
    /// What did not take place.
    pub(crate) fn left_out(name: &str, why: String) -> Line {
        Line {
            name: name.to_owned(),
            victims: Vec::new(),
            outcome: Outcome::default(),
            recovery: Duration::ZERO,
            verdict: Verdict::LeftOut(why),
        }
    }

    /// Whether a promise was broken.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Broken)
    }

    /// As printed.
    pub(crate) fn text(&self) -> String {
        if let Verdict::LeftOut(why) = &self.verdict {
            return format!("{:<28} left out: {why}", self.name);
        }
        let it = &self.outcome;
        let verdict = if self.is_broken() { "FAIL" } else { "ok" };
        let mut text = format!(
            "{:<28} {:>9} {:>9} {:>6} {:>7} {:>5} {:>6} {:>6} {:>5} {:>6}  {verdict:<4}  {}",
            self.name,
            it.publisher_outage.as_millis(),
            it.subscriber_outage.as_millis(),
            it.acknowledged,
            it.refused,
            it.lost,
            it.repeated_exactly_once,
            it.repeated_at_least_once,
            it.repeated_late,
            it.disordered,
            self.victims.join(" "),
        );
        for error in &it.errors {
            text.push_str("\n    ");
            text.push_str(error);
        }
        text
    }

    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let it = &self.outcome;
        let (verdict, left_out) = match &self.verdict {
            Verdict::Kept => ("kept", None),
            Verdict::Broken => ("broken", None),
            Verdict::LeftOut(why) => ("left out", Some(why)),
        };
        json!({
            "name": self.name,
            "victims": self.victims,
            "publisher_outage_ms": it.publisher_outage.as_millis(),
            "subscriber_outage_ms": it.subscriber_outage.as_millis(),
            "recovery_ms": self.recovery.as_millis(),
            "acknowledged": it.acknowledged,
            "refused": it.refused,
            "lost": it.lost,
            "repeated_qos_2": it.repeated_exactly_once,
            "repeated_qos_1": it.repeated_at_least_once,
            "repeated_late": it.repeated_late,
            "out_of_order": it.disordered,
            "errors": it.errors,
            "verdict": verdict,
            "left_out": left_out,
        })
    }
}

/// Above the lines.
pub(crate) fn heading() -> String {
    format!(
        "{:<28} {:>9} {:>9} {:>6} {:>7} {:>5} {:>6} {:>6} {:>5} {:>6}  {:<4}  {}\n{:<28} {:>9} {:>9} {:>6} {:>7} {:>5} {:>6} {:>6} {:>5} {:>6}",
        "fault",
        "pub ms",
        "sub ms",
        "sent",
        "refused",
        "lost",
        "dup Q2",
        "dup Q1",
        "late",
        "order",
        "",
        "done to",
        "",
        "longest",
        "longest",
        "acked",
        "",
        "",
        "must 0",
        "may be",
        "must",
        "must 0",
    )
}
