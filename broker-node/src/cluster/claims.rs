//! Claiming a session, and handing one over.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::gateway::{TakeOverReply, TakeOverRequest};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::outcome::Outcome as Answer;
use holdfast_proto::shard::{
    Claim, ClaimOutcome, ClientKey, Command, CommitCursor, Disconnect, SessionRow, Status,
};
use tokio::sync::oneshot;

use super::error::ClusterError;
use super::owners::Previous;
use super::requests::{Body, Reply};
use super::{Cluster, Shared, metrics as names, monotonic};
use crate::inbox::{Event, Inbox};

/// What an old owner had not committed, when it answers.
pub(super) type HandOver = oneshot::Receiver<Option<CommitCursor>>;

/// A claimed session: its row, with what the old owner had not committed merged in, and the right to it.
pub(crate) struct Claimed {
    /// Answer of the home shard.
    pub(crate) outcome: ClaimOutcome,
    /// Keep it while the connection lives: through it a newer claim for the same client finds the inbox.
    pub(crate) ownership: Ownership,
}

/// This connection is the client's newest on this gateway. Dropping it gives that up.
pub(crate) struct Ownership {
    shared: Arc<Shared>,
    client: ClientKey,
    epoch: u64,
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.shared.owners.release(&self.client, self.epoch);
    }
}

/// A claim on its way: until it is dropped, this gateway remembers the newest epoch of the client.
struct UnderWay<'a> {
    shared: &'a Shared,
    client: &'a ClientKey,
}

impl<'a> UnderWay<'a> {
    fn begin(shared: &'a Shared, client: &'a ClientKey) -> UnderWay<'a> {
        shared.owners.begin(client);
        UnderWay { shared, client }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.owners.end(self.client);
    }
}

impl Cluster {
    /// Claims a session in its home shard, then has the old owner (another gateway, or an older
    /// connection here) hand over what it had not committed, which is committed and merged into the row.
    /// A later claim for the client posts `Event::TakenOver` to `inbox`.
    pub(crate) async fn claim(
        &self,
        claim: Claim,
        inbox: &Arc<Inbox>,
    ) -> Result<Claimed, ClusterError> {
        let shared = &self.shared;
        let client = claim.client.clone().unwrap_or_default();
        let under_way = UnderWay::begin(shared, &client);
        let mut outcome = shared.propose_claim(claim, &client).await?;
        let epoch = outcome.row.as_ref().map_or(0, |row| row.epoch);
        let settled =
            shared.owners.settle(&client, epoch, inbox.clone(), shared.previous(&outcome));
        drop(under_way);
        // First of all, and whatever becomes of this claim: nobody else tells the owner that it replaced.
        let told = shared.tell(settled.tell, &outcome, &client, epoch);
        if !settled.is_newest {
            return Err(ClusterError::Fenced);
        }
        let ownership = Ownership { shared: shared.clone(), client: client.clone(), epoch };
        let here = settled.replaced.and_then(|old| {
            let answer = shared.end_connection(&old.connection);
            (old.epoch == outcome.previous_epoch).then_some(answer)
        });
        let uncommitted = match told.or(here) {
            Some(answer) => shared.within_limit(answer).await,
            None => None,
        };
        // Only the direct predecessor's counts still, not that of an older connection.
        let uncommitted = uncommitted.filter(|commit| commit.epoch == outcome.previous_epoch);
        if let (Some(row), Some(uncommitted)) = (&mut outcome.row, uncommitted)
            && let Err(error) = shared.adopt(row, client.clone(), uncommitted).await
        {
            shared.release(&client, row);
            return Err(error);
        }
        Ok(Claimed { outcome, ownership })
    }
}

impl Shared {
    async fn propose_claim(
        &self,
        claim: Claim,
        client: &ClientKey,
    ) -> Result<ClaimOutcome, ClusterError> {
        let command = Command { command: Some(Kind::Claim(claim)) };
        let answer = self.proposed(self.home_of(client), command).await?;
        match (answer.status(), answer.outcome) {
            (Status::Ok, Some(Answer::Claim(outcome))) => Ok(outcome),
            (Status::Fenced, _) => Err(ClusterError::Fenced),
            (Status::DiskFull, _) => Err(ClusterError::Unavailable { what: "room on the disks" }),
            (status, _) => {
                let reason = format!("claim answered {}", status.as_str_name());
                Err(ClusterError::Refused { reason })
            }
        }
    }

    /// Gives a claimed session up for which there is no connection (any more): it would count as
    /// connected for as long as this gateway lives. To everybody else that is an unclean close.
    pub(super) fn release(&self, client: &ClientKey, row: &SessionRow) {
        let leave = Disconnect {
            client: Some(client.clone()),
            epoch: row.epoch,
            instance: row.instance,
            ..Disconnect::default()
        };
        let command = Command { command: Some(Kind::Disconnect(leave)) };
        let deadline_ms = monotonic::now_ms() + self.config.propose_deadline_ms;
        self.ask(self.home_of(client), Body::Propose(command), Reply::Nobody, deadline_ms);
    }

    fn previous(&self, outcome: &ClaimOutcome) -> Previous {
        match &outcome.previous_owner {
            None => Previous::Nobody,
            Some(owner) if owner.incarnation == self.me.incarnation => {
                Previous::Here(outcome.previous_epoch)
            }
            Some(_) => Previous::There,
        }
    }

    /// Ends a connection of this gateway; what it had not committed follows.
    fn end_connection(&self, old: &Inbox) -> HandOver {
        metrics::counter!(names::TAKE_OVERS).increment(1);
        let (reply, answer) = oneshot::channel();
        old.post(Event::TakenOver { reply });
        answer
    }

    /// The old owner is fenced whether it answers in time or not.
    async fn within_limit(&self, answer: HandOver) -> Option<CommitCursor> {
        let limit = Duration::from_millis(self.config.take_over_ms);
        tokio::time::timeout(limit, answer).await.ok()?.ok().flatten()
    }

    /// Another gateway has claimed the session of a client that may be connected here.
    pub(crate) async fn give_up(&self, request: TakeOverRequest) -> TakeOverReply {
        let client = request.client.unwrap_or_default();
        let heard = self.owners.hear(&client, request.epoch);
        let uncommitted = match heard.older {
            Some(old) => self.within_limit(self.end_connection(&old.connection)).await,
            None => None,
        };
        TakeOverReply { found: heard.found, uncommitted }
    }

    /// Makes what the old owner had not committed part of the session: in the log first, so that packet
    /// ids which it freed are free for good, then in the row.
    async fn adopt(
        &self,
        row: &mut SessionRow,
        client: ClientKey,
        uncommitted: CommitCursor,
    ) -> Result<(), ClusterError> {
        let empty = uncommitted.cursor.is_empty()
            && uncommitted.in_flight.is_empty()
            && uncommitted.completed.is_empty();
        if empty || uncommitted.instance != row.instance {
            return Ok(());
        }
        let home = self.home_of(&client);
        let commit = CommitCursor { client: Some(client), epoch: row.epoch, ..uncommitted.clone() };
        let command = Command { command: Some(Kind::CommitCursor(commit)) };
        match self.proposed(home, command).await?.status() {
            Status::Ok => {
                merge(row, &uncommitted);
                Ok(())
            }
            Status::Fenced => Err(ClusterError::Fenced),
            status => Err(ClusterError::Refused {
                reason: format!("hand-over answered {}", status.as_str_name()),
            }),
        }
    }
}

/// Applies a delta to a row as the home shard does.
fn merge(row: &mut SessionRow, delta: &CommitCursor) {
    for moved in &delta.cursor {
        let at = moved.shard as usize;
        if row.cursor.len() <= at {
            row.cursor.resize(at + 1, 0);
        }
        row.cursor[at] = row.cursor[at].max(moved.position);
    }
    for sent in &delta.in_flight {
        match row.in_flight.iter_mut().find(|known| known.packet_id == sent.packet_id) {
            Some(known) => *known = sent.clone(),
            None => row.in_flight.push(sent.clone()),
        }
    }
    row.in_flight.retain(|sent| !delta.completed.contains(&sent.packet_id));
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::{InFlight, ShardPosition};

    use super::*;

    fn in_flight(packet_id: u32, position: u64) -> InFlight {
        InFlight { packet_id, position, ..InFlight::default() }
    }

    #[test]
    fn a_hand_over_moves_the_row_forward_only() {
        let mut row = SessionRow {
            cursor: vec![5, 9],
            in_flight: vec![in_flight(1, 3), in_flight(2, 4)],
            ..SessionRow::default()
        };
        let delta = CommitCursor {
            cursor: vec![
                ShardPosition { shard: 0, position: 4 },
                ShardPosition { shard: 1, position: 12 },
                ShardPosition { shard: 3, position: 2 },
            ],
            in_flight: vec![in_flight(2, 8), in_flight(7, 11)],
            completed: vec![1],
            ..CommitCursor::default()
        };
        merge(&mut row, &delta);
        merge(&mut row, &delta);
        assert_eq!(row.cursor, [5, 12, 0, 2]);
        assert_eq!(row.in_flight, [in_flight(2, 8), in_flight(7, 11)]);
    }
}
