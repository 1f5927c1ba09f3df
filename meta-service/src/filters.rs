//! The durable filters as gateways are told them: what the store has, and the newest changes.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use holdfast_control::routes::{Delta, Filter};
use holdfast_proto::{meta::FilterSet, storage};

/// Versions whose changes are kept; who is further behind gets the whole set.
const HISTORY_MAX: usize = 256;

/// Mirror of the set as it is durable.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    version: u64,
    all: BTreeSet<Filter>,
    retiring: BTreeSet<Filter>,
    history: VecDeque<Arc<Delta>>,
}

impl Filters {
    pub(crate) fn new(version: u64, all: impl IntoIterator<Item = Filter>) -> Filters {
        Filters { version, all: all.into_iter().collect(), ..Filters::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_retiring(&self) -> bool {
        !self.retiring.is_empty()
    }

    pub(crate) fn apply(&mut self, delta: Delta) {
        for filter in &delta.remove {
            self.all.remove(filter);
            self.retiring.remove(filter);
        }
        for filter in &delta.add {
            self.all.insert(filter.clone());
            self.retiring.remove(filter);
        }
        self.retiring.extend(delta.retiring.iter().cloned());
        self.version = delta.version;
        self.history.push_back(Arc::new(delta));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
    }

    /// What a gateway that was told this version lacks (nothing told yet: everything), and the version
    /// that it is at then.
    pub(crate) fn since(&self, told: Option<u64>) -> Option<FilterSet> {
        if told == Some(self.version) {
            return None;
        }
        let oldest = self.history.front().map_or(u64::MAX, |delta| delta.version);
        let changes = match told {
            Some(told) if told + 1 >= oldest => {
                self.history.iter().filter(move |delta| delta.version > told)
            }
            _ => return Some(self.complete()),
        };
        let (mut add, mut remove, mut retiring) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for delta in changes {
            for filter in &delta.remove {
                add.remove(filter);
                retiring.remove(filter);
                remove.insert(filter.clone());
            }
            for filter in &delta.add {
                remove.remove(filter);
                retiring.remove(filter);
                add.insert(filter.clone());
            }
            for filter in &delta.retiring {
                retiring.insert(filter.clone());
            }
        }
        Some(self.set(false, add, remove, retiring))
    }

    fn complete(&self) -> FilterSet {
        self.set(true, self.all.clone(), BTreeSet::new(), self.retiring.clone())
    }

    fn set(
        &self,
        complete: bool,
        add: BTreeSet<Filter>,
        remove: BTreeSet<Filter>,
        retiring: BTreeSet<Filter>,
    ) -> FilterSet {
        FilterSet {
            version: self.version,
            complete,
            add: rpc(add),
            remove: rpc(remove),
            retiring: rpc(retiring),
        }
    }
}

fn rpc(filters: BTreeSet<Filter>) -> Vec<storage::Filter> {
    let filter =
        |filter: Filter| storage::Filter { namespace: filter.namespace.0, filter: filter.filter };
    filters.into_iter().map(filter).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::Namespace;

    use super::*;

    fn filter(text: &str) -> Filter {
        Filter { namespace: Namespace(0), filter: text.to_owned() }
    }

    fn texts(filters: &[storage::Filter]) -> Vec<&str> {
        filters.iter().map(|filter| filter.filter.as_str()).collect()
    }

    #[test]
    fn several_versions_come_as_one_change() {
        let mut filters = Filters::new(4, [filter("a"), filter("b")]);
        filters.apply(Delta { version: 5, add: vec![filter("c")], ..Delta::default() });
        filters.apply(Delta {
            version: 6,
            retiring: vec![filter("a"), filter("b")],
            ..Delta::default()
        });
        let remove = vec![filter("b"), filter("c")];
        filters.apply(Delta { version: 7, add: vec![filter("a")], remove, ..Delta::default() });
        let change = filters.since(Some(4)).unwrap();
        assert_eq!((change.version, change.complete), (7, false));
        assert_eq!((texts(&change.add), texts(&change.remove)), (vec!["a"], vec!["b", "c"]));
        assert!(change.retiring.is_empty());
        assert_eq!(filters.since(Some(7)), None);
    }

    #[test]
    fn who_is_far_behind_gets_everything() {
        let mut filters = Filters::new(1, []);
        for version in 2..=300 {
            let add = vec![filter(&version.to_string())];
            filters.apply(Delta { version, add, ..Delta::default() });
        }
        assert!(filters.since(Some(2)).unwrap().complete);
        assert!(filters.since(None).unwrap().complete);
        assert!(!filters.since(Some(299)).unwrap().complete);
    }
}
