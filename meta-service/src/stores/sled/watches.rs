//! Who wants to know what changed, and the newest changes for those who come late.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::store::{Change, Changes, Revision, StoreError, Watch};

/// Revisions that are remembered.
const HISTORY_MAX: usize = 256;
/// Bytes of keys and values that are remembered.
const HISTORY_BYTES_MAX: usize = 1 << 20;
/// Revisions that a slow watcher may be behind, beyond those it began with.
const BEHIND_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Watches {
    history: VecDeque<Changes>,
    history_bytes: usize,
    /// Everything after this revision is in the history.
    forgotten: Revision,
    watchers: Vec<(Bytes, mpsc::Sender<Changes>)>,
}

impl Watches {
    pub(super) fn new(revision: Revision) -> Watches {
        Watches {
            history: VecDeque::new(),
            history_bytes: 0,
            forgotten: revision,
            watchers: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, prefix: Bytes, from: Revision) -> Result<Watch, StoreError> {
        if from <= self.forgotten {
            return Err(StoreError::Compacted(from));
        }
        let (sender, changes) = mpsc::channel(HISTORY_MAX + BEHIND_MAX);
        for past in self.history.iter().filter(|past| past.revision >= from) {
            offer(&prefix, &sender, past);
        }
        self.watchers.push((prefix, sender));
        Ok(Watch { changes })
    }

    pub(super) fn publish(&mut self, news: Vec<Changes>) {
        for changes in news {
            self.watchers.retain(|(prefix, sender)| offer(prefix, sender, &changes));
            self.history_bytes += bytes(&changes);
            self.history.push_back(changes);
            while self.history.len() > HISTORY_MAX || self.history_bytes > HISTORY_BYTES_MAX {
                let Some(oldest) = self.history.pop_front() else { break };
                self.history_bytes -= bytes(&oldest);
                self.forgotten = oldest.revision;
            }
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

/// False: the watcher is gone, or too slow, and its watch ends.
fn offer(prefix: &Bytes, sender: &mpsc::Sender<Changes>, news: &Changes) -> bool {
    let under = |change: &&Change| change.key().starts_with(prefix);
    let changes: Arc<[Change]> = news.changes.iter().filter(under).cloned().collect();
    if changes.is_empty() {
        return !sender.is_closed();
    }
    sender.try_send(Changes { revision: news.revision, changes }).is_ok()
}
