//! Pages of the registry: one range a shard, merged by namespace and client id.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_proto::{
    ids::ShardId,
    shard::{ClientKey, SessionRow},
};
use thiserror::Error;

use crate::{
    rows::{self, BadRow},
    store::{Entry, Range, Store, StoreError},
};

/// Least rows of one read of a shard.
const READ_ROWS_MIN: usize = 16;
/// Shards that are read at once.
const AT_ONCE: usize = 8;

/// Which sessions of the registry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Those after this one.
    pub(crate) after: Option<ClientKey>,
    /// Those whose client ids begin so, in the namespace of `after` (0 if there is none).
    pub(crate) prefix: String,
    /// At most this many.
    pub(crate) limit: usize,
}

/// A page of sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) sessions: Vec<(ClientKey, SessionRow)>,
    /// There are others after it.
    pub(crate) more: bool,
}

/// Why there is no page.
#[derive(Debug, Error)]
pub(crate) enum ListError {
    /// The store failed. Retry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row is damaged. Stop.
    #[error(transparent)]
    Row(#[from] BadRow),
}

type Key = (u32, String);

/// One page.
pub(super) async fn list(
    store: &dyn Store,
    shards: u16,
    wanted: Wanted,
) -> Result<Listed, ListError> {
    // A shard has its part of a page, more or less.
    let rows = (2 * wanted.limit / usize::from(shards.max(1))).max(READ_ROWS_MIN);
    let sources = (0..shards).map(ShardId).filter_map(|shard| Source::new(shard, &wanted, rows));
    let mut sources: Vec<Source> = sources.collect();
    let mut heads: BTreeMap<Key, (SessionRow, usize)> = BTreeMap::new();
    let firsts: Vec<_> = sources
        .iter_mut()
        .enumerate()
        .map(|(at, source)| async move { source.next(store).await.map(|next| (at, next)) })
        .collect();
    let mut firsts = stream::iter(firsts).buffer_unordered(AT_ONCE);
    while let Some((at, first)) = firsts.try_next().await? {
        heads.extend(first.map(|(key, row)| (key, (row, at))));
    }
    drop(firsts);
    let mut sessions = Vec::new();
    while sessions.len() < wanted.limit {
        let Some(((namespace, client_id), (row, at))) = heads.pop_first() else { break };
        sessions.push((ClientKey { namespace, client_id }, row));
        let next = sources[at].next(store).await?;
        heads.extend(next.map(|(key, row)| (key, (row, at))));
    }
    Ok(Listed { sessions, more: !heads.is_empty() })
}

/// The sessions of one shard that are wanted, in order.
struct Source {
    range: Range,
    read: VecDeque<Entry>,
    ended: bool,
}

impl Source {
    /// Nothing: all that begin so are before the one to go on after.
    fn new(shard: ShardId, wanted: &Wanted, rows: usize) -> Option<Source> {
        let Wanted { after, prefix, .. } = wanted;
        let prefix = if prefix.is_empty() {
            rows::sessions_prefix(shard)
        } else {
            let namespace = after.as_ref().map_or(0, |after| after.namespace);
            rows::session_key(shard, &ClientKey { namespace, client_id: prefix.clone() })
        };
        let after = after.as_ref().map(|after| rows::session_key(shard, after)).unwrap_or_default();
        if after > prefix && !after.starts_with(&prefix) {
            return None;
        }
        let range = Range { prefix: prefix.into(), after: after.into(), limit: rows };
        Some(Source { range, read: VecDeque::new(), ended: false })
    }

    async fn next(&mut self, store: &dyn Store) -> Result<Option<(Key, SessionRow)>, ListError> {
        if self.read.is_empty() && !self.ended {
            let page = store.range(self.range.clone()).await?;
            self.ended = !page.more;
            self.range.after = page.entries.last().map_or(Bytes::new(), |last| last.key.clone());
            self.read = page.entries.into();
        }
        let Some(entry) = self.read.pop_front() else { return Ok(None) };
        let (client, _, row) = rows::split_session(&entry.key, &entry.value)?;
        let row = rows::read_session(&entry.key, row)?;
        Ok(Some(((client.namespace, client.client_id), row)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

    use holdfast_proto::ids::{Namespace, home_shard};

    use super::*;
    use crate::{
        store::{Op, Txn},
        stores::sled::SledStore,
    };

    const SHARDS: u16 = 3;

    async fn filled(directory: &std::path::Path, ids: &[String]) -> SledStore {
        let store = SledStore::open(directory).unwrap();
        for id in ids {
            let client = ClientKey { namespace: 0, client_id: id.clone() };
            let shard = home_shard(Namespace(0), id, SHARDS);
            let value = rows::write_session(1, &SessionRow::default());
            let ops = vec![Op::put(rows::session_key(shard, &client), value)];
            store.commit(Txn { compares: Vec::new(), ops }).await.unwrap();
        }
        store
    }

    async fn page(
        store: &SledStore,
        after: Option<&str>,
        prefix: &str,
        limit: usize,
    ) -> (Vec<String>, bool) {
        let after = after.map(|id| ClientKey { namespace: 0, client_id: id.to_owned() });
        let wanted = Wanted { after, prefix: prefix.to_owned(), limit };
        let listed = list(store, SHARDS, wanted).await.unwrap();
        (listed.sessions.into_iter().map(|(client, _)| client.client_id).collect(), listed.more)
    }

    #[tokio::test]
    async fn shards_are_merged_and_read_on() {
        let directory = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..150).map(|n| format!("c-{n:03}")).collect();
        let store = filled(directory.path(), &ids).await;
        for limit in [1, 7, 50, 149] {
            let mut seen: Vec<String> = Vec::new();
            loop {
                let (found, more) = page(&store, seen.last().map(|id| &**id), "", limit).await;
                assert!(found.len() == limit || !more);
                seen.extend(found);
                if !more {
                    break;
                }
            }
            assert_eq!(seen, ids, "in pages of {limit}");
        }
        let (found, more) = page(&store, None, "", 150).await;
        assert_eq!((found.len(), more), (150, false));
    }

    #[tokio::test]
    async fn a_prefix_may_be_gone_on_with_from_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..30).map(|n| format!("c-{n:02}")).collect();
        let store = filled(directory.path(), &ids).await;
        assert_eq!(page(&store, None, "c-1", 100).await, (ids[10..20].to_vec(), false));
        assert_eq!(page(&store, Some("c-14"), "c-1", 3).await, (ids[15..18].to_vec(), true));
        assert_eq!(page(&store, Some("a"), "c-1", 3).await, (ids[10..13].to_vec(), true));
        assert_eq!(page(&store, Some("zz"), "c", 3).await, (vec![], false));
        assert_eq!(page(&store, None, "d", 3).await, (vec![], false));
    }
}
