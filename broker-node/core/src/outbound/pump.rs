//! The pump: sends what may be sent, in the order it has to be.

use std::collections::VecDeque;

use holdfast_proto::ids::{Position, ShardId};

use super::Outbound;
use crate::delivery::{Delivery, publish_bytes};
use crate::effect::{Counter, Effect};
use crate::in_flight::{Out, State};
use crate::log::KEPT_CAPACITY;
use crate::matched::Matched;
use crate::session::Turn;
use crate::staged::Staged;
use crate::subscriptions::{Candidate, Match, Subscriptions};

impl Outbound {
    /// Sends what may be sent: resent messages first, then those whose commit is done and what waited
    /// behind them, then matched ones, then the log's.
    pub(crate) fn pump(
        &mut self,
        subscriptions: &Subscriptions,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        self.is_short_of_room = false;
        if !self.pump_resume(turn, out) {
            return;
        }
        self.pump_staged(turn, out);
        while let Some(first) = self.matched.front() {
            if first.found.qos > 0 && !self.window_is_open() {
                break;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return;
            }
            if let Some(matched) = self.matched.pop_front() {
                self.send(matched, false, turn, out);
            }
        }
        self.pump_log(subscriptions, turn, out);
        self.forget_passed(out);
        self.log.shrink();
        if self.matched.is_empty() && self.matched.capacity() > KEPT_CAPACITY {
            self.matched = VecDeque::new();
        }
    }

    fn window_is_open(&self) -> bool {
        let sent = self.in_flight.used().saturating_sub(self.ahead.len());
        sent < usize::from(self.limits.window) && self.in_flight.has_room()
    }

    /// Whether a message of the log may be taken, with what it needs.
    fn may_take(&self, shard: ShardId, found: &Match, is_ahead: bool) -> bool {
        let is_staged = self.log.feed(shard).is_staged();
        if found.qos > 0 && !self.window_is_open() {
            return false;
        }
        // An entry of the row with RETAIN may be an answer to a subscription, so it is not looked for
        // in the log after a crash: it has to lie below the cursor.
        if found.qos > 0 && found.retain && is_staged && !is_ahead {
            return false;
        }
        self.staged.has_room(&self.limits) || !(is_staged || found.qos == 2)
    }

    /// Sends what no longer waits.
    fn pump_staged(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) {
        let mut waiting = self.staged.take_to_release(&mut self.log.feeds);
        while let Some(staged) = waiting.pop_front() {
            let packet_id = staged.delivery.packet_id;
            let behind = self.is_behind(staged.place);
            let held = self.in_flight.get(packet_id).is_some_and(|e| e.state == State::Held);
            if behind || held {
                self.staged.push(staged, &mut self.log.feeds);
            } else if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                self.staged.may_release();
                self.staged.push(staged, &mut self.log.feeds);
            } else {
                self.in_flight.goes(packet_id, State::Sent);
                self.hand_over(staged, turn, out);
            }
        }
    }

    fn hand_over(&mut self, staged: Staged, turn: &mut Turn<'_>, out: &mut Vec<Effect>) {
        let Staged { delivery, bytes, place } = staged;
        turn.room_bytes = turn.room_bytes.saturating_sub(bytes);
        if let Some((shard, position)) = place {
            self.log.feed_mut(shard).sent(position.0, delivery.qos);
            self.has_unflushed |= delivery.qos == 0;
        }
        out.push(Effect::Deliver(delivery));
    }

    /// Messages in flight that the log should have brought and did not: no subscription matches them
    /// any more, or they are gone.
    fn forget_passed(&mut self, out: &mut Vec<Effect>) {
        if self.ahead.is_empty() {
            return;
        }
        let (feeds, in_flight) = (&self.log.feeds, &mut self.in_flight);
        self.ahead.retain(|(shard, position), packet_id| {
            let is_passed = feeds[usize::from(shard.0)].next > position.0;
            if is_passed {
                in_flight.record_gone(*packet_id);
                out.push(Effect::Count(Counter::RecordGone, 1));
            }
            !is_passed
        });
    }

    /// Returns whether new messages may follow.
    fn pump_resume(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) -> bool {
        let Some(resume) = &mut self.resume else { return true };
        while let Some((packet_id, _)) = resume.next_ready() {
            let waits = self.in_flight.get(*packet_id).is_some_and(|e| e.state == State::Sent);
            let unsent = resume.unsent() + self.ahead.len();
            let sent = self.in_flight.used().saturating_sub(unsent);
            if waits && sent >= usize::from(self.limits.window) {
                return false;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return false;
            }
            let Some((packet_id, placed)) = resume.pop_ready() else { break };
            // The client may have acknowledged it before it came again.
            let Some(entry) = self.in_flight.get(packet_id).filter(|e| e.state == State::Sent)
            else {
                continue;
            };
            let now_ms = (turn.shard_time_ms)(entry.shard);
            let delivery = Delivery {
                packet_id,
                qos: entry.qos,
                dup: true,
                retain: entry.retain,
                expiry_left_s: placed.record.expiry_left_s(placed.time_ms, now_ms),
                record: placed.record,
                subscription_ids: entry.subscription_ids.clone(),
                since_ms: placed.time_ms,
            };
            let bytes = publish_bytes(&delivery, self.protocol);
            if bytes > self.limits.client_packet_bytes_max as usize {
                self.in_flight.record_gone(packet_id);
                out.push(Effect::Count(Counter::TooLarge, 1));
                continue;
            }
            turn.room_bytes = turn.room_bytes.saturating_sub(bytes);
            out.push(Effect::Deliver(delivery));
        }
        if resume.is_done() {
            self.resume = None;
            return true;
        }
        false
    }

    fn pump_log(
        &mut self,
        subscriptions: &Subscriptions,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        while let Some((shard, placed)) = self.log.first() {
            let position = placed.position;
            let ahead = self.ahead.get(&(shard, position)).copied();
            let found = match ahead.and_then(|packet_id| self.in_flight.get(packet_id)) {
                Some(entry) => Some(Match {
                    qos: entry.qos,
                    retain: entry.retain,
                    identifiers: entry.subscription_ids.clone(),
                }),
                None => subscriptions.find(&Candidate {
                    topic: placed.record.topic(),
                    publisher: placed.record.client_id(),
                    qos: placed.record.qos(),
                    retain: placed.record.retain(),
                    place: Some((shard, position)),
                }),
            };
            if found.as_ref().is_some_and(|found| !self.may_take(shard, found, ahead.is_some())) {
                return;
            }
            if turn.room_bytes == 0 {
                self.is_short_of_room = true;
                return;
            }
            let Some(placed) = self.log.take_first() else { return };
            self.moved = true;
            self.ahead.remove(&(shard, position));
            if let Some(found) = found {
                let matched = Matched {
                    record: placed.record,
                    found,
                    place: (shard, position),
                    since_ms: placed.time_ms,
                    clock: Some(shard),
                };
                match ahead {
                    Some(packet_id) => self.send_again(packet_id, matched, turn, out),
                    None => self.send(matched, true, turn, out),
                }
            }
        }
    }

    /// Sends one message, or counts why not. `consumes`: it moves the cursor of its shard.
    fn send(
        &mut self,
        matched: Matched,
        consumes: bool,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        let (shard, position) = matched.place;
        let delivery = matched.into_delivery(turn);
        if delivery.expiry_left_s == Some(0) {
            out.push(Effect::Count(Counter::Expired, 1));
            return;
        }
        let bytes = publish_bytes(&delivery, self.protocol);
        if bytes > self.limits.client_packet_bytes_max as usize {
            out.push(Effect::Count(Counter::TooLarge, 1));
            return;
        }
        let place = consumes.then_some((shard, position));
        let mut staged = Staged { delivery, bytes, place };
        let qos = staged.delivery.qos;
        let held = self.durable && qos == 2;
        let waits = self.is_behind(place);
        if qos > 0 {
            staged.delivery.packet_id = self.in_flight.insert(Out {
                shard,
                position,
                qos,
                state: match (held, waits) {
                    (true, _) => State::Held,
                    (false, true) => State::Ready,
                    (false, false) => State::Sent,
                },
                retain: staged.delivery.retain,
                in_row: false,
                dirty: false,
                subscription_ids: staged.delivery.subscription_ids.clone(),
            });
        }
        if !held && !waits {
            self.hand_over(staged, turn, out);
            return;
        }
        if consumes && qos > 0 {
            self.log.feed_mut(shard).sent(position.0, qos);
        }
        self.staged.push(staged, &mut self.log.feeds);
    }

    /// A message in flight that the log brought again.
    fn send_again(
        &mut self,
        packet_id: u16,
        matched: Matched,
        turn: &mut Turn<'_>,
        out: &mut Vec<Effect>,
    ) {
        let place = Some(matched.place);
        let delivery = Delivery { packet_id, dup: true, ..matched.into_delivery(turn) };
        let bytes = publish_bytes(&delivery, self.protocol);
        if bytes > self.limits.client_packet_bytes_max as usize {
            self.in_flight.record_gone(packet_id);
            out.push(Effect::Count(Counter::TooLarge, 1));
            return;
        }
        let staged = Staged { delivery, bytes, place };
        if self.is_behind(place) {
            self.in_flight.goes(packet_id, State::Ready);
            self.staged.push(staged, &mut self.log.feeds);
        } else {
            self.in_flight.goes(packet_id, State::Sent);
            self.hand_over(staged, turn, out);
        }
    }

    fn is_behind(&self, place: Option<(ShardId, Position)>) -> bool {
        place.is_some_and(|(shard, _)| self.log.feed(shard).is_staged())
    }
}
