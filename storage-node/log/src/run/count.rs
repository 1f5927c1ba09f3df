//! Counting what a run holds, from its dictionary and position lists alone: no record is read.

use std::ops::Range;

use holdfast_proto::ids::{Namespace, Position};

use super::RunError;
use super::format::{ORDER_CHUNK, Stream, take_varint};
use super::pick::{COST_OF_LIST, COST_OF_LISTED, COST_OF_ORDERED, is_in, ranges};
use super::read::Run;

/// Records that match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matches {
    /// How many.
    pub count: u64,
    /// Position of the first of them.
    pub first: Option<Position>,
}

impl Matches {
    /// One more record.
    pub fn note(&mut self, position: Position) {
        self.count += 1;
        self.first = Some(self.first.map_or(position, |first| first.min(position)));
    }

    /// Adds those of another part.
    pub fn add(&mut self, other: Matches) {
        self.count += other.count;
        self.first = match (self.first, other.first) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

impl Run {
    /// Counts the records in `range` that match any of the (not shared) filters.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn count(
        &self,
        namespace: Namespace,
        filters: &[&str],
        range: Range<Position>,
    ) -> Result<Matches, RunError> {
        let id = self.header.id;
        if range.start.max(id.first) >= range.end.min(id.end) {
            return Ok(Matches::default());
        }
        let numbers = self.matching(namespace, filters)?;
        if numbers.is_empty() {
            return Ok(Matches::default());
        }
        if numbers.len() == self.header.streams as usize {
            return self.count_all(&range);
        }
        let streams = self.streams(&numbers)?;
        let listed: u64 = streams.iter().map(|stream| u64::from(stream.records)).sum();
        let by_lists = COST_OF_LIST * streams.len() as u64 + COST_OF_LISTED * listed;
        let chunks = 1 + self.chunk_of(range.end).saturating_sub(self.chunk_of(range.start));
        if by_lists < COST_OF_ORDERED * (chunks * ORDER_CHUNK) as u64 {
            self.count_listed(&streams, &range)
        } else {
            self.count_ordered(&streams, &range)
        }
    }

    /// Visits every topic of the run: namespace and name.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn for_each_topic(&self, mut visit: impl FnMut(Namespace, &str)) -> Result<(), RunError> {
        use fst::Streamer;
        let mut topics = self.topics()?.stream();
        while let Some((key, _)) = topics.next() {
            let Some((namespace, name)) = key.split_first_chunk::<4>() else {
                return Err(self.damaged("a key of the topic dictionary"));
            };
            let name =
                std::str::from_utf8(name).map_err(|_| self.damaged("a topic's name is no text"))?;
            visit(Namespace(u32::from_be_bytes(*namespace)), name);
        }
        Ok(())
    }

    /// Every record of the range: only its ends are looked up.
    fn count_all(&self, range: &Range<Position>) -> Result<Matches, RunError> {
        let (start, first) = self.rank(range.start)?;
        let (end, _) = self.rank(range.end)?;
        let count = end.saturating_sub(start);
        Ok(Matches { count, first: first.filter(|_| count > 0) })
    }

    /// How many records lie below a position, and where the next one is.
    fn rank(&self, position: Position) -> Result<(u64, Option<Position>), RunError> {
        let chunk = self.chunk_of(position);
        let mut items = Vec::new();
        self.order_chunks(chunk, 2, &mut items)?;
        let below = items.partition_point(|item| item.position < position);
        Ok(((chunk * ORDER_CHUNK + below) as u64, items.get(below).map(|item| item.position)))
    }

    fn count_listed(
        &self,
        streams: &[Stream],
        range: &Range<Position>,
    ) -> Result<Matches, RunError> {
        let spans: Vec<(u32, u32)> = streams.iter().map(|s| (s.list, s.list_bytes)).collect();
        let (start, mut matches) = (self.header.id.first.0, Matches::default());
        self.read_lists(&spans, |mut list| {
            let mut position = start;
            while !list.is_empty() && position < range.end.0 {
                position = position.checked_add(take_varint(&mut list)?)?;
                // The length of the record's item.
                take_varint(&mut list)?;
                if range.contains(&Position(position)) {
                    matches.note(Position(position));
                }
            }
            Some(())
        })?;
        Ok(matches)
    }

    fn count_ordered(
        &self,
        streams: &[Stream],
        range: &Range<Position>,
    ) -> Result<Matches, RunError> {
        let (places, mut matches) = (ranges(streams), Matches::default());
        self.scan_order(range.start, |item| {
            if item.position >= range.end {
                return false;
            }
            if is_in(&places, item.data) {
                matches.note(item.position);
            }
            true
        })?;
        Ok(matches)
    }
}
