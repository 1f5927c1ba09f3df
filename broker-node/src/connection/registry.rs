//! All connections of this gateway: to count them and to tell them that it stops.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use crate::inbox::{Event, Inbox};
use crate::metrics;

#[derive(Debug, Default)]
struct Entries {
    inboxes: HashMap<u64, Arc<Inbox>>,
    next: u64,
    is_draining: bool,
}

/// Connections by number.
#[derive(Debug)]
pub(crate) struct Registry {
    max: usize,
    entries: Mutex<Entries>,
    emptied: Notify,
}

/// A connection's place; given up when dropped.
pub(super) struct Entry {
    shared: Arc<Shared>,
    number: u64,
}

impl Registry {
    pub(super) fn new(max: usize) -> Registry {
        Registry { max, entries: Mutex::default(), emptied: Notify::new() }
    }

    /// A place for one more connection, unless there are too many or the gateway stops.
    pub(super) fn enter(shared: &Arc<Shared>, inbox: Arc<Inbox>) -> Option<Entry> {
        let registry = &shared.registry;
        let mut entries = registry.entries.lock();
        if entries.is_draining || entries.inboxes.len() >= registry.max {
            return None;
        }
        entries.next += 1;
        let number = entries.next;
        entries.inboxes.insert(number, inbox);
        metrics::connections(entries.inboxes.len());
        Some(Entry { shared: shared.clone(), number })
    }

    /// Tells every connection to end, and waits until all have.
    pub(crate) async fn drain(&self) {
        let emptied = self.emptied.notified();
        {
            let mut entries = self.entries.lock();
            entries.is_draining = true;
            if entries.inboxes.is_empty() {
                return;
            }
            for inbox in entries.inboxes.values() {
                inbox.post(Event::Drain);
            }
        }
        emptied.await;
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().inboxes.len()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let registry = &self.shared.registry;
        let mut entries = registry.entries.lock();
        entries.inboxes.remove(&self.number);
        metrics::connections(entries.inboxes.len());
        if entries.is_draining && entries.inboxes.is_empty() {
            registry.emptied.notify_one();
        }
    }
}
