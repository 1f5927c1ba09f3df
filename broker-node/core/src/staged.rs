//! What waits between the queue and the socket: for a commit, or for a message that waits for one.

use std::collections::VecDeque;

use holdfast_proto::ids::{Position, ShardId};

use crate::delivery::Delivery;
use crate::feed::Feed;
use crate::limits::Limits;

/// A message that was taken and waits: for the commit of its packet id, or for an earlier message of
/// its shard that does.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) delivery: Delivery,
    pub(crate) bytes: usize,
    /// Where the log has it; `None` for answers to subscriptions, which keep no order with the log.
    pub(crate) place: Option<(ShardId, Position)>,
}

/// QoS 2 messages whose packet id is not committed and what waits behind them, in order.
#[derive(Debug, Default)]
pub(crate) struct StagedMessages {
    messages: VecDeque<Staged>,
    bytes: usize,
    /// Some of them may go since the last look.
    may_release: bool,
}

impl StagedMessages {
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        let count_max = limits.buffer_records_max + usize::from(limits.window);
        self.bytes < limits.buffer_bytes_max && self.messages.len() < count_max
    }

    pub(crate) fn push(&mut self, staged: Staged, feeds: &mut [Feed]) {
        if let Some((shard, position)) = staged.place {
            feeds[usize::from(shard.0)].stage(position.0, staged.delivery.qos);
        }
        self.bytes += staged.bytes;
        self.messages.push_back(staged);
    }

    /// Some of them may go: the next look is worth it.
    pub(crate) fn may_release(&mut self) {
        self.may_release = true;
    }

    /// Takes all of them if some may go; those that still wait are to be pushed again, in order.
    pub(crate) fn take_to_release(&mut self, feeds: &mut [Feed]) -> VecDeque<Staged> {
        if !std::mem::take(&mut self.may_release) {
            return VecDeque::new();
        }
        for feed in feeds {
            feed.unstage_all();
        }
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}
