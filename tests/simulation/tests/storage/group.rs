//! Replication of one shard, as small as it can be: one leader a term, entries appended there, shipped,
//! committed once they are durable on a majority. It stands for Raft.

use holdfast_log::SimRng;
use holdfast_proto::ids::ShardId;
use holdfast_shard::{Answer, Request};

use crate::base::LogId;
use crate::model::{Model, Proposal};
use crate::replica::{Replica, Stop, log_bytes};
use crate::requests::Gateways;
use crate::site::{Life, Site};

pub(crate) const SITES: usize = 3;
/// An entry larger than this is not proposed: it would not fit a segment of the small logs here.
const ENTRY_BYTES_MAX: usize = 12 << 10;
/// With more than this in its log, or less room than this, a leader cuts.
const LOG_BYTES_EASY: u64 = 48 << 10;
const ROOM_BYTES_EASY: u64 = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader {
    pub(crate) site: usize,
    term: u64,
    /// Up to where each site's log is durable and the leader's.
    matched: [u64; SITES],
}

#[derive(Debug)]
pub(crate) struct Election {
    term: u64,
    candidate: usize,
    granted: [bool; SITES],
}

pub(crate) struct Group {
    shard: usize,
    pub(crate) model: Model,
    pub(crate) gateways: Gateways,
    term_max: u64,
    pub(crate) leader: Option<Leader>,
    election: Option<Election>,
    pub(crate) voters: [bool; SITES],
    /// Commit index when a site's replica was replaced.
    replaced_at: [u64; SITES],
    pub(crate) counts: GroupCounts,
}

/// What a history reached.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct GroupCounts {
    pub(crate) elections: u64,
    pub(crate) snapshots: u64,
    pub(crate) truncates: u64,
    pub(crate) refused: u64,
    pub(crate) joined: u64,
}

fn life_of(sites: &mut [Site], site: usize, shard: usize) -> Option<(&mut Life, usize)> {
    sites[site].life.as_mut().map(|life| (life, shard))
}

impl Group {
    pub(crate) fn new(shard: usize) -> Group {
        Group {
            shard,
            model: Model::default(),
            gateways: Gateways::new(ShardId(shard as u16)),
            term_max: 0,
            leader: None,
            election: None,
            voters: [true; SITES],
            replaced_at: [0; SITES],
            counts: GroupCounts::default(),
        }
    }

    fn quorum(&self) -> usize {
        self.voters.iter().filter(|voter| **voter).count() / 2 + 1
    }

    // ---- elections -----------------------------------------------------------------------------------

    /// A site went down.
    pub(crate) fn down(&mut self, site: usize) {
        self.leader = self.leader.filter(|leader| leader.site != site);
        self.election = self.election.take().filter(|election| election.candidate != site);
    }

    /// A site's damaged replica does not count any more; a new one starts to learn.
    pub(crate) fn replaced(&mut self, site: usize) {
        self.voters[site] = false;
        self.replaced_at[site] = self.model.commit_index();
        if let Some(leader) = &mut self.leader {
            leader.matched[site] = 0;
        }
        if let Some(election) = &mut self.election {
            election.granted[site] = false;
        }
    }

    /// A site asks for votes.
    pub(crate) fn elect(&mut self, sites: &mut [Site], candidate: usize, reachable: [bool; SITES]) {
        if !self.voters[candidate] {
            return;
        }
        let Some((life, shard)) = life_of(sites, candidate, self.shard) else { return };
        let last = life.replicas[shard].last();
        self.term_max += 1;
        let term = self.term_max;
        for (site, reached) in reachable.into_iter().enumerate() {
            let Some((life, shard)) = life_of(sites, site, self.shard) else { continue };
            let Life { log, replicas } = life;
            let heard = site == candidate || reached;
            if self.voters[site] && heard && replicas[shard].last() <= last {
                replicas[shard].save_vote(log, term);
            }
        }
        self.election = Some(Election { term, candidate, granted: [false; SITES] });
    }

    /// A vote of a site is durable.
    pub(crate) fn voted(&mut self, site: usize, term: u64) {
        if let Some(election) = &mut self.election
            && election.term == term
        {
            election.granted[site] = self.voters[site];
        }
    }

    /// Starts the leader's work if an election is won.
    pub(crate) fn win(&mut self, sites: &mut [Site]) -> Result<(), Stop> {
        let Some(election) = &self.election else { return Ok(()) };
        if election.granted.iter().filter(|granted| **granted).count() < self.quorum() {
            return Ok(());
        }
        let (site, term) = (election.candidate, election.term);
        self.election = None;
        let Some((life, shard)) = life_of(sites, site, self.shard) else { return Ok(()) };
        let Life { log, replicas } = life;
        let replica = &mut replicas[shard];
        if replica.vote != term {
            return Ok(());
        }
        assert!(replica.last().index >= self.model.commit_index(), "a committed entry is lost");
        for index in replica.purged.index + 1..=self.model.commit_index() {
            let term = self.model.committed(index).term;
            assert_eq!(replica.term_at(index), Some(term), "committed entry {index} is lost");
        }
        let id = LogId { term, index: replica.last().index + 1 };
        let bytes = log_bytes(term, None);
        self.model.written.insert(id, bytes.clone());
        let entry = holdfast_log::LogEntry { index: id.index, bytes };
        self.counts.elections += 1;
        if replica.append(log, vec![entry])? {
            replica.agreed = LogId { term, index: u64::MAX };
            self.leader = Some(Leader { site, term, matched: [0; SITES] });
        } else {
            self.counts.refused += 1;
            self.leader = None;
        }
        Ok(())
    }

    // ---- entries -------------------------------------------------------------------------------------

    /// The leader puts what its gateways ask into one entry.
    pub(crate) fn propose(
        &mut self,
        sites: &mut [Site],
        rng: &mut SimRng,
        now_ms: u64,
        only_cut: bool,
    ) -> Result<(), Stop> {
        let Some(leader) = self.leader else { return Ok(()) };
        let Some((life, shard)) = life_of(sites, leader.site, self.shard) else { return Ok(()) };
        let Life { log, replicas } = life;
        let replica = &mut replicas[shard];
        let last = replica.last();
        if replica.vote != leader.term || replica.applied != last || last.term != leader.term {
            return Ok(());
        }
        let crowded = log.live_bytes(replica.key) > LOG_BYTES_EASY
            || log.stats().room_bytes < ROOM_BYTES_EASY;
        let requests = match only_cut || crowded {
            true => vec![Request::Cut],
            false => self.gateways.requests(rng, &replica.shard, now_ms),
        };
        let decision = replica.shard.decide(&requests, now_ms).unwrap();
        for (request, answer) in requests.iter().zip(&decision.answers) {
            if let Answer::Now(outcome) = answer {
                self.model.answered(request, outcome, &mut self.gateways);
            }
        }
        let Some(mut entry) = decision.entry else { return Ok(()) };
        // One that a replaced leader decided says so by its term.
        entry.term = if rng.one_in(50) { leader.term - 1 } else { leader.term };
        let id = LogId { term: leader.term, index: last.index + 1 };
        let bytes = log_bytes(id.term, Some(&entry));
        if bytes.len() > ENTRY_BYTES_MAX {
            return Ok(());
        }
        let entry = holdfast_log::LogEntry { index: id.index, bytes: bytes.clone() };
        if replica.append(log, vec![entry])? {
            self.model.written.insert(id, bytes);
            self.model.proposals.insert(id, Proposal { requests, answers: decision.answers });
        } else {
            self.counts.refused += 1;
        }
        Ok(())
    }

    /// The leader sends a follower what it lacks, or a snapshot.
    pub(crate) fn ship(&mut self, sites: &mut [Site], to: usize, most: u64) -> Result<(), Stop> {
        let Some(leader) = self.leader.filter(|leader| leader.site != to) else { return Ok(()) };
        let [from, to] = sites.get_disjoint_mut([leader.site, to]).unwrap();
        let (Some(from), Some(to)) = (&mut from.life, &mut to.life) else { return Ok(()) };
        let (source, target) = (&from.replicas[self.shard], &mut to.replicas[self.shard]);
        if target.vote > leader.term || source.vote > leader.term {
            self.leader = None;
            return Ok(());
        }
        if target.vote < leader.term {
            target.save_vote(&to.log, leader.term);
        }
        let mut common = source.last().index.min(target.last().index);
        while common > source.purged.index
            && common > target.purged.index
            && source.term_at(common) != target.term_at(common)
        {
            common -= 1;
        }
        // What is purged here may conflict there.
        if common < source.purged.index || source.term_at(common) != target.term_at(common) {
            return self.send_snapshot(source, target, &to.log, leader.term);
        }
        let until = source.last().index.min(common + most);
        if common < until {
            let entries = source.read(&from.log, common + 1, until + 1);
            if target.last().index > common {
                target.truncate(&to.log, common + 1);
                self.counts.truncates += 1;
            }
            if !target.append(&to.log, entries)? {
                self.counts.refused += 1;
                return Ok(());
            }
        }
        target.agreed = LogId { term: leader.term, index: until };
        let known = until.min(self.model.commit_index());
        if known > 0 {
            target.save_committed(&to.log, self.model.committed(known));
        }
        Ok(())
    }

    fn send_snapshot(
        &mut self,
        source: &Replica,
        target: &mut Replica,
        log: &holdfast_log::LogCore,
        term: u64,
    ) -> Result<(), Stop> {
        if source.is_checkpointing() || target.is_checkpointing() {
            return Ok(());
        }
        let at = source.base.applied();
        assert!(at.index > target.applied.index);
        if target.install(log, at, source.base.pairs())? {
            target.agreed = LogId { term, index: at.index };
            self.counts.snapshots += 1;
        }
        Ok(())
    }

    /// Takes note of what became durable on a site, and commits what is durable on a majority.
    pub(crate) fn flushed(&mut self, sites: &mut [Site], site: usize) {
        let Some(mut leader) = self.leader else { return };
        let Some((life, shard)) = life_of(sites, site, self.shard) else { return };
        let replica = &life.replicas[shard];
        if replica.agreed.term != leader.term {
            return;
        }
        let durable = replica.durable.min(replica.agreed.index);
        leader.matched[site] = leader.matched[site].max(durable);
        self.leader = Some(leader);
        let mut matched: Vec<u64> =
            (0..SITES).filter(|at| self.voters[*at]).map(|at| leader.matched[at]).collect();
        matched.sort_unstable();
        let index = matched[matched.len() - self.quorum()];
        let Some((Life { log, replicas }, shard)) = life_of(sites, leader.site, self.shard) else {
            return;
        };
        let replica = &mut replicas[shard];
        if index > self.model.commit_index() && replica.term_at(index) == Some(leader.term) {
            for index in self.model.commit_index() + 1..=index {
                let term = replica.term_at(index).unwrap();
                self.model.commit(LogId { term, index });
            }
        }
        let commit = self.model.commit_index();
        if commit > 0 && self.model.committed(commit).term == leader.term {
            replica.save_committed(log, self.model.committed(commit));
            self.admit(&leader);
        }
    }

    /// A new replica that has all that is committed votes.
    fn admit(&mut self, leader: &Leader) {
        let commit = self.model.commit_index();
        for site in 0..SITES {
            // With an entry of this term committed without it, all others have all that is committed.
            if !self.voters[site]
                && commit > self.replaced_at[site]
                && leader.matched[site] >= commit
            {
                self.voters[site] = true;
                self.counts.joined += 1;
            }
        }
    }

    /// Applies a few entries on a site.
    pub(crate) fn apply(&mut self, sites: &mut [Site], site: usize, most: u64) {
        let Some((Life { log, replicas }, shard)) = life_of(sites, site, self.shard) else {
            return;
        };
        for _ in 0..most {
            if !replicas[shard].apply_next(log, &mut self.model, &mut self.gateways) {
                return;
            }
        }
    }

    /// What every replica that is up reads is what the model says.
    pub(crate) fn check_reads(&self, sites: &[Site]) {
        for life in sites.iter().filter_map(|site| site.life.as_ref()) {
            let replica = &life.replicas[self.shard];
            if let Some((first, all)) = replica.read_all() {
                self.model.read(first, replica.shard.next_position().0, &all);
            }
        }
    }
}
