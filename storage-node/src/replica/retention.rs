//! Retention of one shard at its leader: which generations wait to be consumed, which go unread, and
//! when one is dropped.
//!
//! A generation that waits is dropped once meta-service has heard from the leaders of all shards that
//! every durable session is past it. One that is doomed is dropped then too, or when patience is over:
//! time and a full disk do not wait for meta-service.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_proto::ids::{Generation, Position, ShardId};
use holdfast_proto::meta::ShardRetention;
use holdfast_proto::shard::GenerationRow;
use holdfast_shard::policy::{Policy, Present, Targets, Verdict, targets};
use parking_lot::Mutex;

use super::Replica;
use super::cell::Cell;
use crate::config::RetentionConfig;
use crate::metrics::{self, Refused};

/// What this site knows of retention in all shards, from meta-service.
#[derive(Default)]
pub(crate) struct KnownRetention(Mutex<BTreeMap<u16, ShardRetention>>);

impl KnownRetention {
    /// Takes what changed.
    pub(crate) fn take(&self, changed: Vec<ShardRetention>) {
        let mut known = self.0.lock();
        for one in changed {
            known.insert(one.shard as u16, one);
        }
    }

    /// Every durable session of every shard is past this position of the shard.
    pub(crate) fn consumed_below(&self, shard: ShardId) -> u64 {
        self.0.lock().get(&shard.0).map_or(0, |known| known.consumed_below)
    }

    /// What is wanted of sessions, per shard.
    pub(crate) fn all(&self) -> Vec<ShardRetention> {
        self.0.lock().values().copied().collect()
    }
}

/// Why a generation is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is old.
    Age,
    /// The disk is above its mark.
    DiskFull,
    /// Every durable session is past it.
    Consumed,
}

impl Reason {
    /// All there are.
    pub(crate) const ALL: [Reason; 3] = [Reason::Age, Reason::DiskFull, Reason::Consumed];

    /// As metrics and logs call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Age => "age",
            Reason::DiskFull => "disk_full",
            Reason::Consumed => "consumed",
        }
    }
}

/// What a shard's leader says of retention.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RetentionReport {
    /// What is asked of sessions; `consumed_below` is meta-service's to say.
    pub(crate) retention: ShardRetention,
    /// Per shard, the lowest position that a durable session of this shard may still need; empty if it
    /// is not known.
    pub(crate) low_marks: Vec<u64>,
}

/// Retention of one replica; of use while it leads.
#[derive(Default)]
pub(crate) struct Retention(Mutex<State>);

#[derive(Default)]
struct State {
    /// Classes of topics in sealed generations, as far as they were looked up.
    present: BTreeMap<u64, Present>,
    looking_up: bool,
    /// Generations that go unread: since when they are to.
    doomed_since: BTreeMap<u64, Instant>,
    targets: Option<Targets>,
    low_marks: Vec<u64>,
    /// The generation whose end is proposed.
    dropping: Option<(u64, Reason)>,
}

/// What one look at a shard's generations goes by.
pub(crate) struct Look<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) config: &'a RetentionConfig,
    pub(crate) now_ms: u64,
    /// The disk needs everything below.
    pub(crate) pressed_below: u64,
    pub(crate) consumed_below: u64,
}

impl Retention {
    /// Decides about a shard's generations, oldest first. Returns the one that is to be dropped now.
    fn decide(&self, rows: &[GenerationRow], look: &Look<'_>, shard: u16) -> Option<Generation> {
        let mut state = self.0.lock();
        let oldest = rows.first()?;
        state.present.retain(|generation, _| *generation >= oldest.generation);
        let judged: Vec<(&GenerationRow, Verdict)> =
            rows.iter().map(|row| (row, state.judge(row, look))).collect();
        let targets = targets(judged.iter().copied());
        state.targets = Some(targets);
        let now = Instant::now();
        state.doomed_since.retain(|generation, _| {
            rows.iter().any(|row| {
                row.generation == *generation && row.end_position <= targets.doomed_below.0
            })
        });
        for row in rows.iter().filter(|row| row.sealed_at_ms != 0) {
            if row.end_position <= targets.doomed_below.0 {
                state.doomed_since.entry(row.generation).or_insert(now);
            }
        }
        let (_, verdict) = *judged.first()?;
        if oldest.sealed_at_ms == 0 || verdict == Verdict::Keep {
            return None;
        }
        let pressed = oldest.end_position <= look.pressed_below;
        let counted = look.consumed_below >= oldest.end_position;
        let patience_ms = match pressed {
            true => look.config.pressed_patience_ms,
            false => look.config.doomed_patience_ms,
        };
        let since = state.doomed_since.get(&oldest.generation);
        let over = since.is_some_and(|at| at.elapsed() >= Duration::from_millis(patience_ms));
        if !counted && !over {
            return None;
        }
        let reason = match verdict {
            Verdict::Doom if pressed => Reason::DiskFull,
            Verdict::Doom => Reason::Age,
            _ => Reason::Consumed,
        };
        if state.dropping != Some((oldest.generation, reason)) {
            state.dropping = Some((oldest.generation, reason));
            announce(shard, oldest, reason, counted);
        }
        Some(Generation(oldest.generation))
    }

    /// Notes that a generation is gone; returns why, if this replica asked for it.
    pub(crate) fn dropped(&self, generation: u64) -> Option<Reason> {
        let mut state = self.0.lock();
        let (_, reason) = state.dropping.take_if(|(dropping, _)| *dropping == generation)?;
        Some(reason)
    }

    /// The walk over this shard's sessions is complete.
    pub(crate) fn walked(&self, low_marks: Vec<u64>) {
        self.0.lock().low_marks = low_marks;
    }

    /// What the last complete walk found, per shard; empty if there was none.
    pub(crate) fn low_marks(&self) -> Vec<u64> {
        self.0.lock().low_marks.clone()
    }
}

fn announce(shard: u16, row: &GenerationRow, reason: Reason, counted: bool) {
    let (generation, end, reason) = (row.generation, row.end_position, reason.name());
    if counted {
        tracing::info!(shard, generation, end, reason, "dropping generation");
    } else {
        tracing::warn!(
            shard,
            generation,
            end,
            reason,
            counted,
            "dropping generation before all sessions' losses were counted"
        );
    }
}

impl State {
    fn judge(&self, row: &GenerationRow, look: &Look<'_>) -> Verdict {
        if row.sealed_at_ms == 0 {
            return Verdict::Keep;
        }
        if row.end_position <= look.pressed_below {
            return Verdict::Doom;
        }
        if look.policy.is_uniform() {
            return look.policy.verdict(row, &Present::default(), look.now_ms);
        }
        match self.present.get(&row.generation) {
            Some(present) => look.policy.verdict(row, present, look.now_ms),
            // Not looked up yet.
            None => Verdict::Keep,
        }
    }
}

impl Replica {
    /// The generation that is to be dropped now, if any.
    pub(crate) fn due_generation(
        &self,
        rows: &[GenerationRow],
        look: &Look<'_>,
    ) -> Option<Generation> {
        if !look.policy.is_uniform() {
            self.look_up_classes(rows, look.policy);
        }
        self.cell.retention.decide(rows, look, self.key.shard.0)
    }

    /// What meta-service is to know, while this replica leads.
    pub(crate) fn retention_report(&self) -> Option<RetentionReport> {
        if self.serving().is_err() {
            return None;
        }
        let state = self.cell.retention.0.lock();
        let targets = state.targets?;
        Some(RetentionReport {
            retention: ShardRetention {
                shard: u32::from(self.key.shard.0),
                wanted_below: targets.wanted_below.0,
                doomed_below: targets.doomed_below.0,
                consumed_below: 0,
            },
            low_marks: state.low_marks.clone(),
        })
    }

    /// Looks up which classes of topics the next sealed generation has, off the reactor.
    fn look_up_classes(&self, rows: &[GenerationRow], policy: &Policy) {
        let mut state = self.cell.retention.0.lock();
        let sealed = rows.iter().filter(|row| row.sealed_at_ms != 0);
        let next = sealed.map(|row| row.generation).find(|row| !state.present.contains_key(row));
        let Some(row) = rows.iter().find(|row| Some(row.generation) == next).cloned() else {
            return;
        };
        if std::mem::replace(&mut state.looking_up, true) {
            return;
        }
        drop(state);
        let (cell, policy) = (self.cell.clone(), policy.clone());
        tokio::task::spawn_blocking(move || {
            let present = classes_in(&cell, &row, &policy);
            let mut state = cell.retention.0.lock();
            state.looking_up = false;
            if let Some(present) = present {
                state.present.insert(row.generation, present);
            }
        });
    }
}

/// The classes in a sealed generation; `None` while its runs are not all here.
pub(crate) fn classes_in(cell: &Cell, row: &GenerationRow, policy: &Policy) -> Option<Present> {
    if cell.shard.lock().tail().first().0 < row.end_position {
        return None;
    }
    let range = Position(row.first_position)..Position(row.end_position);
    let runs: Option<Vec<_>> = cell.runs_in(range).into_iter().collect();
    let mut present = Present::default();
    for run in runs? {
        if policy.is_full(&present) {
            break;
        }
        if let Err(error) = run.for_each_topic(|_, name| policy.note(&mut present, name)) {
            cell.note_damage(&run, &error);
            let shard = cell.key.shard.0;
            tracing::error!(shard, %error, "run cannot be read");
            metrics::refused(Refused::RunUnreadable);
            return None;
        }
    }
    Some(present)
}

#[cfg(test)]
mod tests {
    use holdfast_shard::policy::{Class, Mode};

    use super::*;

    fn row(generation: u64, sealed_at_ms: u64) -> GenerationRow {
        GenerationRow {
            generation,
            first_position: generation * 10,
            end_position: if sealed_at_ms == 0 { 0 } else { generation * 10 + 10 },
            sealed_at_ms,
            ..GenerationRow::default()
        }
    }

    struct Case {
        retention: Retention,
        policy: Policy,
        config: RetentionConfig,
        rows: Vec<GenerationRow>,
    }

    impl Case {
        fn new(mode: Mode, patience_ms: u64) -> Case {
            Case {
                retention: Retention::default(),
                policy: Policy::new(Class { mode, age_ms: 100 }, Vec::new()),
                config: RetentionConfig {
                    doomed_patience_ms: patience_ms,
                    pressed_patience_ms: 0,
                    ..RetentionConfig::default()
                },
                rows: vec![row(1, 1_000), row(2, 1_050), row(3, 0)],
            }
        }

        fn due(&self, now_ms: u64, pressed_below: u64, consumed_below: u64) -> Option<u64> {
            let look = Look {
                policy: &self.policy,
                config: &self.config,
                now_ms,
                pressed_below,
                consumed_below,
            };
            self.retention.decide(&self.rows, &look, 0).map(|generation| generation.0)
        }

        fn targets(&self) -> (u64, u64) {
            let targets = self.retention.0.lock().targets.unwrap();
            (targets.wanted_below.0, targets.doomed_below.0)
        }
    }

    #[test]
    fn by_time_a_generation_goes_when_it_is_counted_or_patience_is_over() {
        let patient = Case::new(Mode::Time, 3_600_000);
        assert_eq!(patient.due(1_099, 0, 99), None, "young");
        assert_eq!(patient.targets(), (10, 10));
        assert_eq!(patient.due(1_100, 0, 19), None, "a session is not past it");
        assert_eq!(patient.targets(), (20, 20));
        assert_eq!(patient.due(1_150, 0, 20), Some(1));
        assert_eq!(patient.targets(), (30, 30));
        assert_eq!(patient.retention.dropped(2), None);
        assert_eq!(patient.retention.dropped(1), Some(Reason::Age));
        assert_eq!(patient.retention.dropped(1), None, "once");
        let hasty = Case::new(Mode::Time, 0);
        assert_eq!(hasty.due(1_100, 0, 0), Some(1));
    }

    #[test]
    fn what_is_unread_stays_unless_the_disk_needs_it() {
        for mode in [Mode::Consumed, Mode::TimeAndConsumed] {
            let case = Case::new(mode, 0);
            assert_eq!(case.due(9_999_999, 0, 19), None);
            assert_eq!(case.targets(), (30, 10));
            assert_eq!(case.due(9_999_999, 0, 20), Some(1));
            assert_eq!(case.retention.dropped(1), Some(Reason::Consumed));
            assert_eq!(case.due(9_999_999, 20, 0), Some(1), "pressed");
            assert_eq!(case.targets(), (30, 20));
            assert_eq!(case.retention.dropped(1), Some(Reason::DiskFull));
        }
        let case = Case::new(Mode::TimeAndConsumed, 0);
        assert_eq!(case.due(1_099, 0, 99), None, "read, but young");
    }

    #[test]
    fn a_clock_that_is_off_dooms_nothing() {
        let case = Case::new(Mode::Time, 0);
        assert_eq!(case.due(0, 0, 99), None);
        assert_eq!(Case::new(Mode::Consumed, 0).due(0, 0, 99), Some(1));
    }
}
