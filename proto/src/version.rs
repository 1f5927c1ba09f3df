//! Versions of what processes say to each other, and how two that differ agree on one.
//!
//! A process speaks all versions from its oldest to its newest. Two processes use the newest that both
//! speak. During a rolling upgrade the old and the new run together; `protocol_version_max` in a config
//! holds the new ones back until all can follow.
//!
//! Version 1: the first. Version 2: sites report their replicas, shards have holders beside the replica
//! set, leadership is handed over without waiting for a lease.

use thiserror::Error;

/// Newest version that this code speaks.
pub const PROTOCOL_VERSION: u32 = 2;
/// Oldest version that this code speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;

/// All versions that a process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first of them.
    pub oldest: u32,
    /// The last of them.
    pub newest: u32,
}

/// Two processes have no version in common. Stop: one of them must be upgraded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("it speaks protocol versions {} to {}, this process {} to {}", theirs.oldest, theirs.newest, ours.oldest, ours.newest)]
pub struct NoCommonVersion {
    /// The peer's.
    pub theirs: Versions,
    /// This process's.
    pub ours: Versions,
}

impl Versions {
    /// What this code speaks, but nothing newer than `newest`.
    #[must_use]
    pub fn up_to(newest: u32) -> Versions {
        let newest = newest.clamp(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
        Versions { oldest: PROTOCOL_VERSION_MIN, newest }
    }

    /// As a peer announces them; an oldest of 0 is the same as the newest.
    #[must_use]
    pub fn announced(newest: u32, oldest: u32) -> Versions {
        let oldest = if oldest == 0 { newest } else { oldest };
        Versions { oldest, newest }
    }

    /// The newest version that both speak.
    ///
    /// # Errors
    /// There is none.
    pub fn common(self, theirs: Versions) -> Result<u32, NoCommonVersion> {
        let newest = self.newest.min(theirs.newest);
        if newest >= self.oldest && newest >= theirs.oldest {
            Ok(newest)
        } else {
            Err(NoCommonVersion { theirs, ours: self })
        }
    }
}

impl Default for Versions {
    fn default() -> Self {
        Versions::up_to(PROTOCOL_VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_both_speak_is_used() {
        let old = Versions::announced(1, 0);
        let new = Versions::announced(3, 1);
        assert_eq!(new.common(old), Ok(1));
        assert_eq!(old.common(new), Ok(1));
        assert_eq!(new.common(Versions::announced(2, 2)), Ok(2));
    }

    #[test]
    fn without_a_common_one_both_are_named() {
        let error = Versions::announced(3, 2).common(Versions::announced(1, 1)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1 to 1") && text.contains("2 to 3"), "{text}");
    }

    #[test]
    fn a_pin_outside_of_what_is_spoken_is_moved_inside() {
        assert_eq!(Versions::up_to(0).newest, PROTOCOL_VERSION_MIN);
        assert_eq!(Versions::up_to(99), Versions::default());
    }
}
