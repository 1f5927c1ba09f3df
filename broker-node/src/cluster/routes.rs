//! Which publishes must go to the log. Pure.
//!
//! * A publish may be acknowledged without the log only under a lease of the metadata service and with
//!   a complete filter set that came after the registration which granted the lease. Without either,
//!   every QoS 1 and 2 publish goes to the log.
//! * The lease runs from when its renewal was *sent*, less a tenth: what the metadata service counts
//!   from is later, so it never believes us dead while we believe ourselves alive.
//! * A version is acknowledged when no turn of publishing that began under an older one is running: a
//!   turn ends after its acknowledgements were handed to the socket. Publishes that wait for storage are
//!   in the log whatever the version, so they hold nothing back.

use std::collections::{BTreeMap, HashMap, VecDeque};

use holdfast_proto::ids::Namespace;
use holdfast_proto::matcher::Matcher;
use holdfast_proto::meta::FilterSet;
use holdfast_proto::record::RecordDraft;
use holdfast_proto::topic;

/// Wildcard filters that are compared one by one to find a covering one.
const COVERING_SCAN_MAX: usize = 1_024;
/// Version of filters that are to be removed: they match, but cover no new subscription.
const RETIRING: u64 = u64::MAX;
/// Renewals whose sending time is remembered.
const RENEWALS_MAX: usize = 64;

/// The durable filters and the right to rely on them.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    filters: Matcher<()>,
    /// The version that brought each filter, or [`RETIRING`].
    versions: HashMap<(u32, String), u64>,
    wildcards: HashMap<(u32, String), u64>,
    version: u64,
    covered_version: u64,
    lease: Lease,
}

#[derive(Debug, Default)]
struct Lease {
    /// Renewals sent on the current stream, with when.
    sent: VecDeque<(u64, u64)>,
    last_renewal: u64,
    ends_ms: u64,
    /// The newest grant of this stream, which waits for the complete set.
    granted_ends_ms: u64,
    /// The current stream has brought a complete set.
    complete: bool,
}

impl Routes {
    /// Whether the message must be in the log before it is acknowledged. QoS 2 of a durable session is
    /// the caller's matter.
    #[must_use]
    pub(crate) fn is_durable(&self, draft: &RecordDraft<'_>, now_ms: u64) -> bool {
        draft.retain
            || (draft.qos > 0 && self.stores_everything(now_ms))
            || self.filters.matches_any(draft.namespace, draft.topic)
    }

    /// Whether every QoS 1 and 2 publish goes to the log.
    #[must_use]
    pub(crate) fn stores_everything(&self, now_ms: u64) -> bool {
        now_ms >= self.lease.ends_ms
    }

    /// The version that publishes are routed under.
    #[must_use]
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A new stream to the metadata service begins: its grants count after its complete set only. A
    /// lease from before runs out as it would have.
    pub(crate) fn registering(&mut self) {
        self.lease.sent.clear();
        self.lease.granted_ends_ms = 0;
        self.lease.complete = false;
    }

    /// Numbers the next renewal, sent now.
    pub(crate) fn renew(&mut self, now_ms: u64) -> u64 {
        self.lease.last_renewal += 1;
        if self.lease.sent.len() == RENEWALS_MAX {
            self.lease.sent.pop_front();
        }
        self.lease.sent.push_back((self.lease.last_renewal, now_ms));
        self.lease.last_renewal
    }

    /// The metadata service echoes a renewal. Apply the filter set of the same message first.
    pub(crate) fn renewed(&mut self, renewal: u64, lease_ms: u64) {
        while let Some(&(number, sent_ms)) = self.lease.sent.front() {
            if number > renewal {
                break;
            }
            self.lease.sent.pop_front();
            if number == renewal {
                let ends_ms = sent_ms + lease_ms - lease_ms / 10;
                self.lease.granted_ends_ms = self.lease.granted_ends_ms.max(ends_ms);
            }
        }
        self.grant();
    }

    fn grant(&mut self) {
        if self.lease.complete {
            self.lease.ends_ms = self.lease.ends_ms.max(self.lease.granted_ends_ms);
        }
    }

    /// Takes in a complete set or a change.
    pub(crate) fn apply(&mut self, set: &FilterSet) {
        if set.complete {
            self.filters = Matcher::default();
            self.versions.clear();
            self.wildcards.clear();
            self.lease.complete = true;
        }
        for gone in &set.remove {
            let key = (gone.namespace, gone.filter.clone());
            if self.versions.remove(&key).is_some() {
                self.filters.remove(Namespace(gone.namespace), &gone.filter, &());
                self.wildcards.remove(&key);
            }
        }
        for added in &set.add {
            let key = (added.namespace, added.filter.clone());
            match self.versions.get(&key) {
                Some(&RETIRING) => {}
                Some(_) => continue,
                None => {
                    self.filters.insert(Namespace(added.namespace), &added.filter, ());
                }
            }
            self.date(key, set.version);
        }
        for retiring in &set.retiring {
            self.date((retiring.namespace, retiring.filter.clone()), RETIRING);
        }
        self.version = set.version;
        self.grant();
    }

    /// Says which version brought a filter of the set.
    fn date(&mut self, key: (u32, String), version: u64) {
        if topic::has_wildcard(&key.1) {
            self.wildcards.insert(key.clone(), version);
        }
        self.versions.insert(key, version);
    }

    /// Every live gateway routes under this version.
    pub(crate) fn covered(&mut self, version: u64) {
        self.covered_version = version;
    }

    /// Whether every live gateway is known to treat what the filter matches as durable.
    #[must_use]
    pub(crate) fn covers(&self, namespace: Namespace, filter: &str) -> bool {
        let covered = |version: &u64| *version <= self.covered_version;
        if self.versions.get(&(namespace.0, filter.to_owned())).is_some_and(covered) {
            return true;
        }
        self.wildcards.len() <= COVERING_SCAN_MAX
            && self.wildcards.iter().any(|((outer_namespace, outer), version)| {
                *outer_namespace == namespace.0 && covered(version) && topic::covers(outer, filter)
            })
    }

    /// How many filters the set holds.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }
}

/// Counts the turns of publishing that run, by the version under which they began.
#[derive(Debug, Default)]
pub(crate) struct Turns(BTreeMap<u64, u32>);

impl Turns {
    /// A turn begins, before its first publish is routed.
    pub(crate) fn begin(&mut self, version: u64) {
        *self.0.entry(version).or_default() += 1;
    }

    /// A turn has ended. Returns whether it was the last of its version.
    pub(crate) fn end(&mut self, version: u64) -> bool {
        let Some(count) = self.0.get_mut(&version) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.0.remove(&version);
        true
    }

    /// The newest version that every running and later turn routes under, `current` being the table's.
    #[must_use]
    pub(crate) fn acknowledged(&self, current: u64) -> u64 {
        self.0.first_key_value().map_or(current, |(&oldest, _)| oldest.min(current))
    }
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
