//! A turn of publishing, and the shards' answers to it.

use std::sync::Arc;

use holdfast_node_kit::clock;
use holdfast_proto::ids::{Epoch, Namespace, ShardId, SiteId, home_shard, retained_shard};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::RecordDraft;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{ClientKey, Command, SetRetained};
use holdfast_proto::storage::AppendDone;
use holdfast_proto::storage::gateway_frame::Frame;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::appender::{ShardQueue, StepTicket};
use super::regular::Scratch;
use super::requests::{Body, Reply};
use super::{Cluster, Shared, metrics as names, monotonic};
use crate::inbox::Inbox;

/// The queue of one shard and those who wait for it to shrink.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: Mutex<ShardQueue>,
    pub(crate) eased: Notify,
}

/// Where one publish went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routed {
    /// Not durable, served: acknowledge it now.
    Now,
    /// On its way to the log: `Event::Published` brings its token.
    Later,
}

/// Everything one wake-up of a connection publishes. It may hold the lock of the home shard's queue, so
/// it cannot be kept over an await and only one may be open in a task.
pub(crate) struct PublishTurn<'a> {
    shared: &'a Arc<Shared>,
    inbox: &'a Arc<Inbox>,
    home: ShardId,
    durable_session: bool,
    now_ms: u64,
    received_ms: u64,
    queue: Option<MutexGuard<'a, ShardQueue>>,
    scratch: Scratch,
    running: RunningTurn,
}

/// What is left of a turn. Keep it until the acknowledgements of the turn's `Routed::Now` publishes were
/// handed to the socket (one attempt to write is enough), then drop it: while it lives, this gateway
/// does not confirm newer durable filters.
#[must_use]
pub(crate) struct TurnEnd {
    /// The client's home shard has too much to do: publish nothing more (stop reading the socket) until
    /// `Cluster::uncongested` returns.
    pub(crate) congested: bool,
    _running: RunningTurn,
}

/// Keeps the filter versions above the turn's from being acknowledged.
struct RunningTurn {
    shared: Arc<Shared>,
    version: u64,
}

impl RunningTurn {
    fn begin(shared: &Arc<Shared>) -> RunningTurn {
        let control = &shared.control;
        let mut turns = control.turns.lock();
        let version = control.routes.read().version();
        turns.begin(version);
        RunningTurn { shared: shared.clone(), version }
    }
}

impl Drop for RunningTurn {
    fn drop(&mut self) {
        let control = &self.shared.control;
        let last = control.turns.lock().end(self.version);
        if last && control.routes.read().version() != self.version {
            control.report.notify_one();
        }
    }
}

impl PublishTurn<'_> {
    /// Routes one message: regular subscribers are served, a durable one is put into the batch of the
    /// home shard. The draft's client id and epoch are the turn's.
    pub(crate) fn publish(&mut self, draft: &RecordDraft<'_>, token: u64) -> Routed {
        self.shared.regular.publish(draft, &mut self.scratch, self.received_ms);
        let durable = (self.durable_session && draft.qos == 2)
            || self.shared.control.routes.read().is_durable(draft, self.now_ms);
        if !durable {
            return Routed::Now;
        }
        let shared = self.shared;
        let queue = self.queue.get_or_insert_with(|| shared.lane(self.home).queue.lock());
        let shard_time_ms = shared.shard_time_ms(self.home);
        queue.push(draft, token, self.inbox, self.now_ms, shard_time_ms);
        Routed::Later
    }

    /// Hands everything over.
    pub(crate) fn finish(mut self) -> TurnEnd {
        let congested = match self.queue.take() {
            Some(mut queue) => {
                self.shared.pump(self.home, &mut queue, self.now_ms);
                queue.is_congested()
            }
            None => false,
        };
        TurnEnd { congested, _running: self.running }
    }
}

impl Cluster {
    /// Begins a turn of publishing. `durable`: the publisher's session is durable (its QoS 2 messages
    /// always go to the log).
    pub(crate) fn publish_turn<'a>(
        &'a self,
        client: &ClientKey,
        _epoch: Epoch,
        durable: bool,
        inbox: &'a Arc<Inbox>,
    ) -> PublishTurn<'a> {
        PublishTurn {
            shared: &self.shared,
            inbox,
            home: self.shared.home_of(client),
            durable_session: durable,
            now_ms: monotonic::now_ms(),
            received_ms: clock::now_ms(),
            queue: None,
            scratch: Scratch::default(),
            running: RunningTurn::begin(&self.shared),
        }
    }

    /// Waits until the client's home shard takes publishes again. Cancel safe.
    pub(crate) async fn uncongested(&self, client: &ClientKey) {
        let lane = self.shared.lane(self.shared.home_of(client));
        loop {
            let eased = lane.eased.notified();
            tokio::pin!(eased);
            eased.as_mut().enable();
            if !lane.queue.lock().is_congested() {
                return;
            }
            eased.await;
        }
    }
}

impl Shared {
    /// The shard of a client's session and publishes.
    #[must_use]
    pub(crate) fn home_of(&self, client: &ClientKey) -> ShardId {
        home_shard(Namespace(client.namespace), &client.client_id, self.shards)
    }

    /// The queue of a shard of this cluster.
    pub(crate) fn lane(&self, shard: ShardId) -> &Lane {
        &self.lanes[usize::from(shard.0)]
    }

    /// Sends what may be sent of a shard's queue.
    pub(crate) fn pump(&self, shard: ShardId, queue: &mut ShardQueue, now_ms: u64) {
        let shard_time_ms = self.shard_time_ms(shard);
        queue.pump(now_ms, shard_time_ms, &mut |site, batch| {
            self.links.send(site, Frame::Append(batch))
        });
    }

    /// Takes in a site's answer to a batch.
    pub(crate) fn on_append_done(&self, site: SiteId, done: AppendDone, now_ms: u64) {
        let shard = ShardId(done.shard as u16);
        let Some(lane) = self.lanes.get(usize::from(shard.0)) else { return };
        let (answered, eased) = {
            let mut queue = lane.queue.lock();
            let was_congested = queue.is_congested();
            let answered = queue.answer(site, done, now_ms);
            self.pump(shard, &mut queue, now_ms);
            (answered, was_congested && !queue.is_congested())
        };
        if eased {
            lane.eased.notify_waiters();
        }
        if answered.stored > 0 {
            metrics::histogram!(names::PUBLISH_DURABLE).record(answered.waited_ms as f64 / 1_000.0);
            metrics::counter!(names::PUBLISHES_STORED).increment(u64::from(answered.stored));
        }
        for (why, publishes) in answered.refused {
            why.count(publishes);
        }
        for step in answered.steps {
            let reply = Reply::Step { home: shard, ticket: step.ticket };
            self.set_retained(shard, &step.message, reply);
        }
        if let Some(hint) = answered.not_leader {
            self.leader_refused(shard, site, hint);
        }
    }

    /// Asks the topic's shard to retain a message that its home shard has stored.
    pub(crate) fn set_retained(&self, home: ShardId, stored: &Placed, reply: Reply) {
        let record = &stored.record;
        let shard = retained_shard(record.namespace(), record.topic(), self.shards);
        let command = SetRetained {
            namespace: record.namespace().0,
            topic: record.topic().to_owned(),
            record: record.as_bytes().clone(),
            client: Some(ClientKey {
                namespace: record.namespace().0,
                client_id: record.client_id().to_owned(),
            }),
            epoch: record.epoch().0,
            home_shard: u32::from(home.0),
            home_position: stored.position.0,
            time_ms: stored.time_ms,
        };
        let command = Command { command: Some(Kind::SetRetained(command)) };
        let deadline_ms = monotonic::now_ms() + self.config.propose_deadline_ms;
        self.ask(shard, Body::Propose(command), reply, deadline_ms);
    }

    /// The second step of a retained publish is decided.
    pub(crate) fn step_done(&self, home: ShardId, ticket: StepTicket, failed: Option<u8>) {
        self.lane(home).queue.lock().step_done(ticket, failed);
    }
}
