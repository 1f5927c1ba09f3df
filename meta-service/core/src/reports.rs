//! The newest report of every site that is up. Nothing of it is persisted: a controller that starts
//! knows nothing until sites report.
//!
//! Invariant: what a leader says counts only while no replica of the shard has reported to lead in a
//! newer term, and only while its own newest report says so.

use std::collections::BTreeMap;

use holdfast_proto::{
    ids::SiteId,
    meta::{ReplicaReport, SiteReport},
    version::Versions,
};

/// A site's newest report.
#[derive(Debug, Default)]
pub struct Held {
    /// By shard and replica id.
    replicas: Vec<ReplicaReport>,
    /// Shards and replica ids that may never vote again.
    damaged: Vec<(u32, u64)>,
    /// What it speaks.
    pub versions: Versions,
    /// The newest topology that it had seen.
    pub topology_version: u64,
    /// Bytes that its data takes.
    pub used_bytes: u64,
    /// Bytes that it may take.
    pub capacity_bytes: u64,
}

impl Held {
    /// Everything that it holds.
    pub fn replicas(&self) -> &[ReplicaReport] {
        &self.replicas
    }

    fn replica(&self, shard: u32, replica_id: u64) -> Option<&ReplicaReport> {
        let key = |replica: &ReplicaReport| (replica.shard, replica.replica_id);
        let at = self.replicas.binary_search_by_key(&(shard, replica_id), key).ok()?;
        self.replicas.get(at)
    }
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    term: u64,
    site: SiteId,
    replica_id: u64,
}

/// What a leader says of its shard.
#[derive(Clone, Copy, Debug)]
pub struct Leading<'a> {
    /// Its site.
    pub site: SiteId,
    /// Its report.
    pub replica: &'a ReplicaReport,
    /// The newest topology that its site had seen then.
    pub topology_version: u64,
}

/// The newest reports.
#[derive(Debug, Default)]
pub struct Reports {
    sites: BTreeMap<SiteId, Held>,
    leaders: BTreeMap<u32, Leader>,
}

impl Reports {
    /// Keeps what a site reports.
    pub fn take(&mut self, report: SiteReport) {
        let site = SiteId(report.site_id);
        let key = |replica: &ReplicaReport| (replica.shard, replica.replica_id);
        let mut replicas = report.replicas;
        if !replicas.is_sorted_by_key(key) {
            replicas.sort_by_key(key);
        }
        for replica in replicas.iter().filter(|replica| replica.leading_term > 0) {
            let (term, replica_id) = (replica.leading_term, replica.replica_id);
            let newest = self.leaders.get(&replica.shard).map_or(0, |leader| leader.term);
            if term >= newest {
                self.leaders.insert(replica.shard, Leader { term, site, replica_id });
            }
        }
        let damaged = report.damaged.iter().map(|damaged| (damaged.shard, damaged.replica_id));
        let held = Held {
            replicas,
            damaged: damaged.collect(),
            versions: Versions::announced(report.protocol_version, report.protocol_version_min),
            topology_version: report.topology_version,
            used_bytes: report.used_bytes,
            capacity_bytes: report.capacity_bytes,
        };
        self.sites.insert(site, held);
    }

    /// The site is silent or gone: what it said no longer counts. Terms are remembered.
    pub fn forget(&mut self, site: SiteId) {
        self.sites.remove(&site);
    }

    /// A site's newest report.
    pub fn site(&self, site: SiteId) -> Option<&Held> {
        self.sites.get(&site)
    }

    /// What a site said of a replica.
    pub fn replica(&self, site: SiteId, shard: u32, replica_id: u64) -> Option<&ReplicaReport> {
        self.sites.get(&site)?.replica(shard, replica_id)
    }

    /// Whether a site said that a replica may never vote again.
    pub fn is_damaged(&self, site: SiteId, shard: u32, replica_id: u64) -> bool {
        let damaged = |held: &Held| held.damaged.contains(&(shard, replica_id));
        self.sites.get(&site).is_some_and(damaged)
    }

    /// The newest term in which a replica of the shard has reported to lead; 0: none has.
    pub fn term(&self, shard: u32) -> u64 {
        self.leaders.get(&shard).map_or(0, |leader| leader.term)
    }

    /// What the leader of the newest term says.
    pub fn leader(&self, shard: u32) -> Option<Leading<'_>> {
        let leader = self.leaders.get(&shard)?;
        let held = self.sites.get(&leader.site)?;
        let replica = held.replica(shard, leader.replica_id)?;
        (replica.leading_term == leader.term).then_some(Leading {
            site: leader.site,
            replica,
            topology_version: held.topology_version,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(site_id: u64, leading_term: u64) -> SiteReport {
        let replica = ReplicaReport {
            shard: 7,
            replica_id: site_id,
            leading_term,
            ..ReplicaReport::default()
        };
        SiteReport { site_id, replicas: vec![replica], ..SiteReport::default() }
    }

    fn leader(reports: &Reports) -> Option<u64> {
        reports.leader(7).map(|leading| leading.site.0)
    }

    #[test]
    fn the_newest_term_counts() {
        let mut reports = Reports::default();
        reports.take(report(1, 5));
        reports.take(report(2, 4));
        assert_eq!(leader(&reports), Some(1));
        reports.take(report(2, 6));
        assert_eq!(leader(&reports), Some(2));
    }

    #[test]
    fn a_leader_that_is_gone_leaves_its_term_behind() {
        let mut reports = Reports::default();
        reports.take(report(1, 5));
        reports.take(report(1, 0));
        assert_eq!(leader(&reports), None);
        reports.take(report(2, 4));
        assert_eq!(leader(&reports), None, "an older term");
        reports.take(report(1, 5));
        reports.forget(SiteId(1));
        assert_eq!(leader(&reports), None, "silent");
    }

    #[test]
    fn replicas_are_found_in_any_order() {
        let mut reports = Reports::default();
        let replica =
            |shard, replica_id| ReplicaReport { shard, replica_id, ..ReplicaReport::default() };
        let replicas = vec![replica(3, 9), replica(1, 4), replica(1, 2)];
        reports.take(SiteReport { site_id: 1, replicas, ..SiteReport::default() });
        for (shard, replica_id) in [(3, 9), (1, 4), (1, 2)] {
            assert!(reports.replica(SiteId(1), shard, replica_id).is_some());
        }
        assert!(reports.replica(SiteId(1), 3, 2).is_none());
    }
}
