#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

use tempfile::TempDir;

use super::*;
use crate::stores::sled::SledStore;

/// Nobody waits for the end of a lease of it.
const TTL: Duration = Duration::from_secs(3600);

/// A store of one process, in which several stand.
pub(crate) struct Shareable(SledStore);

impl Shareable {
    pub(crate) fn open() -> (TempDir, Arc<dyn Store>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Shareable(SledStore::open(directory.path()).unwrap()));
        (directory, store)
    }
}

impl Store for Shareable {
    fn is_shared(&self) -> bool {
        true
    }

    fn commit(&self, txn: Txn) -> Answer<'_, Committed> {
        self.0.commit(txn)
    }

    fn range(&self, range: Range) -> Answer<'_, Page> {
        self.0.range(range)
    }

    fn watch(&self, prefix: Bytes, from: Revision) -> Answer<'_, Watch> {
        self.0.watch(prefix, from)
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.0.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.0.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.0.revoke(lease)
    }
}

impl Tenure {
    /// As if the process had stood still for long.
    pub(crate) fn end(&self) {
        self.prolong(Instant::now());
    }

    pub(crate) fn long() -> Tenure {
        Tenure::new(Instant::now() + TTL)
    }
}

fn candidate(store: &Arc<dyn Store>, name: &str) -> Candidate {
    let (address, admin) = ("host:1".to_owned(), String::new());
    Candidate::new(store.clone(), Place { address, admin, name: name.to_owned() }, TTL)
}

async fn elect(candidate: &mut Candidate) -> Elected {
    let elected = timeout(TTL / 60, candidate.campaign(|_| {})).await;
    elected.expect("nobody waits for a lease").unwrap()
}

fn write() -> Txn {
    Txn { compares: vec![], ops: vec![Op::put("a", "1")] }
}

#[tokio::test]
async fn one_that_lost_an_election_does_not_wait_for_its_own_key() {
    let (_directory, store) = Shareable::open();
    let mut first = candidate(&store, "first");
    let lost = elect(&mut first).await;
    // The store was silent for a while: neither is the lease over, nor was it revoked.
    let elected = elect(&mut first).await;
    let refused = lost.fenced().commit(write()).await;
    assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
    assert!(matches!(elected.fenced().commit(write()).await, Ok(Committed::Yes(_))));
}

#[tokio::test]
async fn the_key_of_another_is_left_alone() {
    let (_directory, store) = Shareable::open();
    let _elected = elect(&mut candidate(&store, "first")).await;
    let mut second = candidate(&store, "second");
    for _ in 0..3 {
        assert!(matches!(second.stand().await, Ok(Stood::Behind(..))));
    }
    // One that has the same name by mistake looks like an earlier life of itself, but once only.
    let mut twin = candidate(&store, "first");
    elect(&mut twin).await;
    let mut other = candidate(&store, "first");
    elect(&mut other).await;
    assert!(matches!(twin.stand().await, Ok(Stood::Behind(..))));
}

#[tokio::test]
async fn a_tenure_ends_before_the_lease_unless_it_is_prolonged() {
    let (_directory, store) = Shareable::open();
    let before = Instant::now();
    let elected = elect(&mut candidate(&store, "first")).await;
    let tenure = elected.tenure();
    assert!(tenure.holds(Instant::now()));
    assert!(!tenure.holds(before + TTL), "another may be elected then");
    tenure.prolong(before + 2 * TTL);
    assert!(elected.tenure().holds(before + TTL));
    assert!(Tenure::FOR_LIFE.holds(before + 100 * TTL));
}
