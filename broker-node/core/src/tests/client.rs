//! The client: acknowledges in any order, keeps its QoS 2 ids over reconnects, checks what it gets.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{AckKind, Delivery};

/// Shard and position of a message.
pub(super) type Place = (u8, u64);

pub(super) fn place(delivery: &Delivery) -> Place {
    let payload = delivery.record.payload();
    (payload[0], u64::from_le_bytes(payload[1..9].try_into().unwrap()))
}

#[derive(Default)]
pub(super) struct Client {
    /// Deliveries per message.
    pub(super) seen: HashMap<Place, u32>,
    /// QoS 2 ids whose PUBREL has not come: survive the connection.
    held: BTreeMap<u16, Place>,
    /// Ids of this connection that are not acknowledged, with what they are for.
    unacked: BTreeMap<u16, (Place, u8)>,
    /// Acknowledgements to send, in any order.
    pub(super) to_send: Vec<(AckKind, u16)>,
    /// Newest first delivery per shard, whatever the QoS.
    newest: HashMap<u8, u64>,
    pub(super) receive_maximum: usize,
    /// Messages delivered again, to be judged by the model.
    pub(super) repeated: Vec<(Place, u8)>,
    pub(super) accepted_q2: HashSet<Place>,
}

impl Client {
    pub(super) fn disconnected(&mut self) {
        self.unacked.clear();
        self.to_send.clear();
    }

    /// What the message was that this id stands for.
    pub(super) fn message(&self, packet_id: u16) -> Option<Place> {
        self.unacked.get(&packet_id).map(|(place, _)| *place)
    }

    pub(super) fn deliver(&mut self, delivery: &Delivery) {
        let at = place(delivery);
        let qos = delivery.qos;
        let count = self.seen.entry(at).or_default();
        *count += 1;
        if *count == 1 {
            let newest = self.newest.entry(at.0).or_default();
            assert!(at.1 > *newest, "{at:?} comes first after {newest}");
            *newest = at.1;
        } else {
            self.repeated.push((at, qos));
        }
        if qos == 0 {
            assert_eq!((delivery.packet_id, delivery.dup), (0, false));
            return;
        }
        let id = delivery.packet_id;
        assert_ne!(id, 0);
        if let Some((known, _)) = self.unacked.get(&id) {
            panic!("id {id} of {known:?} is used for {at:?}");
        }
        if let Some(known) = self.held.get(&id) {
            assert_eq!(*known, at, "id {id} is held and used for another message");
            assert!(delivery.dup, "a repeat without DUP");
        } else if qos == 2 {
            assert!(self.accepted_q2.insert(at), "{at:?} is accepted twice at QoS 2");
            self.held.insert(id, at);
        }
        self.unacked.insert(id, (at, qos));
        assert!(self.unacked.len() <= self.receive_maximum, "receive maximum exceeded");
        self.to_send.push((if qos == 1 { AckKind::Puback } else { AckKind::Pubrec }, id));
    }

    pub(super) fn release(&mut self, id: u16) {
        if self.to_send.contains(&(AckKind::Pubcomp, id)) {
            return;
        }
        self.held.remove(&id);
        self.to_send.push((AckKind::Pubcomp, id));
    }

    /// Takes the acknowledgement at this place of the list: it is sent now.
    pub(super) fn send(&mut self, at: usize) -> (AckKind, u16, Option<Place>) {
        let (kind, id) = self.to_send.swap_remove(at);
        let message = self.message(id);
        if kind != AckKind::Pubrec {
            self.unacked.remove(&id);
        }
        (kind, id, message)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.to_send.is_empty() && self.unacked.is_empty() && self.held.is_empty()
    }
}
