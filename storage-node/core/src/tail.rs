//! The tail: records above the last completed cut, in memory, indexed by topic. Tails and reads are
//! served from it and the next run is built from it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ops::Range;

use bytes::BytesMut;
use holdfast_proto::ids::{Namespace, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::topic;

/// What a record costs besides its bytes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// Records `[first, end)`, dense.
#[derive(Debug)]
pub struct Tail {
    first: u64,
    records: VecDeque<Placed>,
    /// Namespace and topic to its positions.
    topics: HashMap<Box<[u8]>, Positions>,
    bytes: usize,
    scratch: Vec<u8>,
}

/// Positions of one topic, ascending. Most topics have one record.
#[derive(Debug)]
enum Positions {
    One(u64),
    Many(VecDeque<u64>),
}

impl Positions {
    fn push(&mut self, position: u64) {
        match self {
            Positions::One(one) => *self = Positions::Many(VecDeque::from([*one, position])),
            Positions::Many(many) => many.push_back(position),
        }
    }

    /// Drops everything below `end`; returns whether anything is left.
    fn trim_below(&mut self, end: u64) -> bool {
        match self {
            Positions::One(one) => *one >= end,
            Positions::Many(many) => {
                many.drain(..many.partition_point(|position| *position < end));
                if many.capacity() > 4 * many.len() + 16 {
                    many.shrink_to_fit();
                }
                !many.is_empty()
            }
        }
    }

    /// Index of the first position at or above `from`.
    fn at_or_above(&self, from: u64) -> usize {
        match self {
            Positions::One(one) => usize::from(*one < from),
            Positions::Many(many) => many.partition_point(|position| *position < from),
        }
    }

    fn get(&self, at: usize) -> Option<u64> {
        match self {
            Positions::One(one) => (at == 0).then_some(*one),
            Positions::Many(many) => many.get(at).copied(),
        }
    }
}

impl Tail {
    /// An empty tail whose first record will be at `first`.
    #[must_use]
    pub fn new(first: Position) -> Tail {
        Tail {
            first: first.0,
            records: VecDeque::new(),
            topics: HashMap::new(),
            bytes: 0,
            scratch: Vec::new(),
        }
    }

    /// Adds the record at [`Tail::end`].
    pub fn push(&mut self, placed: Placed) {
        debug_assert_eq!(placed.position, self.end());
        write_key(&mut self.scratch, placed.record.namespace(), placed.record.topic());
        match self.topics.get_mut(self.scratch.as_slice()) {
            Some(positions) => positions.push(placed.position.0),
            None => {
                let positions = Positions::One(placed.position.0);
                self.topics.insert(self.scratch.as_slice().into(), positions);
            }
        }
        self.bytes += placed.record.as_bytes().len() + OVERHEAD_BYTES;
        self.records.push_back(placed);
    }

    /// Position of the oldest record.
    #[must_use]
    pub fn first(&self) -> Position {
        Position(self.first)
    }

    /// The position after the newest record.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.first + self.records.len() as u64)
    }

    /// Topics that it has records of.
    #[must_use]
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    /// Memory that it takes, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The record at a position.
    #[must_use]
    pub fn at(&self, position: Position) -> Option<&Placed> {
        self.records.get(usize::try_from(position.0.checked_sub(self.first)?).ok()?)
    }

    /// Records from a position on.
    pub fn from(&self, from: Position) -> impl Iterator<Item = &Placed> {
        self.records.range(self.index(from)..)
    }

    /// Index of a position, clamped to what is there.
    fn index(&self, position: Position) -> usize {
        let index = position.0.saturating_sub(self.first);
        usize::try_from(index).unwrap_or(usize::MAX).min(self.records.len())
    }

    /// All records below a position: what goes into the run that ends there.
    #[must_use]
    pub fn below(&self, end: Position) -> Vec<Placed> {
        self.records.range(..self.index(end)).cloned().collect()
    }

    /// Forgets all records below a position; their run can be read now.
    pub fn trim_below(&mut self, end: Position) {
        let count = self.index(end);
        if count == 0 {
            return;
        }
        for placed in self.records.drain(..count) {
            self.bytes -= placed.record.as_bytes().len() + OVERHEAD_BYTES;
        }
        self.first += count as u64;
        let end = self.first;
        self.topics.retain(|_, positions| positions.trim_below(end));
        if self.records.capacity() > 4 * self.records.len() + 1024 {
            self.records.shrink_to_fit();
        }
        if self.topics.capacity() > 4 * self.topics.len() + 1024 {
            self.topics.shrink_to_fit();
        }
    }

    /// Appends matching records at or above `from` to a block of placed records, about `bytes_max` at
    /// most but at least one. Returns the position up to which nothing is left out and how many were
    /// appended. What lies below [`Tail::first`] is the caller's.
    pub fn read(
        &self,
        namespace: Namespace,
        filters: &[String],
        from: Position,
        bytes_max: usize,
        out: &mut BytesMut,
    ) -> (Position, usize) {
        let mut page = Page { out, count: 0, bytes_left: bytes_max };
        let range = self.records.len() - self.index(from);
        let wild = filters.iter().any(|filter| topic::has_wildcard(filter));
        if wild && range <= self.topics.len() {
            let all = self.from(from).filter(|placed| {
                placed.record.namespace() == namespace
                    && filters.iter().any(|filter| topic::matches(filter, placed.record.topic()))
            });
            for placed in all {
                if !page.take(placed) {
                    return (placed.position, page.count);
                }
            }
            return (self.end(), page.count);
        }
        let lists =
            if wild { self.matching(namespace, filters) } else { self.named(namespace, filters) };
        let next = self.merge(&lists, from.0, &mut page);
        (next, page.count)
    }

    /// How many records in `range` match one of the filters, and the first of them.
    #[must_use]
    pub fn count(
        &self,
        namespace: Namespace,
        filters: &[String],
        range: Range<Position>,
    ) -> (u64, Option<Position>) {
        let wild = filters.iter().any(|filter| topic::has_wildcard(filter));
        let lists =
            if wild { self.matching(namespace, filters) } else { self.named(namespace, filters) };
        let (mut count, mut first) = (0, None::<u64>);
        for positions in lists {
            let start = positions.at_or_above(range.start.0);
            let found = positions.at_or_above(range.end.0).saturating_sub(start);
            if found > 0 {
                count += found as u64;
                first = [first, positions.get(start)].into_iter().flatten().min();
            }
        }
        (count, first.map(Position))
    }

    /// Visits the namespace and name of every topic that has a record below `end`.
    pub fn for_each_topic_below(&self, end: Position, mut visit: impl FnMut(Namespace, &str)) {
        for (key, positions) in &self.topics {
            if let Some((namespace, name)) = key.split_first_chunk::<4>()
                && let Ok(name) = std::str::from_utf8(name)
                && positions.get(0).is_some_and(|first| first < end.0)
            {
                visit(Namespace(u32::from_be_bytes(*namespace)), name);
            }
        }
    }

    /// Position lists of the topics that are named.
    fn named(&self, namespace: Namespace, filters: &[String]) -> Vec<&Positions> {
        let mut names: Vec<&String> = filters.iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut key = Vec::new();
        let lists = names.into_iter().filter_map(|name| {
            write_key(&mut key, namespace, name);
            self.topics.get(key.as_slice())
        });
        lists.collect()
    }

    /// Position lists of the topics that match.
    fn matching(&self, namespace: Namespace, filters: &[String]) -> Vec<&Positions> {
        let prefix = namespace.0.to_be_bytes();
        let lists = self.topics.iter().filter(|(key, _)| {
            key.strip_prefix(&prefix)
                .and_then(|name| std::str::from_utf8(name).ok())
                .is_some_and(|name| filters.iter().any(|filter| topic::matches(filter, name)))
        });
        lists.map(|(_, positions)| positions).collect()
    }

    /// Takes the lists' records in the order of their positions.
    fn merge(&self, lists: &[&Positions], from: u64, page: &mut Page<'_>) -> Position {
        let heads = lists.iter().enumerate().filter_map(|(list, positions)| {
            let at = positions.at_or_above(from);
            Some(Reverse((positions.get(at)?, list, at)))
        });
        let mut heads: BinaryHeap<_> = heads.collect();
        while let Some(Reverse((position, list, at))) = heads.pop() {
            if let Some(placed) = self.at(Position(position))
                && !page.take(placed)
            {
                return Position(position);
            }
            if let Some(position) = lists[list].get(at + 1) {
                heads.push(Reverse((position, list, at + 1)));
            }
        }
        self.end()
    }
}

/// A block of placed records that is being filled.
struct Page<'a> {
    out: &'a mut BytesMut,
    count: usize,
    bytes_left: usize,
}

impl Page<'_> {
    /// Appends a record if it fits or is the first.
    fn take(&mut self, placed: &Placed) -> bool {
        let bytes = Placed::PREFIX_BYTES + placed.record.as_bytes().len();
        if self.count > 0 && bytes > self.bytes_left {
            return false;
        }
        Placed::encode(self.out, placed.position, placed.time_ms, &placed.record);
        self.count += 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        true
    }
}

fn write_key(key: &mut Vec<u8>, namespace: Namespace, topic: &str) {
    key.clear();
    key.extend_from_slice(&namespace.0.to_be_bytes());
    key.extend_from_slice(topic.as_bytes());
}
