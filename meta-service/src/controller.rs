//! The controller's loop: takes what is queued, lets the core decide, makes that durable, then shows it.

mod show;
mod start;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use holdfast_control::{
    control::{Control, CoverId, Event, Now, SteerId, StreamId, Turn},
    routes::Filter,
    steering::{Steer, SteerRefusal},
    storage_view::ClusterView,
};
use holdfast_node_kit::{clock, health::Health, shutdown::Shutdown};
use holdfast_proto::{
    ids::SiteId,
    meta::{ShardRetention, Topology},
    version::Versions,
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    election::Tenure,
    filters::Filters,
    metrics::ControllerGauges,
    rows::{self, BadRow},
    store::{Committed, Compare, OPS_MAX, Op, Revision, Store, StoreError, Txn},
};

pub(crate) use self::start::{route_limits, start};

/// Events that one turn takes.
const TURN_EVENTS_MAX: usize = 256;

/// Why the controller ended. Stop the process; another start begins from what is durable.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row is damaged.
    #[error(transparent)]
    Row(#[from] BadRow),
    /// Somebody else wrote the cluster's row.
    #[error("another controller writes to this store")]
    Superseded,
    /// Somebody else may be elected by now. Nothing of the last turn was shown.
    #[error("the election may be over: what was decided last is told to nobody")]
    Expired,
    /// No random cluster id can be had.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// What everybody may see.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) topology: Arc<Topology>,
    pub(crate) filter_version: u64,
    pub(crate) covered: u64,
    /// In the order of shards; empty until it is known.
    pub(crate) retention: Arc<[ShardRetention]>,
}

/// What the controller tells one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) accepted: bool,
    pub(crate) renewed: u64,
    pub(crate) refused: Option<String>,
}

enum Message {
    Open(StreamId, watch::Sender<Told>),
    Event(Box<Event>),
    Cover(Vec<Filter>, oneshot::Sender<Result<u64, Busy>>),
    Steer(Steer, oneshot::Sender<Steered>),
    Describe(oneshot::Sender<ClusterView>),
}

/// What became of an operator's request.
pub(crate) type Steered = Result<SiteId, SteerRefusal>;

/// Too many requests wait. Retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// The controller, as the rest of the service sees it.
#[derive(Clone, Debug)]
pub(crate) struct Controller {
    messages: mpsc::Sender<Message>,
    next_stream: Arc<AtomicU64>,
    began: Instant,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) filters: Arc<Mutex<Filters>>,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) shards: u16,
    /// What this process speaks.
    pub(crate) versions: Versions,
}

impl Controller {
    /// A new stream, and what the controller will tell it. Nothing: the controller ended.
    pub(crate) async fn open(&self) -> Option<(StreamId, watch::Receiver<Told>)> {
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (sender, told) = watch::channel(Told::default());
        self.messages.send(Message::Open(stream, sender)).await.ok()?;
        Some((stream, told))
    }

    /// Hands an event over. False: the controller ended.
    pub(crate) async fn tell(&self, event: Event) -> bool {
        self.messages.send(Message::Event(Box::new(event))).await.is_ok()
    }

    /// Makes filters durable; the version that every live gateway routes by. Nothing: the controller ended.
    pub(crate) async fn cover(&self, filters: Vec<Filter>) -> Option<Result<u64, Busy>> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Cover(filters, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Does what an operator asks for; durable when this answers. Nothing: the controller ended.
    pub(crate) async fn steer(&self, steer: Steer) -> Option<Steered> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Steer(steer, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Everything that operators see, as of one turn. Nothing: the controller ended.
    pub(crate) async fn describe(&self) -> Option<ClusterView> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Describe(reply)).await.ok()?;
        answer.await.ok()
    }

    /// The controller's own monotone clock.
    pub(crate) fn mono_ms(&self) -> u64 {
        mono_ms(self.began)
    }
}

fn mono_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The loop; to be run as one task.
pub(crate) struct ControllerLoop {
    store: Arc<dyn Store>,
    tenure: Tenure,
    control: Control,
    messages: mpsc::Receiver<Message>,
    began: Instant,
    cluster_revision: Revision,
    view: watch::Sender<View>,
    filters: Arc<Mutex<Filters>>,
    streams: HashMap<StreamId, watch::Sender<Told>>,
    covers: HashMap<CoverId, (oneshot::Sender<Result<u64, Busy>>, Instant)>,
    next_cover: u64,
    steered: HashMap<SteerId, oneshot::Sender<Steered>>,
    next_steer: u64,
    /// Answered at the end of the turn, when everything is durable.
    describe: Vec<oneshot::Sender<ClusterView>>,
    /// 0 again when the loop ends, however it does.
    gauges: ControllerGauges,
    /// That the store was set back was logged.
    set_back_logged: bool,
}

fn put_filter_version(version: u64) -> Op {
    let value = Bytes::copy_from_slice(&version.to_be_bytes());
    Op::put(Bytes::from_static(rows::FILTER_VERSION_KEY), value)
}

impl ControllerLoop {
    /// Runs until the process stops, or until what is decided cannot be made durable.
    pub(crate) async fn run(
        mut self,
        shutdown: Shutdown,
        health: Health,
    ) -> Result<(), ControllerError> {
        let tick = self.control.membership().lease_ms() / 8;
        let mut tick = interval(Duration::from_millis(tick.max(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut queue = Vec::with_capacity(TURN_EVENTS_MAX);
        loop {
            tokio::select! {
                _ = self.messages.recv_many(&mut queue, TURN_EVENTS_MAX) => {}
                _ = tick.tick() => {}
                () = shutdown.wait() => return Ok(()),
            }
            if let Err(error) = self.turn(&mut queue).await {
                health.set_not_ready(error.to_string());
                return Err(error);
            }
            match self.control.membership().set_back_from() {
                None => health.set_ready(),
                Some(_) => health.set_not_ready("the store is older than what sites have seen"),
            }
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: mono_ms(self.began), wall_ms: clock::now_ms() }
    }

    async fn turn(&mut self, queue: &mut Vec<Message>) -> Result<(), ControllerError> {
        let now = self.now();
        self.control.begin(now);
        for message in queue.drain(..) {
            match message {
                Message::Open(stream, told) => {
                    self.streams.insert(stream, told);
                }
                Message::Event(event) => {
                    if let Event::Closed { stream } = &*event {
                        self.streams.remove(stream);
                    }
                    self.control.handle(*event, now);
                }
                Message::Cover(filters, reply) => {
                    let request = CoverId(self.next_cover);
                    self.next_cover += 1;
                    self.covers.insert(request, (reply, Instant::now()));
                    self.control.handle(Event::Cover { request, filters }, now);
                }
                Message::Steer(steer, reply) => {
                    tracing::info!(?steer, "an operator asks");
                    let request = SteerId(self.next_steer);
                    self.next_steer += 1;
                    self.steered.insert(request, reply);
                    self.control.handle(Event::Steer { request, steer }, now);
                }
                Message::Describe(reply) => self.describe.push(reply),
            }
        }
        let mut turn = self.control.finish(now);
        self.persist(&mut turn).await?;
        // A turn that wrote nothing was compared with nothing: its renewals may be another's to grant.
        if !self.tenure.holds(Instant::now()) {
            return Err(ControllerError::Expired);
        }
        self.show(turn);
        for reply in self.describe.drain(..) {
            // The asker may have gone.
            let _ = reply.send(self.control.describe(now));
        }
        Ok(())
    }

    async fn persist(&mut self, turn: &mut Turn) -> Result<(), ControllerError> {
        let mut ops = Vec::new();
        for gateway in turn.gateways.drain(..) {
            let (key, value) = rows::write_gateway(gateway);
            ops.push(Op::put(key, value));
        }
        for gateway in turn.forgotten.drain(..) {
            ops.push(Op::Delete(rows::gateway_key(gateway).into()));
        }
        for delta in &turn.deltas {
            // The version first: one that is durable without its filters was told to nobody.
            ops.push(put_filter_version(delta.version));
            ops.extend(
                delta.add.iter().map(|filter| Op::put(rows::filter_key(filter), Bytes::new())),
            );
            ops.extend(
                delta.remove.iter().map(|filter| Op::Delete(rows::filter_key(filter).into())),
            );
        }
        if let Some(saved) = turn.saved.take() {
            ops.push(Op::put(Bytes::from_static(rows::CLUSTER_KEY), rows::write_cluster(saved)));
        }
        while !ops.is_empty() {
            let rest = ops.split_off(ops.len().min(OPS_MAX));
            self.commit(std::mem::replace(&mut ops, rest)).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, ops: Vec<Op>) -> Result<(), ControllerError> {
        let cluster = Bytes::from_static(rows::CLUSTER_KEY);
        let saves = ops.iter().any(|op| matches!(op, Op::Put { key, .. } if *key == cluster));
        let compares = vec![Compare::Unchanged(cluster, self.cluster_revision)];
        match self.store.commit(Txn { compares, ops }).await? {
            Committed::Refused => Err(ControllerError::Superseded),
            Committed::Yes(revision) => {
                if saves {
                    self.cluster_revision = revision;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
