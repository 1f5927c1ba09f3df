//! The session's own subscriptions and exact matching against them.

use std::sync::Arc;

use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::matcher::Matcher;
use holdfast_proto::shard;
use holdfast_proto::topic;

const QOS: u8 = 0b11;
const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;

/// Below this many subscriptions comparing one after the other beats a trie.
const LINEAR_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) filter: Box<str>,
    pub(crate) options: u8,
    pub(crate) identifier: u32,
    /// First position per shard that it covers; empty: everything from the cursor on.
    pub(crate) since: Box<[u64]>,
}

impl Subscription {
    pub(crate) fn qos(&self) -> u8 {
        self.options & QOS
    }

    fn covers(&self, place: Option<(ShardId, Position)>) -> bool {
        place.is_none_or(|(shard, position)| {
            self.since.get(usize::from(shard.0)).is_none_or(|since| position.0 >= *since)
        })
    }

    pub(crate) fn row(&self) -> shard::Subscription {
        shard::Subscription { since: self.since.to_vec(), ..self.shown() }
    }

    /// As people want to see it.
    pub(crate) fn shown(&self) -> shard::Subscription {
        shard::Subscription {
            filter: self.filter.to_string(),
            options: u32::from(self.options),
            identifier: self.identifier,
            since: Vec::new(),
        }
    }
}

/// How one record is to be delivered: one copy however many subscriptions match.
#[derive(Debug)]
pub(crate) struct Match {
    /// Highest QoS granted by a matching subscription, not above the record's.
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) identifiers: Box<[u32]>,
}

/// A record as matching sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) topic: &'a str,
    pub(crate) publisher: &'a str,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// None for regular sessions, whose messages have no place.
    pub(crate) place: Option<(ShardId, Position)>,
}

#[derive(Debug)]
pub(crate) struct Subscriptions {
    namespace: Namespace,
    client_id: Box<str>,
    slots: Vec<Option<Subscription>>,
    trie: Option<Box<Matcher<u32>>>,
    /// Rebuilt when asked for after a change.
    filters: Option<Arc<[String]>>,
    /// Raised by every change: a page that was asked for under an older one may lack records.
    version: u32,
    count: u32,
}

impl Subscriptions {
    pub(crate) fn new(namespace: Namespace, client_id: &str, rows: &[shard::Subscription]) -> Self {
        let mut this = Subscriptions {
            namespace,
            client_id: client_id.into(),
            slots: Vec::new(),
            trie: None,
            filters: None,
            version: 1,
            count: 0,
        };
        for row in rows {
            this.set(&row.filter, row.options as u8, row.identifier, &row.since);
        }
        this
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.slots.iter().flatten()
    }

    pub(crate) fn filters(&mut self) -> Arc<[String]> {
        if let Some(filters) = &self.filters {
            return filters.clone();
        }
        let filters: Arc<[String]> = self.iter().map(|known| known.filter.to_string()).collect();
        self.filters = Some(filters.clone());
        filters
    }

    pub(crate) fn get(&self, filter: &str) -> Option<&Subscription> {
        self.iter().find(|known| &*known.filter == filter)
    }

    fn get_mut(&mut self, filter: &str) -> Option<&mut Subscription> {
        self.slots.iter_mut().flatten().find(|known| &*known.filter == filter)
    }

    /// Adds a subscription, or replaces the options of a known one, which keeps its since-positions.
    /// Returns whether it is new.
    pub(crate) fn set(
        &mut self,
        filter: &str,
        options: u8,
        identifier: u32,
        since: &[u64],
    ) -> bool {
        if let Some(known) = self.get_mut(filter) {
            known.options = options;
            known.identifier = identifier;
            return false;
        }
        self.changed();
        self.count += 1;
        let added =
            Subscription { filter: filter.into(), options, identifier, since: since.into() };
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(slot) => {
                self.slots[slot] = Some(added);
                slot
            }
            None => {
                self.slots.push(Some(added));
                self.slots.len() - 1
            }
        };
        if let Some(trie) = &mut self.trie {
            trie.insert(self.namespace, filter, slot as u32);
        } else if self.slots.len() > LINEAR_MAX {
            let mut trie = Box::new(Matcher::default());
            for (slot, known) in self.slots.iter().enumerate() {
                if let Some(known) = known {
                    trie.insert(self.namespace, &known.filter, slot as u32);
                }
            }
            self.trie = Some(trie);
        }
        true
    }

    pub(crate) fn set_since(&mut self, filter: &str, since: &[u64]) {
        if let Some(known) = self.get_mut(filter) {
            known.since = since.into();
        }
    }

    /// Returns whether it was there.
    pub(crate) fn remove(&mut self, filter: &str) -> bool {
        let found =
            self.slots.iter().position(|slot| slot.as_ref().is_some_and(|s| &*s.filter == filter));
        let Some(slot) = found else { return false };
        self.slots[slot] = None;
        if let Some(trie) = &mut self.trie {
            trie.remove(self.namespace, filter, &(slot as u32));
        }
        self.changed();
        self.count -= 1;
        true
    }

    fn changed(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.filters = None;
    }

    /// First position of the shard that any subscription covers.
    pub(crate) fn first_covered(&self, shard: usize) -> u64 {
        self.iter().map(|known| known.since.get(shard).copied().unwrap_or(0)).min().unwrap_or(0)
    }

    /// How the record is delivered; `None` if no subscription wants it.
    pub(crate) fn find(&self, record: &Candidate<'_>) -> Option<Match> {
        let mut found = None;
        if let Some(trie) = &self.trie {
            trie.visit(self.namespace, record.topic, &mut |slot| {
                if let Some(Some(known)) = self.slots.get(*slot as usize) {
                    self.join(&mut found, known, record);
                }
            });
        } else {
            for known in self.iter() {
                if topic::matches(&known.filter, record.topic) {
                    self.join(&mut found, known, record);
                }
            }
        }
        found.map(|(qos, retain, identifiers): Joined| Match {
            qos,
            retain,
            identifiers: identifiers.into_boxed_slice(),
        })
    }

    fn join(&self, found: &mut Option<Joined>, known: &Subscription, record: &Candidate<'_>) {
        if !known.covers(record.place)
            || (known.options & NO_LOCAL != 0 && record.publisher == &*self.client_id)
        {
            return;
        }
        let (qos, retain, identifiers) = found.get_or_insert((0, false, Vec::new()));
        *qos = (*qos).max(known.qos().min(record.qos));
        *retain |= record.retain && known.options & RETAIN_AS_PUBLISHED != 0;
        if known.identifier != 0 && !identifiers.contains(&known.identifier) {
            identifiers.push(known.identifier);
        }
    }
}

type Joined = (u8, bool, Vec<u32>);

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(topic: &str) -> Candidate<'_> {
        Candidate { topic, publisher: "other", qos: 2, retain: true, place: None }
    }

    #[test]
    fn overlapping_subscriptions_make_one_copy() {
        let mut all = Subscriptions::new(Namespace(0), "me", &[]);
        assert!(all.set("a/#", 1, 7, &[]));
        assert!(all.set("a/+", 2 | RETAIN_AS_PUBLISHED, 8, &[]));
        assert!(!all.set("a/#", 0, 9, &[]));
        let found = all.find(&candidate("a/b")).unwrap();
        assert_eq!((found.qos, found.retain), (2, true));
        assert_eq!(&*found.identifiers, &[9, 8]);
        assert!(all.find(&candidate("b")).is_none());
        assert!(all.remove("a/+") && !all.remove("a/+"));
        assert_eq!(all.find(&candidate("a/b")).unwrap().qos, 0);
    }

    #[test]
    fn no_local_and_since_are_kept_with_many_filters() {
        let mut all = Subscriptions::new(Namespace(0), "me", &[]);
        for n in 0..20 {
            all.set(&format!("f/{n}"), 1, 0, &[10, 20]);
        }
        all.set("own", 1 | NO_LOCAL, 0, &[]);
        let mut own = candidate("own");
        assert!(all.find(&own).is_some());
        own.publisher = "me";
        assert!(all.find(&own).is_none());
        let mut placed = candidate("f/13");
        placed.place = Some((ShardId(1), Position(19)));
        assert!(all.find(&placed).is_none());
        placed.place = Some((ShardId(1), Position(20)));
        assert!(all.find(&placed).is_some());
        assert!(all.remove("f/13"));
        assert!(all.find(&placed).is_none());
    }
}
