//! The steps by which shards come from where they are to where they should be, one replica of a shard at
//! a time.
//!
//! A step begins when a replica leaves `replicas`, for `holders`, and a new one takes its place; it ends
//! when the holder goes. Everything is decided from the placement as it is durable and from fresh
//! reports, so that a controller that starts in the middle goes on as well as the one before it.
//!
//! Invariants: a shard always has as many replicas as its cluster wants, on distinct sites. A holder goes
//! only if, by reports that are newer than the last change of the shard, the leader of the newest term
//! has no other voters than the replicas and has brought all of them up to date, and each of them says
//! itself that no run is missing. Replicas say so twice, the second time after they have seen a topology
//! that is newer than the leader's word: a replica that did not know yet what it lacks does not count.

use std::collections::BTreeMap;

use holdfast_proto::{
    ids::SiteId,
    meta::{ReplicaInfo, ShardInfo},
};

use crate::{
    placement::{self, Candidate, Pin, Placement},
    reports::Reports,
};

/// A step that has no leader, or lacks a site, for longer than this does not keep others waiting, in ms.
const PATIENCE_MS: u64 = 30_000;

/// A site as transitions see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As placement sees it.
    pub candidate: Candidate,
    /// It is heard of.
    pub up: bool,
    /// Its data is given up.
    pub lost: bool,
}

/// All sites.
pub type Members = BTreeMap<SiteId, Member>;

/// What was decided for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A replica leaves for the holders and another takes its place.
    Move {
        /// The shard.
        shard: u32,
        /// Where it leaves.
        from: SiteId,
        /// Where it joins.
        to: SiteId,
    },
    /// The one that was to join cannot: a holder takes its place again, or another site.
    Turn {
        /// The shard.
        shard: u32,
        /// Who cannot join.
        from: SiteId,
        /// Who joins.
        to: SiteId,
    },
    /// All is in place; replicas are asked once more, by a new version of the topology.
    Confirm {
        /// The shard.
        shard: u32,
    },
    /// Holders are released.
    Finish {
        /// The shard.
        shard: u32,
    },
    /// Another replica is preferred as leader.
    Lead {
        /// The shard.
        shard: u32,
        /// Its site.
        site: SiteId,
    },
    /// What an operator pinned, or a part of it, can be kept up no longer.
    Unpin {
        /// The shard.
        shard: u32,
    },
}

/// What one decision may use.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// All sites.
    pub members: &'a Members,
    /// Their newest reports.
    pub reports: &'a Reports,
    /// Replicas of every shard.
    pub replicas: usize,
    /// Version of the topology that will show what is decided.
    pub next_version: u64,
    /// The own monotone clock, in ms.
    pub now_ms: u64,
    /// Nothing new may begin.
    pub hold: bool,
}

/// Decides steps.
#[derive(Debug)]
pub struct Transitions {
    transitions_max: usize,
    /// Reports that have seen this version are newer than everything that happened before the start.
    began_version: u64,
    /// The first version with the shard's replicas as they are, if they changed since the start.
    changed: BTreeMap<u32, u64>,
    /// Version from which on all is to be said once more.
    confirms: BTreeMap<u32, u64>,
    /// Since when a step cannot go on.
    stuck_ms: BTreeMap<u32, u64>,
    /// Where shards should be, as long as it is known.
    target: Option<Placement>,
}

impl Transitions {
    /// A controller that starts with this version of the topology; at most `transitions_max` shards are
    /// under way at once.
    pub fn new(transitions_max: usize, began_version: u64) -> Transitions {
        Transitions {
            transitions_max,
            began_version,
            changed: BTreeMap::new(),
            confirms: BTreeMap::new(),
            stuck_ms: BTreeMap::new(),
            target: None,
        }
    }

    /// Sites changed: where shards should be is to be found anew.
    pub fn replan(&mut self) {
        self.target = None;
    }

    /// A shard's replicas change with this version.
    pub fn note(&mut self, shard: u32, version: u64) {
        self.changed.insert(shard, version);
        self.confirms.remove(&shard);
    }

    /// How many shards are not where they should be; nothing if that was not found out yet.
    pub fn unplaced(&self, shards: &[ShardInfo]) -> Option<usize> {
        let target = self.target.as_ref()?;
        Some(shards.iter().zip(target).filter(|(shard, wanted)| !is_placed(shard, wanted)).count())
    }

    /// Changes shards by the next steps; which.
    pub fn decide(
        &mut self,
        shards: &mut [ShardInfo],
        next_replica_id: &mut u64,
        given: Given<'_>,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        for shard in shards.iter_mut().filter(|shard| !shard.holders.is_empty()) {
            steps.extend(self.release(shard, given));
        }
        if shards.is_empty() {
            return steps;
        }
        if self.target.is_none() {
            self.target = plan(shards, given);
        }
        if given.hold {
            return steps;
        }
        for at in 0..shards.len() {
            steps.extend(self.turn(shards, at, next_replica_id, given));
        }
        // If one turned, where shards should be is found anew next time.
        let Some(target) = self.target.take() else { return steps };
        self.begin(shards, &target, next_replica_id, given, &mut steps);
        for (shard, wanted) in shards.iter_mut().zip(&target) {
            steps.extend(lead(shard, wanted, given.members));
        }
        self.target = Some(target);
        steps
    }

    /// Ends a shard's step, or has its end confirmed.
    fn release(&mut self, shard: &mut ShardInfo, given: Given<'_>) -> Option<Step> {
        let number = shard.shard;
        match self.confirms.get(&number) {
            Some(version) if is_settled(shard, *version, given.reports) => {
                shard.holders.clear();
                self.note(number, given.next_version);
                Some(Step::Finish { shard: number })
            }
            None if is_settled(shard, self.changed_version(number), given.reports) => {
                self.confirms.insert(number, given.next_version);
                Some(Step::Confirm { shard: number })
            }
            _ => None,
        }
    }

    fn changed_version(&self, shard: u32) -> u64 {
        self.changed.get(&shard).copied().unwrap_or(self.began_version)
    }

    /// What a step waits for in vain is replaced: a replica that has not joined yet and whose site may not
    /// gain any more, or one that is lost meanwhile. By a holder, which has everything, or by another site.
    fn turn(
        &mut self,
        shards: &mut [ShardInfo],
        at: usize,
        next_replica_id: &mut u64,
        given: Given<'_>,
    ) -> Option<Step> {
        let shard = &shards[at];
        let late = joining(shard).find(|replica| !may_gain(given.members, replica.site_id));
        let is_lost = |replica: &&ReplicaInfo| {
            given.members.get(&SiteId(replica.site_id)).is_none_or(|member| member.lost)
        };
        let missed = || {
            let under_way = !shard.holders.is_empty();
            shard.replicas.iter().filter(|_| under_way).find(is_lost)
        };
        let (number, from) = (shard.shard, late.or_else(missed)?.replica_id);
        let kept = shard.holders.iter().filter(|holder| {
            let site = SiteId(holder.site_id);
            may_gain(given.members, holder.site_id)
                && !given.reports.is_damaged(site, number, holder.replica_id)
                && shard.replicas.iter().all(|replica| replica.site_id != holder.site_id)
        });
        // The oldest has the most.
        let to = match kept.min_by_key(|holder| holder.replica_id).copied() {
            Some(holder) => holder,
            None => {
                let site = successor(shards, shard, from, given.members)?;
                ReplicaInfo { replica_id: mint(next_replica_id), site_id: site.0 }
            }
        };
        let from = exchange(&mut shards[at], from, to)?;
        self.note(number, given.next_version);
        self.replan();
        Some(Step::Turn { shard: number, from, to: SiteId(to.site_id) })
    }

    /// Begins steps: away from lost sites first, then from those that are drained, then to where operators
    /// want them, then to even loads.
    fn begin(
        &mut self,
        shards: &mut [ShardInfo],
        target: &Placement,
        next_replica_id: &mut u64,
        given: Given<'_>,
        steps: &mut Vec<Step>,
    ) {
        let under_way = shards.iter().filter(|shard| self.is_under_way(shard, given)).count();
        let mut room = self.transitions_max.saturating_sub(under_way);
        if room == 0 {
            return;
        }
        let mut wanted: Vec<(Urgency, usize, u64, SiteId)> = Vec::new();
        for (at, (shard, target)) in shards.iter().zip(target).enumerate() {
            if let Some((urgency, from, to)) = self.next_move(shard, target, given) {
                wanted.push((urgency, at, from, to));
            }
        }
        wanted.sort_unstable();
        for (_, at, from, to) in wanted {
            let joining = ReplicaInfo { replica_id: *next_replica_id, site_id: to.0 };
            let Some(from) = exchange(&mut shards[at], from, joining) else { continue };
            mint(next_replica_id);
            let shard = shards[at].shard;
            self.note(shard, given.next_version);
            steps.push(Step::Move { shard, from, to });
            room -= 1;
            if room == 0 {
                return;
            }
        }
    }

    /// A step is under way that is worth waiting for.
    fn is_under_way(&mut self, shard: &ShardInfo, given: Given<'_>) -> bool {
        if shard.holders.is_empty() || can_go_on(shard, given) {
            self.stuck_ms.remove(&shard.shard);
            return !shard.holders.is_empty();
        }
        let since_ms = *self.stuck_ms.entry(shard.shard).or_insert(given.now_ms);
        given.now_ms.saturating_sub(since_ms) <= PATIENCE_MS
    }

    /// The shard's next move, if one can begin now: which replica leaves, and where to.
    fn next_move(
        &self,
        shard: &ShardInfo,
        target: &[SiteId],
        given: Given<'_>,
    ) -> Option<(Urgency, u64, SiteId)> {
        if !shard.holders.is_empty() {
            return None;
        }
        let held = |site: &SiteId| shard.replicas.iter().any(|replica| replica.site_id == site.0);
        let to = *target.iter().find(|site| !held(site) && may_gain(given.members, site.0))?;
        given.reports.leader(shard.shard)?;
        let leaving =
            shard.replicas.iter().filter(|replica| !target.contains(&SiteId(replica.site_id)));
        let pinned = shard.pin.as_ref().is_some_and(|pin| !pin.sites.is_empty());
        let urgency = |replica: &ReplicaInfo| match given.members.get(&SiteId(replica.site_id)) {
            Some(member) if member.candidate.keeps && pinned => Urgency::Pinned,
            Some(member) if member.candidate.keeps => Urgency::Balance,
            Some(member) if !member.lost => Urgency::Drain,
            _ => Urgency::Heal,
        };
        let (urgency, from) =
            leaving.map(|replica| (urgency(replica), replica.replica_id)).min()?;
        // Loads are evened out among healthy shards only.
        if urgency == Urgency::Balance
            && !is_settled(shard, self.changed_version(shard.shard), given.reports)
        {
            return None;
        }
        Some((urgency, from, to))
    }
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Heal,
    Drain,
    Pinned,
    Balance,
}

fn plan(shards: &[ShardInfo], given: Given<'_>) -> Option<Placement> {
    let candidates: Vec<Candidate> =
        given.members.values().map(|member| member.candidate.clone()).collect();
    let sites = |shard: &ShardInfo| {
        shard.replicas.iter().map(|replica| SiteId(replica.site_id)).collect::<Vec<_>>()
    };
    let current: Vec<Vec<SiteId>> = shards.iter().map(sites).collect();
    let count = u16::try_from(shards.len()).ok()?;
    let pins: Vec<Pin> = shards.iter().map(pin).collect();
    placement::place(&candidates, count, given.replicas, &current, &pins)
}

fn pin(shard: &ShardInfo) -> Pin {
    let Some(pin) = &shard.pin else { return Pin::default() };
    let sites = pin.sites.iter().map(|site| SiteId(*site)).collect();
    Pin { sites, leader: (pin.leader != 0).then_some(SiteId(pin.leader)) }
}

fn mint(next_replica_id: &mut u64) -> u64 {
    let minted = *next_replica_id;
    *next_replica_id += 1;
    minted
}

fn may_gain(members: &Members, site: u64) -> bool {
    members.get(&SiteId(site)).is_some_and(|member| member.candidate.gains)
}

/// One replica leaves for the holders and another takes its place, last: it is not to lead before it has
/// everything. Where the first one was.
fn exchange(shard: &mut ShardInfo, from: u64, to: ReplicaInfo) -> Option<SiteId> {
    let at = shard.replicas.iter().position(|replica| replica.replica_id == from)?;
    let from = shard.replicas.remove(at);
    let site = SiteId(from.site_id);
    shard.holders.retain(|holder| holder.replica_id != to.replica_id);
    shard.holders.push(from);
    shard.replicas.push(to);
    Some(site)
}

/// Replicas that are newer than all holders: they are on their way in.
pub(crate) fn joining(shard: &ShardInfo) -> impl Iterator<Item = &ReplicaInfo> {
    let newest = shard.holders.iter().map(|holder| holder.replica_id).max();
    let joins =
        move |replica: &&ReplicaInfo| newest.is_some_and(|newest| replica.replica_id > newest);
    shard.replicas.iter().filter(joins)
}

/// Whether, by what was said since `version`, the group is the replica set and everybody has everything.
pub(crate) fn is_settled(shard: &ShardInfo, version: u64, reports: &Reports) -> bool {
    let Some(leading) = reports.leader(shard.shard) else { return false };
    let leader = leading.replica;
    let votes = |replica: &ReplicaInfo| leader.voters.contains(&replica.replica_id);
    if leading.topology_version < version
        || leader.voters.len() != shard.replicas.len()
        || !shard.replicas.iter().all(votes)
        || !leader.voters.contains(&leader.replica_id)
    {
        return false;
    }
    shard.replicas.iter().all(|replica| {
        let (site, id) = (SiteId(replica.site_id), replica.replica_id);
        let fresh = reports.site(site).is_some_and(|held| held.topology_version >= version);
        let whole =
            reports.replica(site, shard.shard, id).is_some_and(|said| said.missing_runs == 0);
        fresh && whole && (id == leader.replica_id || leader.caught_up.contains(&id))
    })
}

/// The shard has a leader, and all who are to have it are up.
fn can_go_on(shard: &ShardInfo, given: Given<'_>) -> bool {
    let up = |replica: &ReplicaInfo| {
        given.members.get(&SiteId(replica.site_id)).is_some_and(|member| member.up)
    };
    given.reports.leader(shard.shard).is_some() && shard.replicas.iter().all(up)
}

fn is_placed(shard: &ShardInfo, wanted: &[SiteId]) -> bool {
    shard.replicas.iter().all(|replica| wanted.contains(&SiteId(replica.site_id)))
}

/// A site for the shard's replica `from`: in another zone than its others, and with little load.
fn successor(
    shards: &[ShardInfo],
    shard: &ShardInfo,
    from: u64,
    members: &Members,
) -> Option<SiteId> {
    let others = shard.replicas.iter().filter(|replica| replica.replica_id != from);
    let others: Vec<&Member> =
        others.filter_map(|replica| members.get(&SiteId(replica.site_id))).collect();
    let taken = |site: SiteId| {
        shard.replicas.iter().chain(&shard.holders).any(|replica| replica.site_id == site.0)
    };
    let load = |site: SiteId| {
        let replicas = shards.iter().flat_map(|shard| &shard.replicas);
        replicas.filter(|replica| replica.site_id == site.0).count()
    };
    let free =
        members.values().filter(|member| member.candidate.gains && !taken(member.candidate.site));
    let best = free.min_by_key(|member| {
        let zone = &member.candidate.zone;
        let crowd = others.iter().filter(|other| other.candidate.zone == *zone).count();
        (crowd, load(member.candidate.site), member.candidate.site)
    });
    best.map(|member| member.candidate.site)
}

/// Makes the wanted leader the preferred one of a shard that is where it should be.
fn lead(shard: &mut ShardInfo, wanted: &[SiteId], members: &Members) -> Option<Step> {
    let site = *wanted.first()?;
    let at = shard.replicas.iter().position(|replica| replica.site_id == site.0)?;
    if at == 0
        || !shard.holders.is_empty()
        || !is_placed(shard, wanted)
        || !members.get(&site).is_some_and(|member| member.up)
    {
        return None;
    }
    shard.replicas[..=at].rotate_right(1);
    Some(Step::Lead { shard: shard.shard, site })
}
