//! What operators ask for: drain a site, give one up, forget one.

use holdfast_proto::{
    ids::SiteId,
    meta::{Liveness, SiteInfo, SiteState},
};
use thiserror::Error;

use crate::membership::Membership;

/// A request, which names its site by its id in hexadecimal or by its name.
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
    /// The store was set back.
    #[error(
        "the store of the metadata service is older than what sites have seen: restore it first"
    )]
    SetBack,
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Membership {
    /// Does what an operator asks for. Which site, and whether the topology changed.
    ///
    /// # Errors
    /// Why it may not be done.
    pub fn steer(&mut self, request: &Steer) -> Result<(SiteId, bool), SteerRefusal> {
        let (Steer::Drain { site: asked, .. }
        | Steer::Replace { site: asked }
        | Steer::Forget { site: asked }) = request;
        let site = self.find(asked)?;
        if self.set_back_from().is_some() {
            return Err(SteerRefusal::SetBack);
        }
        let changed = match request {
            Steer::Drain { cancel: false, .. } => self.drain(site),
            Steer::Drain { cancel: true, .. } => Ok(self.cancel_drain(site)),
            Steer::Replace { .. } => self.replace(site),
            Steer::Forget { .. } => self.forget(site),
        };
        changed.map(|changed| (site, changed))
    }

    fn find(&self, asked: &str) -> Result<SiteId, SteerRefusal> {
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
        self.check_enough_without(site)?;
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

    fn state(&self, site: SiteId) -> SiteState {
        self.sites().get(&site).map_or(SiteState::Active, SiteInfo::state)
    }

    fn is_up(&self, site: SiteId) -> bool {
        self.sites().get(&site).is_some_and(|info| info.liveness() == Liveness::Up)
    }

    fn name(&self, site: SiteId) -> String {
        self.sites().get(&site).map(|info| info.name.clone()).unwrap_or_default()
    }
}
