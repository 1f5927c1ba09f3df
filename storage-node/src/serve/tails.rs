//! Tails of one shard: what is applied here is pushed to the gateways that want it.
//!
//! One task a shard matches each record once, against the filters of all gateways, and pushes it once
//! per gateway. A tail that has no credit left, or that starts below the messages in memory, catches
//! up by itself and joins the others at the head.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use holdfast_proto::ids::Position;
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::Status;
use holdfast_proto::storage::{Filter, TailBlock, TailStopped, site_frame::Frame};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::link::{GatewayLink, Links};
use crate::metrics;
use crate::replica::Replica;

/// The tails of one shard at this site.
pub(crate) struct Tails {
    subscribers: Mutex<Vec<Subscriber>>,
    wake: Notify,
    links: Arc<Links>,
    block_bytes_max: usize,
}

struct Subscriber {
    link: Arc<GatewayLink>,
    /// Filters of the gateway, for records that are read from runs.
    filters: Arc<Mutex<HashMap<Filter, u32>>>,
    next: Position,
    time_ms: u64,
    credit: i64,
}

/// One subscriber's part of a turn.
struct Push {
    at: usize,
    block: BytesMut,
}

impl Tails {
    pub(crate) fn new(links: Arc<Links>, block_bytes_max: usize) -> Tails {
        Tails { subscribers: Mutex::default(), wake: Notify::new(), links, block_bytes_max }
    }

    /// Starts (or restarts) a gateway's tail at `position`.
    pub(crate) fn start(
        &self,
        link: &Arc<GatewayLink>,
        filters: Arc<Mutex<HashMap<Filter, u32>>>,
        position: Position,
        credit_bytes: u64,
    ) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|known| known.link.slot != link.slot);
        subscribers.push(Subscriber {
            link: link.clone(),
            filters,
            next: position,
            time_ms: 0,
            credit: i64::try_from(credit_bytes).unwrap_or(i64::MAX),
        });
        drop(subscribers);
        self.wake.notify_one();
    }

    pub(crate) fn credit(&self, link: &GatewayLink, bytes: u64) {
        let mut subscribers = self.subscribers.lock();
        let known = subscribers.iter_mut().find(|known| known.link.slot == link.slot);
        if let Some(subscriber) = known {
            let was_out = subscriber.credit <= 0;
            subscriber.credit =
                subscriber.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            if was_out && subscriber.credit > 0 {
                self.wake.notify_one();
            }
        }
    }

    pub(crate) fn forget(&self, link: &GatewayLink) {
        self.subscribers.lock().retain(|known| known.link.slot != link.slot);
    }

    /// Looks at the tails again.
    pub(crate) fn wakes(&self) {
        self.wake.notify_one();
    }

    /// Ends all tails: this replica no longer leads.
    pub(crate) fn stop_all(&self, shard: u16, leader_site: u64) {
        for subscriber in self.subscribers.lock().drain(..) {
            let stopped = TailStopped { shard: u32::from(shard), leader_site };
            subscriber.link.send(Frame::TailStopped(stopped));
        }
    }
}

/// Pushes until the replica stops.
pub(crate) async fn run(replica: Arc<Replica>) {
    let mut head = replica.cell.head.subscribe();
    loop {
        tokio::select! {
            () = replica.stopped.wait() => return,
            changed = head.changed() => if changed.is_err() { return },
            () = replica.tails.wake.notified() => {}
        }
        head.mark_unchanged();
        while push_round(&replica) {
            if push_old(&replica).await {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Pushes what is in memory; true if something may be left to do.
fn push_round(replica: &Replica) -> bool {
    if replica.is_handing_over() {
        return false;
    }
    let tails = &replica.tails;
    let mut subscribers = tails.subscribers.lock();
    let shard = replica.cell.shard.lock();
    let (first, head) = (shard.tail().first(), shard.next_position());
    let time_ms = replica.cell.time_ms(&shard);
    let ready = |subscriber: &Subscriber| subscriber.credit > 0 && subscriber.next >= first;
    let old = subscribers.iter().any(|one| one.credit > 0 && one.next < first);
    let Some(from) = subscribers.iter().filter(|one| ready(one)).map(|one| one.next).min() else {
        return old;
    };
    let mut taken: Vec<Placed> = Vec::new();
    let mut bytes = 0;
    let mut position = from;
    while position < head && bytes < tails.block_bytes_max {
        if let Some(placed) = shard.tail().at(position) {
            bytes += placed.record.as_bytes().len();
            taken.push(placed.clone());
        }
        position = position.next();
    }
    drop(shard);
    let until = position;
    let mut pushes: Vec<Push> = subscribers
        .iter()
        .enumerate()
        .filter(|(_, one)| ready(one) && one.next < until)
        .map(|(at, _)| Push { at, block: BytesMut::new() })
        .collect();
    tails.links.with_interest(|interest| {
        for placed in &taken {
            let record = &placed.record;
            let mut wanted: u64 = if record.is_will() { u64::MAX } else { 0 };
            interest.visit(record.namespace(), record.topic(), &mut |slot| wanted |= 1 << slot);
            if wanted == 0 {
                continue;
            }
            for push in &mut pushes {
                let one = &subscribers[push.at];
                if wanted >> one.link.slot & 1 == 1 && one.next <= placed.position {
                    Placed::encode(&mut push.block, placed.position, placed.time_ms, record);
                }
            }
        }
    });
    for push in pushes {
        let one = &mut subscribers[push.at];
        one.push(replica.key.shard.0, until, time_ms, push.block);
    }
    old || until < head
}

impl Subscriber {
    fn push(&mut self, shard: u16, next: Position, time_ms: u64, block: BytesMut) {
        self.credit -= block.len() as i64;
        metrics::tail_pushed(block.len());
        self.link.send(Frame::TailBlock(TailBlock {
            shard: u32::from(shard),
            from: self.next.0,
            next: next.0,
            time_ms,
            records: block.freeze(),
        }));
        self.next = next;
        self.time_ms = time_ms;
    }
}

/// Reads on for one tail that is below the messages in memory; true if there was one.
async fn push_old(replica: &Arc<Replica>) -> bool {
    let (slot, from, filters) = {
        let subscribers = replica.tails.subscribers.lock();
        let first = replica.cell.shard.lock().tail().first();
        let Some(one) = subscribers.iter().find(|one| one.credit > 0 && one.next < first) else {
            return false;
        };
        let filters: Vec<Filter> = one.filters.lock().keys().cloned().collect();
        (one.link.slot, one.next, filters)
    };
    let cell = replica.cell.clone();
    let bytes_max = replica.tails.block_bytes_max;
    let names: Vec<String> = filters.into_iter().map(|filter| filter.filter).collect();
    let read = tokio::task::spawn_blocking(move || {
        cell.read(holdfast_proto::ids::Namespace(0), &names, from, bytes_max)
    });
    let page = match read.await {
        Ok(Ok(page)) if page.status == Status::Ok => page,
        Ok(Ok(_)) => {
            // The run is being fetched from another holder.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            return true;
        }
        Ok(Err(error)) => {
            replica.fatal.stop("read a run for a tail", &error);
            return false;
        }
        Err(_) => return false,
    };
    let mut subscribers = replica.tails.subscribers.lock();
    let still = |one: &&mut Subscriber| one.link.slot == slot && one.next == from;
    if let Some(one) = subscribers.iter_mut().find(still) {
        one.push(replica.key.shard.0, page.next, page.time_ms, page.records);
    }
    true
}
