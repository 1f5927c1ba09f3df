//! The streams between sites that carry the Raft traffic of all shards.
//!
//! A site dials every other site and sends its requests on that stream; the answers come back on it.
//! All that is ready at one wake-up travels in one frame. Order on a stream is kept.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_node_kit::{clock, grpc, shutdown::Shutdown};
use holdfast_proto::storage::{
    self as pb, RaftFrame, RaftHello, RaftMessage, raft_client::RaftClient, raft_message::Body,
};
use holdfast_proto::version::Versions;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Why a request to a peer has no answer. All of them mean: try again.
#[derive(Debug, Error)]
pub(crate) enum PeerError {
    /// No stream to that site now.
    #[error("no connection to the site")]
    Disconnected,
    /// The site is not in the topology.
    #[error("the site is not known")]
    Unknown,
    /// The peer will not take the request.
    #[error("refused by the site: {0}")]
    Refused(String),
    /// The answer was not one to the request.
    #[error("unexpected answer")]
    Unexpected,
}

/// Streams to all other sites.
pub(crate) struct Peers {
    hello: RaftHello,
    versions: Versions,
    /// One permit for each snapshot that may be sent at once.
    pub(crate) snapshots: Semaphore,
    shutdown: Shutdown,
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
}

/// The stream to one site.
pub(crate) struct Peer {
    site: u64,
    address: Mutex<String>,
    outbox: Mutex<Outbox>,
    wake: Notify,
    next_request: AtomicU64,
}

#[derive(Default)]
struct Outbox {
    connected: bool,
    since: Option<Instant>,
    /// The protocol version that both speak; 0 until the peer has said what it speaks.
    version: u32,
    messages: Vec<RaftMessage>,
    pending: HashMap<u64, oneshot::Sender<Body>>,
}

/// Frames that may wait for the transport of one stream.
const FRAMES_IN_TRANSPORT: usize = 4;
/// Pause between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(200);

impl Peers {
    pub(crate) fn new(
        cluster_id: String,
        site: u64,
        versions: Versions,
        snapshots_max: usize,
        shutdown: Shutdown,
    ) -> Arc<Peers> {
        let hello = RaftHello {
            protocol_version: versions.newest,
            protocol_version_min: versions.oldest,
            cluster_id,
            site_id: site,
        };
        let snapshots = Semaphore::new(snapshots_max);
        Arc::new(Peers { hello, versions, snapshots, shutdown, peers: Mutex::default() })
    }

    /// What this site says of itself on a stream.
    pub(crate) fn hello(&self) -> RaftHello {
        self.hello.clone()
    }

    /// Takes the sites' addresses from the topology; dials those that are new.
    pub(crate) fn set_sites(&self, sites: impl Iterator<Item = (u64, String)>) {
        let mut peers = self.peers.lock();
        for (site, address) in sites.filter(|(site, _)| *site != self.hello.site_id) {
            match peers.get(&site) {
                Some(peer) => *peer.address.lock() = address,
                None => {
                    let peer = Arc::new(Peer::new(site, address));
                    peers.insert(site, peer.clone());
                    let (hello, versions) = (self.hello.clone(), self.versions);
                    tokio::spawn(peer.run(hello, versions, self.shutdown.clone()));
                }
            }
        }
    }

    /// The stream to a site.
    pub(crate) fn get(&self, site: u64) -> Option<Arc<Peer>> {
        self.peers.lock().get(&site).cloned()
    }

    /// Asks a site and waits for its answer; the caller bounds the time.
    pub(crate) async fn ask(
        &self,
        site: u64,
        shard: u16,
        target: u64,
        body: Body,
    ) -> Result<Body, PeerError> {
        let peer = self.get(site).ok_or(PeerError::Unknown)?;
        let answer = peer.send(shard, target, body)?;
        match answer.await {
            Ok(Body::Refused(refused)) => Err(PeerError::Refused(refused.reason)),
            Ok(body) => Ok(body),
            Err(_) => Err(PeerError::Disconnected),
        }
    }

    /// How long the stream to a site has been up; zero if it is not.
    pub(crate) fn reachable_for(&self, site: u64) -> Duration {
        let peer = self.get(site);
        let since = peer.and_then(|peer| peer.outbox.lock().since);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The protocol version that is spoken with a site; the oldest if that is not known.
    pub(crate) fn version(&self, site: u64) -> u32 {
        let peer = self.get(site);
        let common = peer.map_or(0, |peer| peer.outbox.lock().version);
        common.max(self.versions.oldest)
    }

    /// A channel for calls beside the stream (snapshots, runs).
    pub(crate) async fn channel(&self, site: u64) -> Result<Channel, PeerError> {
        let address = self.get(site).ok_or(PeerError::Unknown)?.address.lock().clone();
        grpc::connect(&address).await.map_err(|_| PeerError::Disconnected)
    }
}

impl Peer {
    fn new(site: u64, address: String) -> Peer {
        Peer {
            site,
            address: Mutex::new(address),
            outbox: Mutex::default(),
            wake: Notify::new(),
            next_request: AtomicU64::new(1),
        }
    }

    fn send(
        &self,
        shard: u16,
        target: u64,
        body: Body,
    ) -> Result<oneshot::Receiver<Body>, PeerError> {
        let (tx, rx) = oneshot::channel();
        let request_id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let mut outbox = self.outbox.lock();
        if !outbox.connected {
            return Err(PeerError::Disconnected);
        }
        outbox.pending.insert(request_id, tx);
        outbox.messages.push(RaftMessage {
            request_id,
            shard: u32::from(shard),
            target,
            body: Some(body),
        });
        drop(outbox);
        self.wake.notify_one();
        Ok(rx)
    }

    async fn run(self: Arc<Self>, hello: RaftHello, versions: Versions, shutdown: Shutdown) {
        let mut reported = false;
        loop {
            let ended = tokio::select! {
                () = shutdown.wait() => return,
                ended = self.converse(&hello, versions, &mut reported) => ended,
            };
            let was_connected = std::mem::take(&mut *self.outbox.lock()).connected;
            if was_connected || !reported {
                tracing::warn!(site = format!("{:016x}", self.site), error = %ended, "no stream to site");
                reported = true;
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    /// One life of the stream; returns why it ended.
    async fn converse(&self, hello: &RaftHello, versions: Versions, reported: &mut bool) -> String {
        let address = self.address.lock().clone();
        let channel = match grpc::connect(&address).await {
            Ok(channel) => channel,
            Err(error) => return error.to_string(),
        };
        let (frames, queue) = mpsc::channel(FRAMES_IN_TRANSPORT);
        let first = RaftFrame { hello: Some(hello.clone()), ..RaftFrame::default() };
        if frames.send(first).await.is_err() {
            return "stream closed".into();
        }
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        let mut answers = match client.link(ReceiverStream::new(queue)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return status.message().to_string(),
        };
        {
            let mut outbox = self.outbox.lock();
            outbox.connected = true;
            outbox.since = Some(Instant::now());
        }
        *reported = false;
        tracing::info!(site = format!("{:016x}", self.site), address, "stream to site");
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(frame)) => self.complete(frame, versions),
                    Ok(None) => return "stream ended by peer".into(),
                    Err(status) => return status.message().to_string(),
                },
                () = self.wake.notified() => {
                    let messages = std::mem::take(&mut self.outbox.lock().messages);
                    let frame = RaftFrame { hello: None, messages, clock_ms: clock::now_ms() };
                    if !frame.messages.is_empty() && frames.send(frame).await.is_err() {
                        return "stream closed".into();
                    }
                }
            }
        }
    }

    fn complete(&self, frame: RaftFrame, versions: Versions) {
        let mut outbox = self.outbox.lock();
        if let Some(hello) = frame.hello {
            let theirs = Versions::announced(hello.protocol_version, hello.protocol_version_min);
            outbox.version = versions.common(theirs).unwrap_or(0);
        }
        for message in frame.messages {
            let waiter = outbox.pending.remove(&message.request_id);
            if let (Some(waiter), Some(body)) = (waiter, message.body) {
                // A waiter that timed out is gone.
                let _ = waiter.send(body);
            }
        }
    }
}

/// The answer to a request that this site does not take.
pub(crate) fn refused(reason: impl Into<String>) -> Body {
    Body::Refused(pb::Refused { reason: reason.into() })
}
