//! Live delivery to regular sessions: those of this gateway, and through forwarding those of others.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use holdfast_proto::ids::Namespace;
use holdfast_proto::matcher::Matcher;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::storage::Filter;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::inbox::Inbox;
use crate::metrics;

/// A change of what this gateway's regular sessions want.
#[derive(Debug, Clone, Default)]
pub(crate) struct InterestChange {
    /// Filters that somebody wants from now on.
    pub(crate) add: Vec<Filter>,
    /// Filters that nobody wants any more.
    pub(crate) remove: Vec<Filter>,
}

/// What waits for another gateway's regular sessions.
#[derive(Debug)]
pub(crate) struct Peer {
    limit_bytes: usize,
    buffer: Mutex<BytesMut>,
    filled: Notify,
}

impl Peer {
    /// An empty buffer.
    #[must_use]
    pub(crate) fn new(limit_bytes: usize) -> Arc<Peer> {
        Arc::new(Peer { limit_bytes, buffer: Mutex::default(), filled: Notify::new() })
    }

    fn push(&self, record: &Record) {
        let mut buffer = self.buffer.lock();
        if buffer.len() + record.as_bytes().len() > self.limit_bytes {
            drop(buffer);
            metrics::forward_buffer_full(1);
            return;
        }
        let was_empty = buffer.is_empty();
        buffer.extend_from_slice(record.as_bytes());
        drop(buffer);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Waits for records and takes all of them.
    pub(crate) async fn take(&self) -> BytesMut {
        loop {
            let taken = self.buffer.lock().split();
            if !taken.is_empty() {
                return taken;
            }
            self.filled.notified().await;
        }
    }
}

/// Who wants what live, without the log.
#[derive(Debug, Default)]
pub(crate) struct Regular {
    routes: RwLock<Routing>,
}

#[derive(Debug, Default)]
struct Routing {
    matcher: Matcher<u32>,
    sessions: Vec<Option<Arc<Inbox>>>,
    free: Vec<u32>,
    interest: HashMap<(Namespace, Box<str>), u32>,
    listeners: HashMap<u64, UnboundedSender<InterestChange>>,
    remote: Matcher<u64>,
    peers: HashMap<u64, Arc<Peer>>,
    last_peer: u64,
}

impl Regular {
    /// Adds a session without filters.
    pub(crate) fn attach(&self, inbox: Arc<Inbox>) -> u32 {
        let mut routes = self.routes.write();
        if let Some(slot) = routes.free.pop() {
            routes.sessions[slot as usize] = Some(inbox);
            return slot;
        }
        routes.sessions.push(Some(inbox));
        (routes.sessions.len() - 1) as u32
    }

    /// Removes a session whose filters are removed already.
    pub(crate) fn detach(&self, slot: u32) {
        let mut routes = self.routes.write();
        if routes.sessions[slot as usize].take().is_some() {
            routes.free.push(slot);
        }
    }

    /// Adds filters of a session; they count from here on.
    pub(crate) fn add_filters(&self, slot: u32, namespace: Namespace, filters: &[String]) {
        let mut routes = self.routes.write();
        let mut change = InterestChange::default();
        for filter in filters {
            routes.matcher.insert(namespace, filter, slot);
            let count = routes.interest.entry((namespace, filter.as_str().into())).or_default();
            *count += 1;
            if *count == 1 {
                change.add.push(Filter { namespace: namespace.0, filter: filter.clone() });
            }
        }
        routes.tell(change);
    }

    /// Takes filters of a session back.
    pub(crate) fn remove_filters(&self, slot: u32, namespace: Namespace, filters: &[String]) {
        let mut routes = self.routes.write();
        let mut change = InterestChange::default();
        for filter in filters {
            routes.matcher.remove(namespace, filter, &slot);
            let key = (namespace, filter.as_str().into());
            if let Some(count) = routes.interest.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    routes.interest.remove(&key);
                    change.remove.push(Filter { namespace: namespace.0, filter: filter.clone() });
                }
            }
        }
        routes.tell(change);
    }

    /// Tells `listener`, under the peer's incarnation, what is wanted now and every change from here on.
    pub(crate) fn listen(&self, incarnation: u64, listener: UnboundedSender<InterestChange>) {
        let mut routes = self.routes.write();
        let add = routes.interest.keys().map(|(namespace, filter)| Filter {
            namespace: namespace.0,
            filter: filter.to_string(),
        });
        // A listener that has ended is replaced at its next attempt.
        let _ = listener.send(InterestChange { add: add.collect(), remove: Vec::new() });
        routes.listeners.insert(incarnation, listener);
    }

    /// Another gateway asks for messages.
    pub(crate) fn add_peer(&self, peer: Arc<Peer>) -> u64 {
        let mut routes = self.routes.write();
        routes.last_peer += 1;
        let id = routes.last_peer;
        routes.peers.insert(id, peer);
        id
    }

    /// Changes what another gateway asks for.
    pub(crate) fn change_peer(&self, peer: u64, change: &InterestChange) {
        let mut routes = self.routes.write();
        for filter in &change.remove {
            routes.remote.remove(Namespace(filter.namespace), &filter.filter, &peer);
        }
        for filter in &change.add {
            routes.remote.insert(Namespace(filter.namespace), &filter.filter, peer);
        }
    }

    /// Another gateway asks no more; `filters` are those that it had.
    pub(crate) fn remove_peer(&self, peer: u64, filters: impl IntoIterator<Item = Filter>) {
        let mut routes = self.routes.write();
        for filter in filters {
            routes.remote.remove(Namespace(filter.namespace), &filter.filter, &peer);
        }
        routes.peers.remove(&peer);
    }

    /// Serves a message that was published here.
    pub(crate) fn publish(&self, draft: &RecordDraft<'_>, scratch: &mut Scratch, now_ms: u64) {
        let routes = self.routes.read();
        if routes.matcher.is_empty() && routes.remote.is_empty() {
            return;
        }
        scratch.find(&routes, draft.namespace, draft.topic);
        scratch.peers.clear();
        let peers = &mut scratch.peers;
        routes.remote.visit(draft.namespace, draft.topic, &mut |peer| {
            if !peers.contains(peer) {
                peers.push(*peer);
            }
        });
        if scratch.sessions.is_empty() && scratch.peers.is_empty() {
            return;
        }
        let mut block = BytesMut::with_capacity(draft.encoded_len());
        draft.encode(&mut block);
        let Ok(record) = Record::split_from(&mut block.freeze()) else { return };
        routes.offer(&record, &scratch.sessions, now_ms);
        for peer in scratch.peers.iter().filter_map(|peer| routes.peers.get(peer)) {
            peer.push(&record);
        }
    }

    /// Delivers a message that came from elsewhere to the regular sessions of this gateway.
    pub(crate) fn deliver(&self, record: &Record, scratch: &mut Scratch, now_ms: u64) {
        let routes = self.routes.read();
        scratch.find(&routes, record.namespace(), record.topic());
        routes.offer(record, &scratch.sessions, now_ms);
    }
}

impl Routing {
    fn tell(&mut self, change: InterestChange) {
        if change.add.is_empty() && change.remove.is_empty() {
            return;
        }
        self.listeners.retain(|_, listener| listener.send(change.clone()).is_ok());
    }

    fn offer(&self, record: &Record, sessions: &[u32], now_ms: u64) {
        for slot in sessions {
            let Some(Some(inbox)) = self.sessions.get(*slot as usize) else { continue };
            // What it does not take it counts.
            inbox.offer_regular(record, now_ms);
        }
    }
}

/// Memory that routing reuses from message to message.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    sessions: Vec<u32>,
    peers: Vec<u64>,
}

impl Scratch {
    /// Finds the sessions that want the topic, each once.
    fn find(&mut self, routes: &Routing, namespace: Namespace, topic: &str) {
        self.sessions.clear();
        let sessions = &mut self.sessions;
        routes.matcher.visit(namespace, topic, &mut |slot| sessions.push(*slot));
        if self.sessions.len() > 1 {
            self.sessions.sort_unstable();
            self.sessions.dedup();
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::Epoch;

    use super::*;
    use crate::inbox::Event;

    fn draft(topic: &str) -> RecordDraft<'_> {
        RecordDraft {
            namespace: Namespace(0),
            topic,
            client_id: "c",
            epoch: Epoch(1),
            qos: 0,
            retain: false,
            will: false,
            packet_id: 0,
            expiry_interval_s: u32::MAX,
            properties: &[],
            payload: b"x",
        }
    }

    #[tokio::test]
    async fn a_message_reaches_each_session_and_peer_once() {
        let regular = Regular::default();
        let (changes, mut heard) = tokio::sync::mpsc::unbounded_channel();
        regular.listen(7, changes);
        assert!(heard.recv().await.unwrap().add.is_empty());
        let inbox = Inbox::new(1 << 20);
        let slot = regular.attach(inbox.clone());
        let filters = ["a/#".to_owned(), "a/+".to_owned()];
        regular.add_filters(slot, Namespace(0), &filters);
        assert_eq!(heard.recv().await.unwrap().add.len(), 2);
        let peer = Peer::new(1 << 20);
        let id = regular.add_peer(peer.clone());
        let wanted = Filter { namespace: 0, filter: "+/b".to_owned() };
        let change = InterestChange { add: vec![wanted.clone()], remove: Vec::new() };
        regular.change_peer(id, &change);
        let mut scratch = Scratch::default();
        regular.publish(&draft("a/b"), &mut scratch, 5);
        let mut events = Vec::new();
        inbox.drain(&mut events);
        assert!(matches!(&events[..], [Event::Regular { received_ms: 5, .. }]));
        let mut block = peer.take().await.freeze();
        assert_eq!(Record::split_from(&mut block).unwrap().topic(), "a/b");
        assert!(block.is_empty());
        regular.remove_peer(id, [wanted]);
        regular.remove_filters(slot, Namespace(0), &filters);
        assert_eq!(heard.recv().await.unwrap().remove.len(), 2);
        regular.detach(slot);
        regular.publish(&draft("a/b"), &mut scratch, 5);
        inbox.drain(&mut events);
        assert_eq!(events.len(), 1);
    }
}
