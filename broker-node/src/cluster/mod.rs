//! The cluster as a connection sees it: one cheap handle.
//!
//! Pure parts decide (`routes`, `leaders`, `appender`, `dispatch`); the rest moves frames between them,
//! the sites, the metadata service and the other gateways. Locks are held for short, synchronous steps
//! and taken in this order, each from any before it: a shard's queue, dispatch, requests, turns, routes,
//! leaders, links, an inbox.

mod admin;
mod appender;
mod attachment;
mod claims;
mod config;
mod control;
mod cover;
mod dispatch;
mod error;
mod forward;
mod leaders;
mod link;
mod metrics;
mod monotonic;
mod owners;
mod publish;
mod reach;
mod regular;
mod requests;
mod routes;
mod telling;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use holdfast_node_kit::health::Health;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_node_kit::{clock, net};
use holdfast_proto::ids::{Incarnation, Namespace, Position, ShardId, SiteId, retained_shard};
use holdfast_proto::meta::Topology;
use holdfast_proto::shard::{Command, GatewayRef};
use holdfast_proto::storage::ReadItem;
use holdfast_proto::topic;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::appender::{AppendLimits, ShardQueue};
pub(crate) use self::attachment::Attachment;
pub(crate) use self::claims::{Claimed, Ownership};
pub(crate) use self::config::ClusterConfig;
use self::control::Control;
use self::cover::Covers;
use self::dispatch::{Dispatch, Outgoing};
pub(crate) use self::error::ClusterError;
use self::leaders::Leaders;
use self::link::Links;
pub(crate) use self::metrics::describe as describe_metrics;
use self::owners::Owners;
use self::publish::Lane;
pub(crate) use self::publish::{PublishTurn, Routed, TurnEnd};
use self::regular::Regular;
use self::requests::{Body, Gather, Reply, Requests};
use self::telling::Channels;
use crate::inbox::Inbox;

/// Handle to the cluster; clones share everything.
#[derive(Clone)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
}

/// All state of the cluster side.
struct Shared {
    config: ClusterConfig,
    me: GatewayRef,
    cluster_id: String,
    shards: u16,
    health: Health,
    /// From then on this gateway is not ready, whatever the cluster's state.
    shutdown: Shutdown,
    control: Arc<Control>,
    links: Links,
    leaders: Mutex<Leaders>,
    lanes: Vec<Lane>,
    dispatch: Mutex<Dispatch>,
    dispatched: Arc<[AtomicU64]>,
    /// Wakes the task that sends changes of the tails' filters.
    filters_gathered: Notify,
    clocks: Vec<ShardClock>,
    requests: Mutex<Requests>,
    regular: Regular,
    owners: Owners<Arc<Inbox>>,
    channels: Channels,
    covers: Covers,
    /// Counts the clients that were sent to another gateway.
    sent_elsewhere: AtomicUsize,
    /// Wakes who hands the clients over when this gateway is cut off.
    cut_off: Notify,
}

/// What a shard's time is ahead of local monotonic time, in ms.
#[derive(Debug)]
struct ShardClock(AtomicI64);

impl ShardClock {
    const UNKNOWN: i64 = i64::MIN;

    fn set(&self, time_ms: u64, now_ms: u64) {
        if time_ms > 0 {
            self.0.store(time_ms as i64 - now_ms as i64, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => clock::now_ms(),
            ahead => monotonic::now_ms().saturating_add_signed(ahead),
        }
    }
}

impl Cluster {
    /// Joins the cluster: serves gRPC to other gateways, connects to the metadata service and the sites,
    /// and returns when it knows how many shards there are. That waits for a metadata service, as long
    /// as it takes; `health` turns ready when a durable publish would be acknowledged. After the
    /// shutdown signal everything goes on, so that sessions can be handed over: end with
    /// [`Cluster::leave`].
    pub(crate) async fn start(
        config: ClusterConfig,
        shutdown: Shutdown,
        health: Health,
    ) -> Result<Cluster, ClusterError> {
        let listener = net::bind(&config.grpc_listen).await.map_err(|error| {
            ClusterError::Listen { address: config.grpc_listen.clone(), reason: error.to_string() }
        })?;
        let me = GatewayRef {
            incarnation: rand::random_range(1..u64::MAX),
            name: config.name.clone(),
            address: config.grpc_advertise.clone().unwrap_or_else(|| config.grpc_listen.clone()),
        };
        health.set_not_ready("waiting for the metadata service");
        let control = Control::new(config.clone(), me.clone());
        tokio::spawn(control.clone().run());
        let topology = tokio::select! {
            topology = first_topology(&control) => topology?,
            () = shutdown.wait() => {
                control.leave().await;
                return Err(ClusterError::Stopping);
            }
        };
        let cluster_id = &topology.cluster_id;
        let (shards, gateway) = (topology.shards, me.incarnation);
        health.set_not_ready("waiting for the leaders of all shards");
        tracing::info!(cluster_id, shards, gateway = %Incarnation(gateway), "joined the cluster");
        let shared = Arc::new(Shared::new(config, me, &topology, control, health, shutdown));
        tokio::spawn(forward::serve(shared.clone(), listener));
        tokio::spawn(cover::run(shared.clone()));
        tokio::spawn(upkeep::follow_topology(shared.clone()));
        tokio::spawn(upkeep::send_filters(shared.clone()));
        tokio::spawn(upkeep::tick(shared.clone()));
        Ok(Cluster { shared })
    }

    /// Tells the metadata service that this gateway is gone. Call it last.
    pub(crate) async fn leave(&self) {
        self.shared.control.leave().await;
    }

    /// Returns when this gateway is cut off from a leader that others reach and clients are better off
    /// elsewhere.
    pub(crate) async fn cut_off(&self) {
        self.shared.cut_off.notified().await;
    }

    /// Where a client may go instead, `host:port`: another live gateway, each in turn.
    pub(crate) fn another_gateway(&self) -> Option<String> {
        let shared = &self.shared;
        let topology = shared.control.topology.borrow();
        let topology = topology.as_deref()?;
        let others: Vec<&str> = upkeep::other_gateways(topology, shared.me.incarnation).collect();
        let turn = shared.sent_elsewhere.fetch_add(1, Ordering::Relaxed);
        others.get(turn.checked_rem(others.len())?).map(|address| (*address).to_owned())
    }

    /// How many shards the cluster was born with.
    #[must_use]
    pub(crate) fn shards(&self) -> u16 {
        self.shared.shards
    }

    /// This gateway, as others know it.
    #[must_use]
    pub(crate) fn gateway(&self) -> GatewayRef {
        self.shared.me.clone()
    }

    /// Estimate of a shard's time now, in ms since the Unix epoch.
    #[must_use]
    pub(crate) fn shard_time_ms(&self, shard: ShardId) -> u64 {
        self.shared.shard_time_ms(shard)
    }

    /// Next position that is not dispatched yet, per shard. Call it BEFORE draining the inbox: a live
    /// session that has then drained its inbox has consumed everything below.
    pub(crate) fn dispatched(&self, out: &mut Vec<Position>) {
        out.clear();
        let load = |next: &AtomicU64| Position(next.load(Ordering::Acquire));
        out.extend(self.shared.dispatched.iter().map(load));
    }

    /// Proposes a command to a shard; `Event::Outcome` follows. It may be applied more than once when a
    /// leader changes meanwhile, and a later one may overtake it: propose what depends on it after its
    /// outcome.
    pub(crate) fn propose(&self, shard: ShardId, command: Command, token: u64, inbox: &Arc<Inbox>) {
        let reply = Reply::Outcome { token, inbox: inbox.clone() };
        let deadline_ms = monotonic::now_ms() + self.shared.config.propose_deadline_ms;
        self.shared.ask(shard, Body::Propose(command), reply, deadline_ms);
    }

    /// Reads for one session; each item is answered by `Event::Page` or, after `read_deadline_ms`
    /// without a leader, `Event::PageFailed`.
    pub(crate) fn read(
        &self,
        namespace: Namespace,
        filters: &Arc<[String]>,
        items: Vec<ReadItem>,
        inbox: &Arc<Inbox>,
    ) {
        let deadline_ms = monotonic::now_ms() + self.shared.config.read_deadline_ms;
        self.shared.ask_reads(namespace, filters, items, inbox, deadline_ms);
    }

    /// Asks for the retained messages that match any of the filters; `Event::Retained` follows.
    pub(crate) fn retained(
        &self,
        namespace: Namespace,
        filters: Vec<String>,
        token: u64,
        inbox: &Arc<Inbox>,
    ) {
        let shared = &self.shared;
        let shards: Vec<ShardId> = if filters.iter().any(|filter| topic::has_wildcard(filter)) {
            shared.all_shards().collect()
        } else {
            let of = |filter: &String| retained_shard(namespace, filter, shared.shards);
            let mut shards: Vec<ShardId> = filters.iter().map(of).collect();
            shards.sort_unstable();
            shards.dedup();
            shards
        };
        if shards.is_empty() {
            inbox.post(crate::inbox::Event::Retained { token, result: Ok(Vec::new()) });
            return;
        }
        let gather = Gather::new(token, inbox.clone(), shards.len());
        let filters: Arc<[String]> = filters.into();
        let deadline_ms = monotonic::now_ms() + shared.config.read_deadline_ms;
        for shard in shards {
            let body = Body::Retained { namespace, filters: filters.clone() };
            shared.ask(shard, body, Reply::Retained(gather.clone()), deadline_ms);
        }
    }
}

async fn first_topology(control: &Control) -> Result<Arc<Topology>, ClusterError> {
    let mut topology = control.topology.subscribe();
    let known = topology.wait_for(Option::is_some).await.map_err(|_| ClusterError::Stopping)?;
    known.clone().ok_or(ClusterError::Stopping)
}

impl Shared {
    fn new(
        config: ClusterConfig,
        me: GatewayRef,
        topology: &Topology,
        control: Arc<Control>,
        health: Health,
        shutdown: Shutdown,
    ) -> Shared {
        let shards = u16::try_from(topology.shards).unwrap_or(u16::MAX);
        let limits = AppendLimits {
            batch_bytes_max: config.batch_bytes_max,
            in_flight_max: config.batches_in_flight_max,
            queue_bytes_max: config.shard_queue_bytes_max,
            deadline_ms: config.append_deadline_ms,
            retry_ms: config.retry_ms,
        };
        let queue = |shard| ShardQueue::new(ShardId(shard), Incarnation(me.incarnation), limits);
        let lane = |shard| Lane { queue: Mutex::new(queue(shard)), eased: Notify::new() };
        let dispatch = Dispatch::new(shards, config.tail_credit_bytes);
        let unknown = || ShardClock(AtomicI64::new(ShardClock::UNKNOWN));
        Shared {
            cluster_id: topology.cluster_id.clone(),
            shards,
            health,
            control,
            links: Links::default(),
            leaders: Mutex::new(Leaders::new(shards)),
            lanes: (0..shards).map(lane).collect(),
            dispatched: dispatch.dispatched(),
            dispatch: Mutex::new(dispatch),
            filters_gathered: Notify::new(),
            clocks: (0..shards).map(|_| unknown()).collect(),
            requests: Mutex::default(),
            regular: Regular::default(),
            owners: Owners::default(),
            channels: Channels::default(),
            covers: Covers::default(),
            sent_elsewhere: AtomicUsize::new(0),
            cut_off: Notify::new(),
            shutdown,
            me,
            config,
        }
    }

    fn all_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }

    fn shard_time_ms(&self, shard: ShardId) -> u64 {
        self.clocks.get(usize::from(shard.0)).map_or_else(clock::now_ms, ShardClock::now_ms)
    }

    /// Puts frames on the way. Called under the lock of what made them, so that they keep their order.
    fn send_all(&self, out: &mut Vec<Outgoing>) {
        for (site, frame) in out.drain(..) {
            // A link that is lost takes its tails and filters back by itself.
            self.links.send(site, frame);
        }
    }

    /// A site said that it does not lead the shard.
    fn leader_refused(&self, shard: ShardId, by: SiteId, hint: Option<SiteId>) {
        let now_ms = monotonic::now_ms();
        if self.leaders.lock().refused(shard, by, hint, now_ms) {
            self.leader_changed(shard);
        }
    }

    /// The shard has another leader, none, or one whose link has come up: moves everything there.
    fn leader_changed(&self, shard: ShardId) {
        let leader = self.leaders.lock().get(shard);
        {
            let mut out = Vec::new();
            let mut dispatch = self.dispatch.lock();
            dispatch.lead(shard, leader, &mut out);
            self.send_all(&mut out);
        }
        if let Some(lane) = self.lanes.get(usize::from(shard.0)) {
            let mut queue = lane.queue.lock();
            queue.set_leader(leader);
            self.pump(shard, &mut queue, monotonic::now_ms());
        }
        self.resend_requests(shard);
    }
}
