//! A topic filter as an automaton over dictionary keys (namespace, topic).

use fst::Automaton;

/// Accepts the keys of one namespace whose topics a valid filter matches.
pub(crate) struct FilterAutomaton<'a> {
    namespace: [u8; 4],
    filter: &'a [u8],
}

/// Where in key and filter; `None`: cannot match any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Namespace(usize),
    /// Before this byte of the filter; whether any byte of the topic was read.
    Topic(usize, bool),
    /// `#` was reached.
    All,
}

impl<'a> FilterAutomaton<'a> {
    pub(crate) fn new(namespace: u32, filter: &'a str) -> Self {
        FilterAutomaton { namespace: namespace.to_be_bytes(), filter: filter.as_bytes() }
    }

    fn step(&self, at: usize, started: bool, byte: u8) -> Option<At> {
        match self.filter.get(at)? {
            // Names that start with `$` are not for filters that start with a wildcard.
            b'+' | b'#' if !started && byte == b'$' => None,
            b'#' => Some(At::All),
            b'+' if byte != b'/' => Some(At::Topic(at, true)),
            b'+' => (self.filter.get(at + 1) == Some(&b'/')).then_some(At::Topic(at + 2, true)),
            literal => (*literal == byte).then_some(At::Topic(at + 1, true)),
        }
    }
}

impl Automaton for FilterAutomaton<'_> {
    type State = Option<At>;

    fn start(&self) -> Option<At> {
        Some(At::Namespace(0))
    }

    fn is_match(&self, state: &Option<At>) -> bool {
        match state {
            Some(At::All) => true,
            Some(At::Topic(at, true)) => {
                matches!(&self.filter[*at..], b"" | b"+" | b"#" | b"/#" | b"+/#")
            }
            _ => false,
        }
    }

    fn can_match(&self, state: &Option<At>) -> bool {
        state.is_some()
    }

    fn will_always_match(&self, state: &Option<At>) -> bool {
        *state == Some(At::All)
    }

    fn accept(&self, state: &Option<At>, byte: u8) -> Option<At> {
        match (*state)? {
            At::All => Some(At::All),
            At::Topic(at, started) => self.step(at, started, byte),
            At::Namespace(at) if self.namespace[at] != byte => None,
            At::Namespace(3) => Some(At::Topic(0, false)),
            At::Namespace(at) => Some(At::Namespace(at + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::topic;
    use proptest::prelude::*;

    use super::*;

    fn accepts(filter: &str, key: &[u8]) -> bool {
        let automaton = FilterAutomaton::new(7, filter);
        let end = key.iter().fold(automaton.start(), |at, byte| automaton.accept(&at, *byte));
        automaton.is_match(&end)
    }

    proptest! {
        #[test]
        fn it_accepts_what_the_rules_match(
            filter in "[ab+]?(/[ab+]{0,1}){0,3}(/#)?|#|\\$a/[+#]", name in "\\$?[ab]{0,1}(/[ab]{0,2}){0,4}",
        ) {
            prop_assume!(topic::check_filter(&filter).is_ok() && topic::check_name(&name).is_ok());
            let mut key = 7u32.to_be_bytes().to_vec();
            key.extend_from_slice(name.as_bytes());
            prop_assert_eq!(accepts(&filter, &key), topic::matches(&filter, &name), "{} {}", filter, name);
            key[3] = 8;
            prop_assert!(!accepts(&filter, &key));
        }
    }
}
