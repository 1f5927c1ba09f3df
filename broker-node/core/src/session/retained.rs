//! Retained messages that subscriptions asked for: read once their SUBACK is sent.

use std::collections::VecDeque;

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::record::Record;
use holdfast_proto::shard::RetainedRow;

use super::{Session, Turn};
use crate::effect::Effect;
use crate::matched::Matched;
use crate::operations::RetainedFor;
use crate::subscriptions::Match;

#[derive(Debug, Default)]
pub(super) struct RetainedReads {
    waiting: VecDeque<RetainedFor>,
    asked: Option<(u64, Vec<RetainedFor>)>,
    retry_ms: Option<u64>,
}

impl RetainedReads {
    pub(super) fn push(&mut self, wanted: Vec<RetainedFor>) {
        self.waiting.extend(wanted);
    }

    pub(super) fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// How many subscriptions have no answer yet.
    pub(super) fn unanswered(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |(_, wanted)| wanted.len())
    }
}

impl Session {
    /// Answer to [`Effect::Retained`]: rows with the time of their shard.
    pub fn retained(&mut self, token: u64, rows: Option<&[(RetainedRow, u64)]>, turn: &Turn<'_>) {
        let Some(reads) = &mut self.retained else { return };
        if reads.asked.as_ref().is_none_or(|(known, _)| *known != token) {
            return;
        }
        let Some((_, wanted)) = reads.asked.take() else { return };
        let Some(rows) = rows else {
            reads.waiting.extend(wanted);
            reads.retry_ms = Some(turn.now_ms + self.limits.retry_ms);
            return;
        };
        if reads.waiting.is_empty() {
            self.retained = None;
        }
        for want in &wanted {
            // Gone again in the meantime: nothing new is queued for it.
            if self.subscriptions.get(&want.filter).is_none() {
                continue;
            }
            for (row, time_ms) in rows {
                self.push_retained(want, row, *time_ms, turn.now_ms);
            }
        }
    }

    fn push_retained(&mut self, want: &RetainedFor, row: &RetainedRow, time_ms: u64, now_ms: u64) {
        let Ok(record) = Record::split_from(&mut row.record.clone()) else { return };
        if !holdfast_proto::topic::matches(&want.filter, record.topic()) {
            return;
        }
        let identifiers: Box<[u32]> =
            if want.identifier == 0 { Box::default() } else { Box::new([want.identifier]) };
        let found = Match { qos: want.qos.min(record.qos()), retain: true, identifiers };
        // Its age by the shard's clock, moved to the gateway's.
        let since_ms = now_ms.saturating_sub(time_ms.saturating_sub(row.time_ms));
        let place = (ShardId(row.home_shard as u16), Position(row.home_position));
        self.outbound.push_matched(Matched { record, found, place, since_ms, clock: None });
    }

    pub(super) fn ask_retained(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(reads) = &mut self.retained else { return };
        if reads.asked.is_some() || reads.retry_ms.is_some_and(|at| now_ms < at) {
            return;
        }
        reads.retry_ms = None;
        let wanted: Vec<RetainedFor> = reads.waiting.drain(..).collect();
        let mut filters: Vec<String> = wanted.iter().map(|want| want.filter.clone()).collect();
        filters.sort_unstable();
        filters.dedup();
        self.next_token += 1;
        reads.asked = Some((self.next_token, wanted));
        out.push(Effect::Retained { token: self.next_token, filters });
    }
}
