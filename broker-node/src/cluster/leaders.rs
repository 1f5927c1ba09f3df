//! Who leads each shard, as far as this gateway has heard. Pure.
//!
//! News with a higher term wins. A site's own "not me, ask that one" has no term: it is a hint, which
//! the next news of the same term replaces.

use std::collections::HashMap;

use holdfast_proto::ids::{ShardId, SiteId};

/// The table of leaders.
#[derive(Debug)]
pub(crate) struct Leaders {
    shards: Vec<Leader>,
    /// What each site with a working link said last.
    words: HashMap<(SiteId, ShardId), Word>,
}

/// Who leads, as one site says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    site: Option<SiteId>,
    term: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Leader {
    site: Option<SiteId>,
    term: u64,
    /// When it was last known or probed, in local ms.
    silent_since_ms: u64,
    probes: usize,
}

impl Leaders {
    /// A table that knows no leader yet.
    #[must_use]
    pub(crate) fn new(shards: u16) -> Leaders {
        let shards = vec![Leader::default(); usize::from(shards)];
        Leaders { shards, words: HashMap::new() }
    }

    /// The leader, if one is known.
    #[must_use]
    pub(crate) fn get(&self, shard: ShardId) -> Option<SiteId> {
        self.shards.get(usize::from(shard.0))?.site
    }

    /// Takes in news of a term. Returns whether the leader changed.
    pub(crate) fn learn(
        &mut self,
        shard: ShardId,
        site: Option<SiteId>,
        term: u64,
        now_ms: u64,
    ) -> bool {
        let Some(known) = self.shards.get_mut(usize::from(shard.0)) else { return false };
        if term < known.term || (term == known.term && site.is_none()) {
            return false;
        }
        known.term = term;
        known.set(site, now_ms)
    }

    /// Remembers what a site with a working link says.
    pub(crate) fn hear(&mut self, from: SiteId, shard: ShardId, site: Option<SiteId>, term: u64) {
        if usize::from(shard.0) < self.shards.len() {
            self.words.insert((from, shard), Word { site, term });
        }
    }

    /// A site's link is lost, and with it what it said.
    pub(crate) fn forget(&mut self, from: SiteId) {
        self.words.retain(|(site, _), _| *site != from);
    }

    /// Whether most of the shard's replicas name its leader, without the leader itself: if it were silent
    /// to them, they would have elected another. Fewer could not, and go on naming one that is dead.
    pub(crate) fn is_heard_by(&self, shard: ShardId, replicas: &[SiteId]) -> bool {
        let Some(known) = self.shards.get(usize::from(shard.0)) else { return false };
        let word = Some(Word { site: known.site, term: known.term });
        let names = |site: &&SiteId| self.words.get(&(**site, shard)).copied() == word;
        let others = replicas.iter().filter(|site| Some(**site) != known.site);
        known.site.is_some() && others.filter(names).count() > replicas.len() / 2
    }

    /// A site said that it does not lead the shard; `hint` is who does in its view. Returns whether the
    /// leader changed.
    pub(crate) fn refused(
        &mut self,
        shard: ShardId,
        by: SiteId,
        hint: Option<SiteId>,
        now_ms: u64,
    ) -> bool {
        let Some(known) = self.shards.get_mut(usize::from(shard.0)) else { return false };
        if known.site != Some(by) {
            return false;
        }
        known.set(hint.filter(|site| *site != by), now_ms)
    }

    /// For a shard without a known leader for `after_ms`: the next of its replicas to ask. It counts as
    /// the leader until it refuses.
    pub(crate) fn probe(
        &mut self,
        shard: ShardId,
        candidates: &[SiteId],
        after_ms: u64,
        now_ms: u64,
    ) -> Option<SiteId> {
        let known = self.shards.get_mut(usize::from(shard.0))?;
        if known.site.is_some()
            || candidates.is_empty()
            || now_ms.saturating_sub(known.silent_since_ms) < after_ms
        {
            return None;
        }
        let site = candidates[known.probes % candidates.len()];
        known.probes += 1;
        known.site = Some(site);
        Some(site)
    }
}

impl Leader {
    fn set(&mut self, site: Option<SiteId>, now_ms: u64) -> bool {
        let changed = self.site != site;
        self.site = site;
        if changed {
            self.silent_since_ms = now_ms;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);
    const A: SiteId = SiteId(10);
    const B: SiteId = SiteId(11);

    #[test]
    fn the_highest_term_wins_and_hints_yield_to_news() {
        let mut leaders = Leaders::new(2);
        assert!(leaders.learn(SHARD, Some(A), 4, 0));
        assert!(!leaders.learn(SHARD, Some(B), 3, 0));
        assert!(!leaders.learn(SHARD, None, 4, 0), "an uninformed site takes nothing away");
        assert!(leaders.learn(SHARD, None, 5, 0), "an election is under way");
        assert!(leaders.learn(SHARD, Some(B), 5, 0));
        assert!(!leaders.refused(SHARD, A, None, 0), "not asked, not heard");
        assert!(leaders.refused(SHARD, B, Some(A), 0));
        assert!(leaders.learn(SHARD, Some(B), 5, 0));
        assert!(!leaders.learn(ShardId(7), Some(B), 5, 0));
    }

    #[test]
    fn silence_is_probed_in_turn() {
        let mut leaders = Leaders::new(2);
        assert_eq!(leaders.probe(SHARD, &[A, B], 1_000, 999), None);
        assert_eq!(leaders.probe(SHARD, &[A, B], 1_000, 1_000), Some(A));
        assert_eq!(leaders.probe(SHARD, &[A, B], 1_000, 5_000), None);
        assert!(leaders.refused(SHARD, A, None, 5_000));
        assert_eq!(leaders.probe(SHARD, &[A, B], 1_000, 6_000), Some(B));
    }

    #[test]
    fn a_leader_is_heard_while_most_replicas_name_it() {
        const C: SiteId = SiteId(12);
        let mut leaders = Leaders::new(2);
        let replicas = [A, B, C];
        leaders.learn(SHARD, Some(A), 4, 0);
        leaders.hear(A, SHARD, Some(A), 4);
        leaders.hear(B, SHARD, Some(A), 4);
        assert!(!leaders.is_heard_by(SHARD, &replicas), "two may be dead and one uninformed");
        leaders.hear(C, SHARD, Some(A), 3);
        assert!(!leaders.is_heard_by(SHARD, &replicas), "that was earlier");
        leaders.hear(C, SHARD, Some(A), 4);
        assert!(leaders.is_heard_by(SHARD, &replicas));
        assert!(!leaders.is_heard_by(ShardId(0), &replicas));
        leaders.forget(B);
        assert!(!leaders.is_heard_by(SHARD, &replicas), "nobody hears from it now");
        leaders.hear(B, SHARD, None, 5);
        leaders.learn(SHARD, None, 5, 0);
        assert!(!leaders.is_heard_by(SHARD, &replicas), "an election is under way");
    }
}
