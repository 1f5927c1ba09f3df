//! Retention: when a sealed generation may go. Pure functions of the policy, the generation and the time.
//!
//! A generation goes as a whole, and generations go in order. Every topic belongs to a *class*: that of
//! the first override whose filter matches it, else the default. A generation goes when every class that
//! is present in it allows it, so the topic that is kept longest decides.

use holdfast_proto::ids::Position;
use holdfast_proto::shard::GenerationRow;
use holdfast_proto::topic;

/// When messages may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When they are old, read or not.
    Time,
    /// As soon as every durable session is past them; never by age.
    Consumed,
    /// When they are old and every durable session is past them.
    TimeAndConsumed,
}

/// What holds for some topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// When their messages may be removed.
    pub mode: Mode,
    /// Time since the generation was sealed at which they are old, in ms.
    pub age_ms: u64,
}

/// What holds for all topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    default: Class,
    overrides: Vec<(String, Class)>,
}

/// The classes that are present in a generation, by their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present(Vec<bool>);

/// What retention wants of a sealed generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes as soon as every durable session is past it.
    Wait,
    /// It goes, read or not; what sessions lose by that is counted first.
    Doom,
}

/// Up to where retention wants sessions to be past a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// End of the newest generation that goes, or waits to be consumed.
    pub wanted_below: Position,
    /// End of the newest generation that goes, read or not; everything that is gone already is below.
    pub doomed_below: Position,
}

impl Policy {
    /// A policy; the first override whose filter matches a topic decides.
    #[must_use]
    pub fn new(default: Class, overrides: Vec<(String, Class)>) -> Policy {
        Policy { default, overrides }
    }

    /// Whether all topics are of one class, so that nobody needs to look which ones there are.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.overrides.is_empty()
    }

    /// Notes the class of a topic that is present.
    pub fn note(&self, present: &mut Present, name: &str) {
        let mut overrides = self.overrides.iter();
        let number = overrides.position(|(filter, _)| topic::matches(filter, name));
        let number = number.unwrap_or(self.overrides.len());
        present.0.resize(self.overrides.len() + 1, false);
        present.0[number] = true;
    }

    /// Whether every class is present, so that no further topic can change anything.
    #[must_use]
    pub fn is_full(&self, present: &Present) -> bool {
        present.0.len() > self.overrides.len() && present.0.iter().all(|is| *is)
    }

    fn classes(&self, present: &Present) -> impl Iterator<Item = Class> {
        let all = self.overrides.iter().map(|(_, class)| *class).chain([self.default]);
        let uniform = self.is_uniform();
        let present = present.0.clone();
        all.enumerate()
            .filter(move |(number, _)| uniform || present.get(*number) == Some(&true))
            .map(|(_, class)| class)
    }

    /// What to do with a generation in which these classes are present. One without topics goes when
    /// nobody waits for it.
    #[must_use]
    pub fn verdict(&self, row: &GenerationRow, present: &Present, now_ms: u64) -> Verdict {
        if row.sealed_at_ms == 0 {
            return Verdict::Keep;
        }
        let age_ms = now_ms.saturating_sub(row.sealed_at_ms);
        let mut verdict = Verdict::Doom;
        for class in self.classes(present) {
            if class.mode != Mode::Consumed && age_ms < class.age_ms {
                return Verdict::Keep;
            }
            if class.mode != Mode::Time {
                verdict = Verdict::Wait;
            }
        }
        verdict
    }
}

/// The targets for a shard's generations, oldest first, with what is wanted of each: a generation that
/// stays keeps everything after it.
#[must_use]
pub fn targets<'a>(all: impl Iterator<Item = (&'a GenerationRow, Verdict)>) -> Targets {
    let mut targets: Option<Targets> = None;
    for (row, verdict) in all {
        let gone = Position(row.first_position);
        let known = targets.get_or_insert(Targets { wanted_below: gone, doomed_below: gone });
        if row.sealed_at_ms == 0 || verdict == Verdict::Keep {
            break;
        }
        if verdict == Verdict::Doom && known.doomed_below == gone {
            known.doomed_below = Position(row.end_position);
        }
        known.wanted_below = Position(row.end_position);
    }
    targets.unwrap_or(Targets { wanted_below: Position::FIRST, doomed_below: Position::FIRST })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(mode: Mode, age_ms: u64) -> Class {
        Class { mode, age_ms }
    }

    fn generation(number: u64, sealed_at_ms: u64) -> GenerationRow {
        GenerationRow {
            generation: number,
            first_position: number * 10,
            end_position: if sealed_at_ms == 0 { 0 } else { number * 10 + 10 },
            sealed_at_ms,
            ..GenerationRow::default()
        }
    }

    fn present(policy: &Policy, names: &[&str]) -> Present {
        let mut present = Present::default();
        names.iter().for_each(|name| policy.note(&mut present, name));
        present
    }

    #[test]
    fn each_mode_says_when_a_generation_goes() {
        let row = generation(1, 1_000);
        for (mode, young, old) in [
            (Mode::Time, Verdict::Keep, Verdict::Doom),
            (Mode::Consumed, Verdict::Wait, Verdict::Wait),
            (Mode::TimeAndConsumed, Verdict::Keep, Verdict::Wait),
        ] {
            let policy = Policy::new(class(mode, 500), Vec::new());
            assert_eq!(policy.verdict(&row, &Present::default(), 1_499), young, "{mode:?}");
            assert_eq!(policy.verdict(&row, &Present::default(), 1_500), old, "{mode:?}");
            assert_eq!(
                policy.verdict(&generation(1, 0), &Present::default(), 9_999),
                Verdict::Keep
            );
        }
    }

    #[test]
    fn the_topic_that_is_kept_longest_decides() {
        let overrides = vec![
            ("alarms/#".to_owned(), class(Mode::TimeAndConsumed, 10_000)),
            ("telemetry/+/raw".to_owned(), class(Mode::Time, 10)),
            ("telemetry/#".to_owned(), class(Mode::Consumed, 0)),
        ];
        let policy = Policy::new(class(Mode::Time, 1_000), overrides);
        let row = generation(1, 0);
        let row = GenerationRow { sealed_at_ms: 1, ..row };
        let verdict = |names: &[&str], age_ms| {
            policy.verdict(&row, &present(&policy, names), row.sealed_at_ms + age_ms)
        };
        assert_eq!(verdict(&["telemetry/1/raw"], 10), Verdict::Doom);
        assert_eq!(verdict(&["telemetry/1/raw", "telemetry/1"], 10), Verdict::Wait);
        assert_eq!(verdict(&["telemetry/1/raw", "other"], 10), Verdict::Keep);
        assert_eq!(verdict(&["telemetry/1/raw", "other"], 1_000), Verdict::Doom);
        assert_eq!(verdict(&["telemetry/1/raw", "other", "alarms/x"], 1_000), Verdict::Keep);
        assert_eq!(verdict(&["alarms/x"], 10_000), Verdict::Wait);
        assert_eq!(verdict(&[], 0), Verdict::Doom);
        let all = present(&policy, &["alarms/x", "telemetry/1/raw", "telemetry/1", "other"]);
        assert!(policy.is_full(&all) && !policy.is_full(&present(&policy, &["other"])));
    }

    #[test]
    fn generations_go_in_order() {
        let rows = [generation(1, 5), generation(2, 6), generation(3, 7), generation(4, 0)];
        let of = |verdicts: [Verdict; 3]| {
            let verdicts = verdicts.into_iter().chain([Verdict::Keep]);
            let targets = targets(rows.iter().zip(verdicts));
            (targets.doomed_below.0, targets.wanted_below.0)
        };
        use Verdict::{Doom, Keep, Wait};
        assert_eq!(of([Keep, Doom, Doom]), (10, 10));
        assert_eq!(of([Doom, Keep, Doom]), (20, 20));
        assert_eq!(of([Doom, Doom, Doom]), (40, 40));
        assert_eq!(of([Wait, Doom, Keep]), (10, 30));
        assert_eq!(of([Doom, Wait, Doom]), (20, 40));
    }
}
