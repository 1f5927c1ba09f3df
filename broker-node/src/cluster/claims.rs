//! Claiming a session, and handing one over.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use holdfast_node_kit::grpc;
use holdfast_proto::gateway::gateway_client::GatewayClient;
use holdfast_proto::gateway::{TakeOverReply, TakeOverRequest};
use holdfast_proto::meta::Liveness;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::outcome::Outcome as Answer;
use holdfast_proto::shard::{
    Claim, ClaimOutcome, ClientKey, Command, CommitCursor, GatewayRef, SessionRow, Status,
};
use tokio::sync::oneshot;

use super::error::ClusterError;
use super::{Cluster, Shared, metrics as names};
use crate::inbox::{Event, Inbox};

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
        self.shared.owners.0.remove_if(&self.client, |_, owner| owner.epoch == self.epoch);
    }
}

/// The connections of this gateway by client.
#[derive(Debug, Default)]
pub(crate) struct Owners(DashMap<ClientKey, Owner>);

#[derive(Debug)]
struct Owner {
    epoch: u64,
    inbox: Arc<Inbox>,
}

impl Owners {
    /// Makes `inbox` the client's; returns the connection that it replaces. An error if a newer one is
    /// there.
    fn register(
        &self,
        client: &ClientKey,
        epoch: u64,
        inbox: &Arc<Inbox>,
    ) -> Result<Option<Arc<Inbox>>, ClusterError> {
        let owner = Owner { epoch, inbox: inbox.clone() };
        match self.0.entry(client.clone()) {
            Entry::Occupied(known) if known.get().epoch >= epoch => Err(ClusterError::Fenced),
            Entry::Occupied(mut known) => Ok(Some(known.insert(owner).inbox)),
            Entry::Vacant(vacant) => {
                vacant.insert(owner);
                Ok(None)
            }
        }
    }

    /// The client's connection, if it is older than `epoch`.
    fn older(&self, client: &ClientKey, epoch: u64) -> Option<Arc<Inbox>> {
        let owner = self.0.get(client)?;
        (owner.epoch < epoch).then(|| owner.inbox.clone())
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
        let home = shared.home_of(&client);
        let command = Command { command: Some(Kind::Claim(claim)) };
        let answer = shared.proposed(home, command).await?;
        let status = answer.status();
        let mut outcome = match (status, answer.outcome) {
            (Status::Ok, Some(Answer::Claim(outcome))) => outcome,
            (Status::Fenced, _) => return Err(ClusterError::Fenced),
            (Status::DiskFull, _) => {
                return Err(ClusterError::Unavailable { what: "room on the disks" });
            }
            _ => {
                let reason = format!("claim answered {}", status.as_str_name());
                return Err(ClusterError::Refused { reason });
            }
        };
        let epoch = outcome.row.as_ref().map_or(0, |row| row.epoch);
        let replaced = shared.owners.register(&client, epoch, inbox)?;
        let ownership = Ownership { shared: shared.clone(), client: client.clone(), epoch };
        let previous = outcome.previous_owner.as_ref();
        let uncommitted = match (replaced, previous) {
            (Some(old), _) => shared.hand_over(&old).await,
            (None, Some(owner)) if shared.is_other_and_alive(owner) => {
                shared.ask_hand_over(owner, &client, epoch).await
            }
            (None, _) => None,
        };
        if let (Some(row), Some(uncommitted)) = (&mut outcome.row, uncommitted) {
            shared.adopt(row, client, uncommitted).await?;
        }
        Ok(Claimed { outcome, ownership })
    }
}

impl Shared {
    fn is_other_and_alive(&self, owner: &GatewayRef) -> bool {
        if owner.incarnation == self.me.incarnation {
            return false;
        }
        let topology = self.control.topology.borrow();
        // One that the topology does not know (yet) may live.
        !topology.iter().flat_map(|topology| &topology.gateways).any(|known| {
            known.liveness() == Liveness::Dead
                && known.gateway.as_ref().is_some_and(|g| g.incarnation == owner.incarnation)
        })
    }

    /// Ends a connection of this gateway and takes what it had not committed.
    async fn hand_over(&self, old: &Arc<Inbox>) -> Option<CommitCursor> {
        metrics::counter!(names::TAKE_OVERS).increment(1);
        let (reply, answer) = oneshot::channel();
        old.post(Event::TakenOver { reply });
        let limit = Duration::from_millis(self.config.take_over_ms);
        tokio::time::timeout(limit, answer).await.ok()?.ok().flatten()
    }

    async fn ask_hand_over(
        &self,
        owner: &GatewayRef,
        client: &ClientKey,
        epoch: u64,
    ) -> Option<CommitCursor> {
        let request = TakeOverRequest {
            cluster_id: self.cluster_id.clone(),
            client: Some(client.clone()),
            epoch,
        };
        let call = async {
            let channel = grpc::connect(&owner.address).await.ok()?;
            let reply = GatewayClient::new(channel).take_over(request).await;
            reply.map_err(|error| tracing::debug!(%error, "the old owner does not answer")).ok()
        };
        // The old owner is fenced whether it answers or not.
        let limit = Duration::from_millis(self.config.take_over_ms);
        tokio::time::timeout(limit, call).await.ok()??.into_inner().uncommitted
    }

    /// Another gateway has claimed the session of a client that may be connected here.
    pub(crate) async fn give_up(&self, request: TakeOverRequest) -> TakeOverReply {
        let client = request.client.unwrap_or_default();
        let Some(old) = self.owners.older(&client, request.epoch) else {
            return TakeOverReply::default();
        };
        TakeOverReply { found: true, uncommitted: self.hand_over(&old).await }
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

    #[test]
    fn the_newest_claim_owns_the_client_single_owner() {
        let owners = Owners::default();
        let client = ClientKey { namespace: 0, client_id: "c".to_owned() };
        let (first, second) = (Inbox::new(1), Inbox::new(1));
        assert!(owners.register(&client, 5, &second).unwrap().is_none());
        assert_eq!(owners.register(&client, 4, &first).unwrap_err(), ClusterError::Fenced);
        assert!(owners.older(&client, 5).is_none());
        let replaced = owners.register(&client, 6, &first).unwrap().unwrap();
        assert!(Arc::ptr_eq(&replaced, &second));
        assert!(Arc::ptr_eq(&owners.older(&client, 7).unwrap(), &first));
    }
}
