//! Events of the cluster, each given to the part that waits for it.

use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::shard::Status;

use super::{Attach, Session};
use crate::effect::{Close, Counter, Effect};
use crate::limits::reason;
use crate::log::Page;
use crate::matched::Matched;
use crate::operations::Stage;
use crate::subscriptions::Candidate;

impl Session {
    /// Live records of a shard.
    pub fn tail(&mut self, shard: ShardId, records: &[Placed], indexes: &[u32], next: Position) {
        self.outbound.log.tail(shard, records, indexes, next);
    }

    /// What the tails have dispatched, as it was before the events given so far were taken from the
    /// inbox: live shards have seen everything below.
    pub fn heads(&mut self, heads: &[Position]) {
        self.outbound.log.heads(heads);
    }

    /// The tail of this shard does not come until it is attached again.
    pub fn behind(&mut self, shard: ShardId) {
        self.outbound.log.behind(shard);
    }

    /// Tail events of this shard come from this position on.
    pub fn shard_attached(&mut self, shard: ShardId, from: Position) {
        self.outbound.log.shard_attached(shard, from);
    }

    /// A page of a read.
    pub fn page(&mut self, page: &Page<'_>, now_ms: u64, out: &mut Vec<Effect>) {
        self.outbound.page(page, &self.subscriptions, now_ms, out);
    }

    /// A read gave no page.
    pub fn page_failed(&mut self, shard: ShardId, now_ms: u64) {
        self.outbound.page_failed(shard, now_ms);
    }

    /// A live message for a regular session.
    ///
    /// # Errors
    /// The client is too slow: the connection has to be closed.
    pub fn regular(
        &mut self,
        record: Record,
        received_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        let found = self.subscriptions.find(&Candidate {
            topic: record.topic(),
            publisher: record.client_id(),
            qos: record.qos(),
            retain: record.retain(),
            place: None,
        });
        let Some(found) = found else { return Ok(()) };
        if self.outbound.matched_waiting() >= self.limits.buffer_records_max {
            if found.qos > 0 {
                return Err(Close { reason: reason::QUOTA, cause: "regular session too slow" });
            }
            out.push(Effect::Count(Counter::QueueFull, 1));
            return Ok(());
        }
        let place = (ShardId(0), Position(0));
        self.outbound.push_matched(Matched {
            record,
            found,
            place,
            since_ms: received_ms,
            clock: None,
        });
        Ok(())
    }

    /// Messages of a regular session were lost before they came here. QoS 1 and 2 may be among them.
    ///
    /// # Errors
    /// The connection has to be closed if the session was promised any of them.
    pub fn regular_overflow(&mut self, dropped: u64, out: &mut Vec<Effect>) -> Result<(), Close> {
        out.push(Effect::Count(Counter::QueueFull, dropped));
        if self.subscriptions.iter().any(|known| known.qos() > 0) {
            return Err(Close { reason: reason::QUOTA, cause: "regular session too slow" });
        }
        Ok(())
    }

    /// Answer to [`Effect::Attach`] or [`Effect::Subscribe`].
    pub fn attached(
        &mut self,
        token: u64,
        from: Option<&[Position]>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        if matches!(self.attach, Attach::Asked { token: known } if known == token) {
            self.attach = match from {
                Some(from) => {
                    self.outbound.log.attached(from);
                    Attach::Done
                }
                None => Attach::Failed { retry_ms: now_ms + self.limits.retry_ms },
            };
            return;
        }
        let asked = self.operations.group.as_ref();
        if !asked.is_some_and(|group| group.token == token && group.stage == Stage::Attaching) {
            return;
        }
        match from {
            None => self.group_failed(out),
            Some(_) if !self.is_durable() => self.group_done(out),
            Some(since) => {
                let since: Vec<u64> = since.iter().map(|position| position.0).collect();
                if let Some(group) = &self.operations.group {
                    for filter in &group.changed {
                        self.subscriptions.set_since(filter, &since);
                    }
                }
                self.propose_group(out);
            }
        }
    }

    /// Answer to [`Effect::Propose`]; `None`: it is not known whether it was applied.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn outcome(
        &mut self,
        token: u64,
        status: Option<Status>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), Close> {
        let retry_ms = now_ms + self.limits.retry_ms;
        if matches!(status, Some(Status::Fenced | Status::NoSession)) {
            return Err(Close { reason: reason::TAKEN_OVER, cause: "session is owned elsewhere" });
        }
        if status == Some(Status::Invalid) {
            return Err(Close { reason: reason::IMPLEMENTATION, cause: "home shard refused" });
        }
        let applied = status == Some(Status::Ok);
        if self.commits.is_mine(token) {
            if applied {
                self.outbound.committed(&mut self.commits, token, out);
            } else {
                self.commits.failed(retry_ms);
            }
        } else if self.release == Some(token) {
            self.release = None;
            if applied {
                self.receiving.release_committed(out);
            } else {
                self.release_retry_ms = Some(retry_ms);
            }
        } else if self.operations.group.as_ref().is_some_and(|group| group.token == token) {
            if applied {
                self.group_done(out);
            } else {
                self.group_failed(out);
            }
        }
        Ok(())
    }
}
