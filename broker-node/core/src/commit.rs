//! Commits of the session's progress: at most one is on its way; a failed one is proposed again as it
//! was, so that the home shard sees them in order.

use holdfast_proto::shard::{ClientKey, CommitCursor, ShardPosition};

use crate::feed::Feed;
use crate::in_flight::InFlight;

#[derive(Debug)]
pub(crate) struct Commits {
    client: ClientKey,
    epoch: u64,
    instance: u64,
    /// Proposed and not answered.
    on_its_way: Option<(u64, Box<CommitCursor>)>,
    /// When the oldest change has to be committed.
    due_ms: Option<u64>,
    retry_ms: Option<u64>,
}

impl Commits {
    pub(crate) fn new(client: ClientKey, epoch: u64, instance: u64) -> Self {
        Commits { client, epoch, instance, on_its_way: None, due_ms: None, retry_ms: None }
    }

    /// Something moved; it is committed by `due_ms`.
    pub(crate) fn changed(&mut self, due_ms: u64) {
        self.due_ms.get_or_insert(due_ms);
    }

    /// When to look again.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        if self.on_its_way.is_some() { self.retry_ms } else { self.due_ms }
    }

    /// The commit to propose now, if any.
    pub(crate) fn propose(
        &mut self,
        now_ms: u64,
        feeds: &mut [Feed],
        in_flight: &mut InFlight,
        next_token: &mut u64,
    ) -> Option<(u64, CommitCursor)> {
        if let Some((token, commit)) = &mut self.on_its_way {
            if self.retry_ms.is_none_or(|at| now_ms < at) {
                return None;
            }
            self.retry_ms = None;
            *next_token += 1;
            *token = *next_token;
            return Some((*token, (**commit).clone()));
        }
        // A commit that need not be made yet waits until what it passes over is written.
        let may_now = || in_flight.is_urgent() && !feeds.iter().any(Feed::is_mixed);
        if self.due_ms.is_none_or(|due| now_ms < due) && !may_now() {
            return None;
        }
        self.due_ms = None;
        let commit = self.delta(feeds, in_flight)?;
        *next_token += 1;
        self.on_its_way = Some((*next_token, Box::new(commit.clone())));
        Some((*next_token, commit))
    }

    fn delta(&self, feeds: &[Feed], in_flight: &mut InFlight) -> Option<CommitCursor> {
        let cursor: Vec<ShardPosition> = feeds
            .iter()
            .enumerate()
            .filter(|(_, feed)| feed.cursor() > feed.committed)
            .map(|(shard, feed)| ShardPosition { shard: shard as u32, position: feed.cursor() })
            .collect();
        let delta = in_flight.take_delta();
        if cursor.is_empty() && delta.in_flight.is_empty() && delta.completed.is_empty() {
            return None;
        }
        Some(CommitCursor {
            client: Some(self.client.clone()),
            epoch: self.epoch,
            instance: self.instance,
            cursor,
            in_flight: delta.in_flight,
            completed: delta.completed,
        })
    }

    /// The commit of this token is applied: returns it.
    pub(crate) fn committed(
        &mut self,
        token: u64,
        feeds: &mut [Feed],
    ) -> Option<Box<CommitCursor>> {
        if !self.is_mine(token) {
            return None;
        }
        let (_, commit) = self.on_its_way.take()?;
        self.retry_ms = None;
        for moved in &commit.cursor {
            if let Some(feed) = feeds.get_mut(moved.shard as usize) {
                feed.committed = feed.committed.max(moved.position);
            }
        }
        Some(commit)
    }

    pub(crate) fn is_on_its_way(&self) -> bool {
        self.on_its_way.is_some()
    }

    pub(crate) fn is_mine(&self, token: u64) -> bool {
        self.on_its_way.as_ref().is_some_and(|(known, _)| *known == token)
    }

    /// It is not known whether the commit is applied: the same is proposed again.
    pub(crate) fn failed(&mut self, retry_ms: u64) {
        self.retry_ms = Some(retry_ms);
    }

    /// Everything that is not known to be committed, as one delta: what is on its way and what is new.
    pub(crate) fn uncommitted(
        &mut self,
        feeds: &[Feed],
        in_flight: &mut InFlight,
    ) -> Option<CommitCursor> {
        let newer = self.delta(feeds, in_flight);
        let older = self.on_its_way.take().map(|(_, commit)| *commit);
        match (older, newer) {
            (Some(older), Some(newer)) => Some(merge(older, newer)),
            (older, newer) => older.or(newer),
        }
    }
}

fn merge(older: CommitCursor, mut newer: CommitCursor) -> CommitCursor {
    for moved in older.cursor {
        if !newer.cursor.iter().any(|known| known.shard == moved.shard) {
            newer.cursor.push(moved);
        }
    }
    for entry in older.in_flight {
        let replaced = newer.in_flight.iter().any(|known| known.packet_id == entry.packet_id)
            || newer.completed.contains(&entry.packet_id);
        if !replaced {
            newer.in_flight.push(entry);
        }
    }
    newer.completed.extend(older.completed);
    newer
}
