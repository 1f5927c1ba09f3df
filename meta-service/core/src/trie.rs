//! Filters of one tenant, level by level: is a filter covered by what is there, and summarising of levels
//! that have very many values.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
struct Node {
    /// A filter ends here.
    end: bool,
    /// A filter ends here with `#`.
    rest: bool,
    any: Option<Box<Node>>,
    values: BTreeMap<Box<str>, Node>,
}

/// What an insertion did to the set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: BTreeSet<String>,
    pub(crate) removed: BTreeSet<String>,
}

impl Change {
    pub(crate) fn then(&mut self, later: Change) {
        for filter in later.removed {
            if !self.added.remove(&filter) {
                self.removed.insert(filter);
            }
        }
        for filter in later.added {
            if !self.removed.remove(&filter) {
                self.added.insert(filter);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Trie {
    root: Node,
}

impl Trie {
    /// Whether one filter of the set covers the (valid, not shared) filter.
    pub(crate) fn covers(&self, filter: &str) -> bool {
        covers(&self.root, &mut filter.split('/'), filter.starts_with('$'))
    }

    /// Inserts a filter; levels that then have more than `values_max` values become `+`. The set covers
    /// everything that it covered before, and the filter.
    pub(crate) fn insert(&mut self, filter: &str, values_max: usize) -> Change {
        let mut change = Change::default();
        let mut node = &mut self.root;
        let mut path = String::new();
        let mut widest: Option<String> = None;
        for (depth, level) in filter.split('/').enumerate() {
            if level == "#" {
                if !std::mem::replace(&mut node.rest, true) {
                    change.added.insert(filter.to_owned());
                }
                return self.narrow(widest, values_max, change);
            }
            if level == "+" {
                node = node.any.get_or_insert_default();
            } else {
                if !node.values.contains_key(level) && countable(node, depth) >= values_max {
                    widest.get_or_insert_with(|| path.clone());
                }
                node = node.values.entry(level.into()).or_default();
            }
            path.push_str(level);
            path.push('/');
        }
        if !std::mem::replace(&mut node.end, true) {
            change.added.insert(filter.to_owned());
        }
        self.narrow(widest, values_max, change)
    }

    /// Makes every level of more than `values_max` values a `+`.
    pub(crate) fn summarise(&mut self, values_max: usize) -> Change {
        let before = self.filters();
        summarise(&mut self.root, 0, values_max);
        let after = self.filters();
        Change {
            added: after.difference(&before).cloned().collect(),
            removed: before.difference(&after).cloned().collect(),
        }
    }

    pub(crate) fn filters(&self) -> BTreeSet<String> {
        let mut into = BTreeSet::new();
        collect(&self.root, &mut String::new(), &mut into);
        into
    }

    fn narrow(&mut self, widest: Option<String>, values_max: usize, mut change: Change) -> Change {
        let Some(path) = widest else { return change };
        let depth = path.matches('/').count();
        let mut node = &mut self.root;
        for level in path.split_terminator('/') {
            let next =
                if level == "+" { node.any.as_deref_mut() } else { node.values.get_mut(level) };
            let Some(next) = next else { return change };
            node = next;
        }
        let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
        collect(node, &mut path.clone(), &mut before);
        summarise(node, depth, values_max);
        collect(node, &mut path.clone(), &mut after);
        change.then(Change {
            added: after.difference(&before).cloned().collect(),
            removed: before.difference(&after).cloned().collect(),
        });
        change
    }
}

/// Values of a level that `+` would stand for: names that start with `$` are not among the first one's.
fn countable(node: &Node, depth: usize) -> usize {
    let hidden =
        if depth == 0 { node.values.keys().filter(|key| key.starts_with('$')).count() } else { 0 };
    node.values.len() - hidden
}

fn covers(node: &Node, levels: &mut std::str::Split<'_, char>, hidden: bool) -> bool {
    if node.rest && !hidden {
        return true;
    }
    let Some(level) = levels.next() else { return node.end };
    if level == "#" {
        return false;
    }
    let any = node.any.as_deref().filter(|_| !hidden);
    if any.is_some_and(|any| covers(any, &mut levels.clone(), false)) {
        return true;
    }
    level != "+" && node.values.get(level).is_some_and(|next| covers(next, levels, false))
}

fn summarise(node: &mut Node, depth: usize, values_max: usize) {
    if countable(node, depth) > values_max {
        let mut any = node.any.take().unwrap_or_default();
        let values = std::mem::take(&mut node.values);
        for (level, value) in values {
            if depth == 0 && level.starts_with('$') {
                node.values.insert(level, value);
            } else {
                merge(&mut any, value);
            }
        }
        node.any = Some(any);
    }
    if let Some(any) = &mut node.any {
        summarise(any, depth + 1, values_max);
    }
    for value in node.values.values_mut() {
        summarise(value, depth + 1, values_max);
    }
}

fn merge(into: &mut Node, from: Node) {
    into.end |= from.end;
    into.rest |= from.rest;
    if let Some(any) = from.any {
        merge(into.any.get_or_insert_default(), *any);
    }
    for (level, value) in from.values {
        merge(into.values.entry(level).or_default(), value);
    }
}

fn collect(node: &Node, path: &mut String, into: &mut BTreeSet<String>) {
    if node.end {
        into.insert(path.strip_suffix('/').unwrap_or(path).to_owned());
    }
    if node.rest {
        into.insert(format!("{path}#"));
    }
    let any = node.any.as_deref().map(|any| ("+", any));
    let values = node.values.iter().map(|(level, value)| (level.as_ref(), value));
    for (level, next) in any.into_iter().chain(values) {
        let length = path.len();
        path.push_str(level);
        path.push('/');
        collect(next, path, into);
        path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::topic;
    use proptest::prelude::*;

    use super::*;

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("c"), Just(""), Just("$s"), Just("+")];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, rest)| {
            let text = levels.join("/");
            if rest {
                format!("{text}/#")
            } else if text.is_empty() {
                "#".to_owned()
            } else {
                text
            }
        })
    }

    proptest! {
        #[test]
        fn covering_equals_the_rule(set in proptest::collection::vec(filter(), 0..8), asked in filter()) {
            let mut trie = Trie::default();
            for filter in &set {
                trie.insert(filter, 100);
            }
            let rule = set.iter().any(|filter| topic::covers(filter, &asked));
            prop_assert_eq!(trie.covers(&asked), rule, "{:?} {}", set, asked);
            prop_assert_eq!(trie.filters(), set.iter().cloned().collect::<BTreeSet<_>>());
        }

        #[test]
        fn summaries_cover_what_they_replace(set in proptest::collection::vec(filter(), 0..20), max in 0usize..3) {
            let mut trie = Trie::default();
            let mut shadow = BTreeSet::new();
            for filter in &set {
                let change = trie.insert(filter, max);
                for removed in &change.removed {
                    prop_assert!(shadow.remove(removed));
                }
                shadow.extend(change.added);
                prop_assert_eq!(&trie.filters(), &shadow);
                prop_assert!(trie.covers(filter));
            }
            for filter in &set {
                prop_assert!(trie.covers(filter), "{} in {:?}", filter, shadow);
                prop_assert!(shadow.iter().any(|outer| topic::covers(outer, filter)));
            }
        }
    }

    #[test]
    fn a_level_of_many_values_becomes_a_plus() {
        let mut trie = Trie::default();
        for n in 0..=1000 {
            trie.insert(&format!("devices/{n}/cmd"), 1000);
        }
        assert_eq!(trie.filters(), BTreeSet::from(["devices/+/cmd".to_owned()]));
    }
}
