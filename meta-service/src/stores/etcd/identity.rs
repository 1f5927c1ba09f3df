//! Which etcd cluster this is, and how far it is known to be: neither may change to another or go back.

use etcd_client::ResponseHeader;
use parking_lot::Mutex;

use crate::store::{Revision, StoreError};

/// What all answers so far had in common.
#[derive(Debug, Default)]
pub(super) struct Identity {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    cluster: Option<u64>,
    revision: Revision,
    /// Why nothing is believed any more.
    stopped: Option<String>,
}

impl Identity {
    /// The revision that an answer to a request of now has at least.
    pub(super) fn mark(&self) -> Result<Revision, StoreError> {
        let seen = self.seen.lock();
        match &seen.stopped {
            Some(reason) => Err(StoreError::Stopped(reason.clone())),
            None => Ok(seen.revision),
        }
    }

    /// Looks only at which cluster answers: the revision of some answers may be an older one.
    pub(super) fn check_cluster(&self, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        let Some(header) = header else { return Ok(()) };
        let mut seen = self.seen.lock();
        let ours = *seen.cluster.get_or_insert(header.cluster_id());
        if ours == header.cluster_id() {
            return Ok(());
        }
        let theirs = header.cluster_id();
        Err(seen.stop(format!(
            "another etcd cluster answers: {theirs:016x} instead of {ours:016x}; \
             nothing of it was used"
        )))
    }

    /// The revision of a linearizable answer to a request that was sent at `mark`.
    pub(super) fn check(
        &self,
        header: Option<&ResponseHeader>,
        mark: Revision,
    ) -> Result<Revision, StoreError> {
        self.check_cluster(header)?;
        let revision = header.map_or(0, |header| revision(header.revision()));
        let mut seen = self.seen.lock();
        if revision < mark {
            return Err(seen.stop(format!(
                "etcd answers with older data: revision {revision} after {mark}; \
                 was it restored from a backup?"
            )));
        }
        seen.revision = seen.revision.max(revision);
        Ok(revision)
    }
}

impl Seen {
    fn stop(&mut self, reason: String) -> StoreError {
        let reason = self.stopped.get_or_insert(reason).clone();
        StoreError::Stopped(reason)
    }
}

/// etcd counts from 1; what is negative is none.
pub(super) fn revision(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

/// Back again; no revision of etcd's is too large.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
