//! The streams to the sites: one per site, kept up for as long as the topology names it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::grpc;
use holdfast_proto::ids::{Position, ShardId, SiteId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::storage::gateway_frame::Frame;
use holdfast_proto::storage::site_frame::Frame as Answer;
use holdfast_proto::storage::storage_client::StorageClient;
use holdfast_proto::storage::{GatewayFrame, GatewayHello, SiteFrame, SiteHello, TailBlock};
use holdfast_proto::version::Versions;
use parking_lot::RwLock;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::dispatch::Block;
use super::requests::Reply;
use super::{Shared, monotonic};

/// Pause before a site that refused us is tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// First pause after a lost or failed connection.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The working streams. What goes into them is bounded by its sources: batches in flight per shard,
/// one question at a time per session, one change of filters per wake-up.
#[derive(Debug, Default)]
pub(crate) struct Links {
    up: RwLock<HashMap<SiteId, UnboundedSender<GatewayFrame>>>,
}

impl Links {
    /// Puts a frame on the way; false if there is no link.
    pub(crate) fn send(&self, site: SiteId, frame: Frame) -> bool {
        let up = self.up.read();
        let Some(link) = up.get(&site) else { return false };
        link.send(GatewayFrame { frame: Some(frame) }).is_ok()
    }

    /// Whether the site has a working stream.
    #[must_use]
    pub(crate) fn is_up(&self, site: SiteId) -> bool {
        self.up.read().contains_key(&site)
    }

    fn set_up(&self, site: SiteId, link: UnboundedSender<GatewayFrame>) {
        let mut up = self.up.write();
        up.insert(site, link);
        metrics::gauge!(super::metrics::LINKS).set(up.len() as f64);
    }

    /// Forgets this stream; false if the site has another one by now.
    fn set_down(&self, site: SiteId, link: &UnboundedSender<GatewayFrame>) -> bool {
        let mut up = self.up.write();
        if !up.get(&site).is_some_and(|known| known.same_channel(link)) {
            return false;
        }
        up.remove(&site);
        metrics::gauge!(super::metrics::LINKS).set(up.len() as f64);
        true
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum LinkEnd {
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    #[error("the site ended the stream")]
    Ended,
    #[error("the site does not know its cluster yet")]
    NotReady,
    #[error("the site is not one of ours: {0}")]
    Stranger(String),
}

/// Keeps one site's stream up until the task is aborted.
pub(crate) async fn keep(shared: Arc<Shared>, site: SiteId, address: String) {
    let link = Link { shared, site };
    let mut pause = FIRST_PAUSE;
    loop {
        let Err(end) = link.run(&address, &mut pause).await;
        // Once until it works again.
        if pause == FIRST_PAUSE {
            tracing::warn!(%site, address, error = %end, "link to site is down");
        } else {
            tracing::debug!(%site, address, error = %end, "link to site is still down");
        }
        if matches!(end, LinkEnd::Stranger(_)) {
            tokio::time::sleep(REFUSED_PAUSE).await;
        } else {
            tokio::time::sleep(pause).await;
            let longest = Duration::from_millis(link.shared.config.reconnect_ms_max);
            pause = (pause * 2).min(longest);
        }
    }
}

/// One site's link, up or not.
struct Link {
    shared: Arc<Shared>,
    site: SiteId,
}

/// A working stream; takes itself down however its task ends.
struct Up<'a> {
    link: &'a Link,
    sender: UnboundedSender<GatewayFrame>,
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let Link { shared, site } = self.link;
        if shared.links.set_down(*site, &self.sender) {
            shared.link_down(*site);
        }
    }
}

impl Link {
    async fn run(&self, address: &str, pause: &mut Duration) -> Result<Infallible, LinkEnd> {
        let (sender, receiver) = unbounded_channel();
        let versions = self.shared.config.versions;
        let hello = Frame::Hello(GatewayHello {
            protocol_version: versions.newest,
            cluster_id: self.shared.cluster_id.clone(),
            gateway: Some(self.shared.me.clone()),
            protocol_version_min: versions.oldest,
        });
        // The receiver is held below, so this cannot fail.
        let _ = sender.send(GatewayFrame { frame: Some(hello) });
        let channel = grpc::connect(address).await?;
        let mut client = StorageClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        let answers =
            client.link(UnboundedReceiverStream::new(receiver)).await.map_err(Box::new)?;
        let mut answers = answers.into_inner();
        let version = match next(&mut answers).await?.frame {
            Some(Answer::Hello(hello)) => self.check(&hello)?,
            _ => return Err(LinkEnd::Stranger("it sent no hello".to_owned())),
        };
        tracing::info!(site = %self.site, address, version, "link to site is up");
        *pause = FIRST_PAUSE;
        self.shared.links.set_up(self.site, sender.clone());
        let _up = Up { link: self, sender };
        self.shared.link_up(self.site);
        loop {
            let frame = next(&mut answers).await?;
            self.shared.on_site_frame(self.site, frame);
        }
    }

    /// Whether it is the site that is meant; returns the version of the protocol to be spoken with it.
    fn check(&self, hello: &SiteHello) -> Result<u32, LinkEnd> {
        let stranger = |what: String| Err(LinkEnd::Stranger(what));
        let theirs = Versions::announced(hello.protocol_version, hello.protocol_version_min);
        let version = match self.shared.config.versions.common(theirs) {
            Ok(version) => version,
            Err(none) => return stranger(none.to_string()),
        };
        if hello.cluster_id != self.shared.cluster_id {
            return stranger(format!("cluster id {:?}", hello.cluster_id));
        }
        if hello.site_id != self.site.0 {
            return stranger(format!("site id {:016x}", hello.site_id));
        }
        if hello.shards == 0 {
            return Err(LinkEnd::NotReady);
        }
        if hello.shards != u32::from(self.shared.shards) {
            return stranger(format!("{} shards", hello.shards));
        }
        Ok(version)
    }
}

async fn next(answers: &mut Streaming<SiteFrame>) -> Result<SiteFrame, LinkEnd> {
    answers.message().await.map_err(Box::new)?.ok_or(LinkEnd::Ended)
}

impl Shared {
    fn link_up(&self, site: SiteId) {
        let mut out = Vec::new();
        {
            let mut dispatch = self.dispatch.lock();
            dispatch.link_up(site, &mut out);
            self.send_all(&mut out);
        }
        for shard in self.all_shards() {
            if self.leaders.lock().get(shard) == Some(site) {
                self.leader_changed(shard);
            }
        }
    }

    fn link_down(&self, site: SiteId) {
        self.dispatch.lock().link_down(site);
        for lane in &self.lanes {
            lane.queue.lock().link_lost(site);
        }
        self.take_back_requests(site);
        self.leaders.lock().forget(site);
    }

    fn on_site_frame(&self, site: SiteId, frame: SiteFrame) {
        let now_ms = monotonic::now_ms();
        match frame.frame {
            Some(Answer::AppendDone(done)) => self.on_append_done(site, done, now_ms),
            Some(Answer::TailBlock(block)) => self.on_tail_block(site, block, now_ms),
            Some(Answer::ProposeDone(done)) => self.on_propose_done(site, done, now_ms),
            Some(Answer::ReadPage(page)) => self.on_read_page(site, page, now_ms),
            Some(Answer::RetainedPage(page)) => self.on_retained_page(site, page, now_ms),
            Some(Answer::TailFiltersActive(active)) => {
                let mut out = Vec::new();
                let mut dispatch = self.dispatch.lock();
                dispatch.active(site, &active, &mut out);
                self.send_all(&mut out);
            }
            Some(Answer::Leaders(news)) => {
                for news in news.leaders {
                    let shard = ShardId(news.shard as u16);
                    let leader = (news.site_id != 0).then_some(SiteId(news.site_id));
                    let learned = {
                        let mut leaders = self.leaders.lock();
                        leaders.hear(site, shard, leader, news.term);
                        leaders.learn(shard, leader, news.term, now_ms)
                    };
                    if learned {
                        tracing::debug!(%shard, ?leader, term = news.term, "leader changed");
                        self.leader_changed(shard);
                    }
                }
            }
            Some(Answer::TailStopped(stopped)) => {
                let shard = ShardId(stopped.shard as u16);
                self.dispatch.lock().stopped(shard, site);
                let hint = (stopped.leader_site != 0).then_some(SiteId(stopped.leader_site));
                self.leader_refused(shard, site, hint);
            }
            Some(Answer::Hello(_)) | None => {
                tracing::warn!(%site, "a site sent a frame that is not expected");
            }
        }
    }

    fn on_tail_block(&self, site: SiteId, block: TailBlock, now_ms: u64) {
        let shard = ShardId(block.shard as u16);
        if let Some(clock) = self.clocks.get(usize::from(shard.0)) {
            clock.set(block.time_ms, now_ms);
        }
        let bytes = block.records.len() as u64;
        let records = match Placed::decode_all(block.records) {
            Ok(records) => records,
            Err(error) => {
                // What follows cannot be trusted to be complete: begin again from what is dispatched.
                tracing::error!(%site, %shard, %error, "a site sent a malformed tail block");
                let mut out = Vec::new();
                let mut dispatch = self.dispatch.lock();
                dispatch.stopped(shard, site);
                dispatch.lead(shard, Some(site), &mut out);
                self.send_all(&mut out);
                return;
            }
        };
        if !records.is_empty() {
            metrics::counter!(super::metrics::TAIL_RECORDS).increment(records.len() as u64);
        }
        let block = Block {
            shard,
            from: Position(block.from),
            next: Position(block.next),
            records: records.into(),
            bytes,
        };
        let (mut out, mut wills) = (Vec::new(), Vec::new());
        {
            let mut dispatch = self.dispatch.lock();
            dispatch.block(site, &block, &mut out, &mut wills);
            self.send_all(&mut out);
        }
        self.take_wills(shard, &wills);
    }

    /// Wills travel by the log alone: every gateway hands them to its regular sessions, and asks for
    /// the retained ones to be set, which however many may ask for.
    fn take_wills(&self, home: ShardId, wills: &[Placed]) {
        if wills.is_empty() {
            return;
        }
        let records: Vec<Record> = wills.iter().map(|placed| placed.record.clone()).collect();
        self.deliver_regular(&records);
        for will in wills.iter().filter(|will| will.record.retain()) {
            self.set_retained(home, will, Reply::Nobody);
        }
    }
}
