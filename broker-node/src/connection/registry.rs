//! All connections of this gateway: to count them and to tell them that it stops.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

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

    /// Tells one connection after the other to end, all of them over `spread`, and waits until they
    /// have. There are no new ones from here on.
    pub(crate) async fn drain(&self, spread: Duration) {
        {
            let mut entries = self.entries.lock();
            entries.is_draining = true;
            if entries.inboxes.is_empty() {
                return;
            }
        }
        self.send_elsewhere(spread).await;
        self.emptied.notified().await;
    }

    /// Tells one connection after the other to end, all that there are now over `spread`.
    pub(crate) async fn send_elsewhere(&self, spread: Duration) {
        let inboxes: Vec<Arc<Inbox>> = self.entries.lock().inboxes.values().cloned().collect();
        let start = Instant::now();
        let pause = spread / u32::try_from(inboxes.len().max(1)).unwrap_or(u32::MAX);
        for (number, inbox) in (0..).zip(&inboxes) {
            sleep_until(start + pause * number).await;
            inbox.post(Event::Drain);
        }
    }

    /// Whether connections are being ended.
    pub(super) fn is_draining(&self) -> bool {
        self.entries.lock().is_draining
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
