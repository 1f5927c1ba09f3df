//! What operators ask for: drain a site, give one up, forget one, or have a shard where they want it.

use holdfast_proto::{
    ids::SiteId,
    meta::{Liveness, SiteInfo, SiteState},
};
use thiserror::Error;

use crate::membership::Membership;

/// A request, which names sites by their ids in hexadecimal or by their names. Repeating one changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steer {
    /// Moves everything away from a site.
    Drain {
        /// The site.
        site: String,
        /// Calls it off.
        cancel: bool,
    },
    /// Gives a site that is down up for lost.
    Replace {
        /// The site.
        site: String,
    },
    /// Removes a site that is down and holds nothing.
    Forget {
        /// The site.
        site: String,
    },
    /// Makes a site the leader of a shard, and pins that.
    MoveLeader {
        /// The shard.
        shard: u32,
        /// A site that is up and active and has a replica of it.
        site: String,
    },
    /// Moves a replica of a shard to another site, and pins the shard to the sites that it then has.
    MoveReplica {
        /// The shard.
        shard: u32,
        /// A site that has a replica of it.
        from: String,
        /// One that has none, is up and active.
        to: String,
    },
    /// Ends what is pinned of a shard: placement may even it out again.
    Release {
        /// The shard.
        shard: u32,
    },
}

/// Why a request is refused. Reject: an operator has to do something else first.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SteerRefusal {
    /// No site has this id or name.
    #[error("no site has the id or the name {asked:?}; there are {}", listed(known))]
    Unknown {
        /// As asked.
        asked: String,
        /// Names of all sites.
        known: Vec<String>,
    },
    /// Several sites have this name.
    #[error("several sites are called {asked:?}, name one by its id: {}", listed(ids))]
    Ambiguous {
        /// As asked.
        asked: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// Without the site there are too few.
    #[error("{} of {active} active sites are needed for replication factor {replicas}: add a storage node first", active.min(replicas))]
    TooFewSites {
        /// Sites that are up and active.
        active: usize,
        /// The replication factor.
        replicas: usize,
    },
    /// The site is up.
    #[error("site {name} is up: {instead}")]
    Up {
        /// Its name.
        name: String,
        /// What to do.
        instead: &'static str,
    },
    /// The site is lost: there is nothing to drain.
    #[error("site {name} is given up for lost: what it had goes to others already")]
    Lost {
        /// Its name.
        name: String,
    },
    /// The site holds something.
    #[error(
        "site {name} still has {replicas} replicas and history of {holding} more: drain or replace it first"
    )]
    Holds {
        /// Its name.
        name: String,
        /// Replicas in replica sets.
        replicas: usize,
        /// Others.
        holding: usize,
    },
    /// There is no such shard.
    #[error("there is no shard {shard}: {}", numbered(*shards))]
    UnknownShard {
        /// As asked.
        shard: u32,
        /// How many there are; 0 before the cluster is formed.
        shards: usize,
    },
    /// The site has no replica of the shard.
    #[error("site {name} has no replica of shard {shard}; those that have: {}", listed(having))]
    NoReplica {
        /// Its name.
        name: String,
        /// The shard.
        shard: u32,
        /// Names of the sites that have one.
        having: Vec<String>,
    },
    /// The site has a replica of the shard already.
    #[error("site {name} has a replica of shard {shard} already: choose a site that has none")]
    HasReplica {
        /// Its name.
        name: String,
        /// The shard.
        shard: u32,
    },
    /// The site may be given nothing now.
    #[error("site {name} is {state}: choose one that is up and active")]
    Unusable {
        /// Its name.
        name: String,
        /// `down`, `draining`, `drained` or `lost`.
        state: &'static str,
    },
    /// Another site of the shard is about to lose its replica.
    #[error(
        "site {name}, which has a replica of shard {shard} too, is {state}: try again when that replica has moved"
    )]
    Leaving {
        /// Its name.
        name: String,
        /// The shard.
        shard: u32,
        /// `draining`, `drained` or `lost`.
        state: &'static str,
    },
    /// The shard would be in fewer zones.
    #[error(
        "site {to} is in zone {zone:?}, as site {other}, which has a replica of shard {shard} too: choose a site of another zone"
    )]
    SameZone {
        /// The shard.
        shard: u32,
        /// Name of the site that would join.
        to: String,
        /// Its zone.
        zone: String,
        /// Name of a site of the shard in that zone.
        other: String,
    },
    /// A replica of the shard is on its way, or is to be. Retry.
    #[error(
        "a replica of shard {shard} is being moved: try again when it has arrived (releasing the shard calls off what was moved by hand and has not begun)"
    )]
    UnderWay {
        /// The shard.
        shard: u32,
    },
    /// The store was set back.
    #[error(
        "the store of the metadata service is older than what sites have seen: restore it first"
    )]
    SetBack,
}

fn numbered(shards: usize) -> String {
    match shards.checked_sub(1) {
        None => "the cluster is not formed yet, it waits for storage nodes".to_owned(),
        Some(last) => format!("they are 0 to {last}"),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Membership {
    /// Does what an operator asks for. The site that it names last, or, if it names none, the one that is
    /// preferred as leader of its shard; and whether the topology changed.
    ///
    /// # Errors
    /// Why it may not be done.
    pub fn steer(&mut self, request: &Steer) -> Result<(SiteId, bool), SteerRefusal> {
        match request {
            Steer::Drain { site, cancel: false } => self.steer_site(site, Self::drain),
            Steer::Drain { site, cancel: true } => {
                self.steer_site(site, |all, site| Ok(all.cancel_drain(site)))
            }
            Steer::Replace { site } => self.steer_site(site, Self::replace),
            Steer::Forget { site } => self.steer_site(site, Self::forget),
            Steer::MoveLeader { shard, site } => self.move_leader(*shard, site),
            Steer::MoveReplica { shard, from, to } => self.move_replica(*shard, from, to),
            Steer::Release { shard } => self.release(*shard),
        }
    }

    fn steer_site(
        &mut self,
        asked: &str,
        change: impl FnOnce(&mut Membership, SiteId) -> Result<bool, SteerRefusal>,
    ) -> Result<(SiteId, bool), SteerRefusal> {
        let site = self.find(asked)?;
        self.check_not_set_back()?;
        change(self, site).map(|changed| (site, changed))
    }

    pub(crate) fn check_not_set_back(&self) -> Result<(), SteerRefusal> {
        match self.set_back_from() {
            None => Ok(()),
            Some(_) => Err(SteerRefusal::SetBack),
        }
    }

    pub(crate) fn find(&self, asked: &str) -> Result<SiteId, SteerRefusal> {
        let sites = self.sites();
        let id = u64::from_str_radix(asked.trim_start_matches("0x"), 16).map(SiteId);
        let named: Vec<&SiteInfo> = sites.values().filter(|info| info.name == asked).collect();
        match (named.as_slice(), id) {
            ([info], _) => Ok(SiteId(info.site_id)),
            ([], Ok(id)) if sites.contains_key(&id) => Ok(id),
            ([], _) => {
                let known = sites.values().map(|info| info.name.clone()).collect();
                Err(SteerRefusal::Unknown { asked: asked.to_owned(), known })
            }
            (several, _) => {
                let ids = several.iter().map(|info| format!("{:016x}", info.site_id)).collect();
                Err(SteerRefusal::Ambiguous { asked: asked.to_owned(), ids })
            }
        }
    }

    fn drain(&mut self, site: SiteId) -> Result<bool, SteerRefusal> {
        match self.state(site) {
            SiteState::Draining | SiteState::Drained => Ok(false),
            SiteState::Lost => Err(SteerRefusal::Lost { name: self.name(site) }),
            SiteState::Active => {
                self.check_enough_without(site)?;
                Ok(self.set_state(site, SiteState::Draining))
            }
        }
    }

    fn cancel_drain(&mut self, site: SiteId) -> bool {
        let drains = matches!(self.state(site), SiteState::Draining | SiteState::Drained);
        drains && self.set_state(site, SiteState::Active)
    }

    fn replace(&mut self, site: SiteId) -> Result<bool, SteerRefusal> {
        if self.is_up(site) {
            let instead = "drain it instead";
            return Err(SteerRefusal::Up { name: self.name(site), instead });
        }
        if matches!(self.state(site), SiteState::Lost | SiteState::Drained) {
            return Ok(false);
        }
        // Nobody has to take the place of one that holds nothing.
        if self.holdings(site) != (0, 0) {
            self.check_enough_without(site)?;
        }
        Ok(self.set_state(site, SiteState::Lost))
    }

    fn forget(&mut self, site: SiteId) -> Result<bool, SteerRefusal> {
        let name = self.name(site);
        if self.is_up(site) {
            let instead = "stop its process first, and drain it before that";
            return Err(SteerRefusal::Up { name, instead });
        }
        match self.holdings(site) {
            (0, 0) => Ok(self.remove_site(site)),
            (replicas, holding) => Err(SteerRefusal::Holds { name, replicas, holding }),
        }
    }

    fn check_enough_without(&self, site: SiteId) -> Result<(), SteerRefusal> {
        let replicas = self.replication_factor();
        if self.eligible_without(site) >= replicas {
            return Ok(());
        }
        // No site has the id 0.
        Err(SteerRefusal::TooFewSites { active: self.eligible_without(SiteId(0)), replicas })
    }

    pub(crate) fn state(&self, site: SiteId) -> SiteState {
        self.sites().get(&site).map_or(SiteState::Active, SiteInfo::state)
    }

    pub(crate) fn is_up(&self, site: SiteId) -> bool {
        self.sites().get(&site).is_some_and(|info| info.liveness() == Liveness::Up)
    }

    pub(crate) fn name(&self, site: SiteId) -> String {
        self.sites().get(&site).map(|info| info.name.clone()).unwrap_or_default()
    }
}
