//! The cluster's sites and gateways, and where its shards are: what the topology says.
//!
//! Invariants: replica ids are never used twice; the version grows with every change; once formed, a
//! cluster keeps its number of shards.

use std::collections::BTreeMap;

use holdfast_proto::{
    PROTOCOL_VERSION,
    ids::{Incarnation, SiteId},
    meta::{
        Damaged, GatewayInfo, GatewayReport, Liveness, ReplicaInfo, ShardInfo, SiteInfo,
        SiteReport, SiteState, Topology,
    },
};
use thiserror::Error;

use crate::placement::{self, Candidate};

/// Label of a site that names what fails together with it.
pub const ZONE_LABEL: &str = "zone";

/// How many replaced replica ids a shard remembers.
const RETIRED_MAX: usize = 16;

/// Why a peer's report is refused; the peer is to stop and tell its operator.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks another protocol.
    #[error("protocol version {theirs} is not {PROTOCOL_VERSION}, which this cluster speaks")]
    Protocol {
        /// The peer's version.
        theirs: u32,
    },
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs}, this is cluster {ours}")]
    OtherCluster {
        /// The peer's cluster.
        theirs: String,
        /// Our cluster.
        ours: String,
    },
    /// It says that it is a member, and is not.
    #[error("site {site} says that it belongs to this cluster, which does not know it")]
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
}

/// What is persisted of a membership, apart from gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Without gateways.
    pub topology: Topology,
    /// Replica ids below are used.
    pub next_replica_id: u64,
}

/// Sites, placement and gateways.
#[derive(Debug)]
pub struct Membership {
    limits: Limits,
    /// Its `sites`, and `gateways` stay empty here.
    head: Topology,
    next_replica_id: u64,
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
        Saved { topology, next_replica_id: self.next_replica_id }
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
        self.check_peer(report.protocol_version, &report.cluster_id)?;
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
        self.check_peer(report.protocol_version, &report.cluster_id)?;
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

    fn check_peer(&self, theirs: u32, cluster_id: &str) -> Result<(), Refusal> {
        if theirs != PROTOCOL_VERSION {
            return Err(Refusal::Protocol { theirs });
        }
        if !cluster_id.is_empty() && cluster_id != self.head.cluster_id {
            let (theirs, ours) = (cluster_id.to_owned(), self.head.cluster_id.clone());
            return Err(Refusal::OtherCluster { theirs, ours });
        }
        Ok(())
    }

    /// Takes in a checked report. True: the topology changed.
    pub fn site(&mut self, report: &SiteReport) -> bool {
        let liveness = if report.leaving { Liveness::Down } else { Liveness::Up };
        let info = SiteInfo {
            site_id: report.site_id,
            name: report.name.clone(),
            address: report.address.clone(),
            liveness: liveness.into(),
            labels: report.labels.clone(),
            state: SiteState::Active.into(),
        };
        let site = SiteId(report.site_id);
        let mut changed = self.sites.get(&site) != Some(&info);
        if changed {
            self.sites.insert(site, info);
        }
        for damaged in &report.damaged {
            changed |= self.succeed(site, damaged);
        }
        self.form() || changed
    }

    /// The site is silent. True: the topology changed.
    pub fn site_down(&mut self, site: SiteId) -> bool {
        let Some(info) = self.sites.get_mut(&site) else { return false };
        std::mem::replace(&mut info.liveness, Liveness::Down.into()) != i32::from(Liveness::Down)
    }

    /// A damaged replica never votes again: its site joins the shard anew, by a new replica id.
    fn succeed(&mut self, site: SiteId, damaged: &Damaged) -> bool {
        let Some(shard) = self.head.placement.iter_mut().find(|shard| shard.shard == damaged.shard)
        else {
            return false;
        };
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
        if self.is_formed() {
            return false;
        }
        let up = self.sites.values().filter(|site| site.liveness() == Liveness::Up);
        let candidate = |site: &SiteInfo| Candidate {
            site: SiteId(site.site_id),
            zone: site.labels.get(ZONE_LABEL).cloned().unwrap_or_default(),
        };
        let candidates: Vec<Candidate> = up.map(candidate).collect();
        let shards = self.shards();
        let replicas = self.head.replication_factor as usize;
        let Some(placement) = placement::place(&candidates, shards, replicas, &[]) else {
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
