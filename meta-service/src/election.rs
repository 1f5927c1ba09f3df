//! Which process is elected: a key that is attached to a lease.
//!
//! Whoever puts the key where none is, is elected until its lease ends: by itself, at its own clock, a little
//! before the store can end it; or because it resigns, which takes no longer than the revocation. Every write of
//! the elected one carries the key's revision, so that nothing is written by one whose lease was lost
//! and who does not know it yet; and what it tells without a write, it tells within its [`Tenure`].
//!
//! A key that this process put itself, in an election that it lost or of which it never learned, is replaced at
//! once, too: what it decided under it has ended, and what is on its way is refused for the revision.
//!
//! In a store that only this process can open, whatever key is there belongs to an earlier life of it, and
//! is replaced at once.
//!
//! `election` → [`ElectionRow`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::store::{
    Answer, Committed, Compare, Entry, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn,
    Watch, get,
};

const ELECTION_KEY: &[u8] = b"election";
/// Time of the lease in a store that nobody else waits for.
const UNSHARED_TTL: Duration = Duration::from_secs(3600);
/// After a failure of the store, or of the watch on the key.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the end of a process waits for its resignation to be written.
const RESIGN: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Message)]
struct ElectionRow {
    /// host:port of its gRPC server.
    #[prost(string, tag = "1")]
    address: String,
    #[prost(string, tag = "2")]
    name: String,
    /// No two rows have the same.
    #[prost(uint64, tag = "3")]
    lease: u64,
    /// host:port of its admin API; empty if it has none, or is of a version that knew none.
    #[prost(string, tag = "4")]
    admin: String,
}

/// Where an elected process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// host:port of its gRPC server.
    pub(crate) address: String,
    /// host:port of its admin API; empty: none is known.
    pub(crate) admin: String,
    pub(crate) name: String,
}

/// What a candidate learns while it waits.
#[derive(Debug)]
pub(crate) enum News {
    /// Another process is elected.
    Elected(Place),
    /// The store cannot be asked.
    Trouble(StoreError),
}

/// Why an elected process is elected no longer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The store ended the lease.
    #[error("the election's lease was ended")]
    Over,
    /// The store did not prolong it in time.
    #[error("the store did not prolong the election's lease in time")]
    Silent,
    /// The store will not work again.
    #[error(transparent)]
    Store(StoreError),
}

/// One that wants to be elected.
pub(crate) struct Candidate {
    store: Arc<dyn Store>,
    place: Place,
    ttl: Duration,
    /// A key with this process's address is of an earlier life: looked at once.
    stood: bool,
    /// Lease of the key that this process put last, whether it is there or not.
    own: Option<LeaseId>,
}

/// One that is.
pub(crate) struct Elected {
    store: Arc<dyn Store>,
    lease: LeaseId,
    revision: Revision,
    ttl: Duration,
    since: Instant,
    tenure: Tenure,
}

/// Until when a process is elected for certain, by its own clock: nobody else is before that.
#[derive(Clone, Debug)]
pub(crate) struct Tenure(Option<Arc<Mutex<Instant>>>);

impl Tenure {
    /// Of one whom nobody can follow before it has ended.
    const FOR_LIFE: Tenure = Tenure(None);

    fn new(until: Instant) -> Tenure {
        Tenure(Some(Arc::new(Mutex::new(until))))
    }

    fn prolong(&self, until: Instant) {
        if let Some(known) = &self.0 {
            *known.lock() = until;
        }
    }

    /// Whether nobody else was elected before this moment. A process that stood still asks *after* it heard
    /// what it answers, and before it answers.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.0.as_ref().is_none_or(|until| now < *until.lock())
    }
}

/// The part of a lease that its owner relies on: the store's time began later than its own, and clocks may
/// differ by the rest.
fn reliable(ttl: Duration) -> Duration {
    ttl - ttl / 10
}

enum Stood {
    Elected(Elected),
    /// Somebody else is, as of this revision.
    Behind(ElectionRow, Revision),
    /// Somebody was faster.
    Again,
}

impl Candidate {
    pub(crate) fn new(store: Arc<dyn Store>, place: Place, ttl: Duration) -> Candidate {
        let ttl = if store.is_shared() { ttl } else { UNSHARED_TTL };
        Candidate { store, place, ttl, stood: false, own: None }
    }

    /// Waits until this process is elected.
    ///
    /// # Errors
    /// The store will not work again.
    pub(crate) async fn campaign(
        &mut self,
        mut tell: impl FnMut(News),
    ) -> Result<Elected, StoreError> {
        loop {
            match self.stand().await {
                Ok(Stood::Elected(elected)) => return Ok(elected),
                Ok(Stood::Again) => {}
                Ok(Stood::Behind(row, revision)) => {
                    let ElectionRow { address, admin, name, .. } = row;
                    tell(News::Elected(Place { address, admin, name }));
                    self.until_it_ends(revision).await;
                }
                Err(stopped @ StoreError::Stopped(_)) => return Err(stopped),
                Err(error) => {
                    tell(News::Trouble(error));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn stand(&mut self) -> Result<Stood, StoreError> {
        let key = Bytes::from_static(ELECTION_KEY);
        let range = Range { prefix: key.clone(), after: Bytes::new(), limit: 1 };
        let page = self.store.range(range).await?;
        let there = page.entries.into_iter().next().filter(|entry| entry.key == key);
        let row =
            there.as_ref().map(|entry| ElectionRow::decode(&*entry.value).unwrap_or_default());
        let first = !std::mem::replace(&mut self.stood, true);
        let ours = |row: &ElectionRow| {
            !self.store.is_shared()
                || self.own == Some(LeaseId(row.lease))
                || (first && row.address == self.place.address && row.name == self.place.name)
        };
        if let Some(row) = &row
            && !ours(row)
        {
            return Ok(Stood::Behind(row.clone(), page.revision));
        }
        let compare = match &there {
            None => Compare::Absent(key),
            Some(entry) => Compare::Unchanged(key, entry.modified),
        };
        let stood = self.put(compare).await?;
        if let (Stood::Elected(_), Some(row)) = (&stood, row) {
            // Its end would come by itself, too.
            let _ = self.store.revoke(LeaseId(row.lease)).await;
        }
        Ok(stood)
    }

    async fn put(&mut self, compare: Compare) -> Result<Stood, StoreError> {
        let since = Instant::now();
        let lease = self.store.grant(self.ttl).await?;
        self.own = Some(lease);
        let Place { address, admin, name } = self.place.clone();
        let row = ElectionRow { address, name, lease: lease.0, admin };
        let key = Bytes::from_static(ELECTION_KEY);
        let put = Op::Put { key, value: row.encode_to_vec().into(), lease: Some(lease) };
        match self.store.commit(Txn { compares: vec![compare], ops: vec![put] }).await {
            Ok(Committed::Yes(revision)) => {
                let (store, ttl) = (self.store.clone(), self.ttl);
                let tenure = if store.is_shared() {
                    Tenure::new(since + reliable(ttl))
                } else {
                    Tenure::FOR_LIFE
                };
                Ok(Stood::Elected(Elected { store, lease, revision, ttl, since, tenure }))
            }
            not => {
                // If the key was put all the same, it goes with the lease.
                self.store.revoke(lease).await?;
                not.map(|_| Stood::Again)
            }
        }
    }

    /// Returns when the key has changed, and now and then, to ask whether the store can still be asked.
    async fn until_it_ends(&self, revision: Revision) {
        let key = Bytes::from_static(ELECTION_KEY);
        match self.store.watch(key, revision + 1).await {
            // Whatever comes first is looked at.
            Ok(mut watch) => drop(timeout(self.ttl, watch.changes.recv()).await),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

impl Elected {
    /// The store, for as long as this process is elected.
    pub(crate) fn fenced(&self) -> Arc<dyn Store> {
        Arc::new(Fenced { store: self.store.clone(), revision: self.revision })
    }

    /// The store, for what may be written whoever is elected.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Until when this process may tell what only an elected one knows.
    pub(crate) fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Prolongs the lease until it is lost.
    pub(crate) async fn keep(&self) -> Lost {
        let lasts = reliable(self.ttl);
        let mut sent = self.since;
        loop {
            let until = sent + lasts;
            sleep_until((Instant::now() + self.ttl / 4).min(until)).await;
            let now = Instant::now();
            match timeout_at(until, self.store.keep_alive(self.lease)).await {
                Ok(Ok(())) => {
                    sent = now;
                    self.tenure.prolong(sent + lasts);
                }
                Ok(Err(StoreError::LeaseOver(_))) => return Lost::Over,
                Ok(Err(error @ StoreError::Stopped(_))) => return Lost::Store(error),
                Ok(Err(_)) if Instant::now() < until => {}
                Ok(Err(_)) | Err(_) => return Lost::Silent,
            }
        }
    }

    /// Lets another be elected at once.
    pub(crate) async fn resign(&self) {
        match timeout(RESIGN, self.store.revoke(self.lease)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "another is elected when the lease ends"),
            Err(_) => tracing::warn!("another is elected when the lease ends"),
        }
    }
}

/// The store of an elected process: what it writes is written while it is elected, or not at all.
struct Fenced {
    store: Arc<dyn Store>,
    revision: Revision,
}

impl Store for Fenced {
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn commit(&self, mut txn: Txn) -> Answer<'_, Committed> {
        let fence = Compare::Unchanged(Bytes::from_static(ELECTION_KEY), self.revision);
        txn.compares.push(fence);
        let committed = self.store.commit(txn);
        Box::pin(async move {
            if let yes @ Committed::Yes(_) = committed.await? {
                return Ok(yes);
            }
            let there = get(self.store.as_ref(), ELECTION_KEY).await?;
            match there.map(|entry: Entry| entry.modified) {
                Some(revision) if revision == self.revision => Ok(Committed::Refused),
                _ => Err(StoreError::Superseded),
            }
        })
    }

    fn range(&self, range: Range) -> Answer<'_, Page> {
        self.store.range(range)
    }

    fn watch(&self, prefix: Bytes, from: Revision) -> Answer<'_, Watch> {
        self.store.watch(prefix, from)
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.store.revoke(lease)
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
pub(crate) mod tests;
