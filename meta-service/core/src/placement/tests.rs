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
        placement.iter().filter(|held| held.iter().take(width).any(|held| *held == site)).count()
    };
    let replicas = candidates.iter().map(|candidate| count(candidate.site, usize::MAX)).collect();
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

/// What an operator asks for: another leader, or another site for a replica; of shards and sites by number.
#[derive(Clone, Copy, Debug)]
struct Ask {
    shard: usize,
    replica: usize,
    to: usize,
    leader: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    (any::<usize>(), any::<usize>(), any::<usize>(), any::<bool>())
        .prop_map(|(shard, replica, to, leader)| Ask { shard, replica, to, leader })
}

/// Pins as they come of what is asked for.
fn pins(asked: &[Ask], placed: &Placement, sites: &[Candidate], shards: u16) -> Vec<Pin> {
    let mut pins = vec![Pin::default(); usize::from(shards)];
    for ask in asked {
        let shard = ask.shard % placed.len();
        let pin = &mut pins[shard];
        let mut held = if pin.sites.is_empty() { placed[shard].clone() } else { pin.sites.clone() };
        let (at, to) = (ask.replica % held.len(), sites[ask.to % sites.len()].site);
        if ask.leader {
            pin.leader = Some(held[at]);
        } else if !held.contains(&to) {
            held[at] = to;
            pin.leader = pin.leader.filter(|leader| held.contains(leader));
            pin.sites = held;
        }
    }
    pins
}

fn check_pins(placed: &Placement, pins: &[Pin], replicas: usize) -> Result<(), TestCaseError> {
    for (held, pin) in placed.iter().zip(pins) {
        let set: BTreeSet<SiteId> = held.iter().copied().collect();
        prop_assert_eq!(set.len(), replicas);
        if !pin.sites.is_empty() {
            prop_assert_eq!(&set, &pin.sites.iter().copied().collect());
        }
        if let Some(leader) = pin.leader {
            prop_assert_eq!(held[0], leader);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn replicas_and_leaders_are_balanced(count in 1usize..12, shards in 1u16..70, width in 0usize..3) {
        let replicas = [1, 3, 5][width];
        let sites = candidates(count, 0);
        let Some(placement) = place(&sites, shards, replicas, &[], &[]) else {
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
        let Some(placement) = place(&sites, shards, replicas, &[], &[]) else { return Ok(()) };
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
        let placement = place(&sites, shards, 3, &[], &[]).unwrap();
        let mut shuffled = sites.clone();
        shuffled.rotate_left((seed % count as u64) as usize);
        prop_assert_eq!(&place(&shuffled, shards, 3, &[], &[]).unwrap(), &placement);
        prop_assert_eq!(&place(&sites, shards, 3, &placement, &[]).unwrap(), &placement);
    }

    #[test]
    fn a_new_site_takes_its_share_and_no_more(count in 1usize..12, shards in 1u16..70, width in 0usize..3) {
        let replicas = [1, 3, 5][width];
        let all = candidates(count + 1, 0);
        let Some(before) = place(&all[1..], shards, replicas, &[], &[]) else { return Ok(()) };
        let after = place(&all, shards, replicas, &before, &[]).unwrap();
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
        let before = place(&sites, shards, 3, &[], &[]).unwrap();
        let leaving = leaving % count;
        (sites[leaving].gains, sites[leaving].keeps) = (false, false);
        let after = place(&sites, shards, 3, &before, &[]).unwrap();
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
        let before = place(&sites[..count], shards, 3, &[], &[]).unwrap();
        let down = down % count;
        sites[down].gains = false;
        let after = place(&sites, shards, 3, &before, &[]).unwrap();
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
        let before = place(&sites, shards, 3, &[], &[]).unwrap();
        (sites[leaving].gains, sites[leaving].keeps) = (false, false);
        let after = place(&sites, shards, 3, &before, &[]).unwrap();
        prop_assert_eq!(moved(&before, &after), 0);
    }

    #[test]
    fn what_is_pinned_stays_and_the_others_are_evened_out(
        count in 4usize..10,
        zones in 0usize..4,
        shards in 8u16..40,
        width in 0usize..2,
        asked in proptest::collection::vec(ask(), 0..12),
        added in any::<bool>(),
    ) {
        let replicas = [1, 3][width];
        let mut sites = candidates(count + 1, zones);
        let last = sites.len() - 1;
        (sites[last].gains, sites[last].keeps) = (added, added);
        let before = place(&sites[..count], shards, replicas, &[], &[]).unwrap();
        let pins = pins(&asked, &before, &sites[..count], shards);
        let after = place(&sites, shards, replicas, &before, &pins).unwrap();
        check_pins(&after, &pins, replicas)?;
        prop_assert_eq!(&place(&sites, shards, replicas, &after, &pins).unwrap(), &after);
        // Whatever could be moved is even: the unevenness is at most that of the pinned.
        if zones == 0 && asked.len() <= 2 {
            let kept: Vec<Candidate> = sites.iter().filter(|site| site.keeps).cloned().collect();
            let (replicas, leaders) = loads(&after, &kept);
            prop_assert!(spread(&replicas) <= 2, "{:?}", replicas);
            prop_assert!(spread(&leaders) <= 2, "{:?}", leaders);
        }
        // Released, it is as if it had never been pinned: even.
        let released = place(&sites, shards, replicas, &after, &[]).unwrap();
        let kept: Vec<Candidate> = sites.iter().filter(|site| site.keeps).cloned().collect();
        if zones == 0 {
            let (replicas, leaders) = loads(&released, &kept);
            prop_assert!(spread(&replicas) <= 1, "{:?}", replicas);
            prop_assert!(spread(&leaders) <= 1, "{:?}", leaders);
        }
    }

    #[test]
    fn without_pins_that_count_placing_is_as_before(
        count in 4usize..10,
        zones in 0usize..4,
        shards in 1u16..40,
        asked in proptest::collection::vec(ask(), 1..6),
    ) {
        let mut sites = candidates(count, zones);
        let before = place(&sites, shards, 3, &[], &[]).unwrap();
        let mut pins = pins(&asked, &before, &sites, shards);
        // Each names a site that may not keep anything, or none that is known.
        (sites[0].gains, sites[0].keeps) = (false, false);
        for pin in &mut pins {
            if let Some(site) = pin.sites.first_mut() {
                *site = sites[0].site;
            }
            pin.leader = pin.leader.map(|_| SiteId(1));
        }
        prop_assert_eq!(
            place(&sites, shards, 3, &before, &pins).unwrap(),
            place(&sites, shards, 3, &before, &[]).unwrap()
        );
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
        asked in proptest::collection::vec(ask(), 0..4),
    ) {
        let replicas = [1, 3, 5][width];
        let mut sites = candidates(count, zones);
        let known = known.clamp(replicas.min(count), count);
        let Some(mut placement) = place(&sites[..known], shards, replicas, &[], &[]) else { return Ok(()) };
        for (site, state) in sites.iter_mut().zip(states) {
            site.gains = state > 1;
            site.keeps = state > 0;
        }
        let pins = pins(&asked, &placement, &sites, shards);
        let Some(wanted) = place(&sites, shards, replicas, &placement, &pins) else { return Ok(()) };
        let bound = 2 * moved(&placement, &wanted) + 8;
        let mut steps = 0;
        loop {
            let target = place(&sites, shards, replicas, &placement, &pins).unwrap();
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
    let before = place(&sites[..3], 16, 3, &[], &[]).unwrap();
    assert_eq!(moved(&before, &place(&sites, 16, 3, &before, &[]).unwrap()), 12);
}

#[test]
fn a_large_cluster_is_placed_quickly() {
    let sites = candidates(101, 7);
    let before = place(&sites[..100], 1024, 3, &[], &[]).unwrap();
    let after = place(&sites, 1024, 3, &before, &[]).unwrap();
    assert!(moved(&before, &after) <= 3 * 1024 / 100 + 10, "{}", moved(&before, &after));
}

#[test]
fn too_few_sites_are_not_enough() {
    assert_eq!(place(&candidates(2, 0), 16, 3, &[], &[]), None);
}
