//! The runs of a replica: which the state names, which files are there and whole.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use holdfast_log::run::{Run, RunError, RunId};
use holdfast_proto::ids::{Generation, Position, ShardId};
use holdfast_proto::shard::RunRow;

use super::Cell;
use crate::metrics;

/// A run that the state names.
pub(super) struct RunSlot {
    row: RunRow,
    /// `None` while there is no file.
    run: Option<Arc<Run>>,
    /// The file is not what was written. What is whole in it is read until another takes its place.
    damaged: bool,
}

impl RunSlot {
    fn new(row: RunRow, run: Option<Arc<Run>>) -> RunSlot {
        RunSlot { row, run, damaged: false }
    }

    /// Whether the file has to be fetched from another holder.
    fn is_missing(&self) -> bool {
        self.run.is_none() || self.damaged
    }
}

/// Folder of the runs.
pub(crate) const RUNS_DIR: &str = "runs";

/// The identity of the run that a row names.
pub(crate) fn run_id(shard: ShardId, row: &RunRow) -> RunId {
    RunId {
        shard,
        generation: Generation(row.generation),
        first: Position(row.first_position),
        end: Position(row.end_position),
    }
}

impl Cell {
    /// Opens the runs that the state names and forgets all others.
    pub(crate) fn reload_runs(&self) {
        let rows: Vec<RunRow> = self.shard.lock().runs().to_vec();
        let mut runs = BTreeMap::new();
        for row in rows {
            let run = self.open_run(&row);
            if run.is_none() {
                self.fetching.notify_one();
            }
            runs.insert(Position(row.first_position), RunSlot::new(row, run));
        }
        let mut known = self.runs.write();
        for (first, slot) in &mut runs {
            slot.damaged = known.get(first).is_some_and(|old| old.damaged && old.row == slot.row);
        }
        *known = runs;
        drop(known);
        self.sweep();
    }

    /// Removes files of this shard's runs that the state does not name: left by a crash before a
    /// checkpoint was complete, or replaced by a snapshot.
    pub(super) fn sweep(&self) {
        let files = match self.disk.list(RUNS_DIR) {
            Ok(files) => files,
            Err(error) => return tracing::warn!(%error, "runs not listed"),
        };
        let named: HashSet<RunId> =
            self.runs.read().values().map(|slot| run_id(self.key.shard, &slot.row)).collect();
        for id in files.iter().filter_map(|name| RunId::from_file_name(name)) {
            if id.shard == self.key.shard && !named.contains(&id) {
                self.remove_file(id);
            }
        }
    }

    fn remove_file(&self, id: RunId) {
        if let Err(error) = holdfast_log::run::remove_run(self.disk.as_ref(), RUNS_DIR, id) {
            tracing::warn!(shard = id.shard.0, first = id.first.0, %error, "run not removed");
        }
    }

    fn open_run(&self, row: &RunRow) -> Option<Arc<Run>> {
        match Run::open(self.disk.as_ref(), RUNS_DIR, run_id(self.key.shard, row)) {
            Ok(run) if run.info().checksum == row.checksum => Some(Arc::new(run)),
            Ok(_) => {
                tracing::error!(
                    shard = self.key.shard.0,
                    first = row.first_position,
                    "run differs from its row"
                );
                None
            }
            Err(error) => {
                tracing::info!(shard = self.key.shard.0, first = row.first_position, %error, "run to fetch");
                None
            }
        }
    }

    /// Makes a run readable that was fetched, if the state still names it. False: the file is not it.
    pub(crate) fn run_fetched(&self, row: RunRow) -> bool {
        let Some(run) = self.open_run(&row) else { return false };
        let mut runs = self.runs.write();
        match runs.get_mut(&Position(row.first_position)).filter(|slot| slot.row == row) {
            Some(slot) => *slot = RunSlot::new(row, Some(run)),
            None => {
                drop(runs);
                self.remove_file(run_id(self.key.shard, &row));
            }
        }
        true
    }

    /// Makes a run readable that was just written.
    pub(crate) fn run_ready(&self, row: RunRow) -> bool {
        let run = self.open_run(&row);
        let ready = run.is_some();
        self.runs.write().insert(Position(row.first_position), RunSlot::new(row, run));
        ready
    }

    /// Notes that a run's file is not what was written: it is fetched from another holder. False if the
    /// state does not name the run any more.
    pub(crate) fn run_damaged(&self, row: &RunRow, what: &dyn Display) -> bool {
        let mut runs = self.runs.write();
        let slot = runs.get_mut(&Position(row.first_position)).filter(|slot| slot.row == *row);
        let Some(slot) = slot else { return false };
        if !slot.is_missing() {
            slot.damaged = true;
            let (shard, first) = (self.key.shard.0, row.first_position);
            tracing::error!(shard, first, what = what.to_string(), "run is damaged");
            metrics::run_damaged();
        }
        drop(runs);
        self.fetching.notify_one();
        true
    }

    /// The same, as a reader finds it.
    pub(crate) fn note_damage(&self, run: &Run, error: &RunError) {
        let row = self.runs.read().get(&run.info().id.first).map(|slot| slot.row);
        if let Some(row) = row.filter(|_| error.is_damage()) {
            self.run_damaged(&row, error);
        }
    }

    /// Rows of all runs, oldest first, each with its topics, 0 where there is no file.
    pub(crate) fn runs(&self) -> Vec<(RunRow, u32)> {
        let runs = self.runs.read();
        let topics = |slot: &RunSlot| slot.run.as_ref().map_or(0, |run| run.info().streams);
        runs.values().map(|slot| (slot.row, topics(slot))).collect()
    }

    /// Whether the state still names this run.
    pub(crate) fn has_run(&self, row: &RunRow) -> bool {
        self.runs.read().get(&Position(row.first_position)).is_some_and(|slot| slot.row == *row)
    }

    /// Removes the runs of a dropped generation.
    pub(crate) fn drop_generation(&self, generation: u64) {
        if let Some(reason) = self.retention.dropped(generation) {
            metrics::generation_dropped(reason);
        }
        let mut dropped = Vec::new();
        self.runs.write().retain(|_, slot| {
            let keep = slot.row.generation != generation;
            if !keep {
                dropped.push(slot.row);
            }
            keep
        });
        for row in dropped {
            self.remove_file(run_id(self.key.shard, &row));
        }
    }

    /// Rows of the runs whose files have to be fetched.
    pub(crate) fn missing_runs(&self) -> Vec<RunRow> {
        let runs = self.runs.read();
        runs.values().filter(|slot| slot.is_missing()).map(|slot| slot.row).collect()
    }

    /// The runs that have positions of this range, oldest first; `None` for one that has to be fetched.
    pub(crate) fn runs_in(&self, range: Range<Position>) -> Vec<Option<Arc<Run>>> {
        let runs = self.runs.read();
        let below = runs.range(..range.end);
        let within = below.filter(|(_, slot)| slot.row.end_position > range.start.0);
        within.map(|(_, slot)| slot.run.clone()).collect()
    }

    /// Bytes of the runs of one generation.
    pub(crate) fn generation_bytes(&self, generation: u64) -> u64 {
        let runs = self.runs.read();
        let within = runs.values().filter(|slot| slot.row.generation == generation);
        within.map(|slot| slot.row.bytes).sum()
    }

    /// Bytes of this replica's runs.
    pub(crate) fn run_bytes(&self) -> u64 {
        self.runs.read().values().map(|slot| slot.row.bytes).sum()
    }

    /// The first run that ends above `from`, if it is all or partly below `until`.
    pub(super) fn run_at(&self, from: Position, until: Position) -> Option<Result<Arc<Run>, ()>> {
        let runs = self.runs.read();
        let (first, slot) = runs
            .range(..=from)
            .next_back()
            .filter(|(_, slot)| slot.row.end_position > from.0)
            .or_else(|| runs.range(from..until).next())?;
        if slot.run.is_none() {
            // A reader waits for it: it is fetched before all others.
            self.wanted.lock().insert(*first);
            self.fetching.notify_one();
        }
        Some(slot.run.clone().ok_or(()))
    }

    /// The next run to fetch: one that a reader waits for, else the newest.
    pub(crate) fn next_missing(&self) -> Option<(RunRow, bool)> {
        let runs = self.runs.read();
        let mut wanted = self.wanted.lock();
        wanted.retain(|first| runs.get(first).is_some_and(RunSlot::is_missing));
        if let Some(slot) = wanted.first().and_then(|first| runs.get(first)) {
            return Some((slot.row, true));
        }
        let newest = runs.values().rev().find(|slot| slot.is_missing());
        newest.map(|slot| (slot.row, false))
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use holdfast_log::OpenOptions;
    use holdfast_proto::ids::Namespace;
    use holdfast_proto::placed::Placed;

    use super::*;
    use crate::replica::by_hand::Replica;
    use crate::replica::run_file;

    fn read(cell: &Cell, topic: &str) -> Result<usize, RunError> {
        let page = cell.read(Namespace(0), &[topic.to_owned()], Position::FIRST, 1 << 20)?;
        Ok(Placed::decode_all(page.records.freeze()).unwrap().len())
    }

    /// Flips a bit of the last record of a run's topic.
    fn damage(cell: &Cell, id: RunId, needle: &[u8]) {
        let whole = run_file::read(cell.disk.as_ref(), id).unwrap();
        let at = whole.windows(needle.len()).rposition(|window| window == needle).unwrap();
        let file = cell.disk.open(&id.path(RUNS_DIR), OpenOptions::CREATE).unwrap();
        file.write_all_at(&mut [IoSlice::new(&[whole[at] ^ 1])], at as u64).unwrap();
    }

    #[test]
    fn a_damaged_run_serves_what_is_whole_until_a_good_file_takes_its_place() {
        let mut replica = Replica::new();
        replica.append_to(1, &["a", "b", "a"]);
        replica.cut(false, false);
        let cell = &replica.cell;
        let (row, topics) = cell.runs()[0];
        assert_eq!(topics, 2);
        let id = run_id(cell.key.shard, &row);
        let good = run_file::read(cell.disk.as_ref(), id).unwrap();
        damage(cell, id, b"payload");
        assert!(cell.missing_runs().is_empty(), "nobody has seen it");
        assert!(read(cell, "b").is_err());
        assert_eq!(cell.missing_runs(), [row]);
        assert_eq!(cell.next_missing().map(|(row, _)| row), Some(row));
        assert_eq!(read(cell, "a").unwrap(), 2, "these are whole");

        let bad = run_file::read(cell.disk.as_ref(), id).unwrap();
        let stored = run_file::store(cell.disk.as_ref(), id, row.checksum, &bad);
        assert!(stored.is_err(), "another holder's file is damaged, too");
        let stored = run_file::store(cell.disk.as_ref(), id, row.checksum ^ 1, &good);
        assert!(stored.is_err(), "another run");
        run_file::store(cell.disk.as_ref(), id, row.checksum, &good).unwrap();
        assert!(cell.run_fetched(row));
        assert!(cell.missing_runs().is_empty());
        assert_eq!((read(cell, "a").unwrap(), read(cell, "b").unwrap()), (2, 1));
        let gone = RunRow { checksum: 0, ..row };
        assert!(!cell.run_damaged(&gone, &"damaged") && cell.has_run(&row) && !cell.has_run(&gone));
    }
}
