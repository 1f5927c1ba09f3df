//! Watches: one of etcd's for each prefix, shared by everybody here who watches it.
//!
//! It goes on after a lost connection from where it was. If etcd has forgotten that revision, all who watch
//! it are ended and begin anew from a range, as is one that reads too slowly.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use holdfast_node_kit::grpc::MESSAGE_BYTES_MAX;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Shared, identity, members::Failed};
use crate::store::{Change, Changes, Entry, Revision, StoreError, Watch};

/// Revisions that are remembered for those who join late.
const HISTORY_MAX: usize = 256;
/// Bytes of keys and values that are remembered.
const HISTORY_BYTES_MAX: usize = 1 << 20;
/// Revisions that a slow watcher may be behind, beyond those it began with.
const BEHIND_MAX: usize = 1024;
/// How often it is looked whether anybody still watches.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Watches {
    shared: Mutex<HashMap<Bytes, Followed>>,
}

/// A prefix that somebody watches.
#[derive(Debug)]
struct Followed {
    history: VecDeque<Changes>,
    history_bytes: usize,
    /// Everything after this revision, up to `next`, is in the history.
    forgotten: Revision,
    /// What is before this revision was told.
    next: Revision,
    watchers: Vec<(Revision, mpsc::Sender<Changes>)>,
}

/// Changes under a prefix from a revision on.
pub(super) async fn watch(
    shared: &Arc<Shared>,
    prefix: Bytes,
    from: Revision,
) -> Result<Watch, StoreError> {
    if let Some(joined) = shared.watches.join(&prefix, from) {
        return joined;
    }
    known(shared, &prefix, from).await?;
    if shared.watches.begin(&prefix, from) {
        let (shared, prefix) = (shared.clone(), prefix.clone());
        tokio::spawn(async move { follow(&shared, &prefix).await });
    }
    shared.watches.join(&prefix, from).unwrap_or(Err(StoreError::Compacted(from)))
}

/// Whether etcd still knows a revision: a watch would say so only later.
async fn known(shared: &Shared, prefix: &Bytes, from: Revision) -> Result<(), StoreError> {
    let key = shared.keys.full(prefix);
    let options = GetOptions::new()
        .with_prefix()
        .with_limit(1)
        .with_keys_only()
        .with_revision(identity::signed(from.max(1)));
    let ask = |mut client: Client| {
        let (key, options) = (key.clone(), options.clone());
        async move { client.get(key, Some(options)).await }
    };
    match shared.members.call(ask).await {
        // One that is to come is refused in other words.
        Ok(_) | Err(Failed::Refused(StoreError::Unavailable(_))) => Ok(()),
        Err(Failed::Compacted) => Err(StoreError::Compacted(from)),
        Err(failed) => Err(failed.into_store_error()),
    }
}

impl Watches {
    /// Nothing: nobody watches this prefix yet.
    fn join(&self, prefix: &Bytes, from: Revision) -> Option<Result<Watch, StoreError>> {
        Some(self.shared.lock().get_mut(prefix)?.join(from))
    }

    /// False: somebody else was faster.
    fn begin(&self, prefix: &Bytes, from: Revision) -> bool {
        let mut shared = self.shared.lock();
        let new = !shared.contains_key(prefix);
        if new {
            shared.insert(prefix.clone(), Followed::new(from));
        }
        new
    }

    fn next(&self, prefix: &Bytes) -> Option<Revision> {
        self.shared.lock().get(prefix).map(|followed| followed.next)
    }

    fn tell(&self, prefix: &Bytes, news: Vec<Changes>, upto: Revision) {
        if let Some(followed) = self.shared.lock().get_mut(prefix) {
            news.into_iter().for_each(|changes| followed.tell(changes));
            followed.next = followed.next.max(upto + 1);
        }
    }

    /// Whether nobody watches any more; then it is forgotten.
    fn is_over(&self, prefix: &Bytes) -> bool {
        let mut shared = self.shared.lock();
        let Some(followed) = shared.get_mut(prefix) else { return true };
        followed.watchers.retain(|(_, sender)| !sender.is_closed());
        let over = followed.watchers.is_empty();
        if over {
            shared.remove(prefix);
        }
        over
    }

    fn end(&self, prefix: &Bytes) {
        self.shared.lock().remove(prefix);
    }
}

impl Followed {
    fn new(from: Revision) -> Followed {
        Followed {
            history: VecDeque::new(),
            history_bytes: 0,
            forgotten: from.saturating_sub(1),
            next: from,
            watchers: Vec::new(),
        }
    }

    fn join(&mut self, from: Revision) -> Result<Watch, StoreError> {
        if from <= self.forgotten {
            return Err(StoreError::Compacted(from));
        }
        let (sender, changes) = mpsc::channel(HISTORY_MAX + BEHIND_MAX);
        for past in self.history.iter().filter(|past| past.revision >= from) {
            // There is room for the whole history.
            let _ = sender.try_send(past.clone());
        }
        self.watchers.push((from, sender));
        Ok(Watch { changes })
    }

    fn tell(&mut self, changes: Changes) {
        // One that is gone, or too slow, is left out from here on.
        self.watchers.retain(|(from, sender)| {
            changes.revision < *from || sender.try_send(changes.clone()).is_ok()
        });
        self.next = changes.revision + 1;
        self.history_bytes += bytes(&changes);
        self.history.push_back(changes);
        while self.history.len() > HISTORY_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= bytes(&oldest);
            self.forgotten = oldest.revision;
        }
    }
}

fn bytes(changes: &Changes) -> usize {
    let size = |change: &Change| match change {
        Change::Put(entry) => entry.key.len() + entry.value.len(),
        Change::Delete(key) => key.len(),
    };
    changes.changes.iter().map(size).sum()
}

/// Runs until nobody watches the prefix, or its past is compacted.
async fn follow(shared: &Shared, prefix: &Bytes) {
    let mut tries = shared.members.tries();
    while let Some(next) = shared.watches.next(prefix) {
        let options = WatchOptions::new().with_prefix().with_start_revision(identity::signed(next));
        let open = |client: Client| {
            let key = shared.keys.full(prefix);
            let options = options.with_progress_notify();
            async move {
                let client = client.watch_client();
                client.max_decoding_message_size(MESSAGE_BYTES_MAX).watch(key, Some(options)).await
            }
        };
        match shared.members.attempt(open).await {
            Ok(stream) => match listen(shared, prefix, stream).await {
                Heard::Enough => return,
                Heard::Lost => tries = shared.members.tries(),
            },
            Err(Failed::Again { .. }) => {
                if !tries.another().await {
                    tries = shared.members.tries();
                }
            }
            Err(_) => return shared.watches.end(prefix),
        }
        if shared.watches.is_over(prefix) {
            return;
        }
    }
}

enum Heard {
    /// The connection was lost.
    Lost,
    /// Nobody listens, or nothing more can be told.
    Enough,
}

async fn listen(shared: &Shared, prefix: &Bytes, mut stream: WatchStream) -> Heard {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = look.tick() => {
                if shared.watches.is_over(prefix) {
                    return Heard::Enough;
                }
                continue;
            }
        };
        let Ok(Some(message)) = message else { return Heard::Lost };
        let other = shared.members.identity.check_cluster(message.header()).is_err();
        if other || message.compact_revision() > 0 {
            shared.watches.end(prefix);
            return Heard::Enough;
        }
        if message.canceled() {
            return Heard::Lost;
        }
        take(shared, prefix, &message);
    }
}

fn take(shared: &Shared, prefix: &Bytes, message: &WatchResponse) {
    let mut news: Vec<(Revision, Vec<Change>)> = Vec::new();
    for event in message.events() {
        let Some(entry) = event.kv() else { continue };
        let Some(key) = shared.keys.own(entry.key().to_vec()) else { continue };
        let revision = identity::revision(entry.mod_revision());
        let change = match event.event_type() {
            EventType::Put => {
                let value = Bytes::copy_from_slice(entry.value());
                Change::Put(Entry { key, value, modified: revision })
            }
            EventType::Delete => Change::Delete(key),
        };
        match news.last_mut() {
            Some((last, changes)) if *last == revision => changes.push(change),
            _ => news.push((revision, vec![change])),
        }
    }
    // A message without events says that there were none up to its revision, but for the first one.
    let upto = match (news.last(), message.created(), message.header()) {
        (Some((last, _)), ..) => *last,
        (None, false, Some(header)) => identity::revision(header.revision()),
        _ => 0,
    };
    let changes =
        news.into_iter().map(|(revision, changes)| Changes { revision, changes: changes.into() });
    shared.watches.tell(prefix, changes.collect(), upto);
}
