//! What sled alone has: a directory, and leases that outlive a process.

use std::sync::Arc;

use meta_service::{
    store::{Committed, Compare, Op, Store, StoreError, Txn, get},
    stores::{conformance, sled::SledStore},
};

/// The directory's lock goes with sled's last thread, a moment after the store is dropped.
fn reopen(directory: &std::path::Path) -> SledStore {
    loop {
        match SledStore::open(directory) {
            Ok(store) => return store,
            Err(error) if error.to_string().contains("lock") => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sled remembers so many revisions.
async fn forget(store: &dyn Store) {
    for _ in 0..300 {
        let ops = vec![Op::put("fill", "x")];
        store.commit(Txn { compares: vec![], ops }).await.unwrap();
    }
}

async fn suite(store: Arc<SledStore>, prefix: &str) {
    let filled = store.clone();
    let compact = move |_| -> meta_service::store::Answer<'_, ()> {
        let store = filled.clone();
        Box::pin(async move {
            forget(store.as_ref()).await;
            Ok(())
        })
    };
    conformance::suite(store, prefix, &compact).await;
}

#[tokio::test]
async fn sled_conforms() {
    let directory = tempfile::tempdir().unwrap();
    suite(Arc::new(SledStore::open(directory.path()).unwrap()), "first").await;
    suite(Arc::new(reopen(directory.path())), "second").await;
}

#[tokio::test]
async fn sled_keeps_values_revisions_and_leases_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    let lease = store.grant(std::time::Duration::from_secs(60)).await.unwrap();
    let leased = Op::Put { key: "leased".into(), value: "x".into(), lease: Some(lease) };
    let ops = vec![Op::put("a", "1"), leased];
    let Committed::Yes(revision) = store.commit(Txn { compares: vec![], ops }).await.unwrap()
    else {
        panic!("there was no condition");
    };
    drop(store);
    let store = reopen(directory.path());
    let entry = get(&store, b"a").await.unwrap().unwrap();
    assert_eq!((entry.value.as_ref(), entry.modified), (b"1".as_slice(), revision));
    let compares = vec![Compare::Unchanged("a".into(), revision)];
    let next = store.commit(Txn { compares, ops: vec![Op::put("a", "2")] }).await.unwrap();
    assert_eq!(next, Committed::Yes(revision + 1));
    assert!(matches!(store.watch("a".into(), revision).await, Err(StoreError::Compacted(_))));
    assert!(get(&store, b"leased").await.unwrap().is_some());
    store.revoke(lease).await.unwrap();
    assert!(get(&store, b"leased").await.unwrap().is_none());
    assert_ne!(store.grant(std::time::Duration::from_secs(60)).await.unwrap(), lease);
}
