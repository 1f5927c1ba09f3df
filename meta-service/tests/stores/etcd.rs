//! A real etcd cluster of three, and what may happen to it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use etcd_client::Error;
use meta_service::{
    config::EtcdConfig,
    store::{Answer, Committed, Compare, Op, Store, StoreError, Txn, all, get},
    stores::{
        conformance,
        etcd::{EtcdError, EtcdStore},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::cluster::Cluster;

fn config(cluster: &Cluster) -> EtcdConfig {
    EtcdConfig {
        endpoints: cluster.endpoints(),
        prefix: "/test/".to_owned(),
        request_timeout_ms: 1_000,
        retry_ms: 20_000,
        keep_revisions: 0,
        user: None,
        password_file: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
    }
}

async fn open(cluster: &Cluster) -> EtcdStore {
    EtcdStore::open(&config(cluster), |_| {}).await.unwrap()
}

#[tokio::test]
async fn etcd_conforms() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client(0).await.unwrap();
    let compact = move |revision: u64| -> Answer<'_, ()> {
        let mut client = client.clone();
        Box::pin(async move {
            let failed = |error: Error| StoreError::Unavailable(error.to_string());
            client.compact(revision.cast_signed(), None).await.map(drop).map_err(failed)
        })
    };
    conformance::suite(Arc::new(open(&cluster).await), "first", &compact).await;
}

#[tokio::test]
async fn old_revisions_are_forgotten_and_rows_stay() {
    let cluster = Cluster::start(3).await;
    let config = EtcdConfig { keep_revisions: 50, ..config(&cluster) };
    let store = EtcdStore::open(&config, |_| {}).await.unwrap();
    for number in 0..150 {
        store.commit(put(format!("row{}", number % 10), &number.to_string())).await.unwrap();
    }
    // A watch from the first revision on is refused once that is compacted.
    while !matches!(store.watch(Bytes::from_static(b"row"), 1).await, Err(StoreError::Compacted(_)))
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(all(&store, b"row").await.unwrap().len(), 10);
}

fn put(key: String, value: &str) -> Txn {
    Txn { compares: vec![], ops: vec![Op::put(key, value.to_owned())] }
}

/// Writers, each of which counts its own key up; what was acknowledged last comes out.
struct Writers {
    tasks: Vec<JoinHandle<(String, u64)>>,
    stop: tokio::sync::watch::Sender<bool>,
    acknowledged: mpsc::Receiver<()>,
}

impl Writers {
    fn start(store: &Arc<EtcdStore>, count: usize) -> Writers {
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let (sender, acknowledged) = mpsc::channel(1);
        let writer = |n: usize| {
            tokio::spawn(count_up(
                store.clone(),
                format!("w/{n:02}"),
                stopping.clone(),
                sender.clone(),
            ))
        };
        let tasks = (0..count).map(writer).collect();
        Writers { tasks, stop, acknowledged }
    }

    async fn until_acknowledged(&mut self, count: usize) {
        for _ in 0..count {
            self.acknowledged.recv().await.unwrap();
        }
    }

    async fn stop(mut self) -> BTreeMap<Bytes, u64> {
        self.stop.send(true).unwrap();
        self.acknowledged.close();
        let mut last = BTreeMap::new();
        for task in self.tasks {
            let (key, count) = task.await.unwrap();
            last.insert(Bytes::from(key), count);
        }
        last
    }
}

async fn count_up(
    store: Arc<EtcdStore>,
    key: String,
    stopping: tokio::sync::watch::Receiver<bool>,
    acknowledged: mpsc::Sender<()>,
) -> (String, u64) {
    let mut count = 0;
    let mut last = None;
    while !*stopping.borrow() {
        let next = (count + 1).to_string();
        let key_bytes = Bytes::from(key.clone());
        let compare = match last {
            None => Compare::Absent(key_bytes.clone()),
            Some(revision) => Compare::Unchanged(key_bytes.clone(), revision),
        };
        let ops = vec![Op::put(key_bytes, next)];
        match store.commit(Txn { compares: vec![compare], ops }).await {
            Ok(Committed::Yes(revision)) => (count, last) = (count + 1, Some(revision)),
            // Nobody else writes this key.
            Ok(Committed::Refused) => panic!("{key} was refused after {count}"),
            Err(error) => panic!("{key} after {count}: {error}"),
        }
        // Nobody may listen any more.
        let _ = acknowledged.try_send(());
    }
    (key, count)
}

async fn assert_stored(store: &EtcdStore, last: &BTreeMap<Bytes, u64>) {
    let stored = all(store, b"w/").await.unwrap();
    let stored: BTreeMap<Bytes, u64> = stored
        .into_iter()
        .map(|entry| (entry.key, std::str::from_utf8(&entry.value).unwrap().parse().unwrap()))
        .collect();
    assert_eq!(&stored, last);
}

#[tokio::test]
async fn killing_etcds_leader_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(3).await;
    let store = Arc::new(open(&cluster).await);
    let mut writers = Writers::start(&store, 40);
    writers.until_acknowledged(100).await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    writers.until_acknowledged(100).await;
    cluster.start_member(leader);
    writers.until_acknowledged(100).await;
    assert_stored(&store, &writers.stop().await).await;
}

#[tokio::test]
async fn all_of_etcd_may_stop_and_start() {
    let mut cluster = Cluster::start(3).await;
    let store = Arc::new(open(&cluster).await);
    let mut watch = store.watch("seen".into(), 1).await.unwrap();
    let mut writers = Writers::start(&store, 8);
    writers.until_acknowledged(50).await;
    cluster.kill_all();
    cluster.start_all();
    writers.until_acknowledged(50).await;
    assert_stored(&store, &writers.stop().await).await;
    store.commit(put("seen".to_owned(), "x")).await.unwrap();
    assert_eq!(watch.changes.recv().await.unwrap().changes[0].key(), "seen", "it goes on");
}

#[tokio::test]
async fn another_cluster_behind_the_same_addresses_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let store = open(&cluster).await;
    store.commit(put("a".to_owned(), "1")).await.unwrap();
    cluster.kill_all();
    let mut stranger = cluster.stranger();
    stranger.start_all();
    stranger.until_it_answers().await;
    let error = get(&store, b"a").await.unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
    assert!(error.to_string().contains("another etcd cluster"), "{error}");
    let error = store.commit(put("a".to_owned(), "2")).await.unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
}

#[tokio::test]
async fn older_data_of_the_same_cluster_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let store = open(&cluster).await;
    store.commit(put("a".to_owned(), "1")).await.unwrap();
    cluster.kill_all();
    let kept = cluster.directory().join("kept");
    copy(&cluster.directory().join("m0"), &kept);
    cluster.start_all();
    cluster.until_it_answers().await;
    store.commit(put("a".to_owned(), "2")).await.unwrap();
    cluster.kill_all();
    std::fs::remove_dir_all(cluster.directory().join("m0")).unwrap();
    copy(&kept, &cluster.directory().join("m0"));
    cluster.start_all();
    cluster.until_it_answers().await;
    let error = get(&store, b"a").await.unwrap_err();
    assert!(matches!(error, StoreError::Stopped(_)), "{error}");
    assert!(error.to_string().contains("older data"), "{error}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused() {
    let (one, other) = tokio::join!(Cluster::start(1), Cluster::start(1));
    let mut config = config(&one);
    config.endpoints.extend(other.endpoints());
    let error = EtcdStore::open(&config, |_| {}).await.unwrap_err();
    assert!(matches!(error, EtcdError::Clusters { .. }), "{error}");
}

#[tokio::test]
async fn etcd_may_ask_for_a_user() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.client(0).await.unwrap();
    client.user_add("root", "secret", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let password = cluster.directory().join("password");
    let mut config = config(&cluster);
    config.user = Some("root".to_owned());
    config.password_file = Some(password.clone());
    assert!(matches!(EtcdStore::open(&config, |_| {}).await, Err(EtcdError::File { .. })));
    std::fs::write(&password, "secret\n").unwrap();
    let store = EtcdStore::open(&config, |_| {}).await.unwrap();
    store.commit(put("a".to_owned(), "1")).await.unwrap();
    assert_eq!(get(&store, b"a").await.unwrap().unwrap().value, "1");
    std::fs::write(&password, "wrong").unwrap();
    let (told, mut reasons) = mpsc::channel(1);
    let waiting = move |reason: &str| drop(told.try_send(reason.to_owned()));
    tokio::select! {
        _ = EtcdStore::open(&config, waiting) => panic!("the password is wrong"),
        reason = reasons.recv() => assert!(reason.unwrap().contains("authentication failed")),
    }
}

#[tokio::test]
async fn watches_of_one_prefix_share_one_of_etcds() {
    let cluster = Cluster::start(1).await;
    let store = open(&cluster).await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(store.watch("p/".into(), 2).await.unwrap());
    }
    let Committed::Yes(revision) = store.commit(put("p/a".to_owned(), "1")).await.unwrap() else {
        panic!("there was no condition");
    };
    for watch in &mut watches {
        assert_eq!(watch.changes.recv().await.unwrap().revision, revision);
    }
    let mut late = store.watch("p/".into(), revision).await.unwrap();
    assert_eq!(late.changes.recv().await.unwrap().revision, revision, "the past is shared, too");
    assert_eq!(watchers(&cluster).await, 1);
}

/// How many watches a member of etcd has, as its metrics say.
async fn watchers(cluster: &Cluster) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let endpoint = cluster.endpoints().remove(0);
    let address = endpoint.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}
