//! A set of topic filters that finds all of its members matching a name in one walk.

use std::collections::HashMap;

use crate::ids::Namespace;

/// Filters, each with a counted set of values. Matching visits every value of every matching filter;
/// a value under several matching filters is visited once for each.
#[derive(Debug)]
pub struct Matcher<T> {
    roots: HashMap<Namespace, Node<T>>,
    filters: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    plus: Option<Box<Node<T>>>,
    /// Values of filters that end here.
    here: Vec<(T, u32)>,
    /// Values of filters that end here with `/#` (or are `#`).
    below: Vec<(T, u32)>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Node { children: HashMap::new(), plus: None, here: Vec::new(), below: Vec::new() }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.here.is_empty()
            && self.below.is_empty()
    }
}

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Matcher { roots: HashMap::new(), filters: 0 }
    }
}

impl<T: PartialEq> Matcher<T> {
    /// Adds a value under a valid, not shared filter. Returns true if the filter had no value before.
    pub fn insert(&mut self, namespace: Namespace, filter: &str, value: T) -> bool {
        let mut node = self.roots.entry(namespace).or_default();
        let mut values = None;
        for level in filter.split('/') {
            match level {
                "#" => {
                    values = Some(&mut node.below);
                    break;
                }
                "+" => node = node.plus.get_or_insert_default(),
                _ => {
                    if !node.children.contains_key(level) {
                        node.children.insert(level.into(), Node::default());
                    }
                    let Some(child) = node.children.get_mut(level) else { return false };
                    node = child;
                }
            }
        }
        let values = match values {
            Some(values) => values,
            None => &mut node.here,
        };
        let first = values.is_empty();
        match values.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => values.push((value, 1)),
        }
        self.filters += usize::from(first);
        first
    }

    /// Takes back one insertion. Returns true if the filter has no value left.
    pub fn remove(&mut self, namespace: Namespace, filter: &str, value: &T) -> bool {
        let Some(root) = self.roots.get_mut(&namespace) else { return false };
        let levels: Vec<&str> = filter.split('/').collect();
        let emptied = Self::remove_below(root, &levels, value);
        if root.is_empty() {
            self.roots.remove(&namespace);
        }
        self.filters -= usize::from(emptied);
        emptied
    }

    fn remove_below(node: &mut Node<T>, levels: &[&str], value: &T) -> bool {
        match levels {
            [] => Self::take(&mut node.here, value),
            ["#", ..] => Self::take(&mut node.below, value),
            ["+", rest @ ..] => {
                let Some(plus) = &mut node.plus else { return false };
                let emptied = Self::remove_below(plus, rest, value);
                if plus.is_empty() {
                    node.plus = None;
                }
                emptied
            }
            [level, rest @ ..] => {
                let Some(child) = node.children.get_mut(*level) else { return false };
                let emptied = Self::remove_below(child, rest, value);
                if child.is_empty() {
                    node.children.remove(*level);
                }
                emptied
            }
        }
    }

    fn take(values: &mut Vec<(T, u32)>, value: &T) -> bool {
        let Some(at) = values.iter().position(|(known, _)| known == value) else { return false };
        values[at].1 -= 1;
        if values[at].1 == 0 {
            values.swap_remove(at);
        }
        values.is_empty()
    }

    /// Calls `visit` for every value of every filter that matches the valid name.
    pub fn visit(&self, namespace: Namespace, name: &str, visit: &mut impl FnMut(&T)) {
        let Some(root) = self.roots.get(&namespace) else { return };
        if name.starts_with('$') {
            // Wildcards at the first level never match such names.
            let (first, rest) = match name.split_once('/') {
                Some((first, rest)) => (first, Some(rest)),
                None => (name, None),
            };
            if let Some(child) = root.children.get(first) {
                Self::walk(child, rest, visit);
            }
        } else {
            Self::walk(root, Some(name), visit);
        }
    }

    fn walk(node: &Node<T>, name: Option<&str>, visit: &mut impl FnMut(&T)) {
        for (value, _) in &node.below {
            visit(value);
        }
        let Some(name) = name else {
            for (value, _) in &node.here {
                visit(value);
            }
            return;
        };
        let (level, rest) = match name.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (name, None),
        };
        if let Some(child) = node.children.get(level) {
            Self::walk(child, rest, visit);
        }
        if let Some(plus) = &node.plus {
            Self::walk(plus, rest, visit);
        }
    }

    /// Whether any filter matches the name.
    #[must_use]
    pub fn matches_any(&self, namespace: Namespace, name: &str) -> bool {
        let mut found = false;
        self.visit(namespace, name, &mut |_| found = true);
        found
    }

    /// How many filters have a value.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filters
    }

    /// Whether no filter has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filters == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic;

    const NS: Namespace = Namespace(0);

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".into()), Just("b".into()), Just("".into()), Just("$s".into())]
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..4)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("valid", |name| topic::check_name(name).is_ok())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![4 => level(), 2 => Just("+".to_string())];
        (prop::collection::vec(level, 1..4), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".into());
                }
                levels.join("/")
            })
            .prop_filter("valid", |filter| topic::check_filter(filter).is_ok())
    }

    proptest! {
        #[test]
        fn agrees_with_matching_one_by_one(
            filters in prop::collection::vec(filter(), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            name in name(),
        ) {
            let mut matcher = Matcher::default();
            for (n, filter) in filters.iter().enumerate() {
                matcher.insert(NS, filter, n);
            }
            let mut expected = Vec::new();
            for (n, filter) in filters.iter().enumerate() {
                if removed[n] {
                    matcher.remove(NS, filter, &n);
                } else if topic::matches(filter, &name) {
                    expected.push(n);
                }
            }
            let mut found = Vec::new();
            matcher.visit(NS, &name, &mut |n| found.push(*n));
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_covering_filter_matches_what_the_covered_one_matches(
            outer in filter(), inner in filter(), name in name(),
        ) {
            if topic::covers(&outer, &inner) && topic::matches(&inner, &name) {
                prop_assert!(topic::matches(&outer, &name));
            }
        }
    }

    #[test]
    fn removing_everything_leaves_nothing() {
        let mut matcher = Matcher::default();
        assert!(matcher.insert(NS, "a/+/#", 1));
        assert!(!matcher.insert(NS, "a/+/#", 1));
        assert!(!matcher.remove(NS, "a/+/#", &1));
        assert!(matcher.remove(NS, "a/+/#", &1));
        assert!(matcher.is_empty() && matcher.roots.is_empty());
    }
}
