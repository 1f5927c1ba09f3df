//! Which sites hold which shards: a pure function of the sites and of what is already placed.
//!
//! A shard's replicas are on distinct sites. In this order it is preferred that they are in as many zones
//! as there are, that every site holds the same number of replicas, that every site is preferred leader
//! of the same number of shards, and that nothing moves. Placing what is placed already moves nothing.

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

/// Sites of every shard, preferred leader first.
pub type Placement = Vec<Vec<SiteId>>;

/// Places `shards` shards with `replicas` replicas each; `current` is what is placed now (empty: nothing).
/// Nothing if some shard cannot have that many.
pub fn place(
    candidates: &[Candidate],
    shards: u16,
    replicas: usize,
    current: &[Vec<SiteId>],
) -> Option<Placement> {
    if candidates.len() < replicas || replicas == 0 {
        return None;
    }
    let mut plan = Plan::new(candidates, usize::from(shards), current);
    if !plan.fill(replicas) {
        return None;
    }
    plan.spread_zones();
    plan.balance();
    Some(plan.lead(current))
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
}

impl Plan {
    fn new(candidates: &[Candidate], shards: usize, current: &[Vec<SiteId>]) -> Plan {
        let mut sorted: Vec<&Candidate> = candidates.iter().collect();
        sorted.sort_by_key(|candidate| candidate.site);
        sorted.dedup_by_key(|candidate| candidate.site);
        let mut zones = BTreeMap::new();
        for candidate in &sorted {
            let next = zones.len();
            zones.entry(candidate.zone.as_str()).or_insert(next);
        }
        let mut plan = Plan {
            sites: sorted.iter().map(|candidate| candidate.site).collect(),
            zones: sorted.iter().map(|candidate| zones[candidate.zone.as_str()]).collect(),
            gains: sorted.iter().map(|candidate| candidate.gains).collect(),
            keeps: sorted.iter().map(|candidate| candidate.keeps).collect(),
            held: vec![BTreeSet::new(); sorted.len()],
            shards: vec![Vec::new(); shards],
            leaders: vec![None; shards],
        };
        for (shard, sites) in current.iter().enumerate().take(shards) {
            let known = |site: &SiteId| plan.sites.binary_search(site).ok();
            plan.leaders[shard] = sites.first().and_then(known);
            for site in sites.iter().filter_map(known).collect::<Vec<_>>() {
                plan.add(shard, site);
            }
        }
        plan
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
                let surplus = held.max_by_key(|site| {
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
        for &from in self.shards[shard].iter().filter(|site| self.keeps[**site]) {
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

    /// Chooses preferred leaders: those of `current` where they still hold the shard, then evened out
    /// along chains of shards from the site that leads most to one that leads at least two fewer.
    fn lead(&self, current: &[Vec<SiteId>]) -> Placement {
        let mut led = vec![0usize; self.sites.len()];
        let mut leaders: Vec<usize> = Vec::with_capacity(self.shards.len());
        for (shard, held) in self.shards.iter().enumerate() {
            let kept = current.get(shard).and_then(|sites| sites.first());
            let kept = kept.and_then(|site| self.sites.binary_search(site).ok());
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
            for (shard, held) in
                self.shards.iter().enumerate().filter(|(shard, _)| leaders[*shard] == site)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(count: usize, zones: usize) -> Vec<Candidate> {
        let zone = |n: usize| if zones == 0 { String::new() } else { format!("z{}", n % zones) };
        let site = |n: usize| SiteId(1000 + 7 * n as u64);
        let candidate = |n| Candidate { site: site(n), zone: zone(n), gains: true, keeps: true };
        (0..count).map(candidate).collect()
    }

    fn loads(placement: &Placement, candidates: &[Candidate]) -> (Vec<usize>, Vec<usize>) {
        let count = |site: SiteId, width: usize| {
            placement
                .iter()
                .filter(|held| held.iter().take(width).any(|held| *held == site))
                .count()
        };
        let replicas =
            candidates.iter().map(|candidate| count(candidate.site, usize::MAX)).collect();
        (replicas, candidates.iter().map(|candidate| count(candidate.site, 1)).collect())
    }

    fn spread(loads: &[usize]) -> usize {
        loads.iter().max().unwrap() - loads.iter().min().unwrap()
    }

    fn zones_of(held: &[SiteId], candidates: &[Candidate]) -> usize {
        let zone = |site: &SiteId| &candidates.iter().find(|c| c.site == *site).unwrap().zone;
        held.iter().map(zone).collect::<BTreeSet<_>>().len()
    }

    /// Replicas of `after` that `before` does not have.
    fn moved(before: &Placement, after: &Placement) -> usize {
        let new = |(old, new): (&Vec<SiteId>, &Vec<SiteId>)| {
            new.iter().filter(|site| !old.contains(site)).count()
        };
        before.iter().zip(after).map(new).sum()
    }

    /// The first shard that is not as wanted, one replica nearer to it.
    fn single_step(placement: &mut Placement, target: &Placement, turn: usize) -> bool {
        let count = placement.len();
        for shard in (0..count).map(|shard| (shard + turn) % count) {
            let (held, wanted) = (&mut placement[shard], &target[shard]);
            let Some(to) = wanted.iter().find(|site| !held.contains(site)) else { continue };
            let from = held.iter().position(|site| !wanted.contains(site)).unwrap();
            held.remove(from);
            held.push(*to);
            return true;
        }
        false
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_balanced(count in 1usize..12, shards in 1u16..70, width in 0usize..3) {
            let replicas = [1, 3, 5][width];
            let sites = candidates(count, 0);
            let Some(placement) = place(&sites, shards, replicas, &[]) else {
                prop_assert!(count < replicas);
                return Ok(());
            };
            for held in &placement {
                let distinct: BTreeSet<_> = held.iter().collect();
                prop_assert_eq!(distinct.len(), replicas);
            }
            let (replicas, leaders) = loads(&placement, &sites);
            prop_assert!(spread(&replicas) <= 1, "{:?}", replicas);
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
        }

        #[test]
        fn zones_are_spread(count in 3usize..12, zones in 1usize..6, shards in 1u16..70, width in 0usize..3) {
            let replicas = [1, 3, 5][width];
            let sites = candidates(count, zones);
            let Some(placement) = place(&sites, shards, replicas, &[]) else { return Ok(()) };
            let possible = zones.min(count).min(replicas);
            for held in &placement {
                prop_assert_eq!(zones_of(held, &sites), possible);
            }
            if count % zones == 0 {
                let (replicas, leaders) = loads(&placement, &sites);
                prop_assert!(spread(&replicas) <= 1, "{:?}", replicas);
                prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
            }
        }

        #[test]
        fn placing_is_deterministic_and_moves_nothing_twice(
            count in 3usize..12, zones in 0usize..5, shards in 1u16..70, seed in any::<u64>()
        ) {
            let sites = candidates(count, zones);
            let placement = place(&sites, shards, 3, &[]).unwrap();
            let mut shuffled = sites.clone();
            shuffled.rotate_left((seed % count as u64) as usize);
            prop_assert_eq!(&place(&shuffled, shards, 3, &[]).unwrap(), &placement);
            prop_assert_eq!(&place(&sites, shards, 3, &placement).unwrap(), &placement);
        }

        #[test]
        fn a_new_site_takes_its_share_and_no_more(count in 1usize..12, shards in 1u16..70, width in 0usize..3) {
            let replicas = [1, 3, 5][width];
            let all = candidates(count + 1, 0);
            let Some(before) = place(&all[1..], shards, replicas, &[]) else { return Ok(()) };
            let after = place(&all, shards, replicas, &before).unwrap();
            let share = (usize::from(shards) * replicas).div_ceil(count + 1);
            prop_assert!(moved(&before, &after) <= share, "{} of {}", moved(&before, &after), share);
            let (replicas, leaders) = loads(&after, &all);
            prop_assert!(spread(&replicas) <= 1, "{:?}", replicas);
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
        }

        #[test]
        fn a_site_that_may_not_keep_is_emptied(
            count in 4usize..10, zones in 0usize..4, shards in 1u16..70, leaving in 0usize..10
        ) {
            let mut sites = candidates(count, zones);
            let before = place(&sites, shards, 3, &[]).unwrap();
            let leaving = leaving % count;
            (sites[leaving].gains, sites[leaving].keeps) = (false, false);
            let after = place(&sites, shards, 3, &before).unwrap();
            prop_assert!(after.iter().all(|held| held.len() == 3 && !held.contains(&sites[leaving].site)));
            if zones == 0 {
                let had = loads(&before, &sites).0[leaving];
                prop_assert!(moved(&before, &after) <= had + had / 2 + 1, "{}", moved(&before, &after));
            }
        }

        #[test]
        fn a_site_that_is_down_keeps_and_gains_nothing(
            count in 3usize..10, more in 0usize..3, zones in 0usize..4, shards in 1u16..70, down in 0usize..10
        ) {
            let mut sites = candidates(count + more, zones);
            let before = place(&sites[..count], shards, 3, &[]).unwrap();
            let down = down % count;
            sites[down].gains = false;
            let after = place(&sites, shards, 3, &before).unwrap();
            let site = sites[down].site;
            for (old, new) in before.iter().zip(&after) {
                prop_assert!(old.contains(&site) || !new.contains(&site));
            }
            if more == 0 && zones == 0 {
                prop_assert_eq!(moved(&before, &after), 0);
            }
        }

        #[test]
        fn without_a_place_to_go_replicas_stay(shards in 1u16..70, leaving in 0usize..3) {
            let mut sites = candidates(3, 0);
            let before = place(&sites, shards, 3, &[]).unwrap();
            (sites[leaving].gains, sites[leaving].keeps) = (false, false);
            let after = place(&sites, shards, 3, &before).unwrap();
            prop_assert_eq!(moved(&before, &after), 0);
        }

        #[test]
        fn single_steps_lead_to_a_fixed_point(
            count in 3usize..10,
            zones in 0usize..5,
            shards in 1u16..40,
            width in 0usize..3,
            states in proptest::collection::vec(0u8..6, 10),
            known in 1usize..10,
            turns in any::<usize>(),
        ) {
            let replicas = [1, 3, 5][width];
            let mut sites = candidates(count, zones);
            let known = known.clamp(replicas.min(count), count);
            let Some(mut placement) = place(&sites[..known], shards, replicas, &[]) else { return Ok(()) };
            for (site, state) in sites.iter_mut().zip(states) {
                site.gains = state > 1;
                site.keeps = state > 0;
            }
            let Some(wanted) = place(&sites, shards, replicas, &placement) else { return Ok(()) };
            let bound = 2 * moved(&placement, &wanted) + 8;
            let mut steps = 0;
            loop {
                let target = place(&sites, shards, replicas, &placement).unwrap();
                if !single_step(&mut placement, &target, turns.wrapping_mul(steps) % usize::from(shards)) {
                    break;
                }
                steps += 1;
                prop_assert!(steps <= bound, "{} steps of {}", steps, bound);
                for held in &placement {
                    prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), replicas);
                }
            }
            for (old, new) in wanted.iter().zip(&placement) {
                prop_assert!(zones_of(new, &sites) >= zones_of(old, &sites));
            }
        }
    }

    #[test]
    fn from_three_to_four_sites_a_quarter_moves() {
        let sites = candidates(4, 0);
        let before = place(&sites[..3], 16, 3, &[]).unwrap();
        assert_eq!(moved(&before, &place(&sites, 16, 3, &before).unwrap()), 12);
    }

    #[test]
    fn a_large_cluster_is_placed_quickly() {
        let sites = candidates(101, 7);
        let before = place(&sites[..100], 1024, 3, &[]).unwrap();
        let after = place(&sites, 1024, 3, &before).unwrap();
        assert!(moved(&before, &after) <= 3 * 1024 / 100 + 10, "{}", moved(&before, &after));
    }

    #[test]
    fn too_few_sites_are_not_enough() {
        assert_eq!(place(&candidates(2, 0), 16, 3, &[]), None);
    }
}
