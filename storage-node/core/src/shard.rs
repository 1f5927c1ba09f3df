//! One shard's state: rows over a base, indexes, the tail.

use bytes::Bytes;
use holdfast_proto::ids::{Epoch, Generation, Incarnation, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Abandon, ClientKey, Command, Expire, FireWill, GenerationRow, ProducerRow, RetainedRow, RunRow,
    SessionRow, ShardRow,
};
use prost::Message;

use crate::FORGET_AFTER_MS;
use crate::base::Base;
use crate::check::Check;
use crate::error::ShardError;
use crate::generations::Generations;
use crate::index::{Deadline, Facts, Index};
use crate::keys::{self, Key};
use crate::last_positions::LastPositions;
use crate::retained;
use crate::session;
use crate::table::{Table, decode};
use crate::tail::Tail;

/// The layout in which each topic is a stream.
pub const LAYOUT_TOPIC: &str = "topic";

/// Feature level of a new shard.
const FIRST_FEATURE_LEVEL: u32 = 1;

/// The state machine of one shard.
#[derive(Debug)]
pub struct Shard<B: Base> {
    pub(crate) base: B,
    pub(crate) check: Check,
    pub(crate) row: ShardRow,
    pub(crate) sessions: Table<SessionRow>,
    pub(crate) producers: Table<ProducerRow>,
    pub(crate) retained: Table<RetainedRow>,
    pub(crate) generations: Generations,
    pub(crate) index: Index,
    pub(crate) tail: Tail,
    pub(crate) last_positions: LastPositions,
    /// Raft index of the newest entry applied in this life; 0 if none was.
    pub(crate) applied_index: u64,
}

/// What a checkpoint writes, in the order of the keys: the newest value of every pair that changed
/// since the checkpoint before, or `None` for one to be removed.
#[derive(Debug, Clone, Default)]
pub struct Frozen {
    /// To be written as one atomic batch, together with the applied index.
    pub pairs: Vec<(Vec<u8>, Option<Bytes>)>,
}

impl<B: Base> Shard<B> {
    /// Reads the state of the last checkpoint. `shards` is the number of shards of the cluster.
    ///
    /// # Errors
    /// The base cannot be read, or holds what is not a shard's.
    pub fn open(base: B, shard: ShardId, shards: u16) -> Result<Self, ShardError> {
        let row = match base.get(&[keys::SHARD])? {
            Some(value) => decode(&[keys::SHARD], &value)?,
            None => ShardRow {
                next_position: Position::FIRST.0,
                cut_position: Position::FIRST.0,
                feature_level: FIRST_FEATURE_LEVEL,
                ..ShardRow::default()
            },
        };
        let next = Position(row.next_position);
        let mut shard = Shard {
            check: Check { shard, shards },
            generations: Generations::open(&base)?,
            base,
            row,
            sessions: Table::searchable(),
            producers: Table::new(),
            retained: Table::searchable(),
            index: Index::default(),
            tail: Tail::new(next),
            last_positions: LastPositions::new(next),
            applied_index: 0,
        };
        shard.scan_sessions()?;
        shard.scan_producers()?;
        shard.scan_retained()?;
        Ok(shard)
    }

    /// Indexes all sessions and keeps the connected ones in memory.
    fn scan_sessions(&mut self) -> Result<(), ShardError> {
        let Shard { base, index, sessions, .. } = self;
        scan(base, keys::SESSION, |key, row: SessionRow| {
            let key = Key::from(key);
            index.session(&key, Facts::default(), Facts::of(Some(&row)));
            if row.owner.is_some() {
                sessions.keep(key, row);
            }
        })
    }

    fn scan_producers(&mut self) -> Result<(), ShardError> {
        let Shard { base, index, producers, .. } = self;
        scan(base, keys::PRODUCER, |key, row: ProducerRow| {
            let key = Key::from(key);
            index.forget(&key, None, Some(producer_forgotten_ms(&row)));
            producers.keep(key, row);
        })
    }

    fn scan_retained(&mut self) -> Result<(), ShardError> {
        let Shard { base, index, .. } = self;
        scan(base, keys::RETAINED, |key, row: RetainedRow| {
            index.forget(&Key::from(key), None, retained::forgotten_ms(&row));
        })
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.check.shard
    }

    /// Position of the next record.
    pub fn next_position(&self) -> Position {
        Position(self.row.next_position)
    }

    /// Time of the newest entry, in ms since the Unix epoch.
    pub fn time_ms(&self) -> u64 {
        self.row.time_ms
    }

    /// End of the newest run that was cut: everything below is, or will be, in runs.
    pub fn cut_position(&self) -> Position {
        Position(self.row.cut_position)
    }

    /// What kinds of entries and layouts the leader may write.
    pub fn feature_level(&self) -> u32 {
        self.row.feature_level
    }

    /// The newest epoch that any session of this shard was given.
    pub fn last_epoch(&self) -> Epoch {
        Epoch(self.row.last_epoch)
    }

    /// Generations that are kept, oldest first; the last is the current one.
    pub fn generations(&self) -> &[GenerationRow] {
        self.generations.all()
    }

    /// Runs that this site has, oldest first.
    pub fn runs(&self) -> &[RunRow] {
        self.generations.runs()
    }

    /// Registers a run once it is written and synced; its pair ([`keys::run_pair`]) belongs to the
    /// checkpoint of its cut. Returns false if its generation was dropped meanwhile: delete the run.
    pub fn run_written(&mut self, run: RunRow) -> bool {
        self.generations.run_written(run)
    }

    /// Records above the newest completed cut.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Forgets tail records below `end`: their run is written.
    pub fn trim_tail(&mut self, end: Position) {
        self.tail.trim_below(end);
    }

    /// Topic to newest position.
    pub fn last_positions(&self) -> &LastPositions {
        &self.last_positions
    }

    /// Sessions, connected or not.
    pub fn session_count(&self) -> u64 {
        self.index.sessions()
    }

    /// Sessions that a gateway owns.
    pub fn connected_count(&self) -> u64 {
        self.index.connected()
    }

    /// Gateways that own sessions, in order.
    pub fn owners(&self) -> Vec<Incarnation> {
        self.index.owners().map(Incarnation).collect()
    }

    /// For each session of a gateway that died: the command that takes it from there.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn owned_by(
        &self,
        incarnation: Incarnation,
        limit: usize,
    ) -> Result<Vec<Command>, ShardError> {
        let mut commands = Vec::new();
        for key in self.index.owned_by(incarnation.0).take(limit) {
            if let Some((client, row)) = self.row_under(key)? {
                let abandon = Abandon { client: Some(client), epoch: row.epoch };
                commands.push(Command { command: Some(Kind::Abandon(abandon)) });
            }
        }
        Ok(commands)
    }

    /// Wills and sessions whose time has come, soonest first, as commands for the leader to propose.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<Command>, ShardError> {
        let now_ms = now_ms.max(self.row.time_ms);
        let mut commands = Vec::new();
        for (deadline, key) in self.index.due(now_ms).take(limit) {
            if let Some((client, SessionRow { epoch, instance, .. })) = self.row_under(key)? {
                let client = Some(client);
                let command = match deadline {
                    Deadline::Will => Kind::FireWill(FireWill { client, epoch, instance }),
                    Deadline::Expiry => Kind::Expire(Expire { client, epoch, instance }),
                };
                commands.push(Command { command: Some(command) });
            }
        }
        Ok(commands)
    }

    /// Brings the rows that [`Shard::due`] names into memory, until the next checkpoint: naming, deciding
    /// and applying each need them.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn load_due(&mut self, now_ms: u64, limit: usize) -> Result<(), ShardError> {
        let now_ms = now_ms.max(self.row.time_ms);
        let Shard { base, index, sessions, .. } = self;
        for (_, key) in index.due(now_ms).take(limit) {
            sessions.load(base, key)?;
        }
        Ok(())
    }

    /// Shard time at which [`Shard::due`] has something next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.index.next_deadline_ms()
    }

    fn row_under(&self, key: &Key) -> Result<Option<(ClientKey, SessionRow)>, ShardError> {
        let row = self.sessions.get(&self.base, key)?;
        Ok(keys::client(key).zip(row.map(|row| row.into_owned())))
    }

    /// A session, unless it has ended.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn session(&self, client: &ClientKey) -> Result<Option<SessionRow>, ShardError> {
        let row = self.sessions.get(&self.base, &keys::session(client))?;
        Ok(row.filter(|row| !session::is_ended(row)).map(|row| row.into_owned()))
    }

    /// Visits every session, in no order, until `visit` returns false.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn for_each_session(
        &self,
        mut visit: impl FnMut(ClientKey, &SessionRow) -> bool,
    ) -> Result<(), ShardError> {
        let mut each = |key: &[u8], row: &SessionRow| match keys::client(key) {
            Some(client) if !session::is_ended(row) => visit(client, row),
            _ => true,
        };
        for (key, row) in self.sessions.resident() {
            if !each(key, row) {
                return Ok(());
            }
        }
        let mut failed = None;
        self.base.scan(&[keys::SESSION], None, &mut |key, value| {
            if self.sessions.is_resident(key) {
                return true;
            }
            match decode(key, value) {
                Ok(row) => each(key, &row),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Visits the sessions whose key comes after that of `after`, in order of their keys, `limit` rows at
    /// most. Returns the last one visited if there may be more. What comes or goes meanwhile, between
    /// two calls, is visited or not; everything else is visited exactly once.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn walk(
        &self,
        after: Option<&ClientKey>,
        limit: usize,
        mut visit: impl FnMut(ClientKey, &SessionRow),
    ) -> Result<Option<ClientKey>, ShardError> {
        let after = after.map_or_else(|| vec![keys::SESSION], keys::session);
        let mut walk = Walk { visit: &mut visit, left: limit, last: None };
        let mut resident = self.sessions.resident_after(&after).peekable();
        let mut failed = None;
        self.base.scan(&[keys::SESSION], Some(&after), &mut |key, value| {
            while let Some((above, row)) = resident.next_if(|(above, _)| ***above < *key) {
                if !walk.step(above, row) {
                    return false;
                }
            }
            // What is in memory is the newer one.
            if let Some((_, row)) = resident.next_if(|(same, _)| ***same == *key) {
                return walk.step(key, row);
            }
            match decode::<SessionRow>(key, value) {
                Ok(row) => walk.step(key, Some(&row)),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        while walk.left > 0
            && let Some((key, row)) = resident.next()
        {
            walk.step(key, row);
        }
        Ok(walk.last.filter(|_| walk.left == 0))
    }

    /// Hands out everything that the base may not have, as of now; called right after a cut is applied.
    /// Entries may be applied while it is written. If an earlier one was not written, this one includes
    /// it.
    pub fn freeze(&mut self) -> Frozen {
        let mut pairs = vec![(vec![keys::SHARD], Some(Bytes::from(self.row.encode_to_vec())))];
        self.generations.freeze(&mut pairs);
        self.sessions.freeze(&mut pairs);
        self.producers.freeze(&mut pairs);
        self.retained.freeze(&mut pairs);
        pairs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Frozen { pairs }
    }

    /// The newest frozen pairs are in the base now.
    pub fn thaw(&mut self) {
        self.generations.thaw();
        self.sessions.thaw(|row| row.owner.is_some());
        self.producers.thaw(|_| true);
        self.retained.thaw(|_| false);
    }

    /// Stores a record at the next position.
    pub(crate) fn store(&mut self, placed: Placed) {
        self.row.next_position = placed.position.0 + 1;
        let record = &placed.record;
        self.last_positions.stored(record.namespace(), record.topic(), placed.position);
        self.tail.push(placed);
    }

    /// Whether this generation can be dropped.
    pub(crate) fn can_drop(&self, generation: Generation) -> bool {
        self.generations.can_drop(generation)
    }
}

/// One call of [`Shard::walk`].
struct Walk<'a> {
    visit: &'a mut dyn FnMut(ClientKey, &SessionRow),
    left: usize,
    last: Option<ClientKey>,
}

impl Walk<'_> {
    /// Takes a row; false if it was the last one.
    fn step(&mut self, key: &[u8], row: Option<&SessionRow>) -> bool {
        if self.left == 0 {
            return false;
        }
        if let Some(client) = keys::client(key) {
            self.left -= 1;
            if let Some(row) = row.filter(|row| !session::is_ended(row)) {
                (self.visit)(client.clone(), row);
            }
            self.last = Some(client);
        }
        self.left > 0
    }
}

/// Shard time at which a producer is forgotten.
pub(crate) fn producer_forgotten_ms(row: &ProducerRow) -> u64 {
    row.last_used_ms.saturating_add(FORGET_AFTER_MS)
}

fn scan<B: Base, V: Message + Default>(
    base: &B,
    table: u8,
    mut visit: impl FnMut(&[u8], V),
) -> Result<(), ShardError> {
    let mut failed = None;
    base.scan(&[table], None, &mut |key, value| match decode(key, value) {
        Ok(row) => {
            visit(key, row);
            true
        }
        Err(error) => {
            failed = Some(error);
            false
        }
    })?;
    failed.map_or(Ok(()), Err)
}
