//! Packets of the client, each given to the part that it concerns.

use super::Session;
use crate::effect::{AckKind, Close, Effect, Leave};
use crate::in_flight::Acked;
use crate::limits::reason;
use crate::operations::{self, Operation, SubscribePacket};
use crate::receiving::{Decision, InboundPublish, Routing};

impl Session {
    /// A PUBLISH. `Some`: route it, then say what became of it by [`Session::decided`].
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn publish<'a>(
        &mut self,
        publish: &InboundPublish<'a>,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Routing<'a>>, Close> {
        self.receiving.publish(publish, out)
    }

    /// A routed publish is decided. Call [`Session::turn`] afterwards.
    pub fn decided(&mut self, token: u64, decision: Decision) {
        self.receiving.decided(token, decision);
    }

    /// Publishes that wait for their decision or the acknowledgement of an earlier one.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.receiving.undecided()
    }

    /// Whether the publish of this token was decided and its acknowledgement is among the effects so far.
    #[must_use]
    pub fn is_answered(&self, token: u64) -> bool {
        self.receiving.is_answered(token)
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn acknowledged(
        &mut self,
        kind: AckKind,
        packet_id: u16,
        code: u8,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        if kind == AckKind::Pubrel {
            return self.receiving.pubrel(packet_id, out);
        }
        match self.outbound.acknowledged(kind, packet_id, code >= reason::UNSPECIFIED, out) {
            Acked::Wrong => Err(Close {
                reason: reason::PROTOCOL_ERROR,
                cause: "acknowledgement does not fit its message",
            }),
            Acked::Yes | Acked::Release | Acked::Ignored | Acked::Unknown => Ok(()),
        }
    }

    /// SUBSCRIBE.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn subscribe(&mut self, packet: SubscribePacket) -> Result<(), Close> {
        operations::check(&packet)?;
        self.operations.push(Operation::Subscribe(packet), self.limits.operations_max)
    }

    /// UNSUBSCRIBE.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn unsubscribe(&mut self, packet_id: u16, filters: Vec<String>) -> Result<(), Close> {
        let operation = Operation::Unsubscribe { packet_id, filters };
        self.operations.push(operation, self.limits.operations_max)
    }

    /// PINGREQ.
    pub fn ping(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Pong);
    }

    /// DISCONNECT. `session_expires`: the expiry interval of CONNECT was not 0.
    ///
    /// # Errors
    /// The connection has to be closed as if it had broken.
    pub fn disconnect(
        &mut self,
        code: u8,
        expiry_interval_s: Option<u32>,
        session_expires: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        if !session_expires && expiry_interval_s.is_some_and(|interval| interval != 0) {
            return Err(Close {
                reason: reason::PROTOCOL_ERROR,
                cause: "session expiry raised from 0",
            });
        }
        let discard_will = code == reason::SUCCESS;
        out.push(Effect::Left(Leave { will_grace_s: 0, discard_will, expiry_interval_s }));
        Ok(())
    }
}
