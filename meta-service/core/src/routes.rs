//! The set of topics that are durable, and which gateways route by which version of it.
//!
//! Invariants:
//! * What the set matches grows with every version, except for filters that a sweep removes.
//! * A request to cover filters is answered when every live gateway has acknowledged a version that has
//!   them. A gateway is live from its registration, before it is sent the set, until its lease is over; from
//!   then on it stores every message until it has a complete set again.
//! * A filter is removed in two steps, because a gateway may have let a subscription through on seeing it
//!   in the set: first it is *retiring* (still matched, but it covers nobody's new subscription), in a version
//!   of its own; only when every live gateway has acknowledged that, and the time in which a
//!   subscription reaches the registry is over, and it still has nobody, does it go.
//!
//! Summarising (a level of very many values becomes `+`) makes more durable than needed, never less.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::{
    ids::{Incarnation, Namespace},
    topic,
};

use crate::trie::{Change, Trie};

/// A filter within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    /// The tenant.
    pub namespace: Namespace,
    /// Never a shared subscription's: only the filter behind the share name.
    pub filter: String,
}

impl Filter {
    /// The filter by which messages for this subscription are found; nothing if it is malformed.
    pub fn of_subscription(namespace: Namespace, filter: &str) -> Option<Filter> {
        topic::check_filter(filter).ok()?;
        let filter = match filter.strip_prefix("$share/") {
            Some(rest) => rest.split_once('/')?.1,
            None => filter,
        };
        Some(Filter { namespace, filter: filter.to_owned() })
    }
}

/// Bounds of the set and the times of its sweep.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Values of one level before it becomes `+`.
    pub values_max: usize,
    /// Filters in the set; above it levels of fewer values are summarised.
    pub filters_max: usize,
    /// Bytes of all filters, likewise.
    pub filter_bytes_max: usize,
    /// From a retiring filter's last acknowledgement to its removal.
    pub retire_ms: u64,
}

/// What one version changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The version.
    pub version: u64,
    /// In the set from this version on (or no longer retiring).
    pub add: Vec<Filter>,
    /// Not in the set from this version on.
    pub remove: Vec<Filter>,
    /// Still matched; new subscriptions have to ask for it.
    pub retiring: Vec<Filter>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty() && self.retiring.is_empty()
    }
}

/// Filters that sessions have, summarised as the set is.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    tenants: BTreeMap<Namespace, Trie>,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    filters: usize,
    bytes: usize,
}

impl Weight {
    fn count(&mut self, change: &Change) {
        self.filters = (self.filters + change.added.len()).saturating_sub(change.removed.len());
        let bytes = |set: &BTreeSet<String>| set.iter().map(String::len).sum::<usize>();
        self.bytes = (self.bytes + bytes(&change.added)).saturating_sub(bytes(&change.removed));
    }

    fn is_over(self, limits: &Limits) -> bool {
        self.filters > limits.filters_max || self.bytes > limits.filter_bytes_max
    }
}

impl Wanted {
    /// Takes one filter in.
    pub fn insert(&mut self, filter: &Filter, limits: &Limits) {
        self.add(filter, limits, &mut BTreeMap::new());
    }

    fn covers(&self, filter: &Filter) -> bool {
        self.tenants.get(&filter.namespace).is_some_and(|trie| trie.covers(&filter.filter))
    }

    fn add(&mut self, filter: &Filter, limits: &Limits, changes: &mut BTreeMap<Namespace, Change>) {
        if self.covers(filter) {
            return;
        }
        let trie = self.tenants.entry(filter.namespace).or_default();
        let change = trie.insert(&filter.filter, limits.values_max);
        self.weight.count(&change);
        changes.entry(filter.namespace).or_default().then(change);
        let mut values_max = limits.values_max;
        while self.weight.is_over(limits) && values_max > 0 {
            values_max /= 2;
            for (namespace, trie) in &mut self.tenants {
                let change = trie.summarise(values_max);
                self.weight.count(&change);
                changes.entry(*namespace).or_default().then(change);
            }
        }
    }

    fn filters(&self) -> BTreeSet<Filter> {
        let of = |namespace: Namespace, trie: &Trie| {
            trie.filters().into_iter().map(move |filter| Filter { namespace, filter })
        };
        self.tenants.iter().flat_map(|(namespace, trie)| of(*namespace, trie)).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct Retiring {
    version: u64,
    covered_ms: Option<u64>,
}

/// The durable filters and the gateways' knowledge of them.
#[derive(Debug)]
pub struct Routes {
    limits: Limits,
    version: u64,
    active: Wanted,
    retiring: BTreeMap<Filter, Retiring>,
    gateways: BTreeMap<Incarnation, u64>,
    covered: u64,
}

impl Routes {
    /// The set as persisted; `version` must be above every version that any gateway was ever sent.
    pub fn new(limits: Limits, version: u64, filters: impl IntoIterator<Item = Filter>) -> Routes {
        let mut active = Wanted::default();
        for filter in filters {
            // Kept even where another covers it, so that memory and store hold the same set.
            let trie = active.tenants.entry(filter.namespace).or_default();
            active.weight.count(&trie.insert(&filter.filter, usize::MAX));
        }
        Routes {
            limits,
            version,
            active,
            retiring: BTreeMap::new(),
            gateways: BTreeMap::new(),
            covered: 0,
        }
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many filters the set has.
    pub fn len(&self) -> usize {
        self.active.weight.filters + self.retiring.len()
    }

    /// Whether no filter is durable.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All filters that are matched, and which of them are retiring.
    pub fn filters(&self) -> (Vec<Filter>, Vec<Filter>) {
        let retiring: Vec<Filter> = self.retiring.keys().cloned().collect();
        let mut all = self.active.filters();
        all.extend(retiring.iter().cloned());
        (all.into_iter().collect(), retiring)
    }

    /// A gateway registered, or renewed: it routes by this version at least.
    pub fn acknowledge(&mut self, gateway: Incarnation, version: u64) {
        let known = self.gateways.entry(gateway).or_default();
        *known = (*known).max(version.min(self.version));
    }

    /// The gateway's lease is over, or it left: it holds nobody up.
    pub fn forget(&mut self, gateway: Incarnation) {
        self.gateways.remove(&gateway);
    }

    /// Newest version that every live gateway has acknowledged. Never goes back: a gateway that
    /// registers later takes publishes only by a complete set that is newer.
    pub fn covered(&mut self, now_ms: u64) -> u64 {
        let least = self.gateways.values().min().copied().unwrap_or(self.version);
        self.covered = self.covered.max(least);
        for retiring in self.retiring.values_mut() {
            if retiring.covered_ms.is_none() && retiring.version <= least {
                retiring.covered_ms = Some(now_ms);
            }
        }
        self.covered
    }

    /// Makes filters durable, all in one version. What the new version changed, if one was needed; the
    /// filters are in effect everywhere once [`Routes::covered`] is at [`Routes::version`].
    pub fn cover<'a>(&mut self, filters: impl IntoIterator<Item = &'a Filter>) -> Option<Delta> {
        let mut changes = BTreeMap::new();
        for filter in filters {
            self.active.add(filter, &self.limits, &mut changes);
        }
        let mut delta = Delta::default();
        self.take(changes, &mut delta);
        self.commit(delta)
    }

    /// Retires what no session wants and removes what was retired long enough ago. `wanted` was read
    /// from a whole registry, of no earlier than `read_ms`.
    pub fn sweep(&mut self, wanted: Wanted, read_ms: u64) -> Option<Delta> {
        let (target, before) = (wanted.filters(), self.active.filters());
        let mut delta = Delta::default();
        for filter in target.difference(&before) {
            self.retiring.remove(filter);
            delta.add.push(filter.clone());
        }
        let retire_ms = self.limits.retire_ms;
        self.retiring.retain(|filter, state| {
            let over = state.covered_ms.is_some_and(|at| at + retire_ms <= read_ms);
            if over {
                delta.remove.push(filter.clone());
            }
            !over
        });
        for filter in before.difference(&target) {
            let state = Retiring { version: self.version + 1, covered_ms: None };
            self.retiring.insert(filter.clone(), state);
            delta.retiring.push(filter.clone());
        }
        self.active = wanted;
        self.commit(delta)
    }

    fn take(&mut self, changes: BTreeMap<Namespace, Change>, delta: &mut Delta) {
        for (namespace, change) in changes {
            let of = |filter: String| Filter { namespace, filter };
            for filter in change.added.into_iter().map(of) {
                self.retiring.remove(&filter);
                delta.add.push(filter);
            }
            delta.remove.extend(change.removed.into_iter().map(of));
        }
    }

    fn commit(&mut self, mut delta: Delta) -> Option<Delta> {
        if delta.is_empty() {
            return None;
        }
        self.version += 1;
        delta.version = self.version;
        Some(delta)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits =
        Limits { values_max: 3, filters_max: 30, filter_bytes_max: 200, retire_ms: 100 };
    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn filter(text: &str) -> Filter {
        Filter { namespace: Namespace(0), filter: text.to_owned() }
    }

    fn wanted(texts: &[&str]) -> Wanted {
        let mut wanted = Wanted::default();
        for text in texts {
            wanted.insert(&filter(text), &LIMITS);
        }
        wanted
    }

    fn apply(set: &mut BTreeSet<Filter>, delta: &Delta) {
        for filter in &delta.remove {
            assert!(set.remove(filter), "{filter:?} was not there");
        }
        set.extend(delta.add.iter().cloned());
    }

    #[test]
    fn a_filter_is_covered_when_every_live_gateway_has_it() {
        let mut routes = Routes::new(LIMITS, 1, []);
        routes.acknowledge(A, 1);
        routes.acknowledge(B, 1);
        let delta = routes.cover([&filter("a/#")]).unwrap();
        routes.acknowledge(A, delta.version);
        assert_eq!(routes.covered(0), 1);
        routes.forget(B);
        assert_eq!(routes.covered(0), delta.version);
        routes.acknowledge(B, 0);
        assert_eq!(routes.covered(0), delta.version);
        assert_eq!(routes.cover([&filter("a/b")]), None);
        assert!(routes.cover([&filter("b")]).unwrap().version > delta.version);
    }

    #[test]
    fn an_acknowledgement_cannot_run_ahead() {
        let mut routes = Routes::new(LIMITS, 1, []);
        routes.acknowledge(A, 99);
        let delta = routes.cover([&filter("a")]).unwrap();
        assert!(routes.covered(0) < delta.version);
    }

    #[test]
    fn a_sweep_removes_in_two_steps() {
        let mut routes = Routes::new(LIMITS, 1, [filter("a"), filter("b")]);
        routes.acknowledge(A, 1);
        let retire = routes.sweep(wanted(&["b"]), 1_000).unwrap();
        assert_eq!((retire.retiring.len(), retire.remove.len()), (1, 0));
        assert_eq!(routes.sweep(wanted(&["b"]), 5_000), None, "not acknowledged yet");
        routes.acknowledge(A, retire.version);
        routes.covered(5_000);
        assert_eq!(routes.sweep(wanted(&["b"]), 5_099), None, "too early");
        let gone = routes.sweep(wanted(&["b"]), 5_100).unwrap();
        assert_eq!(gone.remove, [filter("a")]);
        assert_eq!(routes.filters(), (vec![filter("b")], vec![]));
    }

    #[test]
    fn asking_for_a_retiring_filter_keeps_it() {
        let mut routes = Routes::new(LIMITS, 1, [filter("a")]);
        let retire = routes.sweep(wanted(&[]), 0).unwrap();
        assert_eq!(routes.filters().1, [filter("a")]);
        let again = routes.cover([&filter("a")]).unwrap();
        assert_eq!(again.add, [filter("a")]);
        assert!(again.version > retire.version);
        assert!(routes.filters().1.is_empty());
    }

    #[test]
    fn a_wide_filter_that_nobody_has_gives_way_to_narrow_ones() {
        let mut routes = Routes::new(LIMITS, 1, [filter("#")]);
        let delta = routes.sweep(wanted(&["a/b"]), 0).unwrap();
        assert_eq!((delta.add, delta.retiring), (vec![filter("a/b")], vec![filter("#")]));
    }

    #[test]
    fn shared_subscriptions_count_as_their_filter() {
        let of = |text| Filter::of_subscription(Namespace(0), text).map(|filter| filter.filter);
        assert_eq!(of("$share/g/a/+"), Some("a/+".to_owned()));
        assert_eq!(of("a/#/b"), None);
    }

    proptest! {
        #[test]
        fn the_set_grows_and_stays_bounded(
            asked in proptest::collection::vec("[a-f](/[a-f+]){0,3}(/#)?", 1..60)
        ) {
            let mut routes = Routes::new(LIMITS, 1, []);
            let mut set = BTreeSet::new();
            let mut asked_for = Vec::new();
            for text in asked {
                asked_for.push(filter(&text));
                if let Some(delta) = routes.cover([&filter(&text)]) {
                    apply(&mut set, &delta);
                }
                for filter in &asked_for {
                    prop_assert!(set.iter().any(|outer| topic::covers(&outer.filter, &filter.filter)));
                }
                prop_assert_eq!(routes.filters().0, set.iter().cloned().collect::<Vec<_>>());
                prop_assert_eq!(routes.len(), set.len());
                prop_assert!(routes.len() <= LIMITS.filters_max);
            }
        }

        #[test]
        fn an_answer_means_that_every_live_gateway_has_it(
            steps in proptest::collection::vec((0u8..4, 0u64..3, "[a-c](/[a-c+])?"), 1..60)
        ) {
            let mut routes = Routes::new(LIMITS, 1, []);
            let mut live: BTreeMap<Incarnation, u64> = BTreeMap::new();
            let mut waiting: Vec<(u64, Filter)> = Vec::new();
            let mut sets: BTreeMap<u64, BTreeSet<Filter>> = BTreeMap::from([(1, BTreeSet::new())]);
            for (step, who, text) in steps {
                let gateway = Incarnation(who);
                match step {
                    0 => {
                        // A new gateway takes publishes only by a set that is newer than its registration.
                        routes.acknowledge(gateway, 0);
                        live.entry(gateway).or_insert(routes.version());
                    }
                    1 => {
                        let version = routes.version();
                        if live.contains_key(&gateway) {
                            routes.acknowledge(gateway, version);
                            live.insert(gateway, version);
                        }
                    }
                    2 => {
                        routes.forget(gateway);
                        live.remove(&gateway);
                    }
                    _ => {
                        if let Some(delta) = routes.cover([&filter(&text)]) {
                            let mut set = sets.values().next_back().unwrap().clone();
                            apply(&mut set, &delta);
                            sets.insert(delta.version, set);
                        }
                        waiting.push((routes.version(), filter(&text)));
                    }
                }
                let covered = routes.covered(0);
                for (_, filter) in waiting.extract_if(.., |(version, _)| *version <= covered) {
                    for version in live.values() {
                        let mut set = sets[version].iter();
                        prop_assert!(set.any(|outer| topic::covers(&outer.filter, &filter.filter)));
                    }
                }
            }
        }
    }
}
