//! Rules for topic names and topic filters (MQTT 5.0 §4.7, §4.8.2).

use thiserror::Error;

/// Longest topic name or filter, in bytes.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Why a topic name or filter is refused.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum TopicError {
    /// At least one character is needed (MQTT-4.7.3-1).
    #[error("empty topic")]
    Empty,
    /// Longer than [`TOPIC_BYTES_MAX`] (MQTT-4.7.3-3).
    #[error("topic longer than 65535 bytes")]
    TooLong,
    /// U+0000 is not allowed (MQTT-4.7.3-2).
    #[error("topic contains U+0000")]
    Null,
    /// A topic name may not contain `+` or `#` (MQTT-3.3.2-2).
    #[error("wildcard in a topic name")]
    Wildcard,
    /// `#` must be the last level and `+` must fill its level (MQTT-4.7.1-1, -2).
    #[error("misplaced wildcard in a topic filter")]
    MisplacedWildcard,
    /// `$share/` needs a name without wildcards and a filter (MQTT-4.8.2-1, -2).
    #[error("malformed shared subscription")]
    Share,
}

/// Checks a topic name of a PUBLISH or a will.
///
/// # Errors
/// The first rule that the name breaks.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_text(name)?;
    if name.contains(['+', '#']) {
        return Err(TopicError::Wildcard);
    }
    Ok(())
}

/// Checks a topic filter of a SUBSCRIBE or UNSUBSCRIBE (also a shared one).
///
/// # Errors
/// The first rule that the filter breaks.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_text(filter)?;
    let filter = match filter.strip_prefix("$share/") {
        None => filter,
        Some(rest) => {
            let (name, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
            if name.is_empty() || name.contains(['+', '#']) || filter.is_empty() {
                return Err(TopicError::Share);
            }
            filter
        }
    };
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if wild && (level.len() != 1 || (level == "#" && levels.peek().is_some())) {
            return Err(TopicError::MisplacedWildcard);
        }
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if text.as_bytes().contains(&0) {
        return Err(TopicError::Null);
    }
    Ok(())
}

/// Whether the filter is a shared subscription's.
#[must_use]
pub fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

/// Whether the filter holds a wildcard.
#[must_use]
pub fn has_wildcard(filter: &str) -> bool {
    filter.as_bytes().iter().any(|byte| matches!(byte, b'+' | b'#'))
}

/// Whether a valid topic name matches a valid (not shared) filter. Filters that start with a wildcard
/// never match names that start with `$` (MQTT-4.7.2-1).
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = name.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Whether every name that `inner` matches is matched by `outer` too (both valid, not shared).
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    if inner.starts_with('$') && outer.starts_with(['+', '#']) {
        return false;
    }
    let mut inners = inner.split('/');
    for level in outer.split('/') {
        if level == "#" {
            return true;
        }
        match inners.next() {
            Some("#") | None => return false,
            Some(inner) if level == "+" || level == inner => {}
            Some(_) => return false,
        }
    }
    inners.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_standard() {
        assert_eq!(check_name("a/b"), Ok(()));
        assert_eq!(check_name("/"), Ok(()));
        assert_eq!(check_name("\u{feff}a"), Ok(()));
        assert_eq!(check_name(""), Err(TopicError::Empty));
        assert_eq!(check_name("a/+"), Err(TopicError::Wildcard));
        assert_eq!(check_name("a\0"), Err(TopicError::Null));
        assert_eq!(check_name(&"a".repeat(65_536)), Err(TopicError::TooLong));
    }

    #[test]
    fn filters_follow_the_standard() {
        for good in ["#", "+", "a/#", "+/a/+", "/+", "$share/g/a/#", "sport/+/player1"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["a#", "a/#/b", "a+", "+a/b", "a/b+"] {
            assert_eq!(check_filter(bad), Err(TopicError::MisplacedWildcard), "{bad}");
        }
        for bad in ["$share/g", "$share//a", "$share/g/", "$share/+/a"] {
            assert_eq!(check_filter(bad), Err(TopicError::Share), "{bad}");
        }
    }

    #[test]
    fn matching_follows_the_standard() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/b", "a/b/c", false),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn covering_is_sound() {
        for (outer, inner, expected) in [
            ("#", "a/b", true),
            ("#", "a/#", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/#", "a/+", true),
            ("a/b", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/b", "+/+", false),
        ] {
            assert_eq!(covers(outer, inner), expected, "{outer} {inner}");
        }
    }
}
