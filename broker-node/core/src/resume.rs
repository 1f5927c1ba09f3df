//! What a resumed session sends again before anything new: PUBLISH of unacknowledged messages, whose
//! records are read by position, a bounded part of each shard at a time.

use std::collections::VecDeque;

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::storage::ReadItem;

/// Positions asked for at once in one shard.
const POSITIONS_MAX: usize = 64;

#[derive(Debug)]
struct ShardResume {
    shard: ShardId,
    /// Positions and packet ids still to be read, ascending.
    wanted: VecDeque<(Position, u16)>,
    asked: bool,
}

#[derive(Debug)]
pub(crate) struct Resume {
    shards: Vec<ShardResume>,
    /// Read and not sent.
    ready: VecDeque<(u16, Placed)>,
    pub(crate) retry_ms: Option<u64>,
}

impl Resume {
    /// `wanted` is sorted.
    pub(crate) fn new(wanted: Vec<(ShardId, Position, u16)>) -> Option<Box<Resume>> {
        let mut shards: Vec<ShardResume> = Vec::new();
        for (shard, position, packet_id) in wanted {
            match shards.last_mut() {
                Some(last) if last.shard == shard => last.wanted.push_back((position, packet_id)),
                _ => shards.push(ShardResume {
                    shard,
                    wanted: VecDeque::from([(position, packet_id)]),
                    asked: false,
                }),
            }
        }
        let resume = Resume { shards, ready: VecDeque::new(), retry_ms: None };
        (!resume.is_done()).then(|| Box::new(resume))
    }

    pub(crate) fn is_done(&self) -> bool {
        self.shards.is_empty() && self.ready.is_empty()
    }

    /// Messages that were not sent again yet.
    pub(crate) fn unsent(&self) -> usize {
        self.ready.len() + self.shards.iter().map(|shard| shard.wanted.len()).sum::<usize>()
    }

    /// What to read now, while little is kept in memory.
    pub(crate) fn reads(&mut self, now_ms: u64) -> Vec<ReadItem> {
        if self.retry_ms.is_some_and(|at| now_ms < at) || self.ready.len() > POSITIONS_MAX {
            return Vec::new();
        }
        self.retry_ms = None;
        let mut items = Vec::new();
        for shard in self.shards.iter_mut().filter(|shard| !shard.asked) {
            shard.asked = true;
            let mut positions: Vec<u64> =
                shard.wanted.iter().take(POSITIONS_MAX).map(|(position, _)| position.0).collect();
            positions.dedup();
            items.push(ReadItem { shard: u32::from(shard.shard.0), from: 0, positions });
        }
        items
    }

    pub(crate) fn is_asked(&self, shard: ShardId) -> bool {
        self.shards.iter().any(|known| known.shard == shard && known.asked)
    }

    /// A page of this shard. `below`: everything asked for below it that is not in the page is gone;
    /// such packet ids are returned.
    pub(crate) fn page(
        &mut self,
        shard: ShardId,
        records: &[Placed],
        below: Position,
        retry_ms: u64,
    ) -> Vec<u16> {
        let mut gone = Vec::new();
        let Some(at) = self.shards.iter().position(|known| known.shard == shard) else {
            return gone;
        };
        let known = &mut self.shards[at];
        known.asked = false;
        let before = known.wanted.len();
        for _ in 0..before.min(POSITIONS_MAX) {
            let Some((position, packet_id)) = known.wanted.front().copied() else { break };
            match records.iter().find(|placed| placed.position == position) {
                Some(placed) => self.ready.push_back((packet_id, placed.clone())),
                None if position < below => gone.push(packet_id),
                None => break,
            }
            known.wanted.pop_front();
        }
        if known.wanted.is_empty() {
            self.shards.swap_remove(at);
        } else if known.wanted.len() == before {
            self.retry_ms = Some(retry_ms);
        }
        gone
    }

    pub(crate) fn failed(&mut self, shard: ShardId, retry_ms: u64) {
        for known in self.shards.iter_mut().filter(|known| known.shard == shard) {
            known.asked = false;
        }
        self.retry_ms = Some(retry_ms);
    }

    pub(crate) fn next_ready(&self) -> Option<&(u16, Placed)> {
        self.ready.front()
    }

    pub(crate) fn pop_ready(&mut self) -> Option<(u16, Placed)> {
        self.ready.pop_front()
    }
}
