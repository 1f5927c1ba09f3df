//! One gateway's stream at this site: what waits to be sent on it, and the filters of its tails.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use holdfast_proto::ids::{Namespace, ShardId};
use holdfast_proto::matcher::Matcher;
use holdfast_proto::shard::{GatewayRef, Outcome, outcome};
use holdfast_proto::storage::{AppendDone, Filter, ProposeDone, SiteFrame, site_frame::Frame};
use parking_lot::{Mutex, RwLock};
use tonic::Status;

/// A gateway's place among this site's streams, at most [`SLOTS`].
pub(crate) type Slot = u8;
/// How many gateways one site serves at once.
pub(crate) const SLOTS: usize = 64;

/// One gateway's stream.
pub(crate) struct GatewayLink {
    pub(crate) slot: Slot,
    pub(crate) gateway: GatewayRef,
    outbox: Mutex<Outbox>,
}

/// Frames on their way out. What a gateway may ask for is bounded (batches in flight, tail credit,
/// reads under way), and so is this.
#[derive(Default)]
struct Outbox {
    frames: VecDeque<SiteFrame>,
    waker: Option<Waker>,
    closed: Option<Option<Status>>,
}

impl GatewayLink {
    pub(crate) fn send(&self, frame: Frame) {
        let mut outbox = self.outbox.lock();
        if outbox.closed.is_none() {
            outbox.frames.push_back(SiteFrame { frame: Some(frame) });
            if let Some(waker) = outbox.waker.take() {
                waker.wake();
            }
        }
    }

    /// Ends the stream, with an error if one is given.
    pub(crate) fn close(&self, status: Option<Status>) {
        let mut outbox = self.outbox.lock();
        if outbox.closed.is_none() {
            outbox.closed = Some(status);
        }
        if let Some(waker) = outbox.waker.take() {
            waker.wake();
        }
    }

    pub(crate) fn append_done(&self, shard: ShardId, outcome: Outcome, leader_site: u64) {
        let append = match outcome.outcome {
            Some(outcome::Outcome::Append(append)) => Some(append),
            _ => None,
        };
        self.send(Frame::AppendDone(AppendDone {
            shard: u32::from(shard.0),
            status: outcome.status,
            outcome: append,
            leader_site,
        }));
    }

    pub(crate) fn propose_done(&self, request_id: u64, outcome: Outcome, leader_site: u64) {
        let done = ProposeDone { request_id, outcome: Some(outcome), leader_site };
        self.send(Frame::ProposeDone(done));
    }
}

/// The frames of a link as the stream that tonic sends.
pub(crate) struct Outgoing(pub(crate) Arc<GatewayLink>);

impl Stream for Outgoing {
    type Item = Result<SiteFrame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut outbox = self.0.outbox.lock();
        if let Some(frame) = outbox.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut outbox.closed {
            Some(status) => Poll::Ready(status.take().map(Err)),
            None => {
                outbox.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// All gateways' streams at this site, and what their tails are interested in.
#[derive(Default)]
pub(crate) struct Links {
    links: RwLock<HashMap<Slot, Arc<GatewayLink>>>,
    interest: RwLock<Matcher<Slot>>,
}

impl Links {
    /// A stream for the gateway. Its earlier one, if any, is closed.
    ///
    /// # Errors
    /// All slots are taken.
    pub(crate) fn open(&self, gateway: GatewayRef) -> Result<Arc<GatewayLink>, Box<Status>> {
        let mut links = self.links.write();
        for link in links.values() {
            if link.gateway.incarnation == gateway.incarnation {
                link.close(Some(Status::aborted("replaced by a newer stream of this gateway")));
            }
        }
        let slot = (0..SLOTS as Slot).find(|slot| !links.contains_key(slot)).ok_or_else(|| {
            Box::new(Status::resource_exhausted(format!(
                "this site serves {SLOTS} gateways at most"
            )))
        })?;
        let link = Arc::new(GatewayLink { slot, gateway, outbox: Mutex::default() });
        links.insert(slot, link.clone());
        Ok(link)
    }

    /// Forgets a stream and the filters that it still has.
    pub(crate) fn forget(&self, link: &GatewayLink, filters: &HashMap<Filter, u32>) {
        let mut interest = self.interest.write();
        for (filter, times) in filters {
            for _ in 0..*times {
                interest.remove(Namespace(filter.namespace), &filter.filter, &link.slot);
            }
        }
        drop(interest);
        self.links.write().remove(&link.slot);
    }

    pub(crate) fn change_interest(&self, slot: Slot, add: &[Filter], remove: &[Filter]) {
        let mut interest = self.interest.write();
        for filter in add {
            interest.insert(Namespace(filter.namespace), &filter.filter, slot);
        }
        for filter in remove {
            interest.remove(Namespace(filter.namespace), &filter.filter, &slot);
        }
    }

    /// Calls `visit` with the set of gateways (one bit a slot) interested in each topic that `next`
    /// yields, under one lock.
    pub(crate) fn with_interest<R>(&self, look: impl FnOnce(&Matcher<Slot>) -> R) -> R {
        look(&self.interest.read())
    }

    pub(crate) fn broadcast(&self, frame: &Frame) {
        for link in self.links.read().values() {
            link.send(frame.clone());
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.links.read().len()
    }

    pub(crate) fn close_all(&self) {
        for link in self.links.read().values() {
            link.close(None);
        }
    }
}
