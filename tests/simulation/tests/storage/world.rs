//! The world: sites, shards, time, and everything that goes wrong. All of it comes from one seed.

use holdfast_log::SimRng;
use holdfast_proto::ids::ReplicaId;

use crate::base::LogId;
use crate::group::{Group, SITES};
use crate::replica::Stop;
use crate::requests::SHARDS;
use crate::site::{End, Site};

const START_MS: u64 = 1_000_000;
/// Things that happen in one step, besides faults.
const ACTS_PER_STEP: usize = 32;
const SETTLE_STEPS_MAX: usize = 3_000;

pub(crate) struct World {
    seed: u64,
    step: u64,
    rng: SimRng,
    now_ms: u64,
    next_replica: u64,
    pub(crate) sites: Vec<Site>,
    pub(crate) groups: Vec<Group>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: HOLDFAST_SEED={} HOLDFAST_STEPS={}", self.seed, self.step);
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut world = World {
            seed,
            step: 0,
            rng: SimRng::new(seed),
            now_ms: START_MS,
            next_replica: 100,
            sites: (0..SITES as u64).map(Site::new).collect(),
            groups: (0..usize::from(SHARDS)).map(Group::new).collect(),
        };
        for site in 0..SITES {
            world.start(site);
        }
        world
    }

    fn site(&mut self) -> usize {
        self.rng.below(SITES as u64) as usize
    }

    fn group(&mut self) -> usize {
        self.rng.below(u64::from(SHARDS)) as usize
    }

    pub(crate) fn step(&mut self) {
        self.step += 1;
        self.now_ms += match self.rng.below(60) {
            0 if self.rng.one_in(8) => self.rng.below(1_000_000),
            0..10 => self.rng.below(5_000),
            _ => self.rng.below(50),
        };
        for site in 0..SITES {
            let (down, full) = (self.sites[site].down_until, self.sites[site].full_until);
            if full == self.step {
                self.sites[site].disk.set_budget(None);
            }
            if self.sites[site].life.is_none() && down <= self.step {
                self.start(site);
                if self.rng.one_in(8) {
                    // What a start found must be as durable as what it reports.
                    self.end(site, End::Power);
                }
            }
        }
        self.faults();
        for _ in 0..ACTS_PER_STEP {
            self.act();
        }
    }

    // ---- faults --------------------------------------------------------------------------------------

    fn faults(&mut self) {
        let site = self.site();
        match self.rng.below(1_000) {
            0..8 => self.end(site, End::Power),
            8..22 => self.end(site, End::Sync),
            22..30 => self.end(site, End::Kill),
            30..33 => {
                for site in 0..SITES {
                    let end = if self.rng.one_in(2) { End::Power } else { End::Sync };
                    self.end(site, end);
                }
            }
            33..39 => {
                let whole = self.groups.iter().all(|group| group.voters == [true; SITES])
                    && !self.sites.iter().any(|site| site.flipped);
                if whole && self.sites[site].full_until <= self.step {
                    self.end(site, End::Flip);
                }
            }
            39..49 => {
                let steps = if self.rng.one_in(3) { 250 } else { 40 };
                self.sites[site].alone_until = self.step + self.rng.below(steps);
            }
            53..63 => self.sites[site].slow_until = self.step + self.rng.below(40),
            49..53 => {
                self.sites[site].full_until = self.step + 1 + self.rng.below(100);
                let World { sites, rng, .. } = self;
                sites[site].fill(rng);
            }
            _ => {}
        }
    }

    fn end(&mut self, site: usize, end: End) {
        if matches!(end, End::Sync | End::Kill) {
            // So that the last round has something in it.
            for group in 0..self.groups.len() {
                self.propose(group, false);
                self.ship(group, site);
            }
        }
        self.go_down(site, end);
    }

    fn go_down(&mut self, site: usize, end: End) {
        let World { sites, groups, rng, .. } = self;
        let mut models: Vec<_> = groups.iter_mut().map(|group| &mut group.model).collect();
        sites[site].end(end, rng, &mut models);
        sites[site].down_until = self.step + 1 + self.rng.below(30);
        for group in &mut self.groups {
            group.down(site);
        }
    }

    fn start(&mut self, site: usize) {
        let World { sites, groups, next_replica, .. } = self;
        let models: Vec<_> = groups.iter().map(|group| &group.model).collect();
        let mint = || {
            *next_replica += 1;
            ReplicaId(*next_replica)
        };
        match sites[site].start(&models, mint) {
            Some(damaged) => damaged.into_iter().for_each(|shard| groups[shard].replaced(site)),
            // Somebody makes room.
            None => sites[site].disk.set_budget(None),
        }
    }

    // ---- what sites do -------------------------------------------------------------------------------

    fn is_alone(&self, site: usize) -> bool {
        self.sites[site].alone_until > self.step
    }

    fn act(&mut self) {
        let (site, group) = (self.site(), self.group());
        match self.rng.below(100) {
            0..24 if self.sites[site].slow_until <= self.step || self.rng.one_in(8) => {
                self.commit(site);
            }
            0..24 => {}
            24..40 => self.propose(group, false),
            40..64 => self.ship(group, site),
            64..84 => {
                let most = 1 + self.rng.below(4);
                let World { sites, groups, .. } = self;
                groups[group].apply(sites, site, most);
            }
            84..94 => self.checkpoint(group, site),
            94..97 => self.fetch(group, site),
            97..99 => {
                if self.groups[group].leader.is_none() {
                    self.elect(group, site);
                }
            }
            _ => {
                if self.rng.one_in(15) {
                    self.elect(group, site);
                }
            }
        }
    }

    fn stopped(&mut self, site: usize, result: Result<(), Stop>) {
        if result.is_err() {
            self.go_down(site, End::Kill);
        }
    }

    fn commit(&mut self, site: usize) {
        let World { sites, groups, .. } = self;
        let Some(life) = &mut sites[site].life else { return };
        life.log.commit();
        assert!(!life.log.stats().failed, "nothing failed");
        let mut result = Ok(());
        for (replica, group) in life.replicas.iter_mut().zip(groups.iter_mut()) {
            result = result.and(replica.poll(&mut |term| group.voted(site, term)));
        }
        if result.is_ok() {
            for group in groups.iter_mut() {
                group.flushed(sites, site);
            }
        }
        self.stopped(site, result);
        self.win();
    }

    fn win(&mut self) {
        for group in 0..self.groups.len() {
            let World { sites, groups, .. } = self;
            if groups[group].win(sites).is_err() {
                groups[group].leader = None;
            }
        }
    }

    fn propose(&mut self, group: usize, only_cut: bool) {
        let Some(leader) = self.groups[group].leader else { return };
        let World { sites, groups, rng, now_ms, .. } = self;
        let result = groups[group].propose(sites, rng, *now_ms, only_cut);
        self.stopped(leader.site, result);
    }

    fn ship(&mut self, group: usize, to: usize) {
        let Some(leader) = self.groups[group].leader else { return };
        if self.is_alone(leader.site) || self.is_alone(to) {
            return;
        }
        let most = 1 + self.rng.below(8);
        let World { sites, groups, .. } = self;
        let result = groups[group].ship(sites, to, most);
        groups[group].flushed(sites, to);
        self.stopped(to, result);
    }

    fn checkpoint(&mut self, group: usize, site: usize) {
        let eager = self.rng.one_in(8);
        let World { sites, groups, .. } = self;
        let Some(life) = &mut sites[site].life else { return };
        life.replicas[group].checkpoint(&life.log, &mut groups[group].model, eager);
    }

    /// Copies one missing run from a holder.
    fn fetch(&mut self, group: usize, site: usize) {
        let Some(life) = &self.sites[site].life else { return };
        let Some(row) = life.replicas[group].missing_runs().first().copied() else { return };
        let holders = self.sites.iter().filter_map(|site| site.life.as_ref());
        let file = holders.filter_map(|life| life.replicas[group].run_file(&row)).next();
        if let (Some(file), Some(life)) = (file, &mut self.sites[site].life) {
            life.replicas[group].store_run(row, &file);
        }
    }

    fn elect(&mut self, group: usize, candidate: usize) {
        if self.is_alone(candidate) {
            return;
        }
        let reachable = std::array::from_fn(|site| !self.is_alone(site));
        let World { sites, groups, .. } = self;
        groups[group].elect(sites, candidate, reachable);
    }

    // ---- calm ----------------------------------------------------------------------------------------

    /// Ends all faults and waits until every replica has applied everything.
    pub(crate) fn settle(&mut self) {
        for site in 0..SITES {
            self.sites[site].disk.set_budget(None);
            (self.sites[site].alone_until, self.sites[site].slow_until) = (0, 0);
            if self.sites[site].life.is_none() {
                self.start(site);
            }
        }
        for _ in 0..SETTLE_STEPS_MAX {
            if (0..self.groups.len()).all(|group| self.is_settled(group)) {
                return;
            }
            self.calm_step();
        }
        panic!("the world does not settle: {}", self.state());
    }

    fn state(&self) -> String {
        let mut lines = Vec::new();
        for (shard, group) in self.groups.iter().enumerate() {
            let commit = group.model.commit_index();
            lines.push(format!("shard {shard}: commit {commit}, {:?}", group.leader));
            for (at, site) in self.sites.iter().enumerate() {
                let replica = site.life.as_ref().map(|life| life.replicas[shard].state());
                lines.push(format!(
                    "  site {at}: {replica:?}, log {:?}",
                    site.life.as_ref().map(|life| life.log.stats())
                ));
            }
        }
        lines.join("\n")
    }

    fn calm_step(&mut self) {
        for site in 0..SITES {
            if self.sites[site].life.is_none() {
                self.start(site);
            }
            for group in 0..self.groups.len() {
                if self.groups[group].leader.is_none() && self.rng.one_in(4) {
                    self.elect(group, site);
                }
                if self.groups[group].voters != [true; SITES] {
                    // A new replica votes once an entry is committed without it.
                    self.propose(group, true);
                }
                self.ship(group, site);
                let World { sites, groups, .. } = self;
                groups[group].apply(sites, site, 50);
                self.checkpoint(group, site);
                self.fetch(group, site);
            }
            self.commit(site);
            self.commit(site);
        }
    }

    fn is_settled(&self, group: usize) -> bool {
        let commit = self.groups[group].model.commit_index();
        let whole = self.groups[group].voters == [true; SITES];
        whole
            && self.groups[group].leader.is_some()
            && self.sites.iter().all(|site| {
                site.life.as_ref().is_some_and(|life| {
                    let replica = &life.replicas[group];
                    replica.applied.index == commit
                        && replica.last().index == commit
                        && !replica.is_checkpointing()
                        && replica.missing_runs().is_empty()
                })
            })
    }

    /// What the replicas hold is what the model says; they must have settled.
    pub(crate) fn check(&mut self) {
        for group in &self.groups {
            group.check_reads(&self.sites);
        }
    }

    /// Checkpoints everything at one cut; then the replicas' bases are equal too.
    pub(crate) fn check_bases(&mut self) {
        self.settle();
        for group in 0..self.groups.len() {
            let before = self.groups[group].model.counts.cuts;
            while self.groups[group].model.counts.cuts == before {
                // Twice: the first may carry a replaced leader's term.
                self.propose(group, true);
                self.calm_step();
            }
        }
        self.settle();
        self.check();
        for group in 0..self.groups.len() {
            let state = |site: &Site| {
                let replica = &site.life.as_ref().unwrap().replicas[group];
                (replica.base.applied(), replica.base.pairs())
            };
            let first: (LogId, _) = state(&self.sites[0]);
            for site in &self.sites[1..] {
                assert_eq!(state(site), first, "shard {group}");
            }
        }
    }
}
