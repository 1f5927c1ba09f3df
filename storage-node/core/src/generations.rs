//! The generations of a shard and the runs of each.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_proto::ids::{Generation, Position};
use holdfast_proto::shard::{GenerationRow, RunRow};
use prost::Message;

use crate::base::Base;
use crate::error::ShardError;
use crate::keys;
use crate::shard::LAYOUT_TOPIC;
use crate::table::decode;

/// Rows of generations and runs, oldest first; the last generation is the current one.
#[derive(Debug)]
pub(crate) struct Generations {
    generations: Vec<GenerationRow>,
    runs: Vec<RunRow>,
    /// Pairs that the base may not have.
    pairs: BTreeMap<Vec<u8>, (Option<Bytes>, Stage)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Dirty,
    Frozen,
}

impl Generations {
    pub(crate) fn open<B: Base>(base: &B) -> Result<Generations, ShardError> {
        let mut all = Generations {
            generations: scan(base, keys::GENERATION)?,
            runs: scan(base, keys::RUN)?,
            pairs: BTreeMap::new(),
        };
        // A run whose generation was dropped while the run was written.
        all.runs.retain(|run| all.generations.iter().any(|row| row.generation == run.generation));
        if all.generations.is_empty() {
            all.start(1, LAYOUT_TOPIC, Position::FIRST, 0);
        }
        Ok(all)
    }

    pub(crate) fn all(&self) -> &[GenerationRow] {
        &self.generations
    }

    pub(crate) fn runs(&self) -> &[RunRow] {
        &self.runs
    }

    pub(crate) fn current(&self) -> Generation {
        Generation(self.generations.last().map_or(0, |row| row.generation))
    }

    /// Whether this generation is the oldest and sealed.
    pub(crate) fn can_drop(&self, generation: Generation) -> bool {
        matches!(&self.generations[..], [oldest, _, ..] if oldest.generation == generation.0)
    }

    fn start(&mut self, generation: u64, layout: &str, first: Position, time_ms: u64) {
        self.generations.push(GenerationRow {
            generation,
            layout: layout.to_owned(),
            first_position: first.0,
            started_at_ms: time_ms,
            ..GenerationRow::default()
        });
        self.write_newest();
    }

    fn write_newest(&mut self) {
        if let Some(row) = self.generations.last() {
            let pair = (Some(Bytes::from(row.encode_to_vec())), Stage::Dirty);
            self.pairs.insert(keys::generation(Generation(row.generation)), pair);
        }
    }

    /// The first generation starts with the first entry.
    pub(crate) fn entry(&mut self, time_ms: u64) {
        if let Some(row) = self.generations.last_mut()
            && row.started_at_ms == 0
        {
            row.started_at_ms = time_ms;
            self.write_newest();
        }
    }

    /// Seals the current generation and starts the next.
    pub(crate) fn roll(&mut self, layout: &str, at: Position, time_ms: u64) {
        let current = self.current();
        if let Some(row) = self.generations.last_mut() {
            row.sealed_at_ms = time_ms;
            row.end_position = at.0;
        }
        self.write_newest();
        self.start(current.0 + 1, layout, at, time_ms);
    }

    /// Drops the oldest generation if that is this one and sealed.
    pub(crate) fn drop_oldest(&mut self, generation: Generation) -> Option<GenerationRow> {
        if !self.can_drop(generation) {
            return None;
        }
        self.pairs.insert(keys::generation(generation), (None, Stage::Dirty));
        let pairs = &mut self.pairs;
        self.runs.retain(|run| {
            let dropped = run.generation == generation.0;
            if dropped {
                pairs.insert(keys::run_pair(run).0, (None, Stage::Dirty));
            }
            !dropped
        });
        Some(self.generations.remove(0))
    }

    /// Registers a run that this site has. Returns false if its generation is dropped.
    pub(crate) fn run_written(&mut self, run: RunRow) -> bool {
        let (key, value) = keys::run_pair(&run);
        if !self.generations.iter().any(|row| row.generation == run.generation) {
            self.pairs.insert(key, (None, Stage::Dirty));
            return false;
        }
        self.pairs.insert(key, (value, Stage::Dirty));
        match self.runs.binary_search_by_key(&run.first_position, |known| known.first_position) {
            Ok(at) => self.runs[at] = run,
            Err(at) => self.runs.insert(at, run),
        }
        true
    }

    pub(crate) fn freeze(&mut self, out: &mut Vec<(Vec<u8>, Option<Bytes>)>) {
        for (key, (value, stage)) in &mut self.pairs {
            *stage = Stage::Frozen;
            out.push((key.clone(), value.clone()));
        }
    }

    pub(crate) fn thaw(&mut self) {
        self.pairs.retain(|_, (_, stage)| *stage == Stage::Dirty);
    }
}

fn scan<B: Base, V: Message + Default>(base: &B, table: u8) -> Result<Vec<V>, ShardError> {
    let mut rows = Vec::new();
    let mut failed = None;
    base.scan(&[table], None, &mut |key, value| {
        match decode(key, value) {
            Ok(row) => rows.push(row),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    failed.map_or(Ok(rows), Err)
}
