//! Shards that operators have put where they want them.
//!
//! Invariants: a pin names sites that are active, all sites of the shard or none of them, and as leader one
//! that has, or is to have, a replica. What can be kept up no longer ends by itself, the sites and the leader
//! each for itself. A shard is not brought into fewer zones by hand while there is another way.

use std::collections::BTreeSet;

use holdfast_proto::{
    ids::SiteId,
    meta::{ShardInfo, ShardPin, SiteState},
};

use crate::{
    membership::{Membership, is_eligible, zone},
    steering::SteerRefusal,
};

impl Membership {
    /// Makes a site the preferred leader of a shard and pins that.
    pub(crate) fn move_leader(
        &mut self,
        shard: u32,
        asked: &str,
    ) -> Result<(SiteId, bool), SteerRefusal> {
        let info = self.shard(shard)?;
        let site = self.find(asked)?;
        self.check_not_set_back()?;
        let leads = info.replicas.first().is_some_and(|replica| replica.site_id == site.0);
        if leads && info.pin.as_ref().is_some_and(|pin| pin.leader == site.0) {
            return Ok((site, false));
        }
        self.check_usable(site)?;
        self.check_at_rest(info)?;
        let at = self.replica_at(info, site)?;
        if let Some(info) = self.shard_mut(shard) {
            info.replicas[..=at].rotate_right(1);
            info.pin.get_or_insert_default().leader = site.0;
        }
        Ok((site, true))
    }

    /// Pins a shard to the sites that it has, with one instead of another. Transitions bring it there.
    pub(crate) fn move_replica(
        &mut self,
        shard: u32,
        from: &str,
        to: &str,
    ) -> Result<(SiteId, bool), SteerRefusal> {
        let info = self.shard(shard)?;
        let (from, to) = (self.find(from)?, self.find(to)?);
        self.check_not_set_back()?;
        let pinned = info.pin.as_ref().map(|pin| pin.sites.as_slice()).unwrap_or_default();
        if pinned.contains(&to.0) && !pinned.contains(&from.0) {
            return Ok((to, false));
        }
        self.check_usable(to)?;
        self.check_at_rest(info)?;
        self.replica_at(info, from)?;
        if self.replica_at(info, to).is_ok() {
            return Err(SteerRefusal::HasReplica { name: self.name(to), shard });
        }
        let others = info.replicas.iter().map(|replica| SiteId(replica.site_id));
        let others: Vec<SiteId> = others.filter(|site| *site != from).collect();
        self.check_staying(shard, &others)?;
        self.check_zones(info, &others, from, to)?;
        let sites = others.iter().chain([&to]).map(|site| site.0).collect();
        if let Some(info) = self.shard_mut(shard) {
            let pin = info.pin.get_or_insert_default();
            pin.sites = sites;
            if pin.leader == from.0 {
                pin.leader = 0;
            }
        }
        Ok((to, true))
    }

    /// Ends a shard's pin.
    pub(crate) fn release(&mut self, shard: u32) -> Result<(SiteId, bool), SteerRefusal> {
        let info = self.shard(shard)?;
        let preferred = info.replicas.first().map_or(0, |replica| replica.site_id);
        self.check_not_set_back()?;
        let pin = self.shard_mut(shard).and_then(|info| info.pin.take());
        Ok((SiteId(preferred), pin.is_some()))
    }

    /// Ends what can be kept up no longer of all pins; the shards that it was of.
    pub(crate) fn end_pins(&mut self) -> Vec<u32> {
        let mut ended = Vec::new();
        let pinned = self.placement().iter().filter(|info| info.pin.is_some());
        let pinned: Vec<u32> = pinned.map(|info| info.shard).collect();
        for shard in pinned {
            let kept = self.shard(shard).ok().and_then(|info| self.kept(info));
            if let Some(info) = self.shard_mut(shard).filter(|info| info.pin != kept) {
                info.pin = kept;
                ended.push(shard);
            }
        }
        ended
    }

    /// What of a shard's pin can be kept up.
    fn kept(&self, info: &ShardInfo) -> Option<ShardPin> {
        let ShardPin { leader, sites } = info.pin.clone()?;
        let is_active = |site: &u64| {
            let info = self.sites().get(&SiteId(*site));
            info.is_some_and(|info| info.state() == SiteState::Active)
        };
        let whole = sites.len() == self.replication_factor() && sites.iter().all(is_active);
        let sites = if whole { sites } else { Vec::new() };
        let member =
            sites.contains(&leader) || info.replicas.iter().any(|held| held.site_id == leader);
        let leader = if member && is_active(&leader) { leader } else { 0 };
        (leader != 0 || !sites.is_empty()).then_some(ShardPin { leader, sites })
    }

    fn shard(&self, shard: u32) -> Result<&ShardInfo, SteerRefusal> {
        let shards = self.placement();
        let unknown = SteerRefusal::UnknownShard { shard, shards: shards.len() };
        shards.get(shard as usize).ok_or(unknown)
    }

    /// No replica of the shard is on its way, and none is to be by an operator's word.
    fn check_at_rest(&self, info: &ShardInfo) -> Result<(), SteerRefusal> {
        let held = |site: &u64| info.replicas.iter().any(|replica| replica.site_id == *site);
        let arrived = info.pin.as_ref().is_none_or(|pin| pin.sites.iter().all(held));
        if info.holders.is_empty() && arrived {
            return Ok(());
        }
        Err(SteerRefusal::UnderWay { shard: info.shard })
    }

    fn replica_at(&self, info: &ShardInfo, site: SiteId) -> Result<usize, SteerRefusal> {
        let at = info.replicas.iter().position(|replica| replica.site_id == site.0);
        at.ok_or_else(|| {
            let having = info.replicas.iter().map(|replica| self.name(SiteId(replica.site_id)));
            SteerRefusal::NoReplica {
                name: self.name(site),
                shard: info.shard,
                having: having.collect(),
            }
        })
    }

    fn check_usable(&self, site: SiteId) -> Result<(), SteerRefusal> {
        let state = match self.state(site) {
            SiteState::Active if self.is_up(site) => return Ok(()),
            SiteState::Active => "down",
            state => in_words(state),
        };
        Err(SteerRefusal::Unusable { name: self.name(site), state })
    }

    /// Those that are to keep their replicas may.
    fn check_staying(&self, shard: u32, others: &[SiteId]) -> Result<(), SteerRefusal> {
        match others.iter().find(|site| self.state(**site) != SiteState::Active) {
            None => Ok(()),
            Some(site) => Err(SteerRefusal::Leaving {
                name: self.name(*site),
                shard,
                state: in_words(self.state(*site)),
            }),
        }
    }

    /// The shard is in as many zones as before; in fewer only if the replica cannot stay where it is and no
    /// other site would do better.
    fn check_zones(
        &self,
        info: &ShardInfo,
        others: &[SiteId],
        from: SiteId,
        to: SiteId,
    ) -> Result<(), SteerRefusal> {
        let zone_of = |site: SiteId| self.sites().get(&site).map_or("", zone);
        let crowded = |site: SiteId| others.iter().find(|other| zone_of(**other) == zone_of(site));
        let Some(other) = crowded(to).filter(|_| crowded(from).is_none()) else { return Ok(()) };
        let taken: BTreeSet<u64> = info.replicas.iter().map(|replica| replica.site_id).collect();
        let mut free = self.sites().values().filter(|info| {
            is_eligible(info) && (info.site_id == from.0 || !taken.contains(&info.site_id))
        });
        if free.all(|info| crowded(SiteId(info.site_id)).is_some()) {
            return Ok(());
        }
        Err(SteerRefusal::SameZone {
            shard: info.shard,
            to: self.name(to),
            zone: zone_of(to).to_owned(),
            other: self.name(*other),
        })
    }
}

fn in_words(state: SiteState) -> &'static str {
    match state {
        SiteState::Active => "active",
        SiteState::Draining => "draining",
        SiteState::Drained => "drained",
        SiteState::Lost => "lost",
    }
}
