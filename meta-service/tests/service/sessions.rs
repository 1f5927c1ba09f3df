//! The session registry: gaps, resyncs, listing.

use holdfast_proto::{
    ids::{Namespace, home_shard},
    meta::{SessionChange, SessionFeed, SessionFeedDone},
    shard::{ClientKey, InFlight, SessionRow, Subscription},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    admin_access::{serve, serve_in},
    peers::Service,
    rest::Rest,
};

pub(crate) const SHARDS: u16 = 8;

pub(crate) struct Feed {
    pub(crate) messages: mpsc::Sender<SessionFeed>,
    pub(crate) answers: Streaming<SessionFeedDone>,
    cluster_id: String,
}

impl Feed {
    async fn open(service: &mut Service) -> Feed {
        let cluster_id = service.describe().await.cluster_id;
        let (messages, feed) = mpsc::channel(64);
        let answers =
            service.client.feed_sessions(ReceiverStream::new(feed)).await.unwrap().into_inner();
        Feed { messages, answers, cluster_id }
    }

    async fn send(&mut self, message: SessionFeed) -> SessionFeedDone {
        let message = SessionFeed { cluster_id: self.cluster_id.clone(), ..message };
        self.messages.send(message).await.unwrap();
        self.answers.message().await.unwrap().expect("an answer")
    }
}

pub(crate) fn row(filters: &[&str]) -> SessionRow {
    let subscription =
        |filter: &&str| Subscription { filter: (*filter).to_owned(), ..Subscription::default() };
    SessionRow {
        expiry_interval_s: 60,
        subscriptions: filters.iter().map(subscription).collect(),
        in_flight: vec![InFlight::default()],
        ..SessionRow::default()
    }
}

fn change(client_id: &str, row: Option<SessionRow>) -> SessionChange {
    SessionChange { client: Some(ClientKey { namespace: 0, client_id: client_id.to_owned() }), row }
}

/// Resyncs every shard with these sessions.
pub(crate) async fn feed_all(service: &mut Service, sessions: &[(&str, SessionRow)]) -> Feed {
    let mut feed = Feed::open(service).await;
    for shard in 0..SHARDS {
        let here =
            sessions.iter().filter(|(id, _)| home_shard(Namespace(0), id, SHARDS).0 == shard);
        let changes = here.map(|(id, row)| change(id, Some(row.clone()))).collect();
        let shard = u32::from(shard);
        let part = SessionFeed {
            shard,
            to_index: 10,
            resync_begin: true,
            resync_end: true,
            changes,
            ..Default::default()
        };
        let done = feed.send(part).await;
        assert_eq!((done.shard, done.index, done.resync), (shard, 10, false));
    }
    feed
}

async fn list(rest: &Rest) -> Vec<String> {
    let page = rest.get("/sessions").await.ok();
    let all = page["sessions"].as_array().unwrap().iter();
    all.map(|session| session["client_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_gap_resyncs_a_shard_and_replaces_its_rows() {
    let mut served = serve().await;
    let shard = u32::from(home_shard(Namespace(0), "c", SHARDS).0);
    let mut feed = Feed::open(&mut served.service).await;
    let news = |from_index, to_index, changes| SessionFeed {
        shard,
        from_index,
        to_index,
        changes,
        ..SessionFeed::default()
    };
    assert!(feed.send(news(0, 3, vec![])).await.resync, "nothing is known yet");
    let begin = SessionFeed {
        shard,
        to_index: 3,
        resync_begin: true,
        changes: vec![change("c", Some(row(&["a"]))), change("d", Some(row(&[])))],
        ..SessionFeed::default()
    };
    feed.send(begin).await;
    let end = SessionFeed { shard, to_index: 3, resync_end: true, ..SessionFeed::default() };
    assert_eq!(feed.send(end).await.index, 3);
    let done = feed.send(news(3, 5, vec![change("d", None), change("e", Some(row(&[])))])).await;
    assert_eq!((done.index, done.resync), (5, false));
    assert_eq!(list(&served.rest).await, ["c", "e"]);

    assert!(feed.send(news(7, 8, vec![change("x", Some(row(&[])))])).await.resync);
    let all = SessionFeed {
        shard,
        to_index: 8,
        resync_begin: true,
        resync_end: true,
        changes: vec![change("x", Some(row(&[])))],
        ..SessionFeed::default()
    };
    assert_eq!(feed.send(all).await.index, 8);
    assert_eq!(list(&served.rest).await, ["x"]);

    drop(feed);
    served.service.stop().await;
    let mut served = serve_in(served.directory, "").await;
    let mut feed = Feed::open(&mut served.service).await;
    assert_eq!(feed.send(news(8, 9, vec![])).await.index, 9, "a restart keeps rows and index");
    assert_eq!(list(&served.rest).await, ["x"]);
    served.service.stop().await;
}

#[tokio::test]
async fn another_clusters_feed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let mut feed = Feed::open(&mut service).await;
    let message = SessionFeed { cluster_id: "other".to_owned(), ..SessionFeed::default() };
    feed.messages.send(message).await.unwrap();
    assert_eq!(feed.answers.message().await.unwrap_err().code(), tonic::Code::FailedPrecondition);
    service.stop().await;
}
