//! Rules of one session row: pure functions of the row, the command and the entry's time.
//!
//! A row whose owner is absent and whose expiry interval is 0 has *ended*: it only remembers the epoch,
//! so that what its gateway still had under way is neither lost nor taken for another session's.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Claim, ClaimOutcome, ClientKey, Command, CommitCursor, Disconnect, InFlight, Received,
    SessionRow, ShardPosition, Status, Subscription, Will,
};

/// Expiry interval of a session that never expires.
pub(crate) const NEVER: u32 = u32::MAX;

/// Feature level from which on replicas know of a grace for wills.
const WILL_GRACE_LEVEL: u32 = 2;

/// Feature level from which on replicas know a claim that is repeated.
const ATTEMPT_LEVEL: u32 = 2;

/// Feature level from which on replicas know how to move a session on.
pub(crate) const MOVE_ON_LEVEL: u32 = 2;

/// The longest grace for a will, in seconds: rows that have ended are forgotten some time later.
const WILL_GRACE_S_MAX: u32 = 300;

/// Below this many ids, looking one after the other is cheaper than hashing.
const FEW: usize = 16;

/// Whether only the epoch is remembered.
pub(crate) fn is_ended(row: &SessionRow) -> bool {
    row.owner.is_none() && row.expiry_interval_s == 0
}

/// Shard time at which the session expires.
pub(crate) fn expires_at_ms(row: &SessionRow) -> Option<u64> {
    let finite = row.owner.is_none() && !matches!(row.expiry_interval_s, 0 | NEVER);
    finite.then(|| row.disconnected_at_ms.saturating_add(u64::from(row.expiry_interval_s) * 1000))
}

fn is_due(at_ms: Option<u64>, time_ms: u64) -> bool {
    at_ms.is_some_and(|at_ms| at_ms <= time_ms)
}

/// What a claim makes of a row.
pub(crate) struct Claimed {
    pub(crate) row: SessionRow,
    pub(crate) outcome: ClaimOutcome,
    /// The old will, if it is published now.
    pub(crate) will: Option<Bytes>,
}

/// Whether the claim was applied already and its owner asks again.
pub(crate) fn is_repeat(row: &SessionRow, claim: &Claim) -> bool {
    claim.attempt != 0 && row.claim_attempt == claim.attempt && row.owner == claim.gateway
}

/// The answer to a claim that was applied already. Whom it replaced is not known any more: an old owner
/// that was not told finds itself fenced.
pub(crate) fn repeated(row: &SessionRow) -> ClaimOutcome {
    let session_present = row.instance != row.epoch;
    ClaimOutcome { row: Some(row.clone()), session_present, ..ClaimOutcome::default() }
}

/// Gives the session to a gateway, under a new epoch. `outcome.row` is left for the caller.
pub(crate) fn claim(
    old: Option<SessionRow>,
    claim: &Claim,
    epoch: u64,
    time_ms: u64,
    shards: u16,
) -> Claimed {
    let mut outcome = ClaimOutcome::default();
    let mut will = None;
    let mut resumed = None;
    // One that has ended may have a will left, which waits for its client to come back.
    if let Some(mut row) = old {
        let expired = is_due(expires_at_ms(&row), time_ms);
        // A regular session ends with its connection, also when the claim ends that.
        let resumes = !claim.clean_start && row.expiry_interval_s != 0 && !expired;
        let owner = row.owner.take();
        will = old_will(&mut row, owner.is_some(), resumes, time_ms);
        if owner.is_some() {
            outcome.previous_epoch = row.epoch;
            outcome.previous_owner = owner;
        }
        resumed = resumes.then_some(row);
    }
    outcome.session_present = resumed.is_some();
    let mut row = resumed.unwrap_or_else(|| SessionRow {
        instance: epoch,
        cursor: vec![0; usize::from(shards)],
        ..SessionRow::default()
    });
    row.epoch = epoch;
    row.owner = claim.gateway.clone();
    row.expiry_interval_s = claim.expiry_interval_s;
    row.disconnected_at_ms = 0;
    // The row outlives the entry: it must not keep the whole entry's memory.
    row.will = claim
        .will
        .as_ref()
        .map(|will| Will { record: Bytes::copy_from_slice(&will.record), delay_s: will.delay_s });
    row.will_due_ms = 0;
    row.last_used_ms = time_ms;
    row.protocol_level = claim.protocol_level;
    row.claim_attempt = claim.attempt;
    Claimed { row, outcome, will }
}

/// The will of the connection before, if the claim publishes it: always if it ends the session, else
/// if it has no delay or its delay is over. Never while it waits because a gateway stopped.
fn old_will(row: &mut SessionRow, owned: bool, resumes: bool, time_ms: u64) -> Option<Bytes> {
    let Will { record, delay_s } = row.will.take()?;
    let due = if owned { delay_s == 0 } else { row.will_due_ms <= time_ms };
    let own_delay_ms = u64::from(delay_s.min(row.expiry_interval_s)) * 1000;
    let own_due_ms = row.disconnected_at_ms.saturating_add(own_delay_ms);
    let is_grace = !owned && !due && row.will_due_ms > own_due_ms;
    (due || !resumes && !is_grace).then_some(record)
}

/// Who may run a command on a row.
pub(crate) struct Admission<'a> {
    pub(crate) client: &'a ClientKey,
    pub(crate) epoch: u64,
    /// 0: any.
    pub(crate) instance: u64,
    /// Does nothing to an ended session, successfully.
    ends: bool,
    /// Only while no gateway owns the session.
    unowned: bool,
}

/// Whom a command on an existing session is from; `None` for other commands and a missing client.
pub(crate) fn admission(command: &Kind) -> Option<Admission<'_>> {
    let (client, epoch, instance, ends) = match command {
        Kind::Claim(_) | Kind::SetRetained(_) => return None,
        Kind::CommitCursor(c) => (&c.client, c.epoch, c.instance, false),
        Kind::Subscribe(c) => (&c.client, c.epoch, c.instance, false),
        Kind::Unsubscribe(c) => (&c.client, c.epoch, c.instance, false),
        Kind::ReleaseReceived(c) => (&c.client, c.epoch, 0, false),
        Kind::Disconnect(c) => (&c.client, c.epoch, c.instance, true),
        Kind::FireWill(c) => (&c.client, c.epoch, c.instance, true),
        Kind::Expire(c) => (&c.client, c.epoch, c.instance, true),
        Kind::Abandon(c) => (&c.client, c.epoch, 0, true),
        Kind::MoveOn(c) => (&c.client, c.epoch, c.instance, false),
    };
    let unowned = matches!(command, Kind::MoveOn(_));
    Some(Admission { client: client.as_ref()?, epoch, instance, ends, unowned })
}

impl Admission<'_> {
    /// Whether the command may change the row.
    pub(crate) fn check(&self, row: Option<&SessionRow>) -> Status {
        match row {
            None => Status::NoSession,
            Some(row) if row.epoch != self.epoch => Status::Fenced,
            Some(row) if self.instance != 0 && row.instance != self.instance => Status::Fenced,
            // A gateway that owns the session moves its cursor itself.
            Some(row) if self.unowned && row.owner.is_some() => Status::Fenced,
            Some(row) if is_ended(row) && !self.ends => Status::NoSession,
            Some(_) => Status::Ok,
        }
    }
}

/// The command without what replicas below `feature_level` do not know.
pub(crate) fn at_level(command: &Command, feature_level: u32) -> Cow<'_, Command> {
    let kind = match &command.command {
        Some(Kind::Disconnect(leave))
            if leave.will_grace_s != 0 && feature_level < WILL_GRACE_LEVEL =>
        {
            Kind::Disconnect(Disconnect { will_grace_s: 0, ..leave.clone() })
        }
        Some(Kind::Claim(claim)) if claim.attempt != 0 && feature_level < ATTEMPT_LEVEL => {
            Kind::Claim(Claim { attempt: 0, ..claim.clone() })
        }
        _ => return Cow::Borrowed(command),
    };
    Cow::Owned(Command { command: Some(kind) })
}

/// Runs an admitted command; returns the will's record if that is published.
pub(crate) fn run(row: &mut SessionRow, command: &Kind, time_ms: u64) -> Option<Bytes> {
    match command {
        Kind::Claim(_) | Kind::SetRetained(_) => {}
        Kind::CommitCursor(commit) => {
            row.last_used_ms = time_ms;
            self::commit(row, commit);
        }
        Kind::Subscribe(subscribe) => {
            for subscription in &subscribe.subscriptions {
                self::subscribe(row, subscription);
            }
        }
        Kind::Unsubscribe(unsubscribe) => {
            row.subscriptions.retain(|known| !unsubscribe.filters.contains(&known.filter));
        }
        Kind::ReleaseReceived(release) => {
            for packet_id in &release.packet_ids {
                if let Ok(at) = received_at(row, *packet_id) {
                    row.received.remove(at);
                }
            }
        }
        Kind::Disconnect(leave) => return disconnect(row, leave, time_ms),
        Kind::Abandon(_) if row.owner.is_some() => return leave(row, 0, time_ms),
        Kind::Abandon(_) => {}
        Kind::FireWill(_) => {
            if row.owner.is_none() && row.will_due_ms <= time_ms {
                row.will_due_ms = 0;
                return row.will.take().map(|will| will.record);
            }
        }
        Kind::Expire(_) => {
            if is_due(expires_at_ms(row), time_ms) {
                return end(row, time_ms);
            }
        }
        Kind::MoveOn(move_on) => {
            // What is asked twice is counted once.
            if move_cursor(row, &move_on.cursor) {
                row.lost = row.lost.saturating_add(move_on.lost);
            }
        }
    }
    None
}

/// Moves the cursor, never back; returns whether it moved.
fn move_cursor(row: &mut SessionRow, cursor: &[ShardPosition]) -> bool {
    let mut moved = false;
    for to in cursor {
        if let Some(cursor) = row.cursor.get_mut(to.shard as usize)
            && *cursor < to.position
        {
            *cursor = to.position;
            moved = true;
        }
    }
    if moved {
        for subscription in &mut row.subscriptions {
            settle(subscription, &row.cursor);
        }
    }
    moved
}

/// Moves the cursor; frees ids before it takes new ones, which may be the same.
fn commit(row: &mut SessionRow, commit: &CommitCursor) {
    move_cursor(row, &commit.cursor);
    if commit.completed.len() <= FEW {
        if !commit.completed.is_empty() {
            row.in_flight.retain(|known| !commit.completed.contains(&known.packet_id));
        }
    } else {
        let completed: HashSet<u32> = commit.completed.iter().copied().collect();
        row.in_flight.retain(|known| !completed.contains(&known.packet_id));
    }
    upsert(&mut row.in_flight, &commit.in_flight);
}

/// Adds messages in flight, or replaces them in their place, which is their order of sending.
fn upsert(known: &mut Vec<InFlight>, changed: &[InFlight]) {
    if changed.len() <= FEW {
        for message in changed {
            match known.iter_mut().find(|known| known.packet_id == message.packet_id) {
                Some(known) => *known = message.clone(),
                None => known.push(message.clone()),
            }
        }
        return;
    }
    let ids = known.iter().enumerate().map(|(at, known)| (known.packet_id, at));
    let mut places: HashMap<u32, usize> = ids.collect();
    for message in changed {
        let at = *places.entry(message.packet_id).or_insert(known.len());
        match known.get_mut(at) {
            Some(known) => *known = message.clone(),
            None => known.push(message.clone()),
        }
    }
}

/// Adds a subscription, or replaces what a known one asks for.
fn subscribe(row: &mut SessionRow, new: &Subscription) {
    if let Some(known) = row.subscriptions.iter_mut().find(|known| known.filter == new.filter) {
        known.options = new.options;
        known.identifier = new.identifier;
        return;
    }
    let mut new = new.clone();
    settle(&mut new, &row.cursor);
    row.subscriptions.push(new);
}

/// Forgets the since-positions that the cursor has reached.
fn settle(subscription: &mut Subscription, cursor: &[u64]) {
    let mut open = false;
    for (since, cursor) in subscription.since.iter_mut().zip(cursor) {
        if *since <= *cursor {
            *since = 0;
        }
        open |= *since != 0;
    }
    if !open {
        subscription.since = Vec::new();
    }
}

fn disconnect(row: &mut SessionRow, disconnect: &Disconnect, time_ms: u64) -> Option<Bytes> {
    if is_ended(row) {
        return None;
    }
    if let Some(commit) = &disconnect.commit {
        self::commit(row, commit);
    }
    if disconnect.discard_will {
        row.will = None;
        row.will_due_ms = 0;
    }
    row.owner.as_ref()?;
    // A session that was to end with its connection cannot be prolonged (MQTT 5 §3.14.2.2.2).
    if let Some(expiry_interval_s) = disconnect.expiry_interval_s
        && row.expiry_interval_s != 0
    {
        row.expiry_interval_s = expiry_interval_s;
    }
    leave(row, disconnect.will_grace_s, time_ms)
}

/// The connection is gone. Returns the will's record if that is published now; it is not during the
/// grace, which a session that ends with its connection keeps for its will alone.
fn leave(row: &mut SessionRow, will_grace_s: u32, time_ms: u64) -> Option<Bytes> {
    row.owner = None;
    row.disconnected_at_ms = time_ms;
    row.last_used_ms = time_ms;
    if row.expiry_interval_s == 0 {
        let delay_s = will_grace_s.min(WILL_GRACE_S_MAX);
        let record = end(row, time_ms);
        if delay_s == 0 {
            return record;
        }
        row.will = record.map(|record| Will { record, delay_s: 0 });
        row.will_due_ms = time_ms.saturating_add(u64::from(delay_s) * 1000);
        return None;
    }
    let delay_s = row.will.as_ref()?.delay_s.max(will_grace_s).min(row.expiry_interval_s);
    if delay_s == 0 {
        return row.will.take().map(|will| will.record);
    }
    row.will_due_ms = time_ms.saturating_add(u64::from(delay_s) * 1000);
    None
}

/// The session is over; what is left of it is its epoch. Returns the will's record if one was pending.
fn end(row: &mut SessionRow, time_ms: u64) -> Option<Bytes> {
    let ended = SessionRow {
        epoch: row.epoch,
        instance: row.instance,
        disconnected_at_ms: row.disconnected_at_ms,
        last_used_ms: time_ms,
        protocol_level: row.protocol_level,
        ..SessionRow::default()
    };
    std::mem::replace(row, ended).will.map(|will| will.record)
}

fn received_at(row: &SessionRow, packet_id: u32) -> Result<usize, usize> {
    row.received.binary_search_by_key(&packet_id, |received| received.packet_id)
}

/// Where the message came to be stored that the client sent under this packet id and has not released.
pub(crate) fn received(row: &SessionRow, packet_id: u16) -> Option<u64> {
    let at = received_at(row, u32::from(packet_id)).ok()?;
    Some(row.received[at].position)
}

/// Remembers the packet id of a stored QoS 2 message, in order of ids.
pub(crate) fn receive(row: &mut SessionRow, packet_id: u16, position: u64) {
    let received = Received { packet_id: u32::from(packet_id), position };
    match received_at(row, received.packet_id) {
        Ok(at) => row.received[at] = received,
        Err(at) => row.received.insert(at, received),
    }
}
