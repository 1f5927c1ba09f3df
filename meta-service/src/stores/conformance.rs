//! What every store must do, as one function, run against each of them by its own test.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    election::{Candidate, Lost, News, Place},
    store::{
        Answer, Change, Committed, Compare, OPS_MAX, Op, Range, Revision, Store, StoreError, Txn,
        all, get,
    },
};

/// Makes a store forget its past up to a revision.
pub type Compact<'a> = &'a (dyn Fn(Revision) -> Answer<'a, ()> + Sync);

/// Runs the whole suite under `prefix`, where nothing may be.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn suite(store: Arc<dyn Store>, prefix: &str, compact: Compact<'_>) {
    election(&store).await;
    let store = store.as_ref();
    compares(store, &format!("{prefix}/compares/")).await;
    ranges(store, &format!("{prefix}/ranges/")).await;
    watches(store, &format!("{prefix}/watches/")).await;
    leases(store, &format!("{prefix}/leases/")).await;
    concurrency(store, &format!("{prefix}/concurrency/")).await;
    neighbours(store, &format!("{prefix}/neighbours/")).await;
    limits(store, &format!("{prefix}/limits/")).await;
    compaction(store, &format!("{prefix}/compaction/"), compact).await;
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
    let stored = all(store, format!("{prefix}n/").as_bytes()).await.expect("the store works");
    assert_eq!(stored.len(), 300);
    for (answer, entry) in answers.into_iter().zip(stored) {
        let revision = answer.expect("the store works");
        assert_eq!(revision, Committed::Yes(entry.modified), "told is what wrote it");
    }
}

/// Many at once, some with conditions that do not hold: each gets its own answer.
async fn neighbours(store: &dyn Store, prefix: &str) {
    let fence = text(format!("{prefix}fence"));
    let fenced = commit(store, vec![], vec![Op::put(fence.clone(), text("x"))]).await;
    let fenced = fenced.expect("no condition");
    let holds = |n: usize| !n.is_multiple_of(7);
    let write = |n: usize| {
        let key = text(format!("{prefix}n/{n:03}"));
        let own = match n % 3 {
            _ if !holds(n) => Compare::Value(text(format!("{prefix}none/{}", n % 11)), text("x")),
            0 => Compare::Absent(key.clone()),
            1 => Compare::Value(fence.clone(), text("x")),
            _ => Compare::Unchanged(fence.clone(), fenced),
        };
        let compares = vec![Compare::Unchanged(fence.clone(), fenced), own];
        store.commit(txn(compares, vec![Op::put(key, text("x"))]))
    };
    let answers = futures_util::future::join_all((0..600).map(write)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let written = answer.expect("the store works") != Committed::Refused;
        assert_eq!(written, holds(n), "transaction {n}");
        let there = value(store, &text(format!("{prefix}n/{n:03}"))).await.is_some();
        assert_eq!(there, written, "transaction {n}");
    }
    // One whose lease is over among others that have none.
    let lease = store.grant(Duration::from_secs(60)).await.expect("the store works");
    store.revoke(lease).await.expect("the store works");
    let write = |n: usize| {
        let key = text(format!("{prefix}l/{n:02}"));
        let lease = (n == 17).then_some(lease);
        store.commit(txn(vec![], vec![Op::Put { key, value: text("x"), lease }]))
    };
    let answers = futures_util::future::join_all((0..40).map(write)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Err(StoreError::LeaseOver(over)) => assert_eq!((n, over), (17, lease)),
            answer => assert!(n != 17 && answer.is_ok(), "transaction {n}: {answer:?}"),
        }
    }
}

/// Who asks for a past that is forgotten is told, at once or by the watch's end; who begins anew sees all.
async fn compaction(store: &dyn Store, prefix: &str, compact: Compact<'_>) {
    let put = |n: usize| vec![Op::put(text(format!("{prefix}k")), text(format!("{n}")))];
    let first = commit(store, vec![], put(0)).await.expect("no condition");
    let second = commit(store, vec![], put(1)).await.expect("no condition");
    let elsewhere = vec![Op::put(text(format!("{prefix}other")), text("x"))];
    let last = commit(store, vec![], elsewhere).await.expect("no condition");
    assert!(first < second && second < last);
    compact(last).await.expect("the store works");
    match store.watch(text(format!("{prefix}k")), first).await {
        Err(StoreError::Compacted(revision)) => assert_eq!(revision, first),
        Err(error) => panic!("{error}"),
        Ok(mut watch) => assert_eq!(watch.changes.recv().await, None, "its past is gone"),
    }
    let range = Range { prefix: text(prefix), after: Bytes::new(), limit: 10 };
    let page = store.range(range).await.expect("the store works");
    let watched = text(format!("{prefix}k"));
    let mut watch = store.watch(watched, page.revision + 1).await.expect("it is to come");
    let news = commit(store, vec![], put(2)).await.expect("no condition");
    assert_eq!(watch.changes.recv().await.expect("news are told").revision, news);
}

/// One is elected; another follows at once when it resigns, and when its lease is taken away; what the one
/// before writes then is refused.
async fn election(store: &Arc<dyn Store>) {
    let candidate = |name: &str| {
        let address = format!("{name}:1");
        let name = name.to_owned();
        let place = Place { address, admin: format!("{name}:8080"), name };
        Candidate::new(store.clone(), place, Duration::from_secs(2))
    };
    let mut first = candidate("a");
    let one = first.campaign(|_| {}).await.expect("the store works");
    let key = text("elected-wrote");
    let write = |value: &str| txn(vec![], vec![Op::put(key.clone(), text(value))]);
    let fenced = one.fenced();
    assert!(matches!(fenced.commit(write("one")).await, Ok(Committed::Yes(_))));
    let refused = txn(vec![Compare::Absent(key.clone())], vec![]);
    assert!(matches!(fenced.commit(refused).await, Ok(Committed::Refused)), "not by the fence");
    let mut second = candidate("b");
    let mut told = Vec::new();
    let two = if store.is_shared() {
        let mut campaign = Box::pin(second.campaign(|news| told.push(news)));
        // It is told who is elected, and waits for the end of it.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut campaign).await;
        assert!(early.is_err(), "one is elected");
        one.resign().await;
        campaign.await.expect("the store works")
    } else {
        second.campaign(|_| {}).await.expect("the store works")
    };
    if store.is_shared() {
        assert!(
            matches!(&told[0], News::Elected(place) if place.address == "a:1" && place.admin == "a:8080"),
            "{told:?}"
        );
    }
    assert!(matches!(fenced.commit(write("late")).await, Err(StoreError::Superseded)));
    assert_eq!(value(store.as_ref(), &key).await, Some(text("one")));
    assert!(matches!(two.fenced().commit(write("two")).await, Ok(Committed::Yes(_))));
    two.resign().await;
    assert!(matches!(two.fenced().commit(write("late")).await, Err(StoreError::Superseded)));
    if store.is_shared() {
        assert!(matches!(two.keep().await, Lost::Over), "the store says so");
    }
}

async fn limits(store: &dyn Store, prefix: &str) {
    let put = |n: usize| Op::put(text(format!("{prefix}{n}")), text("x"));
    assert!(store.commit(txn(vec![], (0..OPS_MAX).map(put).collect())).await.is_ok());
    let over = store.commit(txn(vec![], (0..=OPS_MAX).map(put).collect())).await;
    assert!(matches!(over, Err(StoreError::Invalid(_))));
}
