//! Which sites hold which shards: a pure function of the sites and of what is already placed.
//!
//! A shard's replicas are on distinct sites. In this order it is preferred that they are in as many zones
//! as there are, that every site holds the same number of replicas, that every site is preferred leader
//! of the same number of shards, and that nothing moves. Placing what is placed already moves nothing.
//!
//! What is pinned is given: the others are evened out around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_proto::ids::SiteId;

/// A site as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The site.
    pub site: SiteId,
    /// What fails together with it; sites without a zone share the empty one.
    pub zone: String,
    /// It may be given replicas.
    pub gains: bool,
    /// It may keep those that it has; if not, they go as soon as somebody can gain them.
    pub keeps: bool,
}

/// Where a shard is wanted by hand. A pin that names a site that may not keep replicas, or not as many
/// sites as a shard has replicas, counts for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Sites that have its replicas; empty: any.
    pub sites: Vec<SiteId>,
    /// Site that is preferred as leader, and keeps its replica.
    pub leader: Option<SiteId>,
}

/// Sites of every shard, preferred leader first.
pub type Placement = Vec<Vec<SiteId>>;

/// Places `shards` shards with `replicas` replicas each; `current` is what is placed now (empty: nothing),
/// `pins` what is given, in the order of shards (empty: nothing). Nothing if some shard cannot have that many.
pub fn place(
    candidates: &[Candidate],
    shards: u16,
    replicas: usize,
    current: &[Vec<SiteId>],
    pins: &[Pin],
) -> Option<Placement> {
    if candidates.len() < replicas || replicas == 0 {
        return None;
    }
    let mut plan = Plan::new(candidates, usize::from(shards));
    plan.take(current, pins, replicas);
    if !plan.fill(replicas) {
        return None;
    }
    plan.spread_zones();
    plan.balance();
    Some(plan.lead())
}

/// A replica of a shard goes from one site to another.
#[derive(Clone, Copy, Debug)]
struct Move {
    shard: usize,
    from: usize,
    to: usize,
}

/// Sites are indexes into the sorted candidates from here on.
struct Plan {
    sites: Vec<SiteId>,
    zones: Vec<usize>,
    gains: Vec<bool>,
    keeps: Vec<bool>,
    /// Shards of every site.
    held: Vec<BTreeSet<usize>>,
    shards: Vec<Vec<usize>>,
    /// Who leads now.
    leaders: Vec<Option<usize>>,
    /// All replicas of the shard are pinned.
    pinned: Vec<bool>,
    /// Who leads by its pin.
    pinned_leaders: Vec<Option<usize>>,
}

impl Plan {
    fn new(candidates: &[Candidate], shards: usize) -> Plan {
        let mut sorted: Vec<&Candidate> = candidates.iter().collect();
        sorted.sort_by_key(|candidate| candidate.site);
        sorted.dedup_by_key(|candidate| candidate.site);
        let mut zones = BTreeMap::new();
        for candidate in &sorted {
            let next = zones.len();
            zones.entry(candidate.zone.as_str()).or_insert(next);
        }
        Plan {
            sites: sorted.iter().map(|candidate| candidate.site).collect(),
            zones: sorted.iter().map(|candidate| zones[candidate.zone.as_str()]).collect(),
            gains: sorted.iter().map(|candidate| candidate.gains).collect(),
            keeps: sorted.iter().map(|candidate| candidate.keeps).collect(),
            held: vec![BTreeSet::new(); sorted.len()],
            shards: vec![Vec::new(); shards],
            leaders: vec![None; shards],
            pinned: vec![false; shards],
            pinned_leaders: vec![None; shards],
        }
    }

    /// Begins with what is placed, and with what is pinned instead of it.
    fn take(&mut self, current: &[Vec<SiteId>], pins: &[Pin], replicas: usize) {
        for shard in 0..self.shards.len() {
            let placed = current.get(shard).map(Vec::as_slice).unwrap_or_default();
            self.leaders[shard] = placed.first().and_then(|site| self.index(*site));
            let pin = pins.get(shard);
            let given = pin.and_then(|pin| self.given(&pin.sites, replicas));
            self.pinned[shard] = given.is_some();
            let known = || placed.iter().filter_map(|site| self.index(*site)).collect();
            for site in given.unwrap_or_else(known) {
                self.add(shard, site);
            }
            let leader = pin.and_then(|pin| pin.leader).and_then(|site| self.index(site));
            let leads = |site: &usize| self.keeps[*site] && self.held[*site].contains(&shard);
            self.pinned_leaders[shard] = leader.filter(leads);
        }
    }

    /// The sites of a pin, if it counts.
    fn given(&self, sites: &[SiteId], replicas: usize) -> Option<Vec<usize>> {
        let given: BTreeSet<usize> = sites.iter().filter_map(|site| self.index(*site)).collect();
        let whole = given.len() == replicas && sites.len() == replicas;
        (whole && given.iter().all(|site| self.keeps[*site])).then(|| given.into_iter().collect())
    }

    fn index(&self, site: SiteId) -> Option<usize> {
        self.sites.binary_search(&site).ok()
    }

    /// The shard's replica may not leave the site.
    fn is_pinned(&self, shard: usize, site: usize) -> bool {
        self.pinned[shard] || self.pinned_leaders[shard] == Some(site)
    }

    fn load(&self, site: usize) -> usize {
        self.held[site].len()
    }

    fn add(&mut self, shard: usize, site: usize) {
        if self.held[site].insert(shard) {
            self.shards[shard].push(site);
        }
    }

    fn remove(&mut self, shard: usize, site: usize) {
        if self.held[site].remove(&shard) {
            self.shards[shard].retain(|held| *held != site);
        }
    }

    fn apply(&mut self, step: Move) {
        self.remove(step.shard, step.from);
        self.add(step.shard, step.to);
    }

    /// Replicas of the shard in the zone of `site`, `without` one of them.
    fn zone_count(&self, shard: usize, site: usize, without: Option<usize>) -> usize {
        let zone = self.zones[site];
        let same = |held: &&usize| self.zones[**held] == zone && Some(**held) != without;
        self.shards[shard].iter().filter(same).count()
    }

    /// Gives every shard as many replicas as it is to have, and takes them from where they may not stay.
    fn fill(&mut self, replicas: usize) -> bool {
        for shard in 0..self.shards.len() {
            while self.shards[shard].len() > replicas {
                let held = self.shards[shard].iter().copied();
                let free = held.filter(|site| !self.is_pinned(shard, *site));
                let surplus = free.max_by_key(|site| {
                    let crowd = self.zone_count(shard, *site, None);
                    (!self.keeps[*site], crowd, self.load(*site), *site)
                });
                let Some(surplus) = surplus else { break };
                self.remove(shard, surplus);
            }
            for from in self.shards[shard].clone() {
                if !self.keeps[from]
                    && let Some(to) = self.gainer(shard, Some(from))
                {
                    self.apply(Move { shard, from, to });
                }
            }
            while self.shards[shard].len() < replicas {
                let Some(site) = self.gainer(shard, None) else { return false };
                self.add(shard, site);
            }
        }
        true
    }

    /// The best site for one more replica of the shard, once `without` has gone.
    fn gainer(&self, shard: usize, without: Option<usize>) -> Option<usize> {
        let count = self.sites.len();
        let free =
            (0..count).filter(|site| self.gains[*site] && !self.held[*site].contains(&shard));
        free.min_by_key(|site| {
            // Ties go round, so that neighbours in the list do not share all their shards.
            let turn = (site + count - shard % count) % count;
            (self.zone_count(shard, *site, without), self.load(*site), turn)
        })
    }

    /// Moves replicas while that brings a shard to more zones.
    fn spread_zones(&mut self) {
        for shard in 0..self.shards.len() {
            while let Some(step) = self.zone_step(shard) {
                self.apply(step);
            }
        }
    }

    fn zone_step(&self, shard: usize) -> Option<Move> {
        let mut best = None;
        let may_leave = |site: &&usize| self.keeps[**site] && !self.is_pinned(shard, **site);
        for &from in self.shards[shard].iter().filter(may_leave) {
            let before = self.zone_count(shard, from, Some(from));
            for to in (0..self.sites.len()).filter(|site| self.gains[*site]) {
                let after = self.zone_count(shard, to, Some(from));
                if after >= before || self.held[to].contains(&shard) {
                    continue;
                }
                let gain = (before - after, self.load(from) as i64 - self.load(to) as i64);
                if best.as_ref().is_none_or(|(known, _)| gain > *known) {
                    best = Some((gain, Move { shard, from, to }));
                }
            }
        }
        best.map(|(_, step)| step)
    }

    /// Moves replicas from the fullest to the emptiest sites while that evens loads out and no shard is
    /// in fewer zones for it. Each round lowers the sum of squared loads, so it ends.
    fn balance(&mut self) {
        loop {
            if let Some(step) = self.direct() {
                self.apply(step);
            } else if !self.along_chain() {
                return;
            }
        }
    }

    /// The move that relieves most, between two sites that differ by two at least.
    fn direct(&self) -> Option<Move> {
        let by_load = |sites: &mut Vec<usize>| sites.sort_by_key(|site| (self.load(*site), *site));
        let mut from: Vec<usize> = (0..self.sites.len()).filter(|site| self.keeps[*site]).collect();
        let mut to: Vec<usize> = (0..self.sites.len()).filter(|site| self.gains[*site]).collect();
        by_load(&mut from);
        by_load(&mut to);
        let mut best: Option<(usize, Move)> = None;
        for &from in from.iter().rev() {
            for &to in &to {
                let relief = self.load(from).saturating_sub(self.load(to));
                if relief < 2 || best.as_ref().is_some_and(|(known, _)| *known >= relief) {
                    break;
                }
                if let Some(shard) = self.movable(from, to, &[]) {
                    best = Some((relief, Move { shard, from, to }));
                }
            }
        }
        best.map(|(_, step)| step)
    }

    /// A shard that can go from one site to the other without harm to its zones; rather not one that
    /// the first of them leads.
    fn movable(&self, from: usize, to: usize, except: &[usize]) -> Option<usize> {
        let fits = |shard: &&usize| {
            !self.held[to].contains(*shard)
                && !self.is_pinned(**shard, from)
                && !except.contains(*shard)
                && self.zone_count(**shard, to, Some(from))
                    <= self.zone_count(**shard, from, Some(from))
        };
        let mut fitting = self.held[from].iter().filter(fits);
        let first = fitting.next()?;
        let led = |shard: &&usize| self.leaders[**shard] == Some(from);
        Some(*std::iter::once(first).chain(fitting).find(|shard| !led(shard)).unwrap_or(first))
    }

    /// Where zones forbid the direct way, loads go along a chain of sites.
    fn along_chain(&mut self) -> bool {
        let mut starts: Vec<usize> =
            (0..self.sites.len()).filter(|site| self.keeps[*site]).collect();
        starts.sort_by_key(|site| (std::cmp::Reverse(self.load(*site)), *site));
        // A site that a fuller start reached in vain leads a later one nowhere either.
        let mut seen = vec![false; self.sites.len()];
        let emptiest = (0..self.sites.len()).filter(|site| self.gains[*site]);
        let Some(emptiest) = emptiest.map(|site| self.load(site)).min() else { return false };
        for start in starts {
            if self.load(start) < emptiest + 2 {
                return false;
            }
            let Some(chain) = self.chain(start, &mut seen) else { continue };
            // From its end, so that every site on it has room.
            chain.into_iter().rev().for_each(|step| self.apply(step));
            return true;
        }
        false
    }

    fn chain(&self, start: usize, seen: &mut [bool]) -> Option<Vec<Move>> {
        let mut came: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        seen[start] = true;
        while let Some(from) = queue.pop_front() {
            for to in (0..self.sites.len()).filter(|site| self.gains[*site]) {
                if seen[to] || self.movable(from, to, &[]).is_none() {
                    continue;
                }
                seen[to] = true;
                came.insert(to, from);
                queue.push_back(to);
                if self.load(to) + 2 <= self.load(start) {
                    return self.steps(&came, to);
                }
            }
        }
        None
    }

    /// The moves of a chain, each of another shard, so that none changes what another rests on.
    fn steps(&self, came: &BTreeMap<usize, usize>, end: usize) -> Option<Vec<Move>> {
        let mut steps = Vec::new();
        let mut used = Vec::new();
        let mut to = end;
        while let Some(&from) = came.get(&to) {
            let shard = self.movable(from, to, &used)?;
            used.push(shard);
            steps.push(Move { shard, from, to });
            to = from;
        }
        steps.reverse();
        Some(steps)
    }

    /// Chooses preferred leaders: those that are pinned, and those that lead now where they still hold the
    /// shard; then evened out along chains of shards from the site that leads most to one that leads at least two fewer.
    fn lead(&self) -> Placement {
        let mut led = vec![0usize; self.sites.len()];
        let mut leaders: Vec<usize> = Vec::with_capacity(self.shards.len());
        for (shard, held) in self.shards.iter().enumerate() {
            let kept = self.pinned_leaders[shard].or(self.leaders[shard]);
            let leader = kept.filter(|site| held.contains(site)).unwrap_or_else(|| {
                let best = |site: &usize| (!self.gains[*site], led[*site], *site);
                held.iter().copied().min_by_key(best).unwrap_or(0)
            });
            led[leader] += 1;
            leaders.push(leader);
        }
        while let Some(chain) = self.leader_chain(&leaders, &led) {
            for (shard, to) in chain {
                led[leaders[shard]] -= 1;
                led[to] += 1;
                leaders[shard] = to;
            }
        }
        let ordered = self.shards.iter().zip(&leaders).map(|(held, leader)| {
            let followers = held.iter().filter(|site| *site != leader);
            std::iter::once(leader).chain(followers).map(|site| self.sites[*site]).collect()
        });
        ordered.collect()
    }

    fn leader_chain(&self, leaders: &[usize], led: &[usize]) -> Option<Vec<(usize, usize)>> {
        let gaining = led.iter().zip(&self.gains).filter(|(_, gains)| **gains);
        let fewest = gaining.map(|(led, _)| *led).min()?;
        let mut starts: Vec<usize> =
            (0..led.len()).filter(|site| led[*site] >= fewest + 2).collect();
        starts.sort_by_key(|site| (std::cmp::Reverse(led[*site]), *site));
        starts.into_iter().find_map(|start| self.chain_from(start, leaders, led))
    }

    fn chain_from(
        &self,
        start: usize,
        leaders: &[usize],
        led: &[usize],
    ) -> Option<Vec<(usize, usize)>> {
        let mut came: Vec<Option<(usize, usize)>> = vec![None; led.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(site) = queue.pop_front() {
            if led[start] >= led[site] + 2 {
                let mut chain = Vec::new();
                let mut at = site;
                while let Some((shard, before)) = came[at] {
                    chain.push((shard, at));
                    at = before;
                }
                return Some(chain);
            }
            let free = |shard: usize| self.pinned_leaders[shard].is_none();
            for (shard, held) in self
                .shards
                .iter()
                .enumerate()
                .filter(|(shard, _)| leaders[*shard] == site && free(*shard))
            {
                for &next in held.iter().filter(|next| **next != start && self.gains[**next]) {
                    if next != site && came[next].is_none() {
                        came[next] = Some((shard, site));
                        queue.push_back(next);
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
