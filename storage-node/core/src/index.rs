//! What a shard looks up about its sessions without reading rows: owners, deadlines, counts; and which
//! rows are to be forgotten. All of it is a function of the rows.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::shard::SessionRow;

use crate::FORGET_AFTER_MS;
use crate::keys::Key;
use crate::session;

/// What becomes due for a session that nobody is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Its will.
    Will,
    /// Its end.
    Expiry,
}

/// What the indexes hold of one session row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    /// Incarnation of the owner, if there is one.
    owner: Option<u64>,
    will_due_ms: Option<u64>,
    expires_at_ms: Option<u64>,
    forget_at_ms: Option<u64>,
    live: bool,
}

impl Facts {
    pub(crate) fn of(row: Option<&SessionRow>) -> Facts {
        let Some(row) = row else { return Facts::default() };
        let ended = session::is_ended(row);
        let pending = row.owner.is_none() && row.will.is_some() && row.will_due_ms != 0;
        Facts {
            owner: row.owner.as_ref().map(|owner| owner.incarnation),
            will_due_ms: pending.then_some(row.will_due_ms),
            expires_at_ms: session::expires_at_ms(row),
            forget_at_ms: ended.then_some(row.last_used_ms.saturating_add(FORGET_AFTER_MS)),
            live: !ended,
        }
    }
}

/// Indexes over the rows of a shard.
#[derive(Debug, Default)]
pub(crate) struct Index {
    owners: BTreeMap<u64, BTreeSet<Key>>,
    deadlines: BTreeSet<(u64, Deadline, Key)>,
    forget: BTreeSet<(u64, Key)>,
    sessions: u64,
    connected: u64,
}

impl Index {
    /// A session's row changed what the indexes hold of it.
    pub(crate) fn session(&mut self, key: &Key, old: Facts, new: Facts) {
        if old == new {
            return;
        }
        if old.owner != new.owner {
            self.owner(key, old.owner, new.owner);
        }
        for (kind, old, new) in [
            (Deadline::Will, old.will_due_ms, new.will_due_ms),
            (Deadline::Expiry, old.expires_at_ms, new.expires_at_ms),
        ] {
            if old == new {
                continue;
            }
            if let Some(at_ms) = old {
                self.deadlines.remove(&(at_ms, kind, key.clone()));
            }
            if let Some(at_ms) = new {
                self.deadlines.insert((at_ms, kind, key.clone()));
            }
        }
        self.forget(key, old.forget_at_ms, new.forget_at_ms);
        self.sessions = self.sessions + u64::from(new.live) - u64::from(old.live);
        self.connected =
            self.connected + u64::from(new.owner.is_some()) - u64::from(old.owner.is_some());
    }

    fn owner(&mut self, key: &Key, old: Option<u64>, new: Option<u64>) {
        if let Some(owner) = old
            && let Some(keys) = self.owners.get_mut(&owner)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.owners.remove(&owner);
            }
        }
        if let Some(owner) = new {
            self.owners.entry(owner).or_default().insert(key.clone());
        }
    }

    /// The row under this key is forgotten at another time, or not (any more).
    pub(crate) fn forget(&mut self, key: &Key, old_ms: Option<u64>, new_ms: Option<u64>) {
        if old_ms == new_ms {
            return;
        }
        if let Some(at_ms) = old_ms {
            self.forget.remove(&(at_ms, key.clone()));
        }
        if let Some(at_ms) = new_ms {
            self.forget.insert((at_ms, key.clone()));
        }
    }

    /// Takes the row that is to be forgotten next, if its time has come.
    pub(crate) fn take_forgotten(&mut self, time_ms: u64) -> Option<Key> {
        let (at_ms, _) = self.forget.first()?;
        if *at_ms > time_ms {
            return None;
        }
        self.forget.pop_first().map(|(_, key)| key)
    }

    /// Sessions with something due, soonest first.
    pub(crate) fn due(&self, now_ms: u64) -> impl Iterator<Item = (Deadline, &Key)> {
        let due = self.deadlines.iter().take_while(move |(at_ms, _, _)| *at_ms <= now_ms);
        due.map(|(_, kind, key)| (*kind, key))
    }

    /// The soonest deadline.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(at_ms, _, _)| *at_ms)
    }

    /// Gateways that own sessions.
    pub(crate) fn owners(&self) -> impl Iterator<Item = u64> {
        self.owners.keys().copied()
    }

    /// Sessions of one gateway.
    pub(crate) fn owned_by(&self, incarnation: u64) -> impl Iterator<Item = &Key> {
        self.owners.get(&incarnation).into_iter().flatten()
    }

    /// Sessions, connected or not.
    pub(crate) fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Sessions that a gateway owns.
    pub(crate) fn connected(&self) -> u64 {
        self.connected
    }
}
