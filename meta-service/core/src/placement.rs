//! Which sites hold which shards: a pure function of the sites and of what is already placed.
//!
//! A shard's replicas are on distinct sites. In this order it is preferred that they are in as many zones
//! as there are, that every site holds the same number of replicas, that every site is preferred leader
//! of the same number of shards, and that nothing moves. Placing what is placed already moves nothing.

use std::collections::{BTreeMap, VecDeque};

use holdfast_proto::ids::SiteId;

/// A site as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The site.
    pub site: SiteId,
    /// What fails together with it; sites without a zone share the empty one.
    pub zone: String,
}

/// Sites of every shard, preferred leader first.
pub type Placement = Vec<Vec<SiteId>>;

/// Places `shards` shards with `replicas` replicas each; `current` is what is placed now (empty: nothing).
/// Nothing if there are fewer sites than replicas.
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
    plan.fill(replicas);
    plan.balance();
    Some(plan.lead(current))
}

/// Sites are indexes into the sorted candidates from here on.
struct Plan {
    sites: Vec<SiteId>,
    zones: Vec<usize>,
    load: Vec<usize>,
    shards: Vec<Vec<usize>>,
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
            load: vec![0; sorted.len()],
            shards: vec![Vec::new(); shards],
        };
        for (shard, sites) in current.iter().enumerate().take(shards) {
            for site in sites {
                if let Ok(index) = plan.sites.binary_search(site) {
                    plan.add(shard, index);
                }
            }
        }
        plan
    }

    fn add(&mut self, shard: usize, site: usize) {
        if !self.shards[shard].contains(&site) {
            self.shards[shard].push(site);
            self.load[site] += 1;
        }
    }

    /// Replicas of the shard in the zone of `site`, `without` one of them.
    fn zone_count(&self, shard: usize, site: usize, without: Option<usize>) -> usize {
        let zone = self.zones[site];
        let same = |held: &&usize| self.zones[**held] == zone && Some(**held) != without;
        self.shards[shard].iter().filter(same).count()
    }

    fn fill(&mut self, replicas: usize) {
        let count = self.sites.len();
        for shard in 0..self.shards.len() {
            while self.shards[shard].len() > replicas {
                let Some(most) = self.shards[shard].iter().copied().max_by_key(|site| {
                    (self.zone_count(shard, *site, None), self.load[*site], *site)
                }) else {
                    break;
                };
                self.shards[shard].retain(|site| *site != most);
                self.load[most] -= 1;
            }
            while self.shards[shard].len() < replicas {
                let free = (0..count).filter(|site| !self.shards[shard].contains(site));
                let best = free.min_by_key(|site| {
                    // Ties go round, so that neighbours in the list do not share all their shards.
                    let turn = (site + count - shard % count) % count;
                    (self.zone_count(shard, *site, None), self.load[*site], turn)
                });
                let Some(best) = best else { break };
                self.add(shard, best);
            }
        }
    }

    /// Moves replicas one at a time while that spreads zones better, or loads without harm to zones. Each
    /// move lowers (sum of replicas that share a zone, sum of squared loads), so it ends.
    fn balance(&mut self) {
        while let Some((shard, from, to)) = self.best_move() {
            self.shards[shard].retain(|site| *site != from);
            self.load[from] -= 1;
            self.add(shard, to);
        }
    }

    fn best_move(&self) -> Option<(usize, usize, usize)> {
        let mut best = None;
        for (shard, held) in self.shards.iter().enumerate() {
            for &from in held {
                let zone_gain = self.zone_count(shard, from, Some(from));
                for to in (0..self.sites.len()).filter(|site| !held.contains(site)) {
                    let zone_cost = self.zone_count(shard, to, Some(from));
                    let relief = self.load[from] as i64 - self.load[to] as i64;
                    let better = zone_cost < zone_gain || (zone_cost == zone_gain && relief >= 2);
                    let gain = (zone_gain as i64 - zone_cost as i64, relief);
                    if better && best.is_none_or(|(known, _)| gain > known) {
                        best = Some((gain, (shard, from, to)));
                    }
                }
            }
        }
        best.map(|(_, step)| step)
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
                held.iter().copied().min_by_key(|site| (led[*site], *site)).unwrap_or(0)
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
        let mut starts: Vec<usize> = (0..led.len()).collect();
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
                for &next in held.iter().filter(|next| **next != start) {
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
        (0..count).map(|n| Candidate { site: SiteId(1000 + 7 * n as u64), zone: zone(n) }).collect()
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
        held.iter().map(zone).collect::<std::collections::BTreeSet<_>>().len()
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
                let distinct: std::collections::BTreeSet<_> = held.iter().collect();
                prop_assert_eq!(distinct.len(), replicas);
            }
            let (replicas, leaders) = loads(&placement, &sites);
            prop_assert!(spread(&replicas) <= 1, "{:?}", replicas);
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
        }

        #[test]
        fn zones_are_spread(count in 3usize..12, zones in 1usize..6, shards in 1u16..70) {
            let sites = candidates(count, zones);
            let placement = place(&sites, shards, 3, &[]).unwrap();
            let possible = zones.min(count).min(3);
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
        fn a_lost_site_moves_only_its_own_replicas(count in 4usize..10, shards in 1u16..70, lost in 0usize..10) {
            let sites = candidates(count, 0);
            let placement = place(&sites, shards, 3, &[]).unwrap();
            let mut rest = sites.clone();
            let lost = rest.remove(lost % count).site;
            let after = place(&rest, shards, 3, &placement).unwrap();
            let moved: usize = placement.iter().zip(&after)
                .map(|(old, new)| old.iter().filter(|site| **site != lost && !new.contains(site)).count())
                .sum();
            let had = placement.iter().filter(|held| held.contains(&lost)).count();
            prop_assert!(moved <= had / 2 + 1, "moved {} for {}", moved, had);
        }
    }

    #[test]
    fn too_few_sites_are_not_enough() {
        assert_eq!(place(&candidates(2, 0), 16, 3, &[]), None);
    }
}
