//! What came to the session, and what the session wants done.

use bytes::BytesMut;
use holdfast_proto::ids::Namespace;
use holdfast_proto::record::RecordDraft;
use holdfast_proto::shard::Status;
use holdfast_session::{Close, Decision, Effect, Page, Turn, reason};

use super::Transport;
use super::live::{End, Live};
use crate::cluster::{ClusterError, PublishTurn, Routed};
use crate::codec::{self, DecodeError, Packet, encode_effect};
use crate::inbox::{Event, PublishResult};
use crate::{metrics, tally};

impl<T: Transport> Live<T> {
    /// Applies the whole packets at the start of `bytes`; returns how many bytes they are.
    pub(super) fn packets(
        &mut self,
        bytes: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<usize, End> {
        let shared = self.shared.clone();
        let (client, inbox) = (self.client.clone(), self.inbox.clone());
        let mut turn: Option<PublishTurn<'_>> = None;
        let mut received = tally::ByQos::default();
        let mut used = 0;
        let applied = loop {
            let frame = match codec::next_frame(&bytes[used..], shared.config.packet_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(refused(error)),
            };
            used += frame.bytes;
            let packet = match codec::decode(frame, self.protocol) {
                Ok(packet) => packet,
                Err(error) => break Err(refused(error)),
            };
            let Packet::Publish(publish) = packet else {
                match self.packet(packet, effects) {
                    Ok(()) => continue,
                    Err(close) => break Err(close.into()),
                }
            };
            received[usize::from(publish.qos.min(2))] += 1;
            if self.drain_until_ms.is_some() && publish.qos > 0 {
                // Without an acknowledgement the client publishes it again, at another gateway.
                continue;
            }
            let routing = match self.session.publish(&publish, effects) {
                Ok(Some(routing)) => routing,
                Ok(None) => continue,
                Err(close) => break Err(close.into()),
            };
            let turn = turn.get_or_insert_with(|| {
                let durable = self.session.is_durable();
                shared.cluster.publish_turn(&client, self.epoch, durable, &inbox)
            });
            if self.measured.token == 0 {
                self.measured.token = routing.token;
            }
            let draft = RecordDraft {
                namespace: Namespace(client.namespace),
                topic: routing.topic.as_str(),
                client_id: &client.client_id,
                epoch: self.epoch,
                qos: publish.qos,
                retain: publish.retain,
                will: false,
                packet_id: if publish.qos == 2 { publish.packet_id } else { 0 },
                expiry_interval_s: publish.expiry_interval_s,
                properties: &publish.properties,
                payload: publish.payload,
            };
            if turn.publish(&draft, routing.token) == Routed::Now {
                self.session.decided(routing.token, Decision::Routed);
            }
        };
        if let Some(turn) = turn {
            self.turn_published(turn);
        }
        self.inbox.figures.received(&received);
        applied.map(|()| used)
    }

    fn turn_published(&mut self, turn: PublishTurn<'_>) {
        let end = turn.finish();
        if end.congested && self.congestion.is_none() {
            let (cluster, client) = (self.shared.cluster.clone(), self.client.clone());
            self.congestion = Some(Box::pin(async move { cluster.uncongested(&client).await }));
        }
        self.turn_end = Some(end);
    }

    fn packet(&mut self, packet: Packet<'_>, effects: &mut Vec<Effect>) -> Result<(), Close> {
        match packet {
            Packet::Ack { kind, packet_id, reason } => {
                self.session.acknowledged(kind, packet_id, reason, effects)
            }
            Packet::Subscribe(packet) => self.session.subscribe(packet),
            Packet::Unsubscribe { packet_id, filters } => {
                self.session.unsubscribe(packet_id, filters)
            }
            Packet::Ping => {
                self.session.ping(effects);
                Ok(())
            }
            Packet::Disconnect { reason, expiry_interval_s } => {
                let expiry = expiry_interval_s
                    .map(|expiry| expiry.min(self.shared.config.session_expiry_max_s));
                self.session.disconnect(reason, expiry, self.session_expires, effects)?;
                // Ends the connection when the effects run; nothing after it is read.
                Err(Close { reason: reason::SUCCESS, cause: "client left" })
            }
            Packet::Auth => Err(Close {
                reason: reason::BAD_AUTHENTICATION,
                cause: "AUTH without an authentication method",
            }),
            Packet::Connect => {
                Err(Close { reason: reason::PROTOCOL_ERROR, cause: "second CONNECT" })
            }
            // Handled by the caller, which has the turn of publishing.
            Packet::Publish(_) => Ok(()),
        }
    }

    /// Applies events in their order.
    pub(super) fn apply_events(
        &mut self,
        events: &mut Vec<Event>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), End> {
        let mut ended = Ok(());
        for event in events.drain(..) {
            let applied = self.event(event, now_ms, effects);
            if ended.is_ok() {
                ended = applied;
            }
        }
        Ok(ended?)
    }

    fn event(&mut self, event: Event, now_ms: u64, effects: &mut Vec<Effect>) -> Result<(), Close> {
        let session = &mut self.session;
        match event {
            Event::Published { results } => {
                for (token, result) in results {
                    session.decided(token, decision(result));
                }
            }
            Event::Tail { shard, records, indexes, next } => {
                session.tail(shard, &records, &indexes, next);
            }
            Event::Behind { shard } => session.behind(shard),
            Event::Regular { record, received_ms } => {
                session.regular(record, received_ms, effects)?;
            }
            Event::RegularOverflow { dropped } => session.regular_overflow(dropped, effects)?,
            Event::Page { shard, records, next, head, dropped_below, time_ms } => {
                tracing::trace!(%shard, records = records.len(), %next, head, time_ms, "page");
                let page = Page { shard, records: &records, next, head, dropped_below };
                session.page(&page, now_ms, effects);
            }
            Event::PageFailed { shard } => session.page_failed(shard, now_ms),
            Event::Outcome { token, result } => {
                let status = match result {
                    Ok(outcome) => Some(outcome.status()),
                    Err(ClusterError::Fenced) => Some(Status::Fenced),
                    Err(ClusterError::Refused { reason }) => {
                        tracing::warn!(%reason, "home shard refused a command");
                        Some(Status::Invalid)
                    }
                    Err(_) => None,
                };
                session.outcome(token, status, now_ms, effects)?;
            }
            Event::Attached { token, result } => {
                session.attached(token, result.as_deref().ok(), now_ms, effects);
            }
            Event::Retained { token, result } => {
                let turn = Turn { now_ms, shard_time_ms: &|_| now_ms, room_bytes: 0 };
                session.retained(token, result.as_deref().ok(), &turn);
            }
            Event::TakenOver { reply } => {
                self.taken_over = Some(reply);
                return Err(Close { reason: reason::TAKEN_OVER, cause: "taken over" });
            }
            Event::Kick { ended } => {
                self.kicked = Some(ended);
                return Err(Close { reason: reason::ADMINISTRATIVE, cause: "kicked" });
            }
            // Who asked may have given up waiting.
            Event::ShowSubscriptions { reply } => drop(reply.send(session.subscriptions())),
            Event::Drain => {
                let settle_ms = self.shared.config.drain_settle_ms;
                self.drain_until_ms.get_or_insert(now_ms + settle_ms);
            }
        }
        Ok(())
    }

    /// Runs effects; packets go to `out`. Returns whether the session has to work again at once.
    pub(super) fn run_effects(
        &mut self,
        effects: &mut Vec<Effect>,
        out: &mut BytesMut,
        now_ms: u64,
    ) -> Result<bool, End> {
        let mut again = false;
        let mut measured = false;
        let mut sent = tally::ByQos::default();
        for effect in effects.drain(..) {
            if encode_effect(out, &effect, self.protocol) {
                match &effect {
                    Effect::Deliver(delivery) => {
                        sent[usize::from(delivery.qos.min(2))] += 1;
                        if !measured && !delivery.dup {
                            measured = true;
                            let age_ms = now_ms.saturating_sub(delivery.since_ms);
                            metrics::delivered(age_ms as f64 / 1e3);
                        }
                    }
                    Effect::Suback { codes, .. } => metrics::subscribed(codes),
                    Effect::Unsuback { codes, .. } => metrics::unsubscribed(codes),
                    _ => {}
                }
                continue;
            }
            again |= self.run_effect(effect)?;
        }
        self.inbox.figures.sent(&sent);
        Ok(again)
    }

    fn run_effect(&mut self, effect: Effect) -> Result<bool, End> {
        let cluster = &self.shared.cluster;
        match effect {
            Effect::Propose { token, command } => {
                cluster.propose(self.home, *command, token, &self.inbox);
            }
            Effect::Attach { token, filters } => {
                self.attachment = None;
                let durable = self.session.is_durable();
                self.attachment = Some(cluster.attach(
                    self.client.clone(),
                    self.epoch,
                    durable,
                    &filters,
                    token,
                    self.inbox.clone(),
                ));
            }
            Effect::Subscribe { token, filters } => {
                if let Some(attachment) = &self.attachment {
                    attachment.subscribe(&filters, token);
                }
            }
            Effect::Unsubscribe { filters } => {
                if let Some(attachment) = &self.attachment {
                    attachment.unsubscribe(&filters);
                }
            }
            Effect::AttachShard(shard) => {
                if let Some(attachment) = &self.attachment {
                    let from = attachment.attach_shard(shard);
                    self.session.shard_attached(shard, from);
                    return Ok(true);
                }
            }
            Effect::Read { filters, items } => {
                cluster.read(self.session.namespace(), &filters, items, &self.inbox);
            }
            Effect::Retained { token, filters } => {
                cluster.retained(self.session.namespace(), filters, token, &self.inbox);
            }
            Effect::Count(kind, count) => metrics::dropped(kind, count),
            Effect::Left(leave) => return Err(End { close: None, leave }),
            // Packets: written before.
            Effect::Deliver(_)
            | Effect::Ack { .. }
            | Effect::Suback { .. }
            | Effect::Unsuback { .. }
            | Effect::Pong => {}
        }
        Ok(false)
    }
}

fn decision(result: PublishResult) -> Decision {
    match result {
        PublishResult::Stored => Decision::Stored,
        PublishResult::Repeated => Decision::Repeated,
        PublishResult::Fenced => Decision::Fenced,
        PublishResult::Failed(reason) => Decision::Failed(reason),
    }
}

fn refused(error: DecodeError) -> End {
    Close { reason: error.reason(), cause: error.cause() }.into()
}
