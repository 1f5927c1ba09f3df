//! What the operator asks of a gateway: who is connected, and to end a connection.
//!
//! The list comes from the index of owners and from figures that each connection keeps, without asking
//! it. Only its subscriptions are its own: they are asked for through its inbox, and who does not answer
//! in time is listed without them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::gateway::{
    ConnectedClient, KickReply, KickRequest, ListClientsReply, ListClientsRequest,
};
use holdfast_proto::shard::{ClientKey, Subscription};
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::owners::Owner;
use crate::inbox::{Event, Inbox};

/// Clients in one answer.
const LIMIT_MAX: usize = 1_000;
/// An answer ends after the client with which it reaches this size, in bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Clients that are asked for their subscriptions at once: theirs are all in memory.
const ASKED_AT_ONCE: usize = 50;
/// How long connections may take to tell their subscriptions, all together.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// How long a connection may take to end before the operator's request is answered.
const END_WITHIN: Duration = Duration::from_secs(1);

impl Shared {
    /// Lists connected clients.
    pub(super) async fn list_clients(&self, request: ListClientsRequest) -> ListClientsReply {
        let limit = match request.limit as usize {
            0 => LIMIT_MAX,
            asked => asked.min(LIMIT_MAX),
        };
        let is_shown = |connection: &Arc<Inbox>| !connection.figures.is_over();
        let (after, prefix) = (request.after.as_ref(), &request.client_id_prefix);
        let listed = self.owners.list(after, prefix, limit, is_shown);
        let mut reply = ListClientsReply { clients: Vec::new(), more: listed.more };
        let deadline = Instant::now() + TELL_WITHIN;
        let (mut bytes, mut listed) = (0, listed.clients.into_iter());
        loop {
            let chunk: Vec<_> = listed.by_ref().take(ASKED_AT_ONCE).collect();
            if chunk.is_empty() {
                return reply;
            }
            let asked: Vec<_> = chunk
                .iter()
                .map(|(_, owner)| request.with_subscriptions.then(|| ask(&owner.connection)))
                .collect();
            for ((client, owner), asked) in chunk.into_iter().zip(asked) {
                if bytes >= ANSWER_BYTES_MAX {
                    reply.more = true;
                    return reply;
                }
                let subscriptions = match asked {
                    Some(answer) => timeout_at(deadline, answer).await.ok().and_then(Result::ok),
                    None => None,
                };
                let client = describe(client, &owner, subscriptions.unwrap_or_default());
                bytes += client.encoded_len();
                reply.clients.push(client);
            }
        }
    }

    /// Ends a client's connection, and waits for a moment until its session is given up.
    pub(super) async fn kick(&self, request: KickRequest) -> KickReply {
        let client = request.client.unwrap_or_default();
        let is_meant = |owner: &Owner<Arc<Inbox>>| {
            let of_epoch = request.epoch == 0 || request.epoch == owner.epoch;
            of_epoch && !owner.connection.figures.is_over()
        };
        let Some(owner) = self.owners.find(&client).filter(is_meant) else {
            return KickReply { found: false };
        };
        tracing::info!(
            namespace = client.namespace,
            client_id = client.client_id,
            epoch = owner.epoch,
            "the operator ends a connection"
        );
        let (ended, wait) = oneshot::channel();
        owner.connection.post(Event::Kick { ended });
        // The connection drops its end. One that hangs ends later.
        let _ = timeout(END_WITHIN, wait).await;
        KickReply { found: true }
    }
}

fn ask(connection: &Inbox) -> oneshot::Receiver<Vec<Subscription>> {
    let (reply, answer) = oneshot::channel();
    connection.post(Event::ShowSubscriptions { reply });
    answer
}

fn describe(
    client: ClientKey,
    owner: &Owner<Arc<Inbox>>,
    subscriptions: Vec<Subscription>,
) -> ConnectedClient {
    let figures = &owner.connection.figures;
    let (facts, numbers) = (figures.facts(), figures.numbers());
    ConnectedClient {
        client: Some(client),
        remote: facts.map(|facts| SocketAddr::from(facts.remote).to_string()).unwrap_or_default(),
        protocol_level: facts.map_or(0, |facts| u32::from(facts.protocol_level)),
        keep_alive_s: facts.map_or(0, |facts| u32::from(facts.keep_alive_s)),
        expiry_interval_s: facts.map_or(0, |facts| facts.expiry_interval_s),
        connected_at_ms: facts.map_or(0, |facts| facts.connected_at_ms),
        epoch: owner.epoch,
        subscription_count: numbers.subscriptions,
        in_flight: u32::from(numbers.in_flight),
        received: numbers.received,
        sent: numbers.sent,
        subscriptions,
    }
}
