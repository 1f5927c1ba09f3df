//! What the admin API asks of a shard's leader: rows of sessions, pages of messages, single commands, a
//! new generation.

use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{ClientKey, Command, Outcome, SessionRow, Status as Decided};
use holdfast_proto::storage::{
    FoundSession, GetSessionsReply, GetSessionsRequest, ProposeCommandRequest, ProposeDone,
    ReadMatchesRequest, ReadPage, RollShardReply,
};
use holdfast_shard::{LAYOUT_TOPIC, Request};
use tokio::task::spawn_blocking;
use tonic::Status;

use super::match_count::check_filters;
use super::reads::{page, page_bytes_max, unserved};
use crate::replica::Replica;
use crate::replica::proposer::refusal;
use crate::site::Site;

/// Sessions of one call.
const CLIENTS_MAX: usize = 1_000;
/// Positions of one read: a page of positions is not cut short.
const POSITIONS_MAX: usize = 256;
/// Rows that are read while a shard's state is locked.
const ROWS_AT_ONCE: usize = 50;
/// How long a command may take until it is applied. It may still be applied later.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks whether a cut is through.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// The replica that serves a shard here, or why there is none and which site leads.
fn serving(site: &Site, shard: u32) -> Result<Arc<Replica>, (Decided, u64)> {
    let Ok(shard) = u16::try_from(shard) else { return Err((Decided::NotLeader, 0)) };
    let leader = site.leader_of(shard);
    let replica = site.replica(ShardId(shard)).ok_or((Decided::NotLeader, leader))?;
    match replica.serving() {
        Ok(_) => Ok(replica),
        Err(status) => Err((status, replica.leader_site())),
    }
}

/// The rows of sessions, as applied.
pub(super) async fn sessions(
    site: &Site,
    request: GetSessionsRequest,
) -> Result<GetSessionsReply, Status> {
    if request.clients.len() > CLIENTS_MAX {
        return Err(Status::invalid_argument("too many sessions in one call"));
    }
    let without = |(status, leader_site): (Decided, u64)| GetSessionsReply {
        status: status.into(),
        leader_site,
        ..GetSessionsReply::default()
    };
    let replica = match serving(site, request.shard) {
        Ok(replica) => replica,
        Err(why) => return Ok(without(why)),
    };
    let reader = replica.clone();
    let read = spawn_blocking(move || rows(&reader, &request.clients));
    let rows = read.await.map_err(|error| Status::internal(error.to_string()))?;
    let Some(rows) = rows else { return Ok(without((Decided::Unavailable, 0))) };
    // What was read is the newest only if it still leads.
    if let Err(status) = replica.serving() {
        return Ok(without((status, replica.leader_site())));
    }
    Ok(GetSessionsReply {
        status: Decided::Ok.into(),
        leader_site: site.site_id.0,
        sessions: rows.into_iter().map(|row| FoundSession { row }).collect(),
        time_ms: replica.cell.time_ms(&replica.cell.shard.lock()),
    })
}

/// One row a client; `None` if the state cannot be read, which ends the process.
fn rows(replica: &Replica, clients: &[ClientKey]) -> Option<Vec<Option<SessionRow>>> {
    let mut rows = Vec::with_capacity(clients.len());
    for part in clients.chunks(ROWS_AT_ONCE) {
        let shard = replica.cell.shard.lock();
        for client in part {
            match shard.session(client) {
                Ok(row) => rows.push(row),
                Err(error) => {
                    replica.fatal.stop("sessions", &error);
                    return None;
                }
            }
        }
    }
    Some(rows)
}

/// One page of messages, as a gateway reads them.
pub(super) async fn matches(site: &Site, request: ReadMatchesRequest) -> Result<ReadPage, Status> {
    let item = request.item.ok_or_else(|| Status::invalid_argument("nothing to read is named"))?;
    check_filters(request.filters.iter()).map_err(Status::invalid_argument)?;
    if item.positions.len() > POSITIONS_MAX {
        return Err(Status::invalid_argument("too many positions in one call"));
    }
    let replica = match serving(site, item.shard) {
        Ok(replica) => replica,
        Err((status, leader)) => return Ok(unserved(0, item.shard, status, leader)),
    };
    let bytes_max = page_bytes_max(site, request.page_bytes_max);
    let namespace = Namespace(request.namespace);
    let read =
        spawn_blocking(move || page(&replica, &item, namespace, &request.filters, bytes_max));
    read.await.map_err(|error| Status::internal(error.to_string()))
}

/// Proposes a command and waits until it is applied.
pub(super) async fn propose(site: &Site, request: ProposeCommandRequest) -> ProposeDone {
    let done = |outcome: Outcome, leader_site| ProposeDone {
        request_id: 0,
        outcome: Some(outcome),
        leader_site,
    };
    let command = request.command.unwrap_or_default();
    if !is_allowed(&command) {
        return done(refusal(Decided::Invalid), 0);
    }
    match serving(site, request.shard) {
        Err((status, leader)) => done(refusal(status), leader),
        Ok(replica) => {
            let outcome = applied(&replica, Request::Command(command)).await;
            done(outcome, replica.leader_site())
        }
    }
}

/// What a session's end needs: everything else is for gateways and for the shard's own leader.
fn is_allowed(command: &Command) -> bool {
    matches!(command.command, Some(Kind::Claim(_) | Kind::Disconnect(_)))
}

async fn applied(replica: &Replica, request: Request) -> Outcome {
    match tokio::time::timeout(APPLIED_TIMEOUT, replica.ask(request)).await {
        Ok(Ok(outcome)) => outcome,
        // It takes too long, or the replica ends.
        _ => refusal(Decided::Unavailable),
    }
}

/// Seals the shard's current generation; one without messages stays the current one.
pub(super) async fn roll(site: &Site, shard: u32) -> RollShardReply {
    let without = |status: Decided, leader_site| RollShardReply {
        status: status.into(),
        leader_site,
        generation: 0,
    };
    let replica = match serving(site, shard) {
        Ok(replica) => replica,
        Err((status, leader)) => return without(status, leader),
    };
    match tokio::time::timeout(APPLIED_TIMEOUT, begin_generation(&replica)).await {
        Ok(Ok(generation)) => {
            RollShardReply { status: Decided::Ok.into(), leader_site: site.site_id.0, generation }
        }
        Ok(Err(status)) => without(status, replica.leader_site()),
        Err(_) => without(Decided::Unavailable, replica.leader_site()),
    }
}

async fn begin_generation(replica: &Replica) -> Result<u64, Decided> {
    loop {
        replica.serving()?;
        let (current, first, next, cut_under_way) = {
            let shard = replica.cell.shard.lock();
            let current = shard.generations().last();
            let (current, first) =
                current.map_or((0, 0), |row| (row.generation, row.first_position));
            let cut_under_way = shard.tail().first() < shard.cut_position();
            (current, Position(first), shard.next_position(), cut_under_way)
        };
        if next <= first {
            return Ok(current);
        }
        if !cut_under_way {
            break;
        }
        // A second cut waits for the checkpoint of the first, and all that is appended behind it.
        tokio::time::sleep(CUT_PAUSE).await;
    }
    let outcome = applied(replica, Request::Roll { layout: LAYOUT_TOPIC.into() }).await;
    match outcome.status() {
        Decided::Ok => {
            let shard = replica.cell.shard.lock();
            Ok(shard.generations().last().map_or(0, |row| row.generation))
        }
        status => Err(status),
    }
}
