//! Whether the feed of a shard's session rows is whole.
//!
//! Rows are only for looking at: the home shard decides everything about a session. A feed names log
//! indexes: its changes bring the registry from one index to another. If the registry is behind the
//! first, something is missing, and the whole shard is fed again: rows carry the number of the resync
//! that brought or last changed them, and those of an older number are removed at its end.

use std::collections::BTreeMap;

use holdfast_proto::{ids::ShardId, meta::SessionFeed};

/// Names one feed stream of this process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedId(pub u64);

/// What is known of one shard's rows; persisted with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Rows are as of this log index; nothing: they are not whole.
    pub index: Option<u64>,
    /// Number of the newest resync.
    pub resync: u64,
}

/// What to do with one message of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write its rows with this resync number; then the shard is as `feed` says.
    Apply {
        /// The shard's feed once the rows are written.
        feed: Feed,
        /// Remove the rows of older resync numbers.
        replace: bool,
    },
    /// Known already: answer the index.
    Known {
        /// Index of the rows.
        index: u64,
    },
    /// Rows are missing: ask for all of them.
    Resync,
}

#[derive(Debug)]
struct Shard {
    feed: Feed,
    /// The stream that feeds the shard, or resyncs it.
    by: Option<FeedId>,
    resyncing: bool,
}

/// Feeds of all shards.
#[derive(Debug, Default)]
pub struct Registry {
    shards: BTreeMap<ShardId, Shard>,
}

impl Registry {
    /// The registry as persisted.
    pub fn new(feeds: impl IntoIterator<Item = (ShardId, Feed)>) -> Registry {
        let shard = |feed| Shard { feed, by: None, resyncing: false };
        Registry { shards: feeds.into_iter().map(|(id, feed)| (id, shard(feed))).collect() }
    }

    /// Judges one message and takes its effect for granted: the caller writes before it judges the
    /// shard's next one.
    pub fn judge(&mut self, shard: ShardId, by: FeedId, message: &SessionFeed) -> Verdict {
        let known = Shard { feed: Feed::default(), by: None, resyncing: false };
        let known = self.shards.entry(shard).or_insert(known);
        if message.resync_begin {
            known.feed = Feed { index: None, resync: known.feed.resync + 1 };
            known.by = Some(by);
            known.resyncing = true;
        }
        if known.resyncing && known.by == Some(by) {
            if message.resync_end {
                known.resyncing = false;
                known.feed.index = Some(message.to_index);
            }
            return Verdict::Apply { feed: known.feed, replace: message.resync_end };
        }
        match known.feed.index {
            Some(index) if message.from_index <= index && !message.resync_end => {
                known.by = Some(by);
                if message.to_index <= index {
                    return Verdict::Known { index };
                }
                known.feed.index = Some(message.to_index);
                Verdict::Apply { feed: known.feed, replace: false }
            }
            _ => Verdict::Resync,
        }
    }

    /// The stream ended. A resync that it was in has to begin anew.
    pub fn closed(&mut self, by: FeedId) {
        for shard in self.shards.values_mut().filter(|shard| shard.by == Some(by)) {
            shard.by = None;
            shard.resyncing = false;
        }
    }

    /// Whether the rows of all `shards` shards are whole and fed by a stream that lives.
    pub fn is_complete(&self, shards: u16) -> bool {
        (0..shards).all(|shard| {
            let shard = self.shards.get(&ShardId(shard));
            shard.is_some_and(|shard| shard.feed.index.is_some() && shard.by.is_some())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);
    const A: FeedId = FeedId(1);
    const B: FeedId = FeedId(2);

    fn feed(from_index: u64, to_index: u64) -> SessionFeed {
        SessionFeed { from_index, to_index, ..SessionFeed::default() }
    }

    fn part(to_index: u64, resync_begin: bool, resync_end: bool) -> SessionFeed {
        SessionFeed { to_index, resync_begin, resync_end, ..SessionFeed::default() }
    }

    fn applied(index: Option<u64>, resync: u64, replace: bool) -> Verdict {
        Verdict::Apply { feed: Feed { index, resync }, replace }
    }

    #[test]
    fn an_unknown_shard_and_a_gap_ask_for_everything() {
        let mut registry = Registry::default();
        assert_eq!(registry.judge(SHARD, A, &feed(0, 5)), Verdict::Resync);
        assert_eq!(registry.judge(SHARD, A, &part(5, true, false)), applied(None, 1, false));
        assert_eq!(registry.judge(SHARD, A, &part(5, false, true)), applied(Some(5), 1, true));
        assert_eq!(registry.judge(SHARD, A, &feed(5, 9)), applied(Some(9), 1, false));
        assert_eq!(registry.judge(SHARD, A, &feed(11, 12)), Verdict::Resync);
        assert_eq!(registry.judge(SHARD, A, &feed(4, 8)), Verdict::Known { index: 9 });
        assert_eq!(registry.judge(SHARD, A, &feed(7, 12)), applied(Some(12), 1, false));
    }

    #[test]
    fn a_broken_resync_begins_anew() {
        let mut registry = Registry::default();
        registry.judge(SHARD, A, &part(5, true, false));
        registry.closed(A);
        assert_eq!(registry.judge(SHARD, B, &feed(5, 6)), Verdict::Resync);
        assert_eq!(registry.judge(SHARD, B, &part(5, false, true)), Verdict::Resync);
        assert_eq!(registry.judge(SHARD, B, &part(6, true, true)), applied(Some(6), 2, true));
    }

    #[test]
    fn a_resync_by_another_stream_wins() {
        let mut registry = Registry::default();
        registry.judge(SHARD, A, &part(5, true, false));
        assert_eq!(registry.judge(SHARD, B, &part(7, true, false)), applied(None, 2, false));
        assert_eq!(registry.judge(SHARD, A, &part(5, false, true)), Verdict::Resync);
        assert_eq!(registry.judge(SHARD, B, &part(7, false, true)), applied(Some(7), 2, true));
    }

    #[test]
    fn complete_means_whole_and_fed() {
        let mut registry = Registry::new([(ShardId(0), Feed { index: Some(3), resync: 1 })]);
        assert!(!registry.is_complete(1));
        registry.judge(ShardId(0), A, &feed(3, 4));
        assert!(registry.is_complete(1));
        assert!(!registry.is_complete(2));
        registry.closed(A);
        assert!(!registry.is_complete(1));
    }
}
