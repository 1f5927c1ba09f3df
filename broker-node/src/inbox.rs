//! Where everything that is not the socket reaches a connection.
//!
//! One producer side for many (links, other connections, timers), one consumer: the connection's task.
//! An idle inbox costs a hundred bytes: no channel, no buffer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::shard;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::cluster::ClusterError;
use crate::figures::Figures;

/// Events kept allocated after a burst.
const KEPT_CAPACITY: usize = 8;

/// What the cluster says of one durable publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishResult {
    /// A majority has it on disk.
    Stored,
    /// A repeat of a QoS 2 packet id that is stored already: acknowledge it again.
    Repeated,
    /// Another gateway owns the session: close the client with 0x8E.
    Fenced,
    /// Not stored; the MQTT 5 reason code that says why.
    Failed(u8),
}

/// What happened for a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// Durable publishes of this client are decided, in publish order, with their tokens.
    Published { results: Vec<(u64, PublishResult)> },
    /// Live records for a durable session: a block of one tail, the indexes of the records in it that
    /// match any of the session's filters. Everything below `next` of this shard is dispatched.
    Tail { shard: ShardId, records: Arc<[Placed]>, indexes: Vec<u32>, next: Position },
    /// The inbox was over its limit: this shard's tail is not posted until `Attachment::attach_shard`.
    Behind { shard: ShardId },
    /// A live message for a regular session; one record in memory however many sessions. It came at
    /// `received_ms`, ms since the Unix epoch.
    Regular { record: Record, received_ms: u64 },
    /// Regular messages were lost because the session was too slow.
    RegularOverflow { dropped: u64 },
    /// The answer to one item of `Cluster::read`.
    Page {
        shard: ShardId,
        records: Vec<Placed>,
        next: Position,
        head: bool,
        dropped_below: Position,
        time_ms: u64,
    },
    /// This item of a read got no answer: ask again.
    PageFailed { shard: ShardId },
    /// The answer to `Cluster::propose`.
    Outcome { token: u64, result: Result<Box<shard::Outcome>, ClusterError> },
    /// A subscription reaches this inbox: per shard, everything from this position on is posted. Empty
    /// for regular sessions.
    Attached { token: u64, result: Result<Vec<Position>, ClusterError> },
    /// The answer to `Cluster::retained`: rows with their shard's time, in ms.
    Retained { token: u64, result: Result<Vec<(shard::RetainedRow, u64)>, ClusterError> },
    /// Somebody else claimed the session: send 0x8E, reply what is not committed, end.
    TakenOver { reply: oneshot::Sender<Option<shard::CommitCursor>> },
    /// The operator ends the connection; `ended` is dropped once the session is given up.
    Kick { ended: oneshot::Sender<()> },
    /// The operator wants to see the subscriptions.
    ShowSubscriptions { reply: oneshot::Sender<Vec<shard::Subscription>> },
    /// The gateway stops.
    Drain,
}

impl Event {
    /// Bytes that the event holds for this session alone, roughly. Records of a tail block are shared
    /// memory, but a session that does not take them keeps them from being freed.
    fn bytes(&self) -> usize {
        match self {
            Event::Tail { records, indexes, .. } => indexes
                .iter()
                .filter_map(|&index| records.get(index as usize))
                .map(|placed| placed.record.as_bytes().len() + Placed::PREFIX_BYTES)
                .sum(),
            Event::Regular { record, .. } => record.as_bytes().len(),
            _ => 0,
        }
    }
}

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// What the connection shows of itself.
    pub(crate) figures: Figures,
    limit_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    bytes: usize,
    regular_dropped: u64,
    waker: Option<Waker>,
}

impl Inbox {
    /// An empty inbox that takes `limit_bytes` of live messages.
    #[must_use]
    pub(crate) fn new(limit_bytes: usize) -> Arc<Inbox> {
        Arc::new(Inbox { figures: Figures::default(), limit_bytes, state: Mutex::default() })
    }

    /// Adds an event whatever the limit: for answers, which the connection asked for.
    pub(crate) fn post(&self, event: Event) {
        let mut state = self.state.lock();
        state.bytes += event.bytes();
        Self::push(state, event);
    }

    /// Adds live records of a tail, or refuses them because the inbox is over its limit. An empty inbox
    /// takes any block.
    #[must_use]
    pub(crate) fn offer_tail(&self, event: Event) -> bool {
        let bytes = event.bytes();
        let mut state = self.state.lock();
        if state.bytes > 0 && state.bytes + bytes > self.limit_bytes {
            return false;
        }
        state.bytes += bytes;
        Self::push(state, event);
        true
    }

    /// Adds a live message of a regular session, or counts it as dropped if the inbox is over its limit.
    /// Returns whether it was added.
    pub(crate) fn offer_regular(&self, record: &Record, received_ms: u64) -> bool {
        let bytes = record.as_bytes().len();
        let mut state = self.state.lock();
        if state.bytes > 0 && state.bytes + bytes > self.limit_bytes {
            state.regular_dropped += 1;
            return false;
        }
        state.bytes += bytes;
        Self::push(state, Event::Regular { record: record.clone(), received_ms });
        true
    }

    fn push(mut state: parking_lot::MutexGuard<'_, State>, event: Event) {
        state.events.push(event);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until the inbox is not empty. Cancel safe; one waiter at a time.
    pub(crate) async fn ready(&self) {
        poll_fn(|context| {
            let mut state = self.state.lock();
            if !state.events.is_empty() {
                return Poll::Ready(());
            }
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                state.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Moves all events to the end of `into`, oldest first.
    pub(crate) fn drain(&self, into: &mut Vec<Event>) {
        let mut state = self.state.lock();
        into.append(&mut state.events);
        if state.events.capacity() > KEPT_CAPACITY {
            state.events = Vec::new();
        }
        state.bytes = 0;
        let dropped = std::mem::take(&mut state.regular_dropped);
        if dropped > 0 {
            into.push(Event::RegularOverflow { dropped });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use holdfast_proto::ids::{Epoch, Namespace};
    use holdfast_proto::record::RecordDraft;

    use super::*;

    fn record(payload: &[u8]) -> Record {
        let mut out = BytesMut::new();
        RecordDraft {
            namespace: Namespace(0),
            topic: "t",
            client_id: "c",
            epoch: Epoch(1),
            qos: 0,
            retain: false,
            will: false,
            packet_id: 0,
            expiry_interval_s: u32::MAX,
            properties: &[],
            payload,
        }
        .encode(&mut out);
        Record::split_from(&mut out.freeze()).unwrap()
    }

    #[test]
    fn regular_messages_over_the_limit_are_counted() {
        let inbox = Inbox::new(300);
        let record = record(&[0; 100]);
        let taken = (0..5).filter(|_| inbox.offer_regular(&record, 1)).count();
        assert_eq!(taken, 2);
        let mut events = Vec::new();
        inbox.drain(&mut events);
        assert_eq!(events.len(), 3);
        assert!(matches!(events[2], Event::RegularOverflow { dropped: 3 }));
        assert!(inbox.offer_regular(&record, 1), "drained, it takes messages again");
    }

    #[test]
    fn an_empty_inbox_takes_one_block_of_any_size() {
        let inbox = Inbox::new(10);
        let records: Arc<[Placed]> = Arc::from(vec![Placed {
            position: Position(1),
            time_ms: 1,
            record: record(&[0; 100]),
        }]);
        let block = || Event::Tail {
            shard: ShardId(0),
            records: records.clone(),
            indexes: vec![0],
            next: Position(2),
        };
        assert!(inbox.offer_tail(block()));
        assert!(!inbox.offer_tail(block()));
    }

    #[tokio::test]
    async fn a_post_wakes_the_waiting_connection() {
        let inbox = Inbox::new(10);
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.ready().await }
        });
        tokio::task::yield_now().await;
        inbox.post(Event::Drain);
        waiting.await.unwrap();
    }
}
