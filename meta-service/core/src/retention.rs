//! How far the messages of every shard are consumed: the leaders' reports of all shards, merged.
//!
//! Invariant: `consumed_below` of a shard is at most what any leader's walk over its sessions found to be
//! needed of that shard; while one shard's leader has not reported a whole walk, nothing is consumed.

use holdfast_proto::meta::ShardRetention;

use crate::reports::Reports;

/// The retention of all shards, in order.
pub fn merge(reports: &Reports, shards: u16) -> Vec<ShardRetention> {
    let consumed = consumed_below(reports, shards);
    let retention = |shard: u16| {
        let shard = u32::from(shard);
        let asked = reports.leader(shard).and_then(|leading| leading.replica.retention.as_ref());
        ShardRetention {
            shard,
            wanted_below: asked.map_or(0, |asked| asked.wanted_below),
            doomed_below: asked.map_or(0, |asked| asked.doomed_below),
            consumed_below: consumed.get(shard as usize).copied().unwrap_or(0),
        }
    };
    (0..shards).map(retention).collect()
}

/// Per shard; empty if some shard's walk is missing.
fn consumed_below(reports: &Reports, shards: u16) -> Vec<u64> {
    let mut lowest = vec![u64::MAX; usize::from(shards)];
    for shard in 0..u32::from(shards) {
        let Some(leading) = reports.leader(shard) else { return Vec::new() };
        if leading.replica.low_marks.len() != lowest.len() {
            return Vec::new();
        }
        for (low, mark) in lowest.iter_mut().zip(&leading.replica.low_marks) {
            *low = (*low).min(*mark);
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use holdfast_proto::meta::{ReplicaReport, SiteReport};
    use proptest::prelude::*;

    use super::*;

    const SHARDS: u16 = 4;

    #[derive(Clone, Debug)]
    struct Walk {
        site: u64,
        shard: u32,
        term: u64,
        marks: Option<[u64; SHARDS as usize]>,
    }

    fn walk() -> impl Strategy<Value = Walk> {
        let marks = proptest::option::weighted(0.9, any::<[u8; SHARDS as usize]>());
        (1u64..6, 0u32..u32::from(SHARDS), 1u64..6, marks).prop_map(|(site, shard, term, marks)| {
            Walk { site, shard, term, marks: marks.map(|marks| marks.map(u64::from)) }
        })
    }

    fn report(walks: &[Walk], site: u64) -> SiteReport {
        let replica = |walk: &Walk| ReplicaReport {
            shard: walk.shard,
            replica_id: 1,
            leading_term: walk.term,
            low_marks: walk.marks.map(|marks| marks.to_vec()).unwrap_or_default(),
            retention: Some(ShardRetention {
                wanted_below: walk.term,
                ..ShardRetention::default()
            }),
            ..ReplicaReport::default()
        };
        let mut replicas: Vec<ReplicaReport> = Vec::new();
        for walk in walks.iter().filter(|walk| walk.site == site) {
            replicas.retain(|known| known.shard != walk.shard);
            replicas.push(replica(walk));
        }
        SiteReport { site_id: site, replicas, ..SiteReport::default() }
    }

    proptest! {
        #[test]
        fn nothing_that_a_session_needs_is_consumed(walks in proptest::collection::vec(walk(), 0..40)) {
            let mut reports = Reports::default();
            for site in 1..6 {
                reports.take(report(&walks, site));
            }
            let merged = merge(&reports, SHARDS);
            prop_assert_eq!(merged.len(), usize::from(SHARDS));
            let complete = (0..u32::from(SHARDS)).all(|shard| {
                reports.leader(shard).is_some_and(|leading| !leading.replica.low_marks.is_empty())
            });
            for shard in 0..u32::from(SHARDS) {
                let Some(leading) = reports.leader(shard) else { continue };
                prop_assert_eq!(merged[shard as usize].wanted_below, leading.replica.leading_term);
                for (needed, merged) in leading.replica.low_marks.iter().zip(&merged) {
                    prop_assert!(merged.consumed_below <= *needed);
                }
            }
            if !complete {
                prop_assert!(merged.iter().all(|merged| merged.consumed_below == 0));
            }
        }
    }

    #[test]
    fn a_shard_without_a_whole_walk_blocks_all() {
        let mut reports = Reports::default();
        let whole = |shard| Walk { site: 1, shard, term: 1, marks: Some([9, 8, 7, 6]) };
        let mut walks: Vec<Walk> = (0..3).map(whole).collect();
        reports.take(report(&walks, 1));
        assert!(merge(&reports, SHARDS).iter().all(|merged| merged.consumed_below == 0));
        walks.push(Walk { marks: Some([10, 3, 10, 10]), ..whole(3) });
        reports.take(report(&walks, 1));
        let consumed: Vec<u64> =
            merge(&reports, SHARDS).iter().map(|merged| merged.consumed_below).collect();
        assert_eq!(consumed, [9, 3, 7, 6]);
    }
}
