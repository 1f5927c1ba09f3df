//! One session on one connection: joins the parts.

use holdfast_proto::ids::{Namespace, ShardId};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{self, ClientKey, Command, CommitCursor, ReleaseReceived, SessionRow};

use crate::commit::Commits;
use crate::effect::{Close, Effect, Leave};
use crate::limits::{Limits, Protocol};
use crate::operations::Operations;
use crate::outbound::Outbound;
use crate::receiving::Receiving;
use crate::subscriptions::{Subscription, Subscriptions};

mod events;
mod group;
mod packets;
mod retained;

use retained::RetainedReads;

/// What a session starts from: the answer to its claim.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Tenant.
    pub namespace: Namespace,
    /// Client id.
    pub client_id: &'a str,
    /// Of the connection.
    pub protocol: Protocol,
    /// The session outlives the connection, or did: it is fed from the log.
    pub durable: bool,
    /// Shards of the cluster.
    pub shards: u16,
    /// Its limits.
    pub limits: Limits,
    /// Its row as claimed.
    pub row: &'a SessionRow,
}

/// What the shell knows when it lets the session work.
pub struct Turn<'a> {
    /// Local time, ms since the Unix epoch.
    pub now_ms: u64,
    /// Time of a shard.
    pub shard_time_ms: &'a dyn Fn(ShardId) -> u64,
    /// Bytes that the socket's buffer still takes.
    pub room_bytes: usize,
}

#[derive(Debug)]
enum Attach {
    Asked { token: u64 },
    Failed { retry_ms: u64 },
    Done,
}

/// The session core.
#[derive(Debug)]
pub struct Session {
    namespace: Namespace,
    client: ClientKey,
    epoch: u64,
    instance: u64,
    protocol: Protocol,
    limits: Limits,
    subscriptions: Subscriptions,
    receiving: Receiving,
    outbound: Outbound,
    operations: Operations,
    commits: Commits,
    attach: Attach,
    release: Option<u64>,
    release_retry_ms: Option<u64>,
    retained: Option<Box<RetainedReads>>,
    next_token: u64,
}

impl Session {
    /// Opens the session after its claim; the first effects attach it and resend releases.
    #[must_use]
    pub fn open(opening: &Opening<'_>, out: &mut Vec<Effect>) -> Session {
        let Opening { namespace, client_id, protocol, durable, shards, limits, row } = *opening;
        let client = ClientKey { namespace: namespace.0, client_id: client_id.to_owned() };
        let subscriptions = Subscriptions::new(namespace, client_id, &row.subscriptions);
        let mut receiving =
            Receiving::new(protocol, limits.receive_maximum, limits.topic_alias_maximum);
        receiving.restore(&row.received);
        let outbound = Outbound::new(protocol, limits, durable, shards, row, &subscriptions);
        outbound.resend_releases(out);
        let mut session = Session {
            namespace,
            epoch: row.epoch,
            instance: row.instance,
            protocol,
            limits,
            subscriptions,
            receiving,
            outbound,
            operations: Operations::default(),
            commits: Commits::new(client.clone(), row.epoch, row.instance),
            client,
            attach: Attach::Failed { retry_ms: 0 },
            release: None,
            release_retry_ms: None,
            retained: None,
            next_token: 0,
        };
        session.ask_attach(out);
        session
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn ask_attach(&mut self, out: &mut Vec<Effect>) {
        let token = self.token();
        self.attach = Attach::Asked { token };
        out.push(Effect::Attach { token, filters: self.subscriptions.filters().to_vec() });
    }

    /// Whether the session is fed from the log.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.outbound.is_durable()
    }

    /// Lets the session work after whatever came: sends, reads, commits.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn turn(&mut self, turn: &mut Turn<'_>, out: &mut Vec<Effect>) -> Result<(), Close> {
        self.receiving.answer(out)?;
        if let Attach::Failed { retry_ms } = self.attach
            && turn.now_ms >= retry_ms
        {
            self.ask_attach(out);
        }
        self.start_operations(out);
        self.outbound.pump(&self.subscriptions, turn, out);
        self.propose_release(turn.now_ms, out);
        if self.is_durable() {
            self.ask_reads(turn.now_ms, out);
            self.propose_commit(turn.now_ms, out);
        }
        self.ask_retained(turn.now_ms, out);
        Ok(())
    }

    /// Everything that the effects so far sent is written to the socket. Returns whether
    /// [`Session::turn`] has to be called for it.
    pub fn flushed(&mut self) -> bool {
        self.outbound.flushed()
    }

    /// Whether messages wait for room in the socket's buffer.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.outbound.is_short_of_room
    }

    /// Whether nothing waits to be sent, read or answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outbound.is_idle() && self.operations.group.is_none() && self.undecided() == 0
    }

    /// Whether a commit is on its way: what follows it may overtake it.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.commits.is_on_its_way()
    }

    /// Whether the client could be sent to another gateway now without being sent anything twice: it
    /// has acknowledged what it was sent, and its publishes, releases and subscriptions are answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let answered = self.undecided() == 0 && !self.receiving.is_releasing();
        answered && self.operations.group.is_none() && !self.outbound.in_flight.is_with_client()
    }

    /// When [`Session::turn`] has to be called again if nothing comes, in ms.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let attach = match self.attach {
            Attach::Failed { retry_ms } => Some(retry_ms),
            Attach::Asked { .. } | Attach::Done => None,
        };
        let retained = self.retained.as_ref().and_then(|reads| reads.retry_ms());
        let commit = self.commits.deadline_ms();
        [attach, retained, commit, self.release_retry_ms, self.outbound.deadline_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Everything that is not known to be committed: for the last commit, or for the next owner. The
    /// session is over.
    pub fn uncommitted(&mut self) -> Option<CommitCursor> {
        if !self.is_durable() {
            return None;
        }
        self.commits.uncommitted(&self.outbound.log.feeds, &mut self.outbound.in_flight)
    }

    /// What ends unsent with the connection, to be counted: answers to subscriptions (one for each that
    /// is not read yet) and messages of a regular session. Everything else a durable session has in the
    /// log or in its row.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let asked = self.retained.as_ref().map_or(0, |reads| reads.unanswered());
        self.outbound.unsent() + asked as u64
    }

    /// The last command of the session.
    pub fn leave(&mut self, leave: Leave) -> Command {
        let commit = self.uncommitted();
        Command {
            command: Some(Kind::Disconnect(shard::Disconnect {
                client: Some(self.client.clone()),
                epoch: self.epoch,
                instance: self.instance,
                discard_will: leave.discard_will,
                expiry_interval_s: leave.expiry_interval_s,
                will_grace_s: leave.will_grace_s,
                commit,
            })),
        }
    }

    fn propose_release(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.release.is_some() {
            return;
        }
        let packet_ids = match self.release_retry_ms {
            Some(at) if now_ms < at => return,
            Some(_) => self.receiving.release_ids(),
            None => match self.receiving.take_released() {
                Some(packet_ids) => packet_ids,
                None => return,
            },
        };
        self.release_retry_ms = None;
        let token = self.token();
        self.release = Some(token);
        let client = Some(self.client.clone());
        let release = ReleaseReceived { client, epoch: self.epoch, packet_ids };
        out.push(propose(token, Kind::ReleaseReceived(release)));
    }

    fn ask_reads(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let items = self.outbound.reads(&self.subscriptions, now_ms, out);
        if !items.is_empty() {
            out.push(Effect::Read { filters: self.subscriptions.filters(), items });
        }
    }

    fn propose_commit(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.outbound.take_moved() {
            self.commits.changed(now_ms + self.limits.commit_interval_ms);
        }
        let (feeds, in_flight) = (&mut self.outbound.log.feeds, &mut self.outbound.in_flight);
        let proposed = self.commits.propose(now_ms, feeds, in_flight, &mut self.next_token);
        if let Some((token, commit)) = proposed {
            out.push(propose(token, Kind::CommitCursor(commit)));
        }
    }

    /// How many subscriptions there are, those that are not confirmed yet included.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// The subscriptions, without the positions from which they count.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<shard::Subscription> {
        self.subscriptions.iter().map(Subscription::shown).collect()
    }

    /// Messages that the client was sent, or is about to be, and has not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.outbound.in_flight.used()
    }

    /// Largest packet that the client takes, in bytes.
    #[must_use]
    pub fn client_packet_bytes_max(&self) -> u32 {
        self.limits.client_packet_bytes_max
    }

    /// Tenant of the session.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }
}

fn propose(token: u64, kind: Kind) -> Effect {
    Effect::Propose { token, command: Box::new(Command { command: Some(kind) }) }
}
