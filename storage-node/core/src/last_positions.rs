//! Topic to last position, bounded: says cheaply that a filter has nothing new.
//!
//! Topics are kept in two halves. When the younger half is full, the older one is forgotten: every
//! topic that is in neither may have a record at up to `floor`.

use std::collections::HashMap;

use holdfast_proto::ids::{Namespace, Position};
use holdfast_proto::topic;

/// Topics that are remembered, at most.
pub const TOPICS_MAX: usize = 65_536;

/// The position of the newest record of each recent topic.
#[derive(Debug)]
pub struct LastPositions {
    young: HashMap<Box<[u8]>, u64>,
    old: HashMap<Box<[u8]>, u64>,
    /// The newest record of a topic that is not remembered is at or below this position.
    floor: u64,
    max: u64,
    topics_max: usize,
    scratch: Vec<u8>,
}

impl LastPositions {
    /// Knows nothing of the records below `next`.
    #[must_use]
    pub fn new(next: Position) -> LastPositions {
        LastPositions::bounded(next, TOPICS_MAX)
    }

    fn bounded(next: Position, topics_max: usize) -> LastPositions {
        let max = next.0.saturating_sub(1);
        LastPositions {
            young: HashMap::new(),
            old: HashMap::new(),
            floor: max,
            max,
            topics_max,
            scratch: Vec::new(),
        }
    }

    /// A record of this topic was stored.
    pub fn stored(&mut self, namespace: Namespace, topic: &str, position: Position) {
        self.max = self.max.max(position.0);
        write_key(&mut self.scratch, namespace, topic);
        if let Some(last) = self.young.get_mut(self.scratch.as_slice()) {
            *last = position.0;
            return;
        }
        if self.young.len() >= self.topics_max / 2 {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.floor = self.floor.max(forgotten.into_values().max().unwrap_or(0));
        }
        self.young.insert(self.scratch.as_slice().into(), position.0);
    }

    /// Whether a record at or above `from` may match one of the filters. False is certain.
    #[must_use]
    pub fn may_have_news(&self, namespace: Namespace, filters: &[String], from: Position) -> bool {
        if self.max < from.0 {
            return false;
        }
        if self.floor >= from.0 {
            return true;
        }
        let mut key = Vec::new();
        filters.iter().any(|filter| {
            if topic::has_wildcard(filter) {
                return true;
            }
            write_key(&mut key, namespace, filter);
            let last = self.young.get(key.as_slice()).or_else(|| self.old.get(key.as_slice()));
            last.is_some_and(|last| *last >= from.0)
        })
    }
}

fn write_key(key: &mut Vec<u8>, namespace: Namespace, topic: &str) {
    key.clear();
    key.extend_from_slice(&namespace.0.to_be_bytes());
    key.extend_from_slice(topic.as_bytes());
}
