//! SUBSCRIBE and UNSUBSCRIBE, one after the other; packets of one kind that wait go together.
//!
//! A durable subscription is matched from the moment it is asked for, so that nothing is missed, and
//! exists once it is committed: only then its SUBACK goes out.

use std::collections::VecDeque;

use holdfast_proto::topic;

use crate::effect::{Close, Effect};
use crate::limits::{Protocol, reason};
use crate::subscriptions::Subscriptions;

const QOS: u8 = 0b11;
const NO_LOCAL: u8 = 1 << 2;

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// As in the packet.
    pub filter: String,
    /// Subscription options byte of MQTT 5 (§3.8.3.1); for MQTT 3.1.1 the QoS.
    pub options: u8,
}

/// A SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribePacket {
    /// To be answered.
    pub packet_id: u16,
    /// Subscription identifier; 0: none.
    pub identifier: u32,
    /// At least one.
    pub filters: Vec<SubscribeFilter>,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Subscribe(SubscribePacket),
    Unsubscribe { packet_id: u16, filters: Vec<String> },
}

/// Whom to send retained messages for.
#[derive(Debug, Clone)]
pub(crate) struct RetainedFor {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) identifier: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Live delivery is being set up.
    Attaching,
    /// The home shard is asked.
    Committing,
}

/// Packets that are being carried out together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) token: u64,
    pub(crate) stage: Stage,
    pub(crate) subscribes: bool,
    answers: Vec<(u16, Vec<u8>)>,
    /// Filters that this group added or removed.
    pub(crate) changed: Vec<String>,
    /// Granted filters, changed or not.
    pub(crate) granted: Vec<String>,
    pub(crate) retained: Vec<RetainedFor>,
}

#[derive(Debug, Default)]
pub(crate) struct Operations {
    queue: VecDeque<Operation>,
    pub(crate) group: Option<Box<Group>>,
}

impl Operations {
    pub(crate) fn push(&mut self, operation: Operation, max: usize) -> Result<(), Close> {
        if self.queue.len() >= max {
            return Err(Close { reason: reason::QUOTA, cause: "too many operations wait" });
        }
        self.queue.push_back(operation);
        Ok(())
    }

    /// Starts the next group, if none is under way: changes the session's subscriptions.
    pub(crate) fn start(
        &mut self,
        protocol: Protocol,
        subscriptions: &mut Subscriptions,
        since: &[u64],
    ) -> Option<&mut Group> {
        if self.group.is_some() || self.queue.is_empty() {
            return None;
        }
        let subscribes = matches!(self.queue.front(), Some(Operation::Subscribe(_)));
        let mut group = Box::new(Group {
            token: 0,
            stage: Stage::Attaching,
            subscribes,
            answers: Vec::new(),
            changed: Vec::new(),
            granted: Vec::new(),
            retained: Vec::new(),
        });
        while let Some(next) = self.queue.front() {
            if matches!(next, Operation::Subscribe(_)) != subscribes {
                break;
            }
            match self.queue.pop_front() {
                Some(Operation::Subscribe(packet)) => {
                    group.subscribe(packet, protocol, subscriptions, since);
                }
                Some(Operation::Unsubscribe { packet_id, filters }) => {
                    group.unsubscribe(packet_id, &filters, subscriptions);
                }
                None => break,
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        self.group = Some(group);
        self.group.as_deref_mut()
    }

    /// The group under way is done: its answers, and whom to send retained messages for.
    pub(crate) fn finish(&mut self, out: &mut Vec<Effect>) -> Vec<RetainedFor> {
        let Some(group) = self.group.take() else { return Vec::new() };
        for (packet_id, codes) in group.answers {
            out.push(if group.subscribes {
                Effect::Suback { packet_id, codes }
            } else {
                Effect::Unsuback { packet_id, codes }
            });
        }
        group.retained
    }
}

impl Group {
    fn subscribe(
        &mut self,
        packet: SubscribePacket,
        protocol: Protocol,
        subscriptions: &mut Subscriptions,
        since: &[u64],
    ) {
        let mut codes = Vec::with_capacity(packet.filters.len());
        for SubscribeFilter { filter, options } in packet.filters {
            if let Some(code) = refusal(&filter, protocol) {
                codes.push(code);
                continue;
            }
            let qos = options & QOS;
            codes.push(qos);
            let is_new = subscriptions.set(&filter, options, packet.identifier, since);
            let retain_handling = options >> 4;
            if retain_handling == 0 || (retain_handling == 1 && is_new) {
                let identifier = packet.identifier;
                self.retained.push(RetainedFor { filter: filter.clone(), qos, identifier });
            }
            if is_new {
                self.changed.push(filter.clone());
            }
            if !self.granted.contains(&filter) {
                self.granted.push(filter);
            }
        }
        self.answers.push((packet.packet_id, codes));
    }

    fn unsubscribe(
        &mut self,
        packet_id: u16,
        filters: &[String],
        subscriptions: &mut Subscriptions,
    ) {
        let mut codes = Vec::with_capacity(filters.len());
        for filter in filters {
            if topic::check_filter(filter).is_err() {
                codes.push(reason::FILTER_INVALID);
            } else if subscriptions.remove(filter) {
                self.changed.push(filter.clone());
                codes.push(reason::SUCCESS);
            } else {
                codes.push(reason::NO_SUBSCRIPTION);
            }
        }
        self.answers.push((packet_id, codes));
    }

    /// The cluster did not take it: every granted filter of the group is refused.
    pub(crate) fn fail(&mut self) {
        for code in self.answers.iter_mut().flat_map(|(_, codes)| codes) {
            if *code < reason::UNSPECIFIED {
                *code = reason::UNSPECIFIED;
            }
        }
        self.retained.clear();
    }
}

/// Why a filter is not granted; `None` if it is.
fn refusal(filter: &str, protocol: Protocol) -> Option<u8> {
    let code = if topic::check_filter(filter).is_err() {
        reason::FILTER_INVALID
    } else if topic::is_shared(filter) {
        reason::SHARED_UNSUPPORTED
    } else {
        return None;
    };
    Some(if protocol == Protocol::V3 { reason::UNSPECIFIED } else { code })
}

/// Checks what makes a SUBSCRIBE a protocol error.
pub(crate) fn check(packet: &SubscribePacket) -> Result<(), Close> {
    let wrong = packet
        .filters
        .iter()
        .any(|entry| topic::is_shared(&entry.filter) && entry.options & NO_LOCAL != 0);
    if wrong {
        return Err(Close { reason: reason::PROTOCOL_ERROR, cause: "no local on a shared filter" });
    }
    Ok(())
}
