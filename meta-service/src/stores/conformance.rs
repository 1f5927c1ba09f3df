//! What every store must do, as one function, run against each of them by its own test.

use std::time::Duration;

use bytes::Bytes;

use crate::store::{
    Change, Committed, Compare, OPS_MAX, Op, Range, Revision, Store, StoreError, Txn, all, get,
};

/// Runs the whole suite under `prefix`, where nothing may be.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn suite(store: &dyn Store, prefix: &str) {
    compares(store, &format!("{prefix}/compares/")).await;
    ranges(store, &format!("{prefix}/ranges/")).await;
    watches(store, &format!("{prefix}/watches/")).await;
    leases(store, &format!("{prefix}/leases/")).await;
    concurrency(store, &format!("{prefix}/concurrency/")).await;
    limits(store, &format!("{prefix}/limits/")).await;
}

fn text(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn txn(compares: Vec<Compare>, ops: Vec<Op>) -> Txn {
    Txn { compares, ops }
}

async fn commit(store: &dyn Store, compares: Vec<Compare>, ops: Vec<Op>) -> Option<Revision> {
    match store.commit(txn(compares, ops)).await.expect("the store works") {
        Committed::Yes(revision) => Some(revision),
        Committed::Refused => None,
    }
}

async fn value(store: &dyn Store, key: &Bytes) -> Option<Bytes> {
    get(store, key).await.expect("the store works").map(|entry| entry.value)
}

async fn compares(store: &dyn Store, prefix: &str) {
    let (a, b) = (text(format!("{prefix}a")), text(format!("{prefix}b")));
    let put = |key: &Bytes, value: &str| vec![Op::put(key.clone(), text(value))];
    let first =
        commit(store, vec![Compare::Absent(a.clone())], put(&a, "1")).await.expect("it was absent");
    assert_eq!(commit(store, vec![Compare::Absent(a.clone())], put(&a, "2")).await, None);
    assert_eq!(commit(store, vec![Compare::Value(a.clone(), text("2"))], put(&b, "x")).await, None);
    assert_eq!(value(store, &b).await, None, "a refused transaction writes nothing");
    let same = vec![Compare::Unchanged(a.clone(), first), Compare::Value(a.clone(), text("1"))];
    let second = commit(store, same.clone(), put(&a, "3")).await.expect("both hold");
    assert!(second > first, "revisions grow");
    assert_eq!(commit(store, same, put(&a, "4")).await, None, "the revision moved on");
    assert_eq!(
        commit(store, vec![Compare::Unchanged(b.clone(), second)], put(&b, "x")).await,
        None
    );
    let entry = get(store, &a).await.expect("the store works").expect("it is there");
    assert_eq!((entry.value, entry.modified), (text("3"), second));
    let delete = vec![Op::Delete(a.clone()), Op::Delete(b.clone())];
    assert!(commit(store, vec![], delete).await.is_some(), "removing what is not there is fine");
    assert!(commit(store, vec![Compare::Absent(a.clone())], vec![]).await.is_some());
}

async fn ranges(store: &dyn Store, prefix: &str) {
    let keys: Vec<Bytes> = (0..7).map(|n| text(format!("{prefix}{n}"))).collect();
    let puts = keys.iter().rev().map(|key| Op::put(key.clone(), key.clone())).collect();
    commit(store, vec![], puts).await.expect("no condition");
    let mut range = Range { prefix: text(prefix), after: Bytes::new(), limit: 3 };
    let mut seen = Vec::new();
    loop {
        let page = store.range(range.clone()).await.expect("the store works");
        assert!(page.entries.len() <= 3);
        seen.extend(page.entries.into_iter().map(|entry| entry.key));
        range.after = seen.last().expect("a page is not empty").clone();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, keys, "pages are in order and have no gap");
    assert_eq!(all(store, prefix.as_bytes()).await.expect("the store works").len(), 7);
    let outside = Range { prefix: text(format!("{prefix}9")), after: Bytes::new(), limit: 3 };
    assert!(store.range(outside).await.expect("the store works").entries.is_empty());
}

async fn watches(store: &dyn Store, prefix: &str) {
    let (key, other) = (text(format!("{prefix}in/a")), text(format!("{prefix}out/a")));
    let first =
        commit(store, vec![], vec![Op::put(key.clone(), text("1"))]).await.expect("no condition");
    let watched = text(format!("{prefix}in/"));
    let mut watch = store.watch(watched, first).await.expect("the revision is known");
    commit(store, vec![], vec![Op::put(other, text("x"))]).await.expect("no condition");
    let last = commit(store, vec![], vec![Op::Delete(key.clone())]).await.expect("no condition");
    let past = watch.changes.recv().await.expect("the past is told");
    assert_eq!(past.revision, first);
    assert!(matches!(&past.changes[..], [Change::Put(entry)] if entry.value == "1"));
    let news = watch.changes.recv().await.expect("news are told");
    assert_eq!((news.revision, &news.changes[..]), (last, &[Change::Delete(key)][..]));
}

async fn leases(store: &dyn Store, prefix: &str) {
    let (kept, gone) = (text(format!("{prefix}kept")), text(format!("{prefix}gone")));
    let lease = store.grant(Duration::from_secs(60)).await.expect("the store works");
    let put = |key: &Bytes, lease| Op::Put { key: key.clone(), value: text("x"), lease };
    let ops = vec![put(&kept, Some(lease)), put(&gone, Some(lease))];
    commit(store, vec![], ops).await.expect("no condition");
    store.keep_alive(lease).await.expect("it lives");
    commit(store, vec![], vec![put(&kept, None)]).await.expect("no condition");
    store.revoke(lease).await.expect("the store works");
    assert_eq!(value(store, &gone).await, None, "an ended lease takes its keys along");
    assert_eq!(
        value(store, &kept).await,
        Some(text("x")),
        "a later write without a lease keeps a key"
    );
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseOver(_))));
    let late = store.commit(txn(vec![], vec![put(&gone, Some(lease))])).await;
    assert!(matches!(late, Err(StoreError::LeaseOver(_))), "{late:?}");
    ends_by_itself(store, &gone).await;
}

async fn ends_by_itself(store: &dyn Store, key: &Bytes) {
    let lease = store.grant(Duration::from_secs(1)).await.expect("the store works");
    let ops = vec![Op::Put { key: key.clone(), value: text("x"), lease: Some(lease) }];
    let put = commit(store, vec![], ops).await.expect("no condition");
    let mut watch = store.watch(key.clone(), put + 1).await.expect("the revision is to come");
    let news = watch.changes.recv().await.expect("the end is told");
    assert_eq!(&news.changes[..], &[Change::Delete(key.clone())][..]);
}

async fn concurrency(store: &dyn Store, prefix: &str) {
    let key = text(format!("{prefix}winner"));
    let claim = |n: usize| {
        let ops = vec![Op::put(key.clone(), text(format!("{n}")))];
        store.commit(txn(vec![Compare::Absent(key.clone())], ops))
    };
    let claims = futures_util::future::join_all((0..50).map(claim)).await;
    let won = |answer: &&Result<Committed, _>| matches!(answer, Ok(Committed::Yes(_)));
    assert_eq!(claims.iter().filter(won).count(), 1, "one wins");
    let count = |n: usize| {
        store.commit(txn(vec![], vec![Op::put(text(format!("{prefix}n/{n:03}")), text("x"))]))
    };
    let answers = futures_util::future::join_all((0..300).map(count)).await;
    let mut revisions: Vec<Revision> = answers
        .into_iter()
        .map(|answer| match answer.expect("the store works") {
            Committed::Yes(revision) => revision,
            Committed::Refused => panic!("there was no condition"),
        })
        .collect();
    revisions.dedup();
    assert_eq!(revisions.len(), 300, "each has a revision of its own");
    let stored = all(store, format!("{prefix}n/").as_bytes()).await.expect("the store works");
    assert_eq!(stored.len(), 300);
}

async fn limits(store: &dyn Store, prefix: &str) {
    let put = |n: usize| Op::put(text(format!("{prefix}{n}")), text("x"));
    assert!(store.commit(txn(vec![], (0..OPS_MAX).map(put).collect())).await.is_ok());
    let over = store.commit(txn(vec![], (0..=OPS_MAX).map(put).collect())).await;
    assert!(matches!(over, Err(StoreError::Invalid(_))));
}
