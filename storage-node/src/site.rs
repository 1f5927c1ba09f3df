//! The site: everything that its replicas share, and which replicas it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_log::{Disk, RecoveredReplica, ReplicaKey, SiteLog};
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::ids::{ShardId, SiteId};
use holdfast_proto::meta::{Damaged, ShardInfo, Topology};
use holdfast_proto::shard::ShardPosition;
use holdfast_proto::storage::{
    Leaders, ReplicaDescription, ShardLeader, SiteDescription, site_frame::Frame,
};
use holdfast_shard::Shard;
use openraft::SnapshotPolicy;
use parking_lot::{Mutex, RwLock};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::sync::Semaphore;

use crate::admission::Admission;
use crate::clocks::Clocks;
use crate::config::{Config, RaftConfig};
use crate::fatal::Fatal;
use crate::feed::FeedQueue;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::network::{Network, Permission};
use crate::raft::peers::Peers;
use crate::raft::{Member, Raft, VOTE_TIMEOUT_MARK_MS, elections};
use crate::replica::cell::Cell;
use crate::replica::retention::KnownRetention;
use crate::replica::{DiskState, Parts, Replica, upkeep};
use crate::serve::link::Links;
use crate::serve::match_count::COUNTING_MAX;
use crate::serve::tails::{self, Tails};
use crate::serve::verify::VERIFYING_MAX;
use crate::state_store::{StateStore, StoreError};

/// Why a replica could not be started.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Shard(#[from] holdfast_shard::ShardError),
    #[error("raft: {0}")]
    Raft(String),
}

/// Everything that the replicas of this site share.
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) site_id: SiteId,
    pub(crate) cluster_id: String,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: SiteLog,
    pub(crate) store: StateStore,
    pub(crate) peers: Arc<Peers>,
    pub(crate) links: Arc<Links>,
    pub(crate) admission: Admission,
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) disk_state: DiskState,
    /// Something changed that meta-service is to know at once.
    pub(crate) news: Notify,
    /// A run is missing, or wanted at once.
    pub(crate) fetching: Arc<Notify>,
    /// Bytes that this site's data takes, as last measured.
    pub(crate) used_bytes: AtomicU64,
    leaving: AtomicBool,
    /// meta-service does not take this site for a member.
    pub(crate) refused: AtomicBool,
    /// The newest topology offered was older than one seen before.
    pub(crate) set_back: AtomicBool,
    /// Replicas with data on this disk.
    pub(crate) erasable: Mutex<BTreeSet<ReplicaKey>>,
    /// What meta-service says of retention in all shards.
    pub(crate) retention: KnownRetention,
    /// Counts for other sites that are worked on at once.
    pub(crate) counting: Semaphore,
    /// Replicas whose runs are verified at once.
    pub(crate) verifying: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    pub(crate) fatal: Fatal,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    /// Replicas of this site that may never vote again, and why.
    quarantined: Mutex<BTreeMap<ReplicaKey, String>>,
    topology: RwLock<Arc<Topology>>,
    leaders: Mutex<BTreeMap<u16, (u64, u64)>>,
}

/// What a site is opened with.
pub(crate) struct SiteParts {
    pub(crate) config: Config,
    pub(crate) site_id: SiteId,
    pub(crate) cluster_id: String,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: SiteLog,
    pub(crate) store: StateStore,
    pub(crate) shutdown: Shutdown,
    pub(crate) disk_state: DiskState,
    pub(crate) recovered: Vec<RecoveredReplica>,
}

impl Site {
    pub(crate) fn new(parts: SiteParts) -> Arc<Site> {
        let shutdown = parts.shutdown;
        let (cluster_id, versions) = (parts.cluster_id.clone(), parts.config.versions());
        let snapshots_max = parts.config.raft.snapshots_max;
        let peers =
            Peers::new(cluster_id, parts.site_id.0, versions, snapshots_max, shutdown.clone());
        let admission = Admission::new(parts.config.raft.admitted_bytes_max);
        let erasable = parts.recovered.iter().map(|replica| replica.key).collect();
        let quarantined = parts
            .recovered
            .into_iter()
            .filter_map(|replica| Some((replica.key, replica.damaged?)))
            .collect();
        Arc::new(Site {
            config: parts.config,
            site_id: parts.site_id,
            cluster_id: parts.cluster_id,
            disk: parts.disk,
            log: parts.log,
            store: parts.store,
            peers,
            links: Arc::default(),
            admission,
            clocks: Arc::default(),
            disk_state: parts.disk_state,
            news: Notify::new(),
            fetching: Arc::default(),
            used_bytes: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            set_back: AtomicBool::new(false),
            erasable: Mutex::new(erasable),
            retention: KnownRetention::default(),
            counting: Semaphore::new(COUNTING_MAX),
            verifying: Arc::new(Semaphore::new(VERIFYING_MAX)),
            shutdown,
            fatal: Fatal::default(),
            replicas: RwLock::default(),
            quarantined: Mutex::new(quarantined),
            topology: RwLock::default(),
            leaders: Mutex::default(),
        })
    }

    pub(crate) fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas.read().get(&shard).cloned()
    }

    pub(crate) fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().values().cloned().collect()
    }

    pub(crate) fn topology(&self) -> Arc<Topology> {
        self.topology.read().clone()
    }

    /// How many shards the cluster has; 0 before it is formed.
    pub(crate) fn shards(&self) -> u16 {
        self.topology.read().shards as u16
    }

    /// The newest topology that was taken.
    pub(crate) fn set_topology(&self, topology: Arc<Topology>) {
        *self.topology.write() = topology;
    }

    /// No request reaches the shard's replica any more.
    pub(crate) fn forget_running(&self, shard: ShardId) {
        self.replicas.write().remove(&shard);
        self.leaders.lock().remove(&shard.0);
    }

    pub(crate) fn is_quarantined(&self, key: ReplicaKey) -> bool {
        self.quarantined.lock().contains_key(&key)
    }

    pub(crate) fn quarantined_keys(&self) -> Vec<ReplicaKey> {
        self.quarantined.lock().keys().copied().collect()
    }

    /// The replica may never vote again.
    pub(crate) fn quarantine(&self, key: ReplicaKey, reason: String) {
        self.quarantined.lock().insert(key, reason);
        self.news.notify_one();
    }

    /// The replica is gone: nothing is left to be said of it.
    pub(crate) fn release(&self, key: ReplicaKey) {
        self.quarantined.lock().remove(&key);
    }

    /// The site is about to stop: it leads nothing new.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.news.notify_one();
    }

    /// Starts a replica.
    pub(crate) async fn start(
        self: &Arc<Self>,
        key: ReplicaKey,
        placed: &ShardInfo,
        holder: bool,
    ) -> Result<(), StartError> {
        let store = self.store.replica(key)?;
        self.refuse_lost(key)?;
        self.refuse_overpurged(key, &store)?;
        self.log.add_replica(key);
        let shard = Shard::open(store.clone(), key.shard, self.shards())?;
        let cell = Cell::new(key, self.shards(), store, self.disk.clone(), shard);
        let cell = Arc::new(cell.fetched_by(self.fetching.clone()).timed_by(self.clocks.clone()));
        let feed = Arc::new(FeedQueue::default());
        let machine = Machine::open(cell.clone(), feed.clone(), self.fatal.clone())?;
        let limits = &self.config.raft;
        let log = LogStore::new(self.log.clone(), key, limits.append_bytes_max);
        let (shard, cluster) = (key.shard.0, self.cluster_id.clone());
        let handed_over = Permission::default();
        let permission = handed_over.clone();
        let peers = self.peers.clone();
        let network = Network::new(peers, shard, cluster, self.site_id.0, permission);
        let config = raft_config(limits);
        let raft = Raft::new(key.replica.0, Arc::new(config), network, log, machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        let replica = Arc::new(Replica::new(Parts {
            key,
            raft,
            cell,
            log: self.log.clone(),
            tails: Tails::new(self.links.clone(), self.config.serving.block_bytes_max),
            feed,
            limits: limits.clone(),
            fatal: self.fatal.clone(),
            disk: self.disk_state.clone(),
            handed_over,
            log_reserve_bytes: self.config.log.reserve_bytes(),
        }));
        replica.set_holder(holder);
        self.erasable.lock().insert(key);
        self.replicas.write().insert(key.shard, replica.clone());
        tokio::spawn(elections::watch(self.clone(), replica.clone()));
        tokio::spawn(replica.clone().propose_forever());
        tokio::spawn(replica.clone().purge_forever(self.config.log.bytes_max));
        tokio::spawn(tails::run(replica.clone()));
        self.initialize(&replica, placed).await;
        tracing::info!(shard = key.shard.0, replica = key.replica.0, "replica started");
        Ok(())
    }

    /// A replica that this site held and that its log does not know has lost its votes.
    fn refuse_lost(&self, key: ReplicaKey) -> Result<(), StartError> {
        if self.log.state(key).is_none() && self.store.remembers_replica(key)? {
            return Err(StartError::Raft("the site log has lost this replica".into()));
        }
        Ok(())
    }

    /// Notes each replica that has begun to vote or to hold entries.
    pub(crate) fn remember_replicas(&self) -> Result<(), StoreError> {
        for replica in self.replicas() {
            let begun = self.log.state(replica.key).is_some_and(|state| state.vote.is_some());
            if begun && !self.store.remembers_replica(replica.key)? {
                self.store.remember_replica(replica.key)?;
            }
        }
        Ok(())
    }

    /// Purge is a promise that a checkpoint has what it removes.
    fn refuse_overpurged(
        &self,
        key: ReplicaKey,
        store: &crate::state_store::ReplicaStore,
    ) -> Result<(), StartError> {
        let applied = store.applied()?.and_then(|meta| meta.last).map_or(0, |last| last.index);
        let purged =
            self.log.state(key).and_then(|state| state.purged).map_or(0, |(index, _)| index);
        if purged > applied {
            return Err(StartError::Raft(format!(
                "log is purged to {purged} but the state is of {applied}: its data is damaged"
            )));
        }
        Ok(())
    }

    /// The preferred leader forms the group of a shard that is new.
    async fn initialize(&self, replica: &Replica, placed: &ShardInfo) {
        let preferred = placed.replicas.first().map(|first| first.site_id) == Some(self.site_id.0);
        // A shard that had other replicas before is not new, whoever is preferred now.
        if !preferred || !placed.retired.is_empty() || !placed.holders.is_empty() {
            return;
        }
        if replica.raft.is_initialized().await.unwrap_or(true) {
            return;
        }
        let members: BTreeMap<u64, Member> = placed
            .replicas
            .iter()
            .map(|replica| (replica.replica_id, Member { site: replica.site_id }))
            .collect();
        if let Err(error) = replica.raft.initialize(members).await {
            tracing::warn!(shard = placed.shard, %error, "group not formed");
        }
    }

    /// What the placement says of a shard.
    pub(crate) fn placement(&self, shard: ShardId) -> Option<ShardInfo> {
        let topology = self.topology.read();
        topology.placement.iter().find(|placed| placed.shard == u32::from(shard.0)).cloned()
    }

    /// Replicas that need a successor.
    pub(crate) fn damaged(&self) -> Vec<Damaged> {
        let quarantined = self.quarantined.lock();
        let damaged = quarantined.iter().map(|(key, reason)| Damaged {
            shard: u32::from(key.shard.0),
            replica_id: key.replica.0,
            reason: reason.clone(),
        });
        damaged.collect()
    }

    /// Takes note of who leads a replica's shard; tells the gateways when it changed.
    pub(crate) fn leadership_seen(&self, replica: &Replica, leads: bool) {
        if replica.is_holder() && !leads {
            // It may have left the group, and hear nothing of its leaders.
            self.leaders.lock().remove(&replica.key.shard.0);
            if replica.cell.is_leading() {
                replica.set_leading(false);
            }
            return replica.tails.stop_all(replica.key.shard.0, 0);
        }
        if replica.cell.is_leading() != leads {
            replica.set_leading(leads);
            if leads {
                replica.feed.resync();
            }
        }
        let (site, term) = replica.refresh_leader();
        if !leads {
            replica.tails.stop_all(replica.key.shard.0, site);
        }
        // A new leader is named once it can serve.
        if leads && replica.serving().is_err() {
            return;
        }
        let shard = replica.key.shard.0;
        let changed = self.leaders.lock().insert(shard, (site, term)) != Some((site, term));
        if changed {
            let leader = ShardLeader { shard: u32::from(shard), site_id: site, term };
            tracing::info!(shard, leader = format!("{site:016x}"), term, "leader");
            self.links.broadcast(&Frame::Leaders(Leaders { leaders: vec![leader] }));
        }
    }

    /// Leaders as this site knows them.
    pub(crate) fn leaders(&self) -> Leaders {
        let leaders = self.leaders.lock();
        let leader = |(shard, (site_id, term)): (&u16, &(u64, u64))| ShardLeader {
            shard: u32::from(*shard),
            site_id: *site_id,
            term: *term,
        };
        Leaders { leaders: leaders.iter().map(leader).collect() }
    }

    pub(crate) fn leader_of(&self, shard: u16) -> u64 {
        self.leaders.lock().get(&shard).map_or(0, |(site, _)| *site)
    }

    /// Shards that this site leads, with their terms.
    pub(crate) fn leading(&self) -> Vec<ShardLeader> {
        let mut leading = self.leaders().leaders;
        leading.retain(|leader| leader.site_id == self.site_id.0);
        leading
    }

    /// Applied heads of the shards that this site leads.
    pub(crate) fn led_heads(&self) -> Vec<ShardPosition> {
        let replicas = self.replicas.read();
        let led = replicas.values().filter(|replica| replica.serving().is_ok());
        led.map(|replica| ShardPosition {
            shard: u32::from(replica.key.shard.0),
            position: replica.cell.shard.lock().next_position().0,
        })
        .collect()
    }

    /// What this site holds, for people and scripts.
    pub(crate) fn describe(&self) -> SiteDescription {
        let replicas = self.replicas();
        let mut described: Vec<ReplicaDescription> =
            replicas.iter().map(|replica| describe(replica)).collect();
        for (key, reason) in self.quarantined.lock().iter() {
            described.push(ReplicaDescription {
                shard: u32::from(key.shard.0),
                replica_id: key.replica.0,
                quarantined: reason.clone(),
                ..ReplicaDescription::default()
            });
        }
        SiteDescription {
            site_id: self.site_id.0,
            cluster_id: self.cluster_id.clone(),
            replicas: described,
        }
    }
}

fn describe(replica: &Replica) -> ReplicaDescription {
    let (leader_site, term) = replica.refresh_leader();
    let serving = replica.serving().is_ok();
    let (last_index, applied_index) = {
        let metrics = replica.raft.data_metrics();
        let metrics = metrics.borrow();
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        (index(metrics.last_log), index(metrics.last_applied))
    };
    let in_runs: u64 = replica.cell.runs().iter().map(|(_, topics)| u64::from(*topics)).sum();
    let shard = replica.cell.shard.lock();
    // Positions are dense: what is kept is what lies above the oldest generation's begin.
    let kept =
        shard.generations().first().map_or(shard.next_position().0, |row| row.first_position);
    ReplicaDescription {
        shard: u32::from(replica.key.shard.0),
        replica_id: replica.key.replica.0,
        leader_site,
        term,
        last_index,
        applied_index,
        next_position: shard.next_position().0,
        cut_position: shard.cut_position().0,
        generations: shard.generations().to_vec(),
        runs: shard.runs().to_vec(),
        serving,
        messages: shard.next_position().0 - kept,
        streams: in_runs + shard.tail().topics() as u64,
        ..ReplicaDescription::default()
    }
}

/// Not validated by openraft: it wants elections to be slower than heartbeats, and runs neither here.
fn raft_config(limits: &RaftConfig) -> openraft::Config {
    openraft::Config {
        cluster_name: "holdfast".into(),
        // The time that one AppendEntries may take.
        heartbeat_interval: limits.lease_ms * 3 / 4,
        // Elections, heartbeats and the voters' lease are ours (see `elections`, `replica::voting`).
        // openraft's voters keep a lease of the last of these; the first marks the time-out of a vote
        // request (see `raft::runtime`).
        election_timeout_min: VOTE_TIMEOUT_MARK_MS,
        election_timeout_max: VOTE_TIMEOUT_MARK_MS + 1,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        snapshot_policy: SnapshotPolicy::Never,
        // Purges are ours (see `upkeep`).
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 1_024,
        install_snapshot_timeout: 60_000,
        ..openraft::Config::default()
    }
}

/// Starts what looks after all replicas of the site.
pub(crate) fn spawn_upkeep(site: &Arc<Site>) {
    tokio::spawn(crate::raft::elections::run(site.clone()));
    tokio::spawn(upkeep::run(site.clone()));
    tokio::spawn(crate::walk::run(site.clone()));
    tokio::spawn(crate::walk::lag::run(site.clone()));
    tokio::spawn(crate::feed::run(site.clone()));
}
