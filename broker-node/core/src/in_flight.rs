//! Packet ids towards the client and what became of their messages.
//!
//! A packet id is never used for another message while the client may hold the first, nor while the
//! home shard's row may name it: an entry that was ever proposed stays, completed, until its removal
//! is committed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::shard;

/// Packet ids are spread well enough as they are.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u16(u16::from(*byte));
        }
    }
    fn write_u16(&mut self, id: u16) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// QoS 2: waits for the commit that allows the PUBLISH.
    Held,
    /// May be sent; waits for an earlier message of its shard.
    Ready,
    /// In the row, but not below its cursor: the log brings the message again.
    Ahead,
    /// PUBLISH sent (or to be sent again).
    Sent,
    /// PUBREC came; waits for the commit that allows the PUBREL.
    Releasing,
    /// PUBREL sent.
    Released,
    /// Done; waits for the commit that frees the id.
    Completed,
}

#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) shard: ShardId,
    pub(crate) position: Position,
    pub(crate) qos: u8,
    pub(crate) state: State,
    pub(crate) retain: bool,
    /// The home shard's row has it, or a commit on its way adds it.
    pub(crate) in_row: bool,
    /// Differs from what was last proposed.
    pub(crate) dirty: bool,
    pub(crate) subscription_ids: Box<[u32]>,
}

impl Out {
    fn row(&self, packet_id: u16) -> shard::InFlight {
        let released = matches!(self.state, State::Releasing | State::Released);
        let state = if released {
            shard::DeliveryState::DeliveryReleased
        } else {
            shard::DeliveryState::DeliveryPublished
        };
        shard::InFlight {
            packet_id: u32::from(packet_id),
            shard: u32::from(self.shard.0),
            position: self.position.0,
            qos: u32::from(self.qos),
            state: state as i32,
            retain: self.retain,
            subscription_ids: self.subscription_ids.to_vec(),
        }
    }
}

/// What an acknowledgement of the client did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// A message is done or moved on.
    Yes,
    /// Send PUBREL now.
    Release,
    /// Nothing to do.
    Ignored,
    /// No such id.
    Unknown,
    /// Breaks the protocol.
    Wrong,
}

/// What a commit says about packet ids, and what to do when it is done.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(crate) in_flight: Vec<shard::InFlight>,
    pub(crate) completed: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    durable: bool,
    all: HashMap<u16, Out, BuildHasherDefault<IdHasher>>,
    next_id: u16,
    /// Entries that count against the window: all that are not completed.
    used: usize,
    dirty: Vec<u16>,
    completed: Vec<u16>,
    /// A QoS 2 step waits for a commit.
    urgent: bool,
}

impl InFlight {
    pub(crate) fn new(durable: bool) -> Self {
        InFlight {
            durable,
            all: HashMap::default(),
            next_id: 0,
            used: 0,
            dirty: Vec::new(),
            completed: Vec::new(),
            urgent: false,
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Whether the client has to acknowledge any.
    pub(crate) fn is_with_client(&self) -> bool {
        let waits =
            |entry: &Out| matches!(entry.state, State::Sent | State::Releasing | State::Released);
        self.all.values().any(waits)
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.completed.is_empty()
    }

    pub(crate) fn get(&self, packet_id: u16) -> Option<&Out> {
        self.all.get(&packet_id)
    }

    /// Takes over an entry of the row. `is_ahead`: the log brings its message again.
    pub(crate) fn restore(&mut self, row: &shard::InFlight, is_ahead: bool) {
        let released = row.state == shard::DeliveryState::DeliveryReleased as i32;
        let entry = Out {
            shard: ShardId(row.shard as u16),
            position: Position(row.position),
            qos: row.qos as u8,
            state: match (released, is_ahead) {
                (true, _) => State::Released,
                (false, true) => State::Ahead,
                (false, false) => State::Sent,
            },
            retain: row.retain,
            in_row: true,
            dirty: false,
            subscription_ids: row.subscription_ids.clone().into_boxed_slice(),
        };
        if self.all.insert(row.packet_id as u16, entry).is_none() {
            self.used += 1;
        }
    }

    /// Gives a message a packet id that nobody holds.
    pub(crate) fn insert(&mut self, entry: Out) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if self.next_id != 0 && !self.all.contains_key(&self.next_id) {
                break;
            }
        }
        let id = self.next_id;
        self.urgent |= entry.state == State::Held;
        self.all.insert(id, entry);
        self.used += 1;
        self.touch(id);
        id
    }

    /// Whether an id is left: the window is far below the number of ids, so it always is, unless
    /// commits do not come back for a long time.
    pub(crate) fn has_room(&self) -> bool {
        self.all.len() < usize::from(u16::MAX) / 2
    }

    fn touch(&mut self, id: u16) {
        if !self.durable {
            return;
        }
        if let Some(entry) = self.all.get_mut(&id)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push(id);
        }
        if self.dirty.len() > 256 + 4 * self.all.len() {
            self.compact();
        }
    }

    /// Forgets entries of `dirty` whose message is gone or listed twice.
    fn compact(&mut self) {
        self.dirty.sort_unstable();
        self.dirty.dedup();
        let all = &self.all;
        self.dirty.retain(|id| all.get(id).is_some_and(|entry| entry.dirty));
    }

    fn complete(&mut self, id: u16) {
        let Some(entry) = self.all.get_mut(&id) else { return };
        self.used -= 1;
        if entry.in_row {
            self.urgent |= entry.qos == 2;
            entry.state = State::Completed;
            entry.dirty = false;
            self.completed.push(id);
        } else {
            self.all.remove(&id);
        }
    }

    pub(crate) fn puback(&mut self, id: u16) -> Acked {
        match self.all.get(&id) {
            Some(Out { qos: 1, state: State::Sent, .. }) => {
                self.complete(id);
                Acked::Yes
            }
            // It is sent again, and acknowledged again, when its turn comes.
            Some(Out { state: State::Completed | State::Ahead, .. }) => Acked::Ignored,
            Some(_) => Acked::Wrong,
            None => Acked::Unknown,
        }
    }

    pub(crate) fn pubrec(&mut self, id: u16, refused: bool) -> Acked {
        let durable = self.durable;
        let Some(entry) = self.all.get_mut(&id) else { return Acked::Unknown };
        match (entry.qos, entry.state) {
            (2, State::Sent) if refused => {
                self.complete(id);
                Acked::Yes
            }
            (2, State::Sent) if durable => {
                entry.state = State::Releasing;
                self.urgent = true;
                self.touch(id);
                Acked::Yes
            }
            (2, State::Sent) => {
                entry.state = State::Released;
                Acked::Release
            }
            (2, State::Released) if !refused => Acked::Release,
            (2, State::Releasing | State::Completed | State::Released | State::Ahead) => {
                Acked::Ignored
            }
            _ => Acked::Wrong,
        }
    }

    pub(crate) fn pubcomp(&mut self, id: u16) -> Acked {
        match self.all.get(&id) {
            Some(Out { qos: 2, state: State::Released, .. }) => {
                self.complete(id);
                Acked::Yes
            }
            Some(Out { state: State::Completed, .. }) => Acked::Ignored,
            Some(_) => Acked::Wrong,
            None => Acked::Unknown,
        }
    }

    /// The record of an entry to be sent again is gone. QoS 1: done. QoS 2: the client may hold the
    /// id, so the handshake is finished without the message.
    pub(crate) fn record_gone(&mut self, id: u16) {
        let Some(entry) = self.all.get_mut(&id) else { return };
        if entry.qos == 2 {
            entry.state = State::Releasing;
            self.urgent = true;
            self.touch(id);
        } else {
            self.complete(id);
        }
    }

    /// The message is sent now, or as soon as an earlier one of its shard is.
    pub(crate) fn goes(&mut self, id: u16, state: State) {
        if let Some(entry) = self.all.get_mut(&id) {
            entry.state = state;
        }
    }

    /// Everything that changed since the last delta.
    pub(crate) fn take_delta(&mut self) -> Delta {
        self.urgent = false;
        let mut delta = Delta::default();
        for id in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.all.get_mut(&id) else { continue };
            if entry.dirty {
                entry.dirty = false;
                entry.in_row = true;
                delta.in_flight.push(entry.row(id));
            }
        }
        delta.completed = self.completed.drain(..).map(u32::from).collect();
        delta
    }

    /// A delta is committed: frees completed ids, and tells which messages and releases may be sent.
    pub(crate) fn committed(
        &mut self,
        commit: &shard::CommitCursor,
        mut step: impl FnMut(u16, State),
    ) {
        for id in &commit.completed {
            self.all.remove(&(*id as u16));
        }
        for row in &commit.in_flight {
            let id = row.packet_id as u16;
            let released = row.state == shard::DeliveryState::DeliveryReleased as i32;
            let Some(entry) = self.all.get_mut(&id) else { continue };
            match entry.state {
                State::Held if !released => {
                    entry.state = State::Ready;
                    step(id, State::Ready);
                }
                State::Releasing if released => {
                    entry.state = State::Released;
                    step(id, State::Released);
                }
                _ => {}
            }
        }
    }

    /// Ids in PUBREC state, ascending.
    pub(crate) fn released(&self) -> Vec<u16> {
        let mut ids: Vec<u16> = self
            .all
            .iter()
            .filter(|(_, entry)| entry.state == State::Released)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Entries whose PUBLISH is to be sent again, by shard and position.
    pub(crate) fn to_resend(&self) -> Vec<(ShardId, Position, u16)> {
        let mut wanted: Vec<_> = self
            .all
            .iter()
            .filter(|(_, entry)| entry.state == State::Sent)
            .map(|(id, entry)| (entry.shard, entry.position, *id))
            .collect();
        wanted.sort_unstable();
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(qos: u8, state: State) -> Out {
        Out {
            shard: ShardId(0),
            position: Position(1),
            qos,
            state,
            retain: false,
            in_row: false,
            dirty: false,
            subscription_ids: Box::default(),
        }
    }

    fn commit(delta: Delta) -> shard::CommitCursor {
        shard::CommitCursor {
            in_flight: delta.in_flight,
            completed: delta.completed,
            ..Default::default()
        }
    }

    #[test]
    fn qos_2_takes_three_commits() {
        let mut all = InFlight::new(true);
        let id = all.insert(entry(2, State::Held));
        assert_eq!(all.pubrec(id, false), Acked::Wrong);
        let mut steps = Vec::new();
        let first = commit(all.take_delta());
        all.committed(&first, |id, state| steps.push((id, state)));
        assert_eq!(all.pubrec(id, false), Acked::Wrong);
        all.goes(id, State::Sent);
        assert_eq!(all.pubrec(id, false), Acked::Yes);
        assert_eq!(all.pubcomp(id), Acked::Wrong);
        let second = commit(all.take_delta());
        all.committed(&second, |id, state| steps.push((id, state)));
        assert_eq!(steps, [(id, State::Ready), (id, State::Released)]);
        assert_eq!(all.pubcomp(id), Acked::Yes);
        assert_eq!((all.used(), all.get(id).is_some()), (0, true));
        let third = commit(all.take_delta());
        assert_eq!(third.completed, [u32::from(id)]);
        all.committed(&third, |_, _| {});
        assert!(all.get(id).is_none());
    }

    #[test]
    fn an_unproposed_qos_1_id_is_free_at_once() {
        let mut all = InFlight::new(true);
        let id = all.insert(entry(1, State::Sent));
        assert_eq!(all.puback(id), Acked::Yes);
        assert!(all.get(id).is_none() && all.take_delta().in_flight.is_empty());
        let id = all.insert(entry(1, State::Sent));
        let first = commit(all.take_delta());
        assert_eq!(all.puback(id), Acked::Yes);
        all.committed(&first, |_, _| panic!("nothing to send"));
        all.next_id = id - 1;
        assert_ne!(all.insert(entry(1, State::Sent)), id);
    }
}
