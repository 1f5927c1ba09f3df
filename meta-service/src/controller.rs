//! The controller's loop: takes what is queued, lets the core decide, makes that durable, then shows it.

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
    control::{
        Control, CoverId, Effect, Event, Limits as ControlLimits, Now, SteerId, StreamId, Turn,
    },
    membership::{self, Membership, Saved},
    routes::{self, Filter, Routes},
    steering::{Steer, SteerRefusal},
    transitions::Step,
};
use holdfast_node_kit::{clock, health::Health, shutdown::Shutdown};
use holdfast_proto::{
    ids::SiteId,
    meta::{Liveness, ShardRetention, StorageDescription, Topology},
    version::Versions,
};
use parking_lot::Mutex;
use rand::{TryRngCore, rngs::OsRng};
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    config::Config,
    election::Tenure,
    filters::Filters,
    metrics,
    rows::{self, BadRow},
    store::{Committed, Compare, OPS_MAX, Op, Revision, Store, StoreError, Txn, all, get},
};

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
    DescribeStorage(oneshot::Sender<StorageDescription>),
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

    /// Sites, what they hold, and what moves. Nothing: the controller ended.
    pub(crate) async fn describe_storage(&self) -> Option<StorageDescription> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::DescribeStorage(reply)).await.ok()?;
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
    describe: Vec<oneshot::Sender<StorageDescription>>,
    /// That the store was set back was logged.
    set_back_logged: bool,
}

/// Reads what is durable, or founds a cluster.
pub(crate) async fn start(
    config: &Config,
    store: Arc<dyn Store>,
    tenure: Tenure,
) -> Result<(Controller, ControllerLoop), ControllerError> {
    let (saved, cluster_revision) = load_cluster(config, store.as_ref()).await?;
    let mut gateways = Vec::new();
    for entry in all(store.as_ref(), rows::GATEWAYS).await? {
        gateways.push(rows::read_gateway(&entry.key, &entry.value)?);
    }
    let mut filters = Vec::new();
    for entry in all(store.as_ref(), rows::FILTERS).await? {
        filters.push(rows::read_filter(&entry.key)?);
    }
    let version = next_filter_version(store.as_ref()).await?;

    let limits = &config.limits;
    let began = Instant::now();
    let now = Now { mono_ms: 0, wall_ms: clock::now_ms() };
    let membership = Membership::new(
        membership::Limits {
            sites_max: limits.sites_max,
            gateways_max: limits.gateways_max,
            dead_gateways_max: limits.dead_gateways_max,
            dead_gateway_ms: limits.dead_gateway_s * 1000,
            versions: Versions::up_to(config.protocol_version_max),
        },
        saved,
        gateways,
    );
    let routes = Routes::new(route_limits(config), version, filters.iter().cloned());
    let control_limits = ControlLimits {
        duplicate_ms: u64::from(config.lease_ms) / 3,
        covers_max: limits.covers_max,
        replace_after_ms: config.site_replace_after_s * 1000,
        transitions_max: config.transitions_max as usize,
    };
    let cluster_id = membership.cluster_id().into();
    let shards = membership.shards();
    let view = View {
        topology: Arc::new(membership.topology()),
        filter_version: version,
        covered: 0,
        retention: Arc::default(),
    };
    let control = Control::new(control_limits, membership, routes, now);
    let (view, seen) = watch::channel(view);
    let filters = Arc::new(Mutex::new(Filters::new(version, filters)));
    let (sender, messages) = mpsc::channel(limits.events_max);
    let controller = Controller {
        messages: sender,
        next_stream: Arc::default(),
        began,
        view: seen,
        filters: filters.clone(),
        cluster_id,
        shards,
        versions: Versions::up_to(config.protocol_version_max),
    };
    let controller_loop = ControllerLoop {
        store,
        tenure,
        control,
        messages,
        began,
        cluster_revision,
        view,
        filters,
        streams: HashMap::new(),
        covers: HashMap::new(),
        next_cover: 0,
        steered: HashMap::new(),
        next_steer: 0,
        describe: Vec::new(),
        set_back_logged: false,
    };
    Ok((controller, controller_loop))
}

/// Bounds of the filter set, as the sweep needs them too.
pub(crate) fn route_limits(config: &Config) -> routes::Limits {
    routes::Limits {
        values_max: config.limits.filter_values_max,
        filters_max: config.limits.filters_max,
        filter_bytes_max: config.limits.filter_bytes_max,
        retire_ms: config.limits.retire_s * 1000,
    }
}

async fn load_cluster(
    config: &Config,
    store: &dyn Store,
) -> Result<(Saved, Revision), ControllerError> {
    if get(store, rows::CLUSTER_KEY).await?.is_none() {
        let saved = found(config)?;
        let key = Bytes::from_static(rows::CLUSTER_KEY);
        let ops = vec![Op::put(key.clone(), rows::write_cluster(saved))];
        store.commit(Txn { compares: vec![Compare::Absent(key)], ops }).await?;
    }
    let Some(entry) = get(store, rows::CLUSTER_KEY).await? else {
        return Err(ControllerError::Superseded);
    };
    let mut saved = rows::read_cluster(&entry.value)?;
    configure(config, &mut saved.topology);
    Ok((saved, entry.modified))
}

fn found(config: &Config) -> Result<Saved, ControllerError> {
    let mut id = [0; 16];
    OsRng.try_fill_bytes(&mut id).map_err(|error| ControllerError::Random(error.to_string()))?;
    let cluster_id = format!("{:032x}", u128::from_be_bytes(id));
    tracing::info!(cluster_id, name = config.name, "founding a cluster");
    let topology = Topology { cluster_id, ..Topology::default() };
    Ok(Saved { topology, next_replica_id: 1, set_back_from: 0 })
}

/// What is configured counts for a formed cluster only where it can still be changed.
fn configure(config: &Config, topology: &mut Topology) {
    let versions = Versions::up_to(config.protocol_version_max);
    (topology.protocol_version, topology.protocol_version_min) = (versions.newest, versions.oldest);
    topology.lease_ms = config.lease_ms;
    let wanted = (u32::from(config.shards), config.replication_factor);
    let formed = (topology.shards, topology.replication_factor);
    if topology.placement.is_empty() {
        (topology.shards, topology.replication_factor) = wanted;
    } else if wanted != formed {
        tracing::warn!(
            shards = formed.0,
            replication_factor = formed.1,
            "the cluster was formed with other numbers than the config has; they stay"
        );
    }
}

/// A version above all that gateways were ever told; durable before anybody is told of it.
async fn next_filter_version(store: &dyn Store) -> Result<u64, ControllerError> {
    let last = match get(store, rows::FILTER_VERSION_KEY).await? {
        None => 0,
        Some(entry) => rows::read_number(&entry.key, &entry.value)?,
    };
    let ops = vec![put_filter_version(last + 1)];
    store.commit(Txn { compares: Vec::new(), ops }).await?;
    Ok(last + 1)
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
                Message::DescribeStorage(reply) => self.describe.push(reply),
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
            let _ = reply.send(self.control.describe_storage(now));
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

    /// Everything in the turn is durable now.
    fn show(&mut self, turn: Turn) {
        if turn.stalled {
            tracing::warn!("the controller stood still: every site and gateway gets a fresh lease");
            metrics::controller_stalled();
        }
        self.show_storage(&turn);
        let news = !turn.deltas.is_empty() || turn.topology.is_some() || turn.retention.is_some();
        if !turn.deltas.is_empty() {
            let mut filters = self.filters.lock();
            turn.deltas.into_iter().for_each(|delta| filters.apply(delta));
        }
        let filter_version = self.control.routes().version();
        let covered = turn.covered;
        let topology = turn.topology.map(Arc::new);
        if let Some(topology) = &topology {
            self.log_changes(topology);
        }
        self.view.send_if_modified(|view| {
            let changed = news || view.covered != covered;
            if let Some(topology) = topology {
                view.topology = topology;
            }
            if let Some(retention) = turn.retention {
                view.retention = retention.into();
            }
            (view.filter_version, view.covered) = (filter_version, covered);
            changed
        });
        metrics::filters(self.control.routes().len(), filter_version - covered.min(filter_version));
        for effect in turn.effects {
            self.effect(effect);
        }
    }

    fn show_storage(&mut self, turn: &Turn) {
        turn.steps.iter().for_each(log_step);
        if let Some(figures) = turn.figures {
            metrics::storage(figures);
        }
        let Some(seen) = turn.set_back_from else { return };
        if !std::mem::replace(&mut self.set_back_logged, true) {
            let version = self.control.membership().version();
            tracing::error!(
                seen,
                version,
                "a site has seen a newer topology: the store was set back, nothing is placed until it is restored"
            );
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Accept { stream } => self.told(stream, |told| told.accepted = true),
            Effect::Renewed { stream, renewal } => {
                self.told(stream, |told| told.renewed = told.renewed.max(renewal));
            }
            Effect::Refuse { stream, refusal } => {
                tracing::warn!(reason = %refusal, "peer refused");
                metrics::peer_refused();
                self.told(stream, |told| told.refused = Some(refusal.to_string()));
            }
            Effect::Covered { request, version } => {
                if let Some((reply, asked)) = self.covers.remove(&request) {
                    metrics::covered(asked.elapsed());
                    // The asker may have gone.
                    let _ = reply.send(Ok(version));
                }
            }
            Effect::Steered { request, result } => {
                if let Err(refusal) = &result {
                    tracing::info!(%refusal, "an operator's request is refused");
                }
                if let Some(reply) = self.steered.remove(&request) {
                    let _ = reply.send(result);
                }
            }
            Effect::Busy { request } => {
                metrics::request_refused("covers_max");
                if let Some((reply, _)) = self.covers.remove(&request) {
                    let _ = reply.send(Err(Busy));
                }
            }
        }
    }

    fn told(&self, stream: StreamId, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.streams.get(&stream) {
            told.send_modify(change);
        }
    }

    fn log_changes(&self, new: &Topology) {
        let old = self.view.borrow().topology.clone();
        if old.placement.is_empty() && !new.placement.is_empty() {
            tracing::info!(shards = new.shards, sites = new.sites.len(), "cluster formed");
        }
        let mut silent = (0, 0);
        for site in &new.sites {
            let before = old.sites.iter().find(|old| old.site_id == site.site_id);
            let before = before.map(|old| (old.liveness, old.state));
            if before != Some((site.liveness, site.state)) {
                let (liveness, state) = (site.liveness().as_str_name(), site.state().as_str_name());
                let id = format!("{:016x}", site.site_id);
                tracing::info!(site = %id, name = site.name, liveness, state, "site");
                let before = before.map(|(liveness, _)| liveness);
                let fell_silent = site.liveness() != Liveness::Up && before != Some(site.liveness);
                silent.0 += usize::from(fell_silent);
            }
        }
        for gateway in &new.gateways {
            let before = old.gateways.iter().find(|old| old.gateway == gateway.gateway);
            if before.map(|old| old.liveness) != Some(gateway.liveness) {
                let (known, state) =
                    (gateway.gateway.clone().unwrap_or_default(), gateway.liveness());
                let incarnation = format!("{:016x}", known.incarnation);
                tracing::info!(
                    incarnation,
                    name = known.name,
                    state = state.as_str_name(),
                    "gateway"
                );
                silent.1 += usize::from(state != Liveness::Up);
            }
        }
        metrics::peers_silent(silent.0, silent.1);
        let up = |liveness: i32| liveness == i32::from(Liveness::Up);
        let sites = new.sites.iter().filter(|site| up(site.liveness)).count();
        let gateways = new.gateways.iter().filter(|gateway| up(gateway.liveness)).count();
        metrics::members(sites, gateways, new.version);
    }
}

fn log_step(step: &Step) {
    let id = |site: &SiteId| format!("{:016x}", site.0);
    match step {
        Step::Move { shard, from, to } => {
            tracing::info!(shard, from = %id(from), to = %id(to), "a replica moves");
        }
        Step::Turn { shard, from, to } => {
            tracing::warn!(shard, from = %id(from), to = %id(to), "a replica cannot join: another does");
        }
        Step::Confirm { .. } => {}
        Step::Finish { shard } => tracing::info!(shard, "a replica has moved"),
        Step::Lead { shard, site } => {
            tracing::debug!(shard, site = %id(site), "another leader is preferred");
        }
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
