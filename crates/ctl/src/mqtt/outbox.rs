//! Which acknowledgement belongs to which message.

use std::collections::{HashMap, VecDeque};

use rumqttc::Outgoing;
use rumqttc::v5::Event;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PubRecReason};

use super::reason::words;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Acknowledged; at QoS 0: written to the socket.
    Taken,
    /// Acknowledged, and nobody wants it.
    Unmatched,
    /// Refused, and why.
    Refused(String),
}

/// Messages that were handed to a connection, with whatever is to be known of them later.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    /// Without a packet id yet, in order.
    waiting: VecDeque<T>,
    sent: HashMap<u16, T>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Outbox<T> {
        Outbox { waiting: VecDeque::new(), sent: HashMap::new() }
    }
}

impl<T> Outbox<T> {
    /// A message was handed to the connection.
    pub(crate) fn push(&mut self, what: T) {
        self.waiting.push_back(what);
    }

    /// Messages whose fate is not known.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// Takes note of what happened; tells the fate of a message that it decides.
    pub(crate) fn on(&mut self, event: &Event) -> Option<(T, Fate)> {
        match event {
            // QoS 0 has no id and no acknowledgement.
            Event::Outgoing(Outgoing::Publish(0)) => Some((self.waiting.pop_front()?, Fate::Taken)),
            Event::Outgoing(Outgoing::Publish(id)) => {
                // After a reconnect the library sends again what it has; that is known.
                if !self.sent.contains_key(id) {
                    let what = self.waiting.pop_front()?;
                    self.sent.insert(*id, what);
                }
                None
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                let fate = match ack.reason {
                    PubAckReason::Success => Fate::Taken,
                    PubAckReason::NoMatchingSubscribers => Fate::Unmatched,
                    other => Fate::Refused(words(other)),
                };
                Some((self.sent.remove(&ack.pkid)?, fate))
            }
            Event::Incoming(Packet::PubRec(ack)) => match ack.reason {
                // PUBCOMP decides.
                PubRecReason::Success | PubRecReason::NoMatchingSubscribers => None,
                other => Some((self.sent.remove(&ack.pkid)?, Fate::Refused(words(other)))),
            },
            Event::Incoming(Packet::PubComp(ack)) => {
                Some((self.sent.remove(&ack.pkid)?, Fate::Taken))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{PubAck, PubComp, PubRec};

    use super::*;

    fn sent(id: u16) -> Event {
        Event::Outgoing(Outgoing::Publish(id))
    }

    #[test]
    fn acknowledgements_come_in_any_order_and_messages_may_be_sent_twice() {
        let mut outbox = Outbox::default();
        ["a", "b", "c"].into_iter().for_each(|what| outbox.push(what));
        for id in [7, 8, 7] {
            assert_eq!(outbox.on(&sent(id)), None);
        }
        let mut ack = PubAck::new(8, None);
        ack.reason = PubAckReason::QuotaExceeded;
        let refused = outbox.on(&Event::Incoming(Packet::PubAck(ack)));
        assert_eq!(refused, Some(("b", Fate::Refused("quota exceeded".to_owned()))));
        let taken = outbox.on(&Event::Incoming(Packet::PubAck(PubAck::new(7, None))));
        assert_eq!(taken, Some(("a", Fate::Taken)));
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn qos_2_is_taken_when_it_is_complete_and_qos_0_when_it_is_written() {
        let mut outbox = Outbox::default();
        outbox.push("two");
        assert_eq!(outbox.on(&sent(3)), None);
        assert_eq!(outbox.on(&Event::Incoming(Packet::PubRec(PubRec::new(3, None)))), None);
        let done = outbox.on(&Event::Incoming(Packet::PubComp(PubComp::new(3, None))));
        assert_eq!(done, Some(("two", Fate::Taken)));
        outbox.push("zero");
        assert_eq!(outbox.on(&sent(0)), Some(("zero", Fate::Taken)));
    }
}
