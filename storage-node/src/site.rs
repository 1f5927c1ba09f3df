//! The site: everything that its replicas share, and which replicas it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_log::{Disk, RecoveredReplica, ReplicaKey, SiteLog};
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::ids::{ReplicaId, ShardId, SiteId};
use holdfast_proto::meta::{Damaged, ShardInfo, Topology};
use holdfast_proto::shard::ShardPosition;
use holdfast_proto::storage::{
    Leaders, ReplicaDescription, ShardLeader, SiteDescription, site_frame::Frame,
};
use holdfast_shard::Shard;
use openraft::SnapshotPolicy;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use thiserror::Error;

use crate::admission::Admission;
use crate::clocks::Clocks;
use crate::config::{Config, RaftConfig};
use crate::fatal::Fatal;
use crate::feed::FeedQueue;
use crate::raft::log_store::LogStore;
use crate::raft::machine::Machine;
use crate::raft::network::Network;
use crate::raft::peers::Peers;
use crate::raft::{Member, Raft};
use crate::replica::cell::Cell;
use crate::replica::{DiskState, Parts, Replica, upkeep};
use crate::serve::link::Links;
use crate::serve::tails::{self, Tails};
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
    pub(crate) clocks: Clocks,
    pub(crate) disk_state: DiskState,
    pub(crate) shutdown: Shutdown,
    pub(crate) fatal: Fatal,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    /// Replicas of this site that may never vote again, and why.
    quarantined: Mutex<BTreeMap<ReplicaKey, String>>,
    topology: RwLock<Arc<Topology>>,
    leaders: Mutex<BTreeMap<u16, (u64, u64)>>,
}

/// Key of the last topology in the site's store.
const TOPOLOGY: &[u8] = b"topology";

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
        let peers = Peers::new(parts.cluster_id.clone(), parts.site_id.0, shutdown.clone());
        let admission = Admission::new(parts.config.raft.admitted_bytes_max);
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
            clocks: Clocks::default(),
            disk_state: parts.disk_state,
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

    /// The topology that this site knew when it was stopped.
    pub(crate) fn remembered_topology(&self) -> Result<Option<Topology>, StoreError> {
        match self.store.get(TOPOLOGY)? {
            None => Ok(None),
            Some(bytes) => Ok(Some(Topology::decode(bytes)?)),
        }
    }

    /// Takes a topology: connects to sites, starts and ends replicas.
    pub(crate) async fn take_topology(self: &Arc<Self>, topology: Topology) {
        let changed = {
            let known = self.topology.read();
            known.placement != topology.placement || known.sites != topology.sites
        };
        if changed && let Err(error) = self.store.put(TOPOLOGY, &topology.encode_to_vec()) {
            self.fatal.stop("remember the topology", &error);
        }
        let topology = Arc::new(topology);
        *self.topology.write() = topology.clone();
        self.peers
            .set_sites(topology.sites.iter().map(|site| (site.site_id, site.address.clone())));
        for placed in &topology.placement {
            self.place(placed).await;
        }
    }

    async fn place(self: &Arc<Self>, placed: &ShardInfo) {
        let shard = ShardId(placed.shard as u16);
        let mine = placed.replicas.iter().find(|replica| replica.site_id == self.site_id.0);
        let running = self.replica(shard);
        if let Some(replica) = &running
            && mine.is_none_or(|mine| ReplicaId(mine.replica_id) != replica.key.replica)
        {
            if mine.is_none() {
                // It leaves when the leader has taken it out of the group.
                return;
            }
            self.end(replica).await;
        }
        let Some(mine) = mine else { return };
        let key = ReplicaKey { shard, replica: ReplicaId(mine.replica_id) };
        if self.quarantined.lock().contains_key(&key) || self.runs(key) {
            return;
        }
        self.forget_predecessors(key);
        if let Err(error) = self.start(key, placed).await {
            tracing::error!(shard = shard.0, replica = key.replica.0, %error, "replica not started");
            self.quarantined.lock().insert(key, error.to_string());
        }
    }

    fn runs(&self, key: ReplicaKey) -> bool {
        self.replica(key.shard).is_some_and(|replica| replica.key == key)
    }

    async fn end(&self, replica: &Arc<Replica>) {
        tracing::info!(
            shard = replica.key.shard.0,
            replica = replica.key.replica.0,
            "replica ends"
        );
        replica.stop().await;
        self.replicas.write().remove(&replica.key.shard);
        self.log.remove_replica(replica.key, Box::new(|_| {}));
        if let Err(error) = replica.cell.erase() {
            self.fatal.stop("erase a replica", &error);
        }
    }

    /// Removes what is left of this site's earlier replicas of the shard.
    fn forget_predecessors(&self, key: ReplicaKey) {
        let mut quarantined = self.quarantined.lock();
        quarantined.retain(|old, _| {
            let replaced = old.shard == key.shard && old.replica < key.replica;
            if replaced {
                self.log.remove_replica(*old, Box::new(|_| {}));
                if let Ok(store) = self.store.replica(*old)
                    && let Err(error) = store.clear()
                {
                    self.fatal.stop("erase a damaged replica", &error);
                }
            }
            !replaced
        });
    }

    async fn start(
        self: &Arc<Self>,
        key: ReplicaKey,
        placed: &ShardInfo,
    ) -> Result<(), StartError> {
        let store = self.store.replica(key)?;
        self.refuse_lost(key)?;
        self.refuse_overpurged(key, &store)?;
        self.log.add_replica(key);
        let shard = Shard::open(store.clone(), key.shard, self.shards())?;
        let cell = Arc::new(Cell::new(key, self.shards(), store, self.disk.clone(), shard));
        let feed = Arc::new(FeedQueue::default());
        let machine = Machine::open(cell.clone(), feed.clone(), self.fatal.clone())?;
        let limits = &self.config.raft;
        let log = LogStore::new(self.log.clone(), key, limits.append_bytes_max);
        let (shard, cluster) = (key.shard.0, self.cluster_id.clone());
        let network = Network::new(self.peers.clone(), shard, cluster, self.site_id.0);
        let config = raft_config(limits)?;
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
            log_reserve_bytes: self.config.log.reserve_bytes(),
        }));
        self.replicas.write().insert(key.shard, replica.clone());
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
        if !preferred || !placed.retired.is_empty() {
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
    let metrics = replica.raft.data_metrics();
    let metrics = metrics.borrow();
    let shard = replica.cell.shard.lock();
    ReplicaDescription {
        shard: u32::from(replica.key.shard.0),
        replica_id: replica.key.replica.0,
        leader_site,
        term,
        last_index: metrics.last_log.map_or(0, |id| id.index),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        next_position: shard.next_position().0,
        cut_position: shard.cut_position().0,
        generations: shard.generations().to_vec(),
        runs: shard.runs().to_vec(),
        quarantined: String::new(),
        serving: replica.serving().is_ok(),
    }
}

fn raft_config(limits: &RaftConfig) -> Result<openraft::Config, StartError> {
    openraft::Config {
        cluster_name: "holdfast".into(),
        // Elections and heartbeats are ours (see `elections`); openraft uses the first of these as the
        // time that one AppendEntries may take and the last as the lease that voters keep.
        heartbeat_interval: limits.lease_ms * 3 / 4,
        election_timeout_min: limits.lease_ms * 3 / 4 + 1,
        election_timeout_max: limits.voter_lease_ms(),
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
    .validate()
    .map_err(|error| StartError::Raft(error.to_string()))
}

/// Starts what looks after all replicas of the site.
pub(crate) fn spawn_upkeep(site: &Arc<Site>) {
    tokio::spawn(crate::raft::elections::run(site.clone()));
    tokio::spawn(upkeep::run(site.clone()));
    tokio::spawn(crate::feed::run(site.clone()));
}
