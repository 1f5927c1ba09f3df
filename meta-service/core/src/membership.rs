//! The cluster's sites and gateways, and where its shards are: what the topology says.
//!
//! Invariants: replica ids are never used twice; the version grows with every change; once formed, a
//! cluster keeps its number of shards.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::{
    ids::{Incarnation, SiteId},
    meta::{
        Damaged, GatewayInfo, GatewayReport, Liveness, ReplicaInfo, ShardInfo, SiteInfo,
        SiteReport, SiteState, Topology,
    },
    version::{NoCommonVersion, Versions},
};
use thiserror::Error;

use crate::{
    placement::{self, Candidate},
    reports::Reports,
    transitions::{Given, Member, Members, Step, Transitions},
};

/// Label of a site that names what fails together with it.
pub const ZONE_LABEL: &str = "zone";

/// How many replaced replica ids a shard remembers.
const RETIRED_MAX: usize = 16;

/// Why a peer's report is refused; the peer is to stop and tell its operator.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks another protocol.
    #[error("protocol version {} cannot be spoken here: {_0}", _0.theirs.newest)]
    Protocol(#[from] NoCommonVersion),
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The peer's cluster.
        theirs: String,
        /// Our cluster.
        ours: String,
    },
    /// It says that it is a member, and is not.
    #[error(
        "site {site} says that it belongs to this cluster, which does not know it: \
         if it was forgotten, an empty data directory makes it a new site"
    )]
    UnknownSite {
        /// The site.
        site: SiteId,
    },
    /// Two processes at once have the same site id.
    #[error("site {site} is running at {address} already: was its data directory copied?")]
    SiteTwice {
        /// The site.
        site: SiteId,
        /// Address of the first.
        address: String,
    },
    /// An id or an address is missing.
    #[error("its report has no {field}")]
    Missing {
        /// What is missing.
        field: &'static str,
    },
    /// There are too many of its kind.
    #[error("the cluster has its most of {kind}, {max}")]
    TooMany {
        /// `sites` or `gateways`.
        kind: &'static str,
        /// The limit.
        max: usize,
    },
}

/// A gateway process life.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayState {
    /// As in the topology.
    pub info: GatewayInfo,
    /// Wall clock at its death, ms since the Unix epoch; 0 while it lives.
    pub died_at_ms: u64,
}

/// Bounds of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sites that can register.
    pub sites_max: usize,
    /// Gateways that can live at once.
    pub gateways_max: usize,
    /// Dead gateways that the topology still names, so that shards abandon their sessions.
    pub dead_gateways_max: usize,
    /// How long it names them, in ms.
    pub dead_gateway_ms: u64,
    /// What this process speaks.
    pub versions: Versions,
}

/// What is persisted of a membership, apart from gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Without gateways.
    pub topology: Topology,
    /// Replica ids below are used.
    pub next_replica_id: u64,
    /// A site has seen this version of the topology, which is newer than the store had: the store was set
    /// back. 0: no such site.
    pub set_back_from: u64,
}

/// Sites, placement and gateways.
#[derive(Debug)]
pub struct Membership {
    limits: Limits,
    /// Its `sites`, and `gateways` stay empty here.
    head: Topology,
    next_replica_id: u64,
    set_back_from: u64,
    sites: BTreeMap<SiteId, SiteInfo>,
    gateways: BTreeMap<Incarnation, GatewayState>,
}

impl Membership {
    /// A cluster as persisted. What is configured applies to what is not fixed yet.
    pub fn new(
        limits: Limits,
        mut saved: Saved,
        gateways: impl IntoIterator<Item = GatewayState>,
    ) -> Membership {
        let sites = std::mem::take(&mut saved.topology.sites);
        let sites = sites.into_iter().map(|site| (SiteId(site.site_id), site)).collect();
        let gateways =
            gateways.into_iter().map(|gateway| (incarnation(&gateway.info), gateway)).collect();
        Membership {
            limits,
            head: saved.topology,
            next_replica_id: saved.next_replica_id.max(1),
            set_back_from: saved.set_back_from,
            sites,
            gateways,
        }
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.head.cluster_id
    }

    /// Whether shards are placed.
    pub fn is_formed(&self) -> bool {
        !self.head.placement.is_empty()
    }

    /// How long a peer may be silent.
    pub fn lease_ms(&self) -> u64 {
        u64::from(self.head.lease_ms)
    }

    /// How many shards the cluster has, or will have.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.head.shards).unwrap_or(u16::MAX)
    }

    /// All sites.
    pub fn sites(&self) -> &BTreeMap<SiteId, SiteInfo> {
        &self.sites
    }

    /// All gateways, the dead too.
    pub fn gateways(&self) -> &BTreeMap<Incarnation, GatewayState> {
        &self.gateways
    }

    /// The topology as peers see it.
    pub fn topology(&self) -> Topology {
        let gateways = self.gateways.values().map(|gateway| gateway.info.clone()).collect();
        // Nobody may count on the number of shards before there are any.
        let shards = if self.is_formed() { self.head.shards } else { 0 };
        Topology { gateways, shards, ..self.saved().topology }
    }

    /// What to persist.
    pub fn saved(&self) -> Saved {
        let sites = self.sites.values().cloned().collect();
        let topology = Topology { sites, ..self.head.clone() };
        Saved { topology, next_replica_id: self.next_replica_id, set_back_from: self.set_back_from }
    }

    /// Version of the topology.
    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// Where shards are.
    pub fn placement(&self) -> &[ShardInfo] {
        &self.head.placement
    }

    /// Replicas of every shard.
    pub fn replication_factor(&self) -> usize {
        self.head.replication_factor as usize
    }

    /// The version that a site has seen, if it is newer than what the store had.
    pub fn set_back_from(&self) -> Option<u64> {
        (self.set_back_from != 0).then_some(self.set_back_from)
    }

    /// The next version begins.
    pub fn bump(&mut self) {
        self.head.version += 1;
    }

    /// Whether a site may be a member.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check_site(&self, report: &SiteReport) -> Result<(), Refusal> {
        let versions = Versions::announced(report.protocol_version, report.protocol_version_min);
        self.check_peer(versions, &report.cluster_id)?;
        let site = SiteId(report.site_id);
        match site {
            SiteId(0) => return Err(Refusal::Missing { field: "site id" }),
            _ if report.address.is_empty() => return Err(Refusal::Missing { field: "address" }),
            _ if self.sites.contains_key(&site) => {}
            _ if !report.cluster_id.is_empty() => return Err(Refusal::UnknownSite { site }),
            _ if self.sites.len() >= self.limits.sites_max => {
                return Err(Refusal::TooMany { kind: "sites", max: self.limits.sites_max });
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a gateway may be a member.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check_gateway(&self, report: &GatewayReport) -> Result<Incarnation, Refusal> {
        let versions = Versions::announced(report.protocol_version, report.protocol_version_min);
        self.check_peer(versions, &report.cluster_id)?;
        let gateway = report.gateway.as_ref().map_or(0, |gateway| gateway.incarnation);
        if gateway == 0 {
            return Err(Refusal::Missing { field: "incarnation" });
        }
        let gateway = Incarnation(gateway);
        let live = self.gateways.values().filter(|known| known.died_at_ms == 0).count();
        if !self.gateways.contains_key(&gateway) && live >= self.limits.gateways_max {
            return Err(Refusal::TooMany { kind: "gateways", max: self.limits.gateways_max });
        }
        Ok(gateway)
    }

    fn check_peer(&self, theirs: Versions, cluster_id: &str) -> Result<(), Refusal> {
        self.limits.versions.common(theirs)?;
        if !cluster_id.is_empty() && cluster_id != self.head.cluster_id {
            let (theirs, ours) = (cluster_id.to_owned(), self.head.cluster_id.clone());
            return Err(Refusal::OtherCluster { theirs, ours });
        }
        Ok(())
    }

    /// Takes in a checked report. True: the topology changed.
    pub fn site(&mut self, report: &SiteReport) -> bool {
        let mut changed = false;
        if report.topology_version > self.head.version.max(self.set_back_from) {
            self.set_back_from = report.topology_version;
            changed = true;
        }
        let liveness = if report.leaving { Liveness::Down } else { Liveness::Up };
        let known = self.sites.get(&SiteId(report.site_id));
        let state = known.map_or(SiteState::Active, |known| returned(known, liveness));
        let same = known.is_some_and(|known| {
            known.name == report.name
                && known.address == report.address
                && known.labels == report.labels
                && known.liveness() == liveness
                && known.state() == state
        });
        if !same {
            let info = SiteInfo {
                site_id: report.site_id,
                name: report.name.clone(),
                address: report.address.clone(),
                liveness: liveness.into(),
                labels: report.labels.clone(),
                state: state.into(),
            };
            self.sites.insert(SiteId(report.site_id), info);
        }
        self.form() || changed || !same
    }

    /// The site is silent. True: the topology changed.
    pub fn site_down(&mut self, site: SiteId) -> bool {
        let Some(info) = self.sites.get_mut(&site) else { return false };
        std::mem::replace(&mut info.liveness, Liveness::Down.into()) != i32::from(Liveness::Down)
    }

    /// The site's state is another from now on. True: the topology changed.
    pub(crate) fn set_state(&mut self, site: SiteId, state: SiteState) -> bool {
        let Some(info) = self.sites.get_mut(&site) else { return false };
        std::mem::replace(&mut info.state, state.into()) != i32::from(state)
    }

    /// The site is no member any more.
    pub(crate) fn remove_site(&mut self, site: SiteId) -> bool {
        self.sites.remove(&site).is_some()
    }

    /// Replicas of the site, and what it only holds.
    pub fn holdings(&self, site: SiteId) -> (usize, usize) {
        let of = |replicas: &[ReplicaInfo]| {
            replicas.iter().filter(|replica| replica.site_id == site.0).count()
        };
        let shards = self.head.placement.iter();
        shards.fold((0, 0), |(replicas, holders), shard| {
            (replicas + of(&shard.replicas), holders + of(&shard.holders))
        })
    }

    /// Sites that are up and hold what placement gives them, apart from one.
    pub fn eligible_without(&self, site: SiteId) -> usize {
        let eligible = |info: &&SiteInfo| is_eligible(info) && info.site_id != site.0;
        self.sites.values().filter(eligible).count()
    }

    /// Sites that are down and have not been given up, and whose address another site has that is up:
    /// their disks were wiped.
    pub(crate) fn succeeded_sites(&self) -> Vec<SiteId> {
        let up = |info: &&SiteInfo| info.liveness() == Liveness::Up;
        let kept = |info: &&SiteInfo| {
            info.liveness() != Liveness::Up
                && matches!(info.state(), SiteState::Active | SiteState::Draining)
        };
        let mut down = self.sites.values().filter(kept).peekable();
        if down.peek().is_none() {
            return Vec::new();
        }
        let addresses: BTreeSet<&str> =
            self.sites.values().filter(up).map(|info| info.address.as_str()).collect();
        let gone = down.filter(|info| addresses.contains(info.address.as_str()));
        gone.map(|info| SiteId(info.site_id)).collect()
    }

    /// A shard, to be placed by hand.
    pub(crate) fn shard_mut(&mut self, shard: u32) -> Option<&mut ShardInfo> {
        self.head.placement.get_mut(shard as usize)
    }

    /// Sites as transitions see them.
    pub fn members(&self) -> Members {
        self.sites.iter().map(|(site, info)| (*site, member(info))).collect()
    }

    /// Takes the next steps towards where shards should be.
    pub fn decide(
        &mut self,
        transitions: &mut Transitions,
        members: &Members,
        reports: &Reports,
        now_ms: u64,
        hold: bool,
    ) -> Vec<Step> {
        let given = Given {
            members,
            reports,
            replicas: self.replication_factor(),
            next_version: self.head.version + 1,
            now_ms,
            hold,
        };
        transitions.decide(&mut self.head.placement, &mut self.next_replica_id, given)
    }

    /// Sites that are drained and hold nothing any more are called so. True: the topology changed.
    pub fn settle_drained(&mut self) -> bool {
        let draining = |info: &&SiteInfo| info.state() == SiteState::Draining;
        let draining: Vec<SiteId> =
            self.sites.values().filter(draining).map(|info| SiteId(info.site_id)).collect();
        let empty = draining.into_iter().filter(|site| self.holdings(*site) == (0, 0));
        let empty: Vec<SiteId> = empty.collect();
        empty
            .iter()
            .fold(false, |changed, site| self.set_state(*site, SiteState::Drained) | changed)
    }

    /// Gives damaged replicas their successors; the shards that changed.
    pub fn succeed_damaged(&mut self, site: SiteId, damaged: &[Damaged]) -> Vec<u32> {
        if self.set_back_from != 0 {
            return Vec::new();
        }
        let succeeded = damaged.iter().filter(|damaged| self.succeed(site, damaged));
        succeeded.map(|damaged| damaged.shard).collect()
    }

    /// A damaged replica never votes again: its site joins the shard anew, by a new replica id.
    fn succeed(&mut self, site: SiteId, damaged: &Damaged) -> bool {
        let shards = &mut self.head.placement;
        let Some(shard) = shards.get_mut(damaged.shard as usize) else { return false };
        let held = shard
            .replicas
            .iter_mut()
            .find(|replica| replica.replica_id == damaged.replica_id && replica.site_id == site.0);
        let Some(held) = held else { return false };
        held.replica_id = self.next_replica_id;
        self.next_replica_id += 1;
        shard.retired.push(damaged.replica_id);
        if shard.retired.len() > RETIRED_MAX {
            shard.retired.remove(0);
        }
        true
    }

    /// Places all shards once there are sites enough.
    fn form(&mut self) -> bool {
        if self.is_formed() || self.set_back_from != 0 {
            return false;
        }
        let eligible = self.sites.values().filter(|info| is_eligible(info));
        let candidates: Vec<Candidate> = eligible.map(|info| member(info).candidate).collect();
        let (shards, replicas) = (self.shards(), self.replication_factor());
        let Some(placement) = placement::place(&candidates, shards, replicas, &[], &[]) else {
            return false;
        };
        for (shard, sites) in (0..).zip(placement) {
            let first = self.next_replica_id;
            self.next_replica_id += sites.len() as u64;
            let replica =
                |(replica_id, site): (u64, SiteId)| ReplicaInfo { replica_id, site_id: site.0 };
            let replicas = (first..).zip(sites).map(replica).collect();
            self.head.placement.push(ShardInfo { shard, replicas, ..ShardInfo::default() });
        }
        true
    }

    /// Takes in a checked report. True: the topology changed.
    pub fn gateway(&mut self, gateway: Incarnation, report: &GatewayReport, wall_ms: u64) -> bool {
        let (liveness, died_at_ms) =
            if report.leaving { (Liveness::Dead, wall_ms) } else { (Liveness::Up, 0) };
        let info = GatewayInfo {
            gateway: report.gateway.clone(),
            liveness: liveness.into(),
            mqtt_address: report.mqtt_address.clone(),
        };
        if self.gateways.get(&gateway).is_some_and(|known| known.info == info) {
            return false;
        }
        self.gateways.insert(gateway, GatewayState { info, died_at_ms });
        true
    }

    /// The gateway's lease is over. True: the topology changed.
    pub fn gateway_dead(&mut self, gateway: Incarnation, wall_ms: u64) -> bool {
        match self.gateways.get_mut(&gateway).filter(|known| known.died_at_ms == 0) {
            None => false,
            Some(known) => {
                known.info.liveness = Liveness::Dead.into();
                known.died_at_ms = wall_ms.max(1);
                true
            }
        }
    }

    /// Forgets gateways that died long ago, or more than are kept; which.
    pub fn forget_dead(&mut self, wall_ms: u64) -> Vec<Incarnation> {
        let dead = self.gateways.iter().filter(|(_, known)| known.died_at_ms != 0);
        let mut dead: Vec<(u64, Incarnation)> =
            dead.map(|(id, known)| (known.died_at_ms, *id)).collect();
        dead.sort_unstable();
        let surplus = dead.len().saturating_sub(self.limits.dead_gateways_max);
        let old =
            |died_at_ms: u64| wall_ms.saturating_sub(died_at_ms) > self.limits.dead_gateway_ms;
        let forgotten =
            dead.into_iter().enumerate().filter(|(at, (died, _))| *at < surplus || old(*died));
        let forgotten: Vec<Incarnation> = forgotten.map(|(_, (_, id))| id).collect();
        for id in &forgotten {
            self.gateways.remove(id);
        }
        forgotten
    }
}

fn incarnation(info: &GatewayInfo) -> Incarnation {
    Incarnation(info.gateway.as_ref().map_or(0, |gateway| gateway.incarnation))
}

/// The site is up and active: it may be given replicas.
pub(crate) fn is_eligible(info: &SiteInfo) -> bool {
    info.liveness() == Liveness::Up && info.state() == SiteState::Active
}

/// What fails together with the site; empty: not said.
pub(crate) fn zone(info: &SiteInfo) -> &str {
    info.labels.get(ZONE_LABEL).map_or("", String::as_str)
}

fn member(info: &SiteInfo) -> Member {
    let candidate = Candidate {
        site: SiteId(info.site_id),
        zone: zone(info).to_owned(),
        gains: is_eligible(info),
        keeps: info.state() == SiteState::Active,
    };
    let up = info.liveness() == Liveness::Up;
    Member { candidate, up, lost: info.state() == SiteState::Lost }
}

/// The state of a site that reports: one that was given up is active again, one that was drained only if
/// it was down meanwhile.
fn returned(known: &SiteInfo, liveness: Liveness) -> SiteState {
    let newly = known.liveness() != Liveness::Up && liveness == Liveness::Up;
    match known.state() {
        SiteState::Lost if liveness == Liveness::Up => SiteState::Active,
        SiteState::Drained if newly => SiteState::Active,
        state => state,
    }
}
