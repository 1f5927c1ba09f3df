//! The simulated tier. What it checks at every step is in `check`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_control::{
    control::{Control, Effect, Event, Limits, Now, SteerId, StreamId, Turn},
    membership::{self, Membership, Saved},
    routes::{self, Routes},
    steering::{Steer, SteerRefusal},
    transitions::Step,
};
use holdfast_proto::{
    PROTOCOL_VERSION,
    ids::SiteId,
    meta::{Liveness, ReplicaReport, ShardInfo, SiteReport, SiteState, Topology},
    version::Versions,
};

pub(crate) const SHARDS: u32 = 6;
pub(crate) const TRANSITIONS_MAX: usize = 2;
pub(crate) const REPLACE_AFTER_MS: u64 = 40_000;
const LEASE_MS: u32 = 10_000;
const STEP_MS: u64 = 400;
/// Runs of a shard, one bit each.
const RUNS: u8 = 0b111;

/// A replica's data at a site.
#[derive(Clone, Debug, Default)]
struct Replica {
    /// It has the log, or a snapshot.
    joined: bool,
    /// Runs that it has.
    runs: u8,
}

#[derive(Debug)]
struct Site {
    id: u64,
    address: String,
    zone: String,
    up: bool,
    /// Its data is gone for ever.
    wiped: bool,
    stream: StreamId,
    topology: Option<Topology>,
    replicas: BTreeMap<(u32, u64), Replica>,
    /// Reports on their way.
    sent: VecDeque<SiteReport>,
}

/// A shard's Raft group.
#[derive(Clone, Debug, Default)]
struct Group {
    voters: BTreeSet<u64>,
    pending: Option<BTreeSet<u64>>,
    leader: Option<u64>,
    term: u64,
}

pub(crate) struct World {
    random: u64,
    now_ms: u64,
    next_stream: u64,
    replicas: usize,
    zones: usize,
    control: Control,
    durable: Saved,
    shown: Topology,
    sites: Vec<Site>,
    groups: Vec<Group>,
    /// Where every replica id that was ever seen belongs.
    minted: BTreeMap<u64, (u32, u64)>,
    most_under_way: usize,
    moves: usize,
}

fn control(saved: Saved, now: Now) -> Control {
    let limits = membership::Limits {
        sites_max: 100,
        gateways_max: 10,
        dead_gateways_max: 2,
        dead_gateway_ms: 60_000,
        versions: Versions::default(),
    };
    let membership = Membership::new(limits, saved, []);
    let limits = routes::Limits {
        values_max: 10,
        filters_max: 100,
        filter_bytes_max: 10_000,
        retire_ms: 100,
    };
    let routes = Routes::new(limits, 1, []);
    let limits = Limits {
        duplicate_ms: u64::from(LEASE_MS) / 3,
        covers_max: 2,
        replace_after_ms: REPLACE_AFTER_MS,
        transitions_max: TRANSITIONS_MAX,
    };
    Control::new(limits, membership, routes, now)
}

impl World {
    pub(crate) fn new(seed: u64, replicas: usize, sites: usize, zones: usize) -> World {
        let topology = Topology {
            cluster_id: "c".to_owned(),
            shards: SHARDS,
            replication_factor: replicas as u32,
            lease_ms: LEASE_MS,
            ..Topology::default()
        };
        let durable = Saved { topology: topology.clone(), next_replica_id: 1, set_back_from: 0 };
        let mut world = World {
            random: seed | 1,
            now_ms: 0,
            next_stream: 1,
            replicas,
            zones,
            control: control(durable.clone(), Now { mono_ms: 0, wall_ms: 0 }),
            durable,
            shown: topology,
            sites: Vec::new(),
            groups: vec![Group::default(); SHARDS as usize],
            minted: BTreeMap::new(),
            most_under_way: 0,
            moves: 0,
        };
        (0..sites).for_each(|_| world.add_site());
        world.until(|world| !world.shown.placement.is_empty());
        world
    }

    /// A number below `bound`.
    fn pick(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound as u64) as usize
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_000_000 + self.now_ms }
    }

    fn stream(&mut self) -> StreamId {
        self.next_stream += 1;
        StreamId(self.next_stream)
    }

    // ---- what happens from outside ----

    pub(crate) fn add_site(&mut self) {
        if self.sites.len() >= 9 {
            return;
        }
        let address = format!("host-{}", self.sites.len());
        self.add_site_at(address);
    }

    fn add_site_at(&mut self, address: String) {
        let at = self.sites.len();
        let zone = if self.zones == 0 { String::new() } else { format!("z{}", at % self.zones) };
        let site = Site {
            id: 100 + at as u64,
            address,
            zone,
            up: true,
            wiped: false,
            stream: self.stream(),
            topology: None,
            replicas: BTreeMap::new(),
            sent: VecDeque::new(),
        };
        self.sites.push(site);
    }

    pub(crate) fn stop(&mut self, site: usize, on_purpose: bool) {
        let at = site % self.sites.len();
        if !self.sites[at].up {
            return;
        }
        self.sites[at].up = false;
        self.sites[at].sent.clear();
        let stream = self.sites[at].stream;
        let mut events = vec![Event::Closed { stream }];
        if on_purpose {
            let report = SiteReport { leaving: true, ..self.report(at) };
            events.insert(0, Event::Site { stream, report });
        }
        self.turn(events);
    }

    pub(crate) fn start(&mut self, site: usize) {
        let at = site % self.sites.len();
        if self.sites[at].up || self.sites[at].wiped {
            return;
        }
        let stream = self.stream();
        let site = &mut self.sites[at];
        (site.up, site.stream) = (true, stream);
    }

    pub(crate) fn start_all(&mut self) {
        (0..self.sites.len()).for_each(|site| self.start(site));
    }

    /// The site's disk is replaced by an empty one, unless others need what is on it.
    pub(crate) fn wipe(&mut self, site: usize) {
        let at = site % self.sites.len();
        if self.sites[at].wiped || !self.can_lose(at) || self.sites.len() >= 9 {
            return;
        }
        self.stop(at, false);
        let site = &mut self.sites[at];
        site.wiped = true;
        site.replicas.clear();
        let address = site.address.clone();
        self.add_site_at(address);
    }

    fn can_lose(&self, at: usize) -> bool {
        (0..SHARDS).all(|shard| {
            let held = |id: &&u64| self.holder_of(shard, **id).is_some_and(|site| site != at);
            let group = &self.groups[shard as usize];
            let sets = std::iter::once(&group.voters).chain(&group.pending);
            let rest = sets.clone().all(|set| set.iter().filter(held).count() * 2 > set.len());
            let others = self.sites.iter().enumerate().filter(|(other, _)| *other != at);
            let replicas = others.flat_map(|(_, site)| &site.replicas);
            let runs = replicas
                .filter(|((held, _), replica)| *held == shard && replica.joined)
                .fold(0, |runs, (_, replica)| runs | replica.runs);
            rest && runs == RUNS
        })
    }

    fn steer(&mut self, steer: Steer) -> Result<SiteId, SteerRefusal> {
        let turn = self.turn(vec![Event::Steer { request: SteerId(1), steer }]);
        let result = |effect: &Effect| match effect {
            Effect::Steered { result, .. } => Some(result.clone()),
            _ => None,
        };
        turn.effects.iter().find_map(result).unwrap()
    }

    pub(crate) fn drain(&mut self, site: usize, cancel: bool) {
        let site = format!("{:x}", self.sites[site % self.sites.len()].id);
        // Refused if too few would be left.
        let _ = self.steer(Steer::Drain { site, cancel });
    }

    pub(crate) fn replace(&mut self, site: usize) {
        let site = format!("{:x}", self.sites[site % self.sites.len()].id);
        let _ = self.steer(Steer::Replace { site });
    }

    fn name(&self, site: usize) -> String {
        format!("{:x}", self.sites[site % self.sites.len()].id)
    }

    pub(crate) fn move_leader(&mut self, shard: u32, site: usize) {
        let steered = self.steer(Steer::MoveLeader { shard, site: self.name(site) });
        if let Ok(site) = steered {
            let info = &self.shown.placement[shard as usize];
            assert_eq!(info.replicas[0].site_id, site.0);
            assert!(info.pin.as_ref().is_some_and(|pin| pin.leader == site.0));
        }
    }

    pub(crate) fn move_replica(&mut self, shard: u32, from: usize, to: usize) {
        let (from, to) = (self.name(from), self.name(to));
        let steered = self.steer(Steer::MoveReplica { shard, from, to });
        if let Ok(to) = steered {
            let pin = self.shown.placement[shard as usize].pin.as_ref().unwrap();
            assert!(pin.sites.contains(&to.0) && pin.sites.len() == self.replicas);
        }
    }

    pub(crate) fn release(&mut self, shard: u32) {
        self.steer(Steer::Release { shard }).unwrap();
        assert!(self.shown.placement[shard as usize].pin.is_none());
    }

    /// The controller starts anew, from what is durable.
    pub(crate) fn new_controller(&mut self) {
        self.control = control(self.durable.clone(), self.now());
        for at in 0..self.sites.len() {
            let stream = self.stream();
            let site = &mut self.sites[at];
            site.stream = stream;
            site.sent.clear();
        }
        self.turn(Vec::new());
    }

    /// The controller stands still for a while.
    pub(crate) fn pause(&mut self) {
        self.now_ms += 100_000;
    }

    // ---- one step ----

    pub(crate) fn step(&mut self) {
        self.now_ms += STEP_MS;
        for at in 0..self.sites.len() {
            if self.sites[at].up {
                self.live(at);
            }
        }
        for shard in 0..SHARDS {
            if self.pick(2) == 0 {
                self.lead(shard);
            }
        }
        let mut events = Vec::new();
        for at in 0..self.sites.len() {
            // Reports wait, and come in bursts.
            let taken = self.pick(3);
            let site = &mut self.sites[at];
            let taken = taken.min(site.sent.len());
            let stream = site.stream;
            events.extend(site.sent.drain(..taken).map(|report| Event::Site { stream, report }));
        }
        self.turn(events);
    }

    fn live(&mut self, at: usize) {
        if self.pick(2) == 0 {
            self.see_topology(at);
        }
        if self.pick(2) == 0 {
            self.fetch(at);
        }
        if self.pick(2) == 0 {
            let report = self.report(at);
            self.sites[at].sent.push_back(report);
        }
    }

    fn see_topology(&mut self, at: usize) {
        let shown = self.shown.clone();
        if !shown.sites.iter().any(|site| site.site_id == self.sites[at].id) {
            return;
        }
        let first = self.sites[at].topology.is_none();
        let id = self.sites[at].id;
        let mut named = BTreeSet::new();
        for shard in &shown.placement {
            let members = shard.replicas.iter().chain(&shard.holders);
            let mine = members.filter(|replica| replica.site_id == id);
            named.extend(mine.map(|replica| (shard.shard, replica.replica_id)));
        }
        let group_is_new = |groups: &[Group], shard: u32| groups[shard as usize].voters.is_empty();
        let gone: Vec<(u32, u64)> =
            self.sites[at].replicas.keys().filter(|key| !named.contains(key)).copied().collect();
        for key in gone {
            self.sites[at].replicas.remove(&key);
            self.check_erased(key.0);
        }
        for key in named {
            // Those that found a group have its (empty) log from the start.
            let new = Replica::default();
            self.sites[at].replicas.entry(key).or_insert(new);
        }
        self.sites[at].topology = Some(shown.clone());
        if !first {
            return;
        }
        for shard in &shown.placement {
            if group_is_new(&self.groups, shard.shard) && shard.holders.is_empty() {
                let voters = shard.replicas.iter().map(|replica| replica.replica_id).collect();
                self.groups[shard.shard as usize].voters = voters;
            }
        }
    }

    /// One run that is missing comes from anybody who has it.
    fn fetch(&mut self, at: usize) {
        let missing = |(key, replica): (&(u32, u64), &Replica)| {
            (replica.joined && replica.runs != RUNS).then_some(*key)
        };
        let Some(key) = self.sites[at].replicas.iter().find_map(missing) else { return };
        let up = self.sites.iter().filter(|site| site.up);
        let holders = up.flat_map(|site| &site.replicas).filter(|((shard, _), _)| *shard == key.0);
        let there = holders.fold(0, |runs, (_, replica)| runs | replica.runs);
        let replica = self.sites[at].replicas.get_mut(&key).unwrap();
        let wanted = there & !replica.runs;
        replica.runs |= wanted & wanted.wrapping_neg();
    }

    fn report(&self, at: usize) -> SiteReport {
        let site = &self.sites[at];
        let replica = |(&(shard, replica_id), replica): (&(u32, u64), &Replica)| {
            let group = &self.groups[shard as usize];
            let leads = group.leader == Some(replica_id);
            let missing_runs = if replica.joined { (RUNS & !replica.runs).count_ones() } else { 0 };
            let report = ReplicaReport {
                shard,
                replica_id,
                missing_runs: missing_runs.into(),
                missing_bytes: u64::from(missing_runs) * 1000,
                ..ReplicaReport::default()
            };
            if !leads {
                return report;
            }
            let voters: BTreeSet<u64> =
                group.voters.iter().chain(group.pending.iter().flatten()).copied().collect();
            let caught_up =
                |id: &u64| self.replica(shard, *id).is_some_and(|(_, held)| held.joined);
            let known = self.minted.iter().filter(|(_, (held, _))| *held == shard);
            ReplicaReport {
                leading_term: group.term,
                voters: voters.into_iter().collect(),
                caught_up: known.map(|(id, _)| *id).filter(caught_up).collect(),
                ..report
            }
        };
        SiteReport {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: site.topology.as_ref().map_or(String::new(), |_| "c".to_owned()),
            site_id: site.id,
            name: format!("site-{}", site.id),
            address: site.address.clone(),
            labels: [("zone".to_owned(), site.zone.clone())].into(),
            replicas: site.replicas.iter().map(replica).collect(),
            topology_version: site.topology.as_ref().map_or(0, |topology| topology.version),
            ..SiteReport::default()
        }
    }

    // ---- a shard's group ----

    fn replica(&self, shard: u32, id: u64) -> Option<(usize, &Replica)> {
        let held =
            |(at, site): (usize, &'_ Site)| site.replicas.contains_key(&(shard, id)).then_some(at);
        let at = self.sites.iter().enumerate().find_map(held)?;
        Some((at, &self.sites[at].replicas[&(shard, id)]))
    }

    fn holder_of(&self, shard: u32, id: u64) -> Option<usize> {
        self.replica(shard, id).filter(|(_, replica)| replica.joined).map(|(at, _)| at)
    }

    fn is_up(&self, shard: u32, id: u64) -> bool {
        self.holder_of(shard, id).is_some_and(|at| self.sites[at].up)
    }

    fn has_quorum(&self, shard: u32) -> bool {
        let group = &self.groups[shard as usize];
        let mut sets = std::iter::once(&group.voters).chain(&group.pending);
        let up = |set: &BTreeSet<u64>| set.iter().filter(|id| self.is_up(shard, **id)).count();
        sets.all(|set| up(set) * 2 > set.len())
    }

    fn lead(&mut self, shard: u32) {
        let group = self.groups[shard as usize].clone();
        if group.term == 0 {
            return self.found(shard);
        }
        if !self.has_quorum(shard) {
            self.groups[shard as usize].leader = None;
            return;
        }
        let leader = match group.leader.filter(|id| self.is_up(shard, *id)) {
            Some(leader) if self.pick(20) != 0 => leader,
            _ => return self.elect(shard),
        };
        let at = self.holder_of(shard, leader).unwrap();
        let Some(topology) = &self.sites[at].topology else { return };
        let placed = &topology.placement[shard as usize];
        let wanted: BTreeSet<u64> =
            placed.replicas.iter().map(|replica| replica.replica_id).collect();
        self.reconfigure(shard, group, wanted);
    }

    /// A group begins when all of its first replicas are there.
    fn found(&mut self, shard: u32) {
        let voters = self.groups[shard as usize].voters.clone();
        let there = |id: &u64| self.replica(shard, *id).is_some_and(|(at, _)| self.sites[at].up);
        if voters.is_empty() || !voters.iter().all(there) {
            return;
        }
        for id in &voters {
            let (at, _) = self.replica(shard, *id).unwrap();
            let replica = Replica { joined: true, runs: RUNS };
            self.sites[at].replicas.insert((shard, *id), replica);
        }
        let group = &mut self.groups[shard as usize];
        (group.term, group.leader) = (1, voters.first().copied());
    }

    fn elect(&mut self, shard: u32) {
        let group = &self.groups[shard as usize];
        let candidates = group.voters.iter().chain(group.pending.iter().flatten());
        let candidates: Vec<u64> =
            candidates.copied().filter(|id| self.is_up(shard, *id)).collect();
        let chosen = candidates[self.pick(candidates.len())];
        let group = &mut self.groups[shard as usize];
        group.term += 1;
        group.leader = Some(chosen);
    }

    /// Learners first, then both sets together, then the new one.
    fn reconfigure(&mut self, shard: u32, group: Group, wanted: BTreeSet<u64>) {
        if let Some(pending) = group.pending {
            let group = &mut self.groups[shard as usize];
            if group.leader.is_some_and(|leader| !pending.contains(&leader)) {
                group.leader = None;
            }
            (group.voters, group.pending) = (pending, None);
            return;
        }
        if group.voters == wanted {
            return;
        }
        for id in &wanted {
            let Some((at, replica)) = self.replica(shard, *id) else { return };
            if !self.sites[at].up {
                return;
            }
            if !replica.joined {
                let joined = Replica { joined: true, runs: 0 };
                self.sites[at].replicas.insert((shard, *id), joined);
                return;
            }
        }
        self.groups[shard as usize].pending = Some(wanted);
    }

    // ---- the controller ----

    fn turn(&mut self, events: Vec<Event>) -> Turn {
        let now = self.now();
        self.control.begin(now);
        events.into_iter().for_each(|event| self.control.handle(event, now));
        let turn = self.control.finish(now);
        if let Some(saved) = &turn.saved {
            self.durable = saved.clone();
        }
        if let Some(topology) = &turn.topology {
            assert!(topology.version > self.shown.version);
            self.shown = topology.clone();
        }
        let moves = turn.steps.iter().filter(|step| matches!(step, Step::Move { .. })).count();
        assert!(moves <= TRANSITIONS_MAX);
        self.moves += moves;
        self.most_under_way = self.most_under_way.max(self.under_way());
        self.check();
        turn
    }

    // ---- what has to hold ----

    fn check(&mut self) {
        for shard in &self.shown.placement {
            assert_eq!(shard.replicas.len(), self.replicas, "{shard:?}");
            let members: Vec<_> = shard.replicas.iter().chain(&shard.holders).collect();
            let sites: BTreeSet<u64> = shard.replicas.iter().map(|r| r.site_id).collect();
            assert_eq!(sites.len(), self.replicas, "{shard:?}");
            let ids: BTreeSet<u64> = members.iter().map(|replica| replica.replica_id).collect();
            assert_eq!(ids.len(), members.len(), "{shard:?}");
            for replica in members {
                let place = (shard.shard, replica.site_id);
                let known = *self.minted.entry(replica.replica_id).or_insert(place);
                assert_eq!(known, place, "a replica id is used twice");
            }
        }
        self.check_pins();
        for shard in 0..SHARDS {
            let group = &self.groups[shard as usize];
            if group.term == 0 {
                continue;
            }
            for set in std::iter::once(&group.voters).chain(&group.pending) {
                let held = set.iter().filter(|id| self.holder_of(shard, **id).is_some()).count();
                assert!(held * 2 > set.len(), "shard {shard} has lost its majority: {group:?}");
            }
        }
    }

    /// A pin names active sites only, all of a shard or none.
    fn check_pins(&self) {
        for pin in self.shown.placement.iter().filter_map(|shard| shard.pin.as_ref()) {
            let sites: BTreeSet<u64> = pin.sites.iter().copied().collect();
            assert!(sites.is_empty() || sites.len() == self.replicas, "{pin:?}");
            assert!(pin.leader != 0 || !sites.is_empty(), "{pin:?}");
            let mut named = sites.into_iter().chain((pin.leader != 0).then_some(pin.leader));
            assert!(named.all(|site| self.state(site) == SiteState::Active), "{pin:?}");
        }
    }

    /// At rest, shards are where they are pinned to, if all of that is up.
    pub(crate) fn check_pins_are_kept(&self) {
        for shard in &self.shown.placement {
            let Some(pin) = &shard.pin else { continue };
            let held: BTreeSet<u64> = shard.replicas.iter().map(|r| r.site_id).collect();
            if !pin.sites.is_empty() && pin.sites.iter().all(|site| self.is_known_up(*site)) {
                assert_eq!(held, pin.sites.iter().copied().collect(), "{shard:?}");
            }
            if pin.leader != 0 && self.is_known_up(pin.leader) && held.contains(&pin.leader) {
                assert_eq!(shard.replicas[0].site_id, pin.leader, "{shard:?}");
            }
        }
    }

    /// A site has erased a replica of the shard: nobody needs it.
    fn check_erased(&self, shard: u32) {
        for replica in &self.durable.topology.placement[shard as usize].replicas {
            let held = self.replica(shard, replica.replica_id).map(|(_, held)| held);
            let whole = held.is_some_and(|held| held.joined && held.runs == RUNS);
            let wiped = self.sites.iter().any(|site| site.id == replica.site_id && site.wiped);
            // A later change may have begun since.
            let joins = self.durable.topology.placement[shard as usize]
                .holders
                .iter()
                .any(|holder| holder.replica_id < replica.replica_id);
            assert!(whole || wiped || joins, "shard {shard}: {replica:?} lacks what was erased");
        }
    }

    /// Without faults everything comes to its end, and stays there.
    pub(crate) fn rest(&mut self) {
        for _ in 0..20 {
            self.until(World::is_settled);
            let placement = self.placement();
            (0..60).for_each(|_| self.step());
            if self.placement() == placement && self.is_settled() {
                return;
            }
        }
        panic!("it goes on and on: {:?}", self.placement());
    }

    /// Groups are what the placement says, everybody has everything, loads are even, and no site that may
    /// not keep anything has something.
    fn is_settled(&self) -> bool {
        let reported = self.sites.iter().filter(|site| !site.wiped && site.up);
        let all_up = reported.clone().all(|site| self.is_known_up(site.id));
        let kept = self.sites.iter().enumerate().all(|(at, site)| match self.state(site.id) {
            SiteState::Active => true,
            SiteState::Draining => false,
            SiteState::Drained | SiteState::Lost => self.loads()[at] == 0,
        });
        let shards = self.shown.placement.iter().all(|shard| {
            let group = &self.groups[shard.shard as usize];
            let ids: BTreeSet<u64> = shard.replicas.iter().map(|r| r.replica_id).collect();
            let whole = |id: &u64| {
                self.replica(shard.shard, *id).is_some_and(|(_, held)| held.runs == RUNS)
            };
            group.voters == ids && group.pending.is_none() && ids.iter().all(whole)
        });
        let held_back = self.control.describe(self.now()).held_back;
        // What is pinned may be uneven.
        let pinned = self.shown.placement.iter().any(|shard| shard.pin.is_some());
        let spread = self.spread() <= 1 || self.zones != 0 || pinned;
        self.under_way() == 0 && all_up && kept && shards && spread && held_back.is_none()
    }

    fn spread(&self) -> usize {
        // One that is down keeps what it has and gets nothing.
        let up = self.sites.iter().enumerate().filter(|(_, site)| site.up && !site.wiped);
        let active = up.filter(|(_, site)| self.state(site.id) == SiteState::Active);
        let loads: Vec<usize> = active.map(|(at, _)| self.loads()[at]).collect();
        loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
    }

    fn is_known_up(&self, id: u64) -> bool {
        let known = self.shown.sites.iter().find(|site| site.site_id == id);
        known.is_some_and(|site| site.liveness() == Liveness::Up)
    }

    pub(crate) fn until(&mut self, wanted: impl Fn(&World) -> bool) {
        for _ in 0..3000 {
            if wanted(self) {
                return;
            }
            self.step();
        }
        let described = self.control.describe(self.now());
        let sites: Vec<_> =
            self.sites.iter().map(|site| (site.id, site.up, self.state(site.id))).collect();
        panic!(
            "never: {:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            described.held_back, self.groups, self.shown.placement, sites, described.transitions
        );
    }

    // ---- what tests ask ----

    fn state(&self, id: u64) -> SiteState {
        let known = self.shown.sites.iter().find(|site| site.site_id == id);
        known.map_or(SiteState::Active, |site| site.state())
    }

    pub(crate) fn is_drained(&self, site: usize) -> bool {
        self.state(self.sites[site].id) == SiteState::Drained
    }

    pub(crate) fn is_lost(&self, site: usize) -> bool {
        self.state(self.sites[site].id) == SiteState::Lost
    }

    pub(crate) fn loads(&self) -> Vec<usize> {
        let load = |site: &Site| {
            let replicas = self.shown.placement.iter().flat_map(|shard| &shard.replicas);
            replicas.filter(|replica| replica.site_id == site.id).count()
        };
        self.sites.iter().map(load).collect()
    }

    /// Number of the site that has a replica of the shard; the first one's is preferred as leader.
    pub(crate) fn site_of(&self, shard: u32, at: usize) -> usize {
        let id = self.shown.placement[shard as usize].replicas[at].site_id;
        self.sites.iter().position(|site| site.id == id).unwrap()
    }

    pub(crate) fn has(&self, shard: u32, site: usize) -> bool {
        let replicas = &self.shown.placement[shard as usize].replicas;
        replicas.iter().any(|replica| replica.site_id == self.sites[site].id)
    }

    pub(crate) fn placement(&self) -> Vec<ShardInfo> {
        self.shown.placement.clone()
    }

    pub(crate) fn under_way(&self) -> usize {
        self.shown.placement.iter().filter(|shard| !shard.holders.is_empty()).count()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.most_under_way
    }

    pub(crate) fn moves(&self) -> usize {
        self.moves
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }
}
