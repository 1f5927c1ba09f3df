//! A message for the client with what its subscriptions say of it.

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::record::{NEVER_EXPIRES, Record};

use crate::delivery::Delivery;
use crate::session::Turn;
use crate::subscriptions::Match;

/// A message that was matched when it came: retained ones, and live ones of a regular session.
#[derive(Debug)]
pub(crate) struct Matched {
    pub(crate) record: Record,
    pub(crate) found: Match,
    /// Where the log has it; shard 0, position 0 for regular sessions.
    pub(crate) place: (ShardId, Position),
    /// When its expiry interval started, in the time that `now_ms` is in.
    pub(crate) since_ms: u64,
    /// Expiry counts in the time of this shard; `None`: in the gateway's.
    pub(crate) clock: Option<ShardId>,
}

impl Matched {
    /// What is sent of it.
    pub(crate) fn into_delivery(self, turn: &Turn<'_>) -> Delivery {
        let Matched { record, found, since_ms, clock, .. } = self;
        let expiry_left_s = if record.expiry_interval_s() == NEVER_EXPIRES {
            None
        } else {
            let now_ms = clock.map_or(turn.now_ms, |shard| (turn.shard_time_ms)(shard));
            record.expiry_left_s(since_ms, now_ms)
        };
        Delivery {
            packet_id: 0,
            qos: found.qos,
            dup: false,
            retain: found.retain,
            record,
            expiry_left_s,
            subscription_ids: found.identifiers,
            since_ms,
        }
    }
}
