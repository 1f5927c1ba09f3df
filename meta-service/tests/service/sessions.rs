//! The session registry: gaps, resyncs, listing.

use holdfast_proto::{
    ids::{Namespace, home_shard},
    meta::{ListSessionsRequest, SessionChange, SessionFeed, SessionFeedDone},
    shard::{ClientKey, InFlight, SessionRow, Subscription},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::peers::Service;

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

async fn list(
    service: &mut Service,
    after: Option<&str>,
    prefix: &str,
    limit: u32,
) -> (Vec<String>, bool) {
    let after = after.map(|id| ClientKey { namespace: 0, client_id: id.to_owned() });
    let request = ListSessionsRequest { after, client_id_prefix: prefix.to_owned(), limit };
    let reply = service.client.list_sessions(request).await.unwrap().into_inner();
    for session in &reply.sessions {
        assert!(session.row.as_ref().unwrap().in_flight.is_empty(), "only metadata is kept");
    }
    (
        reply.sessions.into_iter().map(|session| session.client.unwrap().client_id).collect(),
        reply.more,
    )
}

#[tokio::test]
async fn a_gap_resyncs_a_shard_and_replaces_its_rows() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let shard = u32::from(home_shard(Namespace(0), "c", SHARDS).0);
    let mut feed = Feed::open(&mut service).await;
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
    assert_eq!(list(&mut service, None, "", 0).await.0, ["c", "e"]);

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
    assert_eq!(list(&mut service, None, "", 0).await.0, ["x"]);

    drop(feed);
    service.stop().await;
    let mut service = Service::start(directory.path()).await;
    let mut feed = Feed::open(&mut service).await;
    assert_eq!(feed.send(news(8, 9, vec![])).await.index, 9, "a restart keeps rows and index");
    assert_eq!(list(&mut service, None, "", 0).await.0, ["x"]);
    service.stop().await;
}

#[tokio::test]
async fn sessions_are_listed_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let names: Vec<String> =
        (0..25).map(|n| format!("c-{n:02}")).chain(["zz".to_owned()]).collect();
    let sessions: Vec<(&str, SessionRow)> =
        names.iter().map(|name| (name.as_str(), row(&[]))).collect();
    let _feed = feed_all(&mut service, &sessions).await;
    let mut seen: Vec<String> = Vec::new();
    loop {
        let after = seen.last().cloned();
        let (page, more) = list(&mut service, after.as_deref(), "", 7).await;
        assert!(page.len() == 7 || !more);
        seen.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(seen, names);
    let (found, more) = list(&mut service, None, "c-1", 100).await;
    assert_eq!((found.as_slice(), more), (&names[10..20], false));
    let (found, more) = list(&mut service, Some("c-14"), "c-1", 3).await;
    assert_eq!((found.as_slice(), more), (&names[15..18], true));
    assert_eq!(list(&mut service, Some("zz"), "c", 3).await, (vec![], false));
    service.stop().await;
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
