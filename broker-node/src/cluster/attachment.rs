//! A session's live delivery, for as long as its connection wants it.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_proto::ids::{Epoch, Namespace, Position, ShardId};
use holdfast_proto::shard::ClientKey;
use parking_lot::Mutex;

use super::dispatch::Slot;
use super::{Cluster, Shared, monotonic};
use crate::inbox::{Event, Inbox};

/// A session's live delivery; ends when dropped.
pub(crate) struct Attachment {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    namespace: Namespace,
    inbox: Arc<Inbox>,
    side: Side,
    /// Filters with how often each was added; none once the attachment has ended.
    filters: Mutex<Option<HashMap<String, u32>>>,
}

/// Where the session's messages come from.
#[derive(Debug, Clone, Copy)]
enum Side {
    /// From the tails.
    Durable(Slot),
    /// From publishers directly.
    Regular(u32),
}

impl Cluster {
    /// Starts live delivery for `filters` (not `$share/...`). `Event::Attached { token }` follows. Tail
    /// records that are posted before it lie below its positions.
    pub(crate) fn attach(
        &self,
        client: ClientKey,
        _epoch: Epoch,
        durable: bool,
        filters: &[String],
        token: u64,
        inbox: Arc<Inbox>,
    ) -> Attachment {
        let shared = self.shared.clone();
        let side = if durable {
            Side::Durable(shared.dispatch.lock().attach(inbox.clone()))
        } else {
            Side::Regular(shared.regular.attach(inbox.clone()))
        };
        let namespace = Namespace(client.namespace);
        let filled = Mutex::new(Some(HashMap::new()));
        let inner = Arc::new(Inner { shared, namespace, inbox, side, filters: filled });
        inner.add(filters);
        inner.answer_when_active(token);
        // A durable session's filters were covered before they were confirmed, so nobody waits for this;
        // those of a session that was regular until now were not.
        if durable && !inner.shared.are_covered(namespace, filters) {
            let (shared, filters) = (inner.shared.clone(), filters.to_vec());
            tokio::spawn(async move { shared.cover(namespace, &filters).await });
        }
        Attachment { inner }
    }
}

impl Attachment {
    /// Adds filters (not `$share/...`). `Event::Attached { token }` follows; if it brings an error, take
    /// the filters back with `unsubscribe`.
    pub(crate) fn subscribe(&self, filters: &[String], token: u64) {
        let inner = &self.inner;
        inner.add(filters);
        let is_durable = matches!(inner.side, Side::Durable(_));
        if !is_durable || inner.shared.are_covered(inner.namespace, filters) {
            return inner.answer_when_active(token);
        }
        let (inner, filters) = (inner.clone(), filters.to_vec());
        tokio::spawn(async move {
            let covered = inner.shared.cover(inner.namespace, &filters).await;
            match covered {
                Ok(()) => inner.answer_when_active(token),
                Err(error) => inner.inbox.post(Event::Attached { token, result: Err(error) }),
            }
        });
    }

    /// Takes filters back, each that was attached or subscribed, once.
    pub(crate) fn unsubscribe(&self, filters: &[String]) {
        let mut known = self.inner.filters.lock();
        let Some(counts) = known.as_mut() else { return };
        let gone: Vec<String> = filters
            .iter()
            .filter(|filter| {
                let Some(count) = counts.get_mut(*filter) else { return false };
                *count -= 1;
                if *count == 0 {
                    counts.remove(*filter);
                }
                true
            })
            .cloned()
            .collect();
        self.inner.remove(&gone);
    }

    /// Resumes live delivery of a shard after `Event::Behind`. Everything from the answer on is posted.
    pub(crate) fn attach_shard(&self, shard: ShardId) -> Position {
        match self.inner.side {
            Side::Durable(slot) => self.inner.shared.dispatch.lock().attach_shard(slot, shard),
            Side::Regular(_) => Position(0),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(counts) = self.inner.filters.lock().take() else { return };
        let all: Vec<String> = counts
            .into_iter()
            .flat_map(|(filter, count)| std::iter::repeat_n(filter, count as usize))
            .collect();
        self.inner.remove(&all);
        match self.inner.side {
            Side::Durable(slot) => self.inner.shared.dispatch.lock().detach(slot),
            Side::Regular(slot) => self.inner.shared.regular.detach(slot),
        }
    }
}

impl Inner {
    /// Adds filters to the routes; nothing if the attachment has ended.
    fn add(&self, filters: &[String]) {
        let mut known = self.filters.lock();
        let Some(counts) = known.as_mut() else { return };
        for filter in filters {
            *counts.entry(filter.clone()).or_default() += 1;
        }
        match self.side {
            Side::Regular(slot) => {
                self.shared.regular.add_filters(slot, self.namespace, filters);
            }
            Side::Durable(slot) => {
                let mut dispatch = self.shared.dispatch.lock();
                if dispatch.add_filters(slot, self.namespace, filters) {
                    self.shared.filters_gathered.notify_one();
                }
            }
        }
    }

    /// Says when the filters added so far reach the inbox; nothing if the attachment has ended.
    fn answer_when_active(&self, token: u64) {
        if self.filters.lock().is_none() {
            return;
        }
        match self.side {
            Side::Regular(_) => {
                self.inbox.post(Event::Attached { token, result: Ok(Vec::new()) });
            }
            Side::Durable(slot) => {
                let deadline_ms = monotonic::now_ms() + self.shared.config.subscribe_deadline_ms;
                self.shared.dispatch.lock().wait_active(slot, token, deadline_ms);
            }
        }
    }

    fn remove(&self, filters: &[String]) {
        match self.side {
            Side::Regular(slot) => {
                self.shared.regular.remove_filters(slot, self.namespace, filters)
            }
            Side::Durable(slot) => self.shared.dispatch.lock().remove_filters(
                slot,
                self.namespace,
                filters,
                monotonic::now_ms(),
            ),
        }
    }
}
