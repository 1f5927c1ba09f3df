//! A store for any number of processes, in an etcd cluster.
//!
//! Invariants:
//! * What is read is linearizable, and all of it comes from one etcd cluster whose revisions never go back;
//!   otherwise the store answers `Stopped` for ever (`identity.rs`).
//! * A transaction is answered with what became of it, or `Unavailable` if that is not known (`batcher.rs`).
//! * All keys begin with the configured prefix; nobody outside of this file sees it.

mod batcher;
mod compaction;
mod identity;
mod members;
mod merged;
mod watches;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{Client, GetOptions, GetResponse};
use holdfast_node_kit::grpc::MESSAGE_BYTES_MAX;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

pub use self::members::EtcdError;
use self::{
    batcher::Waiting,
    members::{Failed, Members},
    watches::Watches,
};
use crate::{
    config::EtcdConfig,
    store::{
        Answer, Committed, Entry, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch,
    },
};

/// Keys of one answer; a longer page is put together.
const ANSWER_KEYS_MAX: usize = 1000;
/// Pause between rounds of asking all members at the start.
const PAUSE: Duration = Duration::from_millis(500);

/// The store.
#[derive(Debug)]
pub struct EtcdStore {
    queue: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: Members,
    keys: Keys,
    watches: Watches,
}

/// The configured prefix, put before keys and taken off.
#[derive(Debug)]
struct Keys {
    prefix: Vec<u8>,
}

impl Keys {
    fn full(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix, key].concat()
    }

    fn own(&self, key: Vec<u8>) -> Option<Bytes> {
        key.starts_with(&self.prefix).then(|| Bytes::from(key).slice(self.prefix.len()..))
    }
}

impl EtcdStore {
    /// Asks all configured members which cluster they belong to, until one answers; `waiting` is told why
    /// none did.
    ///
    /// # Errors
    /// The config's files cannot be read, or its endpoints are not members of one cluster.
    pub async fn open(config: &EtcdConfig, waiting: impl Fn(&str)) -> Result<EtcdStore, EtcdError> {
        let members = Members::new(config)?;
        while let Err(reason) = members.identify().await? {
            members.gave_up(&reason);
            waiting(&reason);
            sleep(PAUSE).await;
        }
        let keys = Keys { prefix: config.prefix.clone().into_bytes() };
        let shared = Arc::new(Shared { members, keys, watches: Watches::default() });
        let (queue, requests) = mpsc::channel(batcher::QUEUE_MAX);
        tokio::spawn(batcher::run(shared.clone(), requests));
        if config.keep_revisions > 0 {
            tokio::spawn(compaction::run(Arc::downgrade(&shared), config.keep_revisions));
        }
        Ok(EtcdStore { queue, shared })
    }
}

impl Store for EtcdStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn commit(&self, txn: Txn) -> Answer<'_, Committed> {
        let (answer, answered) = oneshot::channel();
        let queued = txn.check().and_then(|()| {
            let waiting = Waiting { txn: merged::without_repeats(txn), answer };
            let full = |_| StoreError::Unavailable("its queue is full".to_owned());
            self.queue.try_send(waiting).map_err(full)
        });
        Box::pin(async move {
            queued?;
            let gone = |_| StoreError::Unavailable("its queue ended".to_owned());
            answered.await.map_err(gone)?
        })
    }

    fn range(&self, range: Range) -> Answer<'_, Page> {
        Box::pin(async move {
            loop {
                match self.page(&range).await {
                    // It was read too slowly; from the beginning then.
                    Err(Failed::Compacted) => {}
                    page => return page.map_err(Failed::into_store_error),
                }
            }
        })
    }

    fn watch(&self, prefix: Bytes, from: Revision) -> Answer<'_, Watch> {
        Box::pin(watches::watch(&self.shared, prefix, from))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        // Whole seconds, and etcd has a least time of its own.
        let ttl_s = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        Box::pin(async move {
            let ask = |mut client: Client| async move { client.lease_grant(ttl_s, None).await };
            let granted = self.shared.members.call(ask).await.map_err(Failed::into_store_error)?;
            self.shared.members.identity.check_cluster(granted.header())?;
            Ok(LeaseId(granted.id().cast_unsigned()))
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        let id = lease.0.cast_signed();
        Box::pin(async move {
            let ask = |mut client: Client| async move { client.lease_keep_alive(id).await };
            match self.shared.members.call(ask).await {
                Ok(_) => Ok(()),
                Err(Failed::LeaseOver) => Err(StoreError::LeaseOver(lease)),
                Err(failed) => Err(failed.into_store_error()),
            }
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        let id = lease.0.cast_signed();
        Box::pin(async move {
            let ask = |mut client: Client| async move { client.lease_revoke(id).await };
            match self.shared.members.call(ask).await {
                Ok(_) | Err(Failed::LeaseOver) => Ok(()),
                Err(failed) => Err(failed.into_store_error()),
            }
        })
    }
}

impl EtcdStore {
    /// All of it as of one revision.
    async fn page(&self, range: &Range) -> Result<Page, Failed> {
        let mut page = Page::default();
        let mut after = range.after.clone();
        loop {
            let limit = (range.limit - page.entries.len()).clamp(1, ANSWER_KEYS_MAX);
            let mark = self.shared.members.identity.mark().map_err(Failed::Refused)?;
            let mut answer = self.answer(&range.prefix, &after, limit, page.revision).await?;
            let revision = self.shared.members.identity.check(answer.header(), mark);
            let revision = revision.map_err(Failed::Refused)?;
            if page.revision == 0 {
                page.revision = revision;
            }
            for entry in answer.take_kvs() {
                let modified = identity::revision(entry.mod_revision());
                let (key, value) = entry.into_key_value();
                let Some(key) = self.shared.keys.own(key) else { continue };
                page.entries.push(Entry { key, value: value.into(), modified });
            }
            page.more = answer.more();
            match page.entries.last() {
                Some(last) if page.more && page.entries.len() < range.limit => {
                    after = last.key.clone();
                }
                _ => return Ok(page),
            }
        }
    }

    async fn answer(
        &self,
        prefix: &Bytes,
        after: &Bytes,
        limit: usize,
        at: Revision,
    ) -> Result<GetResponse, Failed> {
        let prefix = self.shared.keys.full(prefix);
        let mut first = self.shared.keys.full(after);
        first.push(0);
        let first = if after.is_empty() { prefix.clone() } else { first.max(prefix.clone()) };
        let options = GetOptions::new()
            .with_range(end_of(prefix))
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .with_revision(identity::signed(at));
        let ask = |client: Client| {
            let (first, options) = (first.clone(), options.clone());
            let mut client = client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
            async move { client.get(first, Some(options)).await }
        };
        self.shared.members.call(ask).await
    }
}

/// The first key after all that begin with this.
fn end_of(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    // etcd's word for "no end".
    vec![0]
}
