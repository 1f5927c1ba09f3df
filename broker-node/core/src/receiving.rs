//! Inbound publishes: acknowledgements in order of arrival, QoS 2 ids, topic aliases.
//!
//! A QoS 2 id is *pending* until its publish is decided, then *held* until PUBREL, then *releasing*
//! until the removal is committed (only ids that the home shard knows are). A repeat of a held id is
//! answered and not published again.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use holdfast_proto::shard::Received;
use holdfast_proto::topic;

use crate::effect::{AckKind, Close, Effect};
use crate::limits::{Protocol, reason};

/// A PUBLISH from the client, as decoded; borrows the packet.
#[derive(Debug, Clone)]
pub struct InboundPublish<'a> {
    /// 0, 1 or 2.
    pub qos: u8,
    /// RETAIN.
    pub retain: bool,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// May be empty with an alias.
    pub topic: &'a str,
    /// Topic alias; 0 is none, an explicit 0 is refused by the decoder.
    pub topic_alias: u16,
    /// It carried a subscription identifier.
    pub has_subscription_id: bool,
    /// Message expiry interval, or `NEVER_EXPIRES`.
    pub expiry_interval_s: u32,
    /// Properties that travel with the message.
    pub properties: Cow<'a, [u8]>,
    /// Application message.
    pub payload: &'a [u8],
}

/// The topic of an accepted publish.
#[derive(Debug, Clone)]
pub enum TopicName<'a> {
    /// As in the packet.
    Given(&'a str),
    /// From an alias.
    Alias(Arc<str>),
}

impl TopicName<'_> {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            TopicName::Given(name) => name,
            TopicName::Alias(name) => name,
        }
    }
}

/// An accepted publish: route it under this topic and token.
#[derive(Debug)]
pub struct Routing<'a> {
    /// 0: nobody waits for the decision (QoS 0).
    pub token: u64,
    /// Where to.
    pub topic: TopicName<'a>,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Routed without being stored.
    Routed,
    /// Stored and committed.
    Stored,
    /// A repeat of a stored QoS 2 message.
    Repeated,
    /// The session belongs to somebody else.
    Fenced,
    /// Refused with this reason code.
    Failed(u8),
}

#[derive(Debug)]
struct Waiting {
    packet_id: u16,
    qos: u8,
    /// A repeat of a held id: nothing was published for it.
    repeat: bool,
    decision: Option<Decision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Pending,
    Held { durable: bool },
    Releasing,
}

#[derive(Debug)]
pub(crate) struct Receiving {
    protocol: Protocol,
    receive_maximum: u16,
    alias_maximum: u16,
    aliases: HashMap<u16, Arc<str>>,
    waiting: VecDeque<Waiting>,
    /// Token of the first in `waiting`.
    first_token: u64,
    ids: HashMap<u16, Id>,
    /// QoS 2 ids of this connection that wait for PUBREL or its commit.
    held_here: usize,
    /// Released and not yet proposed.
    released: Vec<u16>,
    /// Proposed and not yet committed.
    releasing: Vec<u16>,
}

impl Receiving {
    pub(crate) fn new(protocol: Protocol, receive_maximum: u16, alias_maximum: u16) -> Self {
        Receiving {
            protocol,
            receive_maximum,
            alias_maximum,
            aliases: HashMap::new(),
            waiting: VecDeque::new(),
            first_token: 1,
            ids: HashMap::new(),
            held_here: 0,
            released: Vec::new(),
            releasing: Vec::new(),
        }
    }

    pub(crate) fn restore(&mut self, rows: &[Received]) {
        for row in rows {
            self.ids.insert(row.packet_id as u16, Id::Held { durable: true });
        }
    }

    /// Accepts or refuses a PUBLISH. `None`: a repeat, answered without publishing.
    pub(crate) fn publish<'a>(
        &mut self,
        publish: &InboundPublish<'a>,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Routing<'a>>, Close> {
        if publish.has_subscription_id {
            return Err(refuse(reason::PROTOCOL_ERROR, "subscription id in a client's publish"));
        }
        let topic = self.resolve(publish)?;
        if publish.qos == 0 {
            return Ok(Some(Routing { token: 0, topic }));
        }
        if self.waiting.len() + self.held_here >= usize::from(self.receive_maximum) {
            return Err(refuse(reason::RECEIVE_MAXIMUM, "receive maximum exceeded"));
        }
        let mut repeat = false;
        if publish.qos == 2 {
            match self.ids.get(&publish.packet_id) {
                None => {
                    self.ids.insert(publish.packet_id, Id::Pending);
                }
                Some(Id::Held { .. }) => repeat = true,
                Some(Id::Pending) => return Ok(None),
                Some(Id::Releasing) => {
                    return Err(refuse(reason::PROTOCOL_ERROR, "publish before PUBCOMP"));
                }
            }
        }
        let token = self.first_token + self.waiting.len() as u64;
        self.waiting.push_back(Waiting {
            packet_id: publish.packet_id,
            qos: publish.qos,
            repeat,
            decision: repeat.then_some(Decision::Repeated),
        });
        if repeat {
            self.answer(out)?;
            return Ok(None);
        }
        Ok(Some(Routing { token, topic }))
    }

    fn resolve<'a>(&mut self, publish: &InboundPublish<'a>) -> Result<TopicName<'a>, Close> {
        let alias = publish.topic_alias;
        if alias > self.alias_maximum {
            return Err(refuse(reason::ALIAS_INVALID, "topic alias above the maximum"));
        }
        if publish.topic.is_empty() && self.protocol == Protocol::V5 {
            if alias == 0 {
                return Err(refuse(reason::PROTOCOL_ERROR, "neither topic nor alias"));
            }
            let known = self.aliases.get(&alias).cloned();
            return known
                .map(TopicName::Alias)
                .ok_or(refuse(reason::PROTOCOL_ERROR, "unknown topic alias"));
        }
        if topic::check_name(publish.topic).is_err() {
            return Err(refuse(reason::TOPIC_INVALID, "invalid topic name"));
        }
        if alias != 0 {
            self.aliases.insert(alias, publish.topic.into());
        }
        Ok(TopicName::Given(publish.topic))
    }

    /// A routed publish is decided. Unknown tokens (QoS 0) are ignored.
    pub(crate) fn decided(&mut self, token: u64, decision: Decision) {
        let Some(at) = token.checked_sub(self.first_token) else { return };
        if let Some(waiting) = self.waiting.get_mut(at as usize) {
            waiting.decision = Some(decision);
        }
    }

    /// Sends the acknowledgements that are due, in order of arrival.
    pub(crate) fn answer(&mut self, out: &mut Vec<Effect>) -> Result<(), Close> {
        while let Some(decision) = self.waiting.front().and_then(|first| first.decision) {
            let Some(first) = self.waiting.pop_front() else { break };
            self.first_token += 1;
            let code = match decision {
                Decision::Fenced => return Err(refuse(reason::TAKEN_OVER, "publish was fenced")),
                Decision::Failed(_) if self.protocol == Protocol::V3 => {
                    return Err(refuse(reason::UNSPECIFIED, "publish failed"));
                }
                Decision::Failed(code) => code.max(reason::UNSPECIFIED),
                Decision::Routed | Decision::Stored | Decision::Repeated => reason::SUCCESS,
            };
            let kind = if first.qos == 1 { AckKind::Puback } else { AckKind::Pubrec };
            if first.qos == 2 && !first.repeat {
                if code == reason::SUCCESS {
                    let durable = decision != Decision::Routed;
                    self.ids.insert(first.packet_id, Id::Held { durable });
                    self.held_here += 1;
                } else {
                    self.ids.remove(&first.packet_id);
                }
            }
            out.push(Effect::Ack { kind, packet_id: first.packet_id, reason: code });
        }
        Ok(())
    }

    pub(crate) fn pubrel(&mut self, packet_id: u16, out: &mut Vec<Effect>) -> Result<(), Close> {
        let reason = match self.ids.get(&packet_id) {
            Some(Id::Held { durable: true }) => {
                self.ids.insert(packet_id, Id::Releasing);
                self.released.push(packet_id);
                return Ok(());
            }
            Some(Id::Held { durable: false }) => {
                self.ids.remove(&packet_id);
                self.held_here = self.held_here.saturating_sub(1);
                reason::SUCCESS
            }
            Some(Id::Pending) => {
                return Err(refuse(reason::PROTOCOL_ERROR, "PUBREL before PUBREC"));
            }
            Some(Id::Releasing) => return Ok(()),
            None => reason::ID_NOT_FOUND,
        };
        out.push(Effect::Ack { kind: AckKind::Pubcomp, packet_id, reason });
        Ok(())
    }

    /// Ids to release in one command; one command at a time.
    pub(crate) fn take_released(&mut self) -> Option<Vec<u32>> {
        if self.released.is_empty() || !self.releasing.is_empty() {
            return None;
        }
        self.releasing = std::mem::take(&mut self.released);
        Some(self.release_ids())
    }

    /// The ids of the command on its way.
    pub(crate) fn release_ids(&self) -> Vec<u32> {
        self.releasing.iter().map(|id| u32::from(*id)).collect()
    }

    /// The release on its way is committed.
    pub(crate) fn release_committed(&mut self, out: &mut Vec<Effect>) {
        for packet_id in self.releasing.drain(..) {
            self.ids.remove(&packet_id);
            self.held_here = self.held_here.saturating_sub(1);
            out.push(Effect::Ack { kind: AckKind::Pubcomp, packet_id, reason: reason::SUCCESS });
        }
    }

    /// Whether releases wait for their commit.
    pub(crate) fn is_releasing(&self) -> bool {
        !self.released.is_empty() || !self.releasing.is_empty()
    }

    /// Acknowledgements go out in the order of the tokens.
    pub(crate) fn is_answered(&self, token: u64) -> bool {
        token < self.first_token
    }

    /// Publishes that are not decided.
    pub(crate) fn undecided(&self) -> usize {
        self.waiting.len()
    }
}

fn refuse(reason: u8, cause: &'static str) -> Close {
    Close { reason, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(
        qos: u8,
        packet_id: u16,
        topic: &'static str,
        alias: u16,
    ) -> InboundPublish<'static> {
        InboundPublish {
            qos,
            retain: false,
            packet_id,
            topic,
            topic_alias: alias,
            has_subscription_id: false,
            expiry_interval_s: u32::MAX,
            properties: Cow::Borrowed(&[]),
            payload: b"x",
        }
    }

    fn acks(out: &mut Vec<Effect>) -> Vec<(AckKind, u16, u8)> {
        out.drain(..)
            .map(|effect| match effect {
                Effect::Ack { kind, packet_id, reason } => (kind, packet_id, reason),
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    #[test]
    fn acknowledgements_keep_the_order_of_arrival() {
        let mut receiving = Receiving::new(Protocol::V5, 10, 4);
        let mut out = Vec::new();
        let a = receiving.publish(&publish(1, 5, "t", 0), &mut out).unwrap().unwrap().token;
        let b = receiving.publish(&publish(2, 6, "t", 0), &mut out).unwrap().unwrap().token;
        receiving.decided(b, Decision::Stored);
        receiving.answer(&mut out).unwrap();
        assert!(out.is_empty());
        receiving.decided(a, Decision::Failed(0x97));
        receiving.answer(&mut out).unwrap();
        assert_eq!(acks(&mut out), [(AckKind::Puback, 5, 0x97), (AckKind::Pubrec, 6, 0)]);
    }

    #[test]
    fn a_held_id_is_answered_again_and_released_after_the_commit() {
        let mut receiving = Receiving::new(Protocol::V5, 10, 4);
        receiving.restore(&[Received { packet_id: 9, position: 4 }]);
        let mut out = Vec::new();
        assert!(receiving.publish(&publish(2, 9, "t", 0), &mut out).unwrap().is_none());
        assert_eq!(acks(&mut out), [(AckKind::Pubrec, 9, 0)]);
        receiving.pubrel(9, &mut out).unwrap();
        receiving.pubrel(9, &mut out).unwrap();
        assert!(out.is_empty());
        assert_eq!(receiving.take_released(), Some(vec![9]));
        receiving.release_committed(&mut out);
        assert_eq!(acks(&mut out), [(AckKind::Pubcomp, 9, 0)]);
        receiving.pubrel(9, &mut out).unwrap();
        assert_eq!(acks(&mut out), [(AckKind::Pubcomp, 9, reason::ID_NOT_FOUND)]);
        assert!(receiving.publish(&publish(2, 9, "t", 0), &mut out).unwrap().is_some());
    }

    #[test]
    fn limits_and_aliases_are_enforced() {
        let mut receiving = Receiving::new(Protocol::V5, 2, 4);
        let mut out = Vec::new();
        let code = |r: Result<Option<Routing<'static>>, Close>| r.unwrap_err().reason;
        assert_eq!(code(receiving.publish(&publish(0, 0, "", 1), &mut out)), 0x82);
        assert_eq!(code(receiving.publish(&publish(0, 0, "t", 5), &mut out)), 0x94);
        assert_eq!(code(receiving.publish(&publish(0, 0, "t/+", 0), &mut out)), 0x90);
        receiving.publish(&publish(0, 0, "t/1", 1), &mut out).unwrap();
        let routing = receiving.publish(&publish(1, 1, "", 1), &mut out).unwrap().unwrap();
        assert_eq!(routing.topic.as_str(), "t/1");
        receiving.publish(&publish(1, 2, "t", 0), &mut out).unwrap();
        assert_eq!(code(receiving.publish(&publish(1, 3, "t", 0), &mut out)), 0x93);
    }
}
