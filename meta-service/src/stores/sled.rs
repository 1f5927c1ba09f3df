//! One process's store, in sled.
//!
//! Invariants:
//! * A commit is answered after `flush` *and* `fdatasync` of sled's file: `flush` alone loses acknowledged
//!   writes when the power goes. One thread commits; everything that was queued meanwhile is one batch, one
//!   flush and one sync.
//! * Nobody reads what is not synced: readers wait while a batch is on its way.
//! * After a failed write or sync nothing is known to be durable: the store answers `Stopped` for ever.
//!
//! Layout (this file owns every byte): `m` → magic, format version, revision; `d` key → revision of the last
//! write, lease or 0, value; `l` lease → its time in ms; `a` lease key → (key is attached). Numbers are
//! big-endian `u64`. Sled keeps checksums of its own.

mod batch;
mod watches;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::Path,
    sync::{Arc, mpsc as sync},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use self::{
    batch::{Batch, read_entry},
    watches::Watches,
};
use crate::{
    metrics,
    store::{
        Answer, Committed, Entry, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch,
    },
};

const MAGIC: &[u8; 4] = b"HFMS";
const FORMAT_VERSION: u64 = 1;
const HEAD_KEY: &[u8] = b"m";

/// Sled's memory for pages.
const CACHE_BYTES: u64 = 16 << 20;
/// Requests that wait for the committer.
const QUEUE_MAX: usize = 4096;
/// Requests that one sync serves.
const GROUP_MAX: usize = 1024;

/// Why a data directory cannot be used. Stop: a human must look.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Sled says so.
    #[error("cannot open the store: {0}")]
    Sled(#[from] sled::Error),
    /// The system says so.
    #[error("cannot open the store: {0}")]
    Io(#[from] io::Error),
    /// Another program's, or a later version's.
    #[error(
        "the data directory holds something else than a metadata store of format {FORMAT_VERSION}"
    )]
    Format,
}

/// The store. Dropping it ends its thread once the queue is empty.
#[derive(Debug)]
pub struct SledStore {
    queue: Option<sync::SyncSender<Request>>,
    committer: Option<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    db: sled::Db,
    /// Held for writing from a batch's write to the end of its sync; the newest synced revision.
    synced: RwLock<Revision>,
    watches: Mutex<Watches>,
    leases: Mutex<BTreeMap<LeaseId, Lease>>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

enum Request {
    Commit(Txn, oneshot::Sender<Result<Committed, StoreError>>),
    Grant(Duration, oneshot::Sender<Result<LeaseId, StoreError>>),
    Revoke(LeaseId, Option<oneshot::Sender<Result<(), StoreError>>>),
}

impl SledStore {
    /// Opens the store in a directory of its own, or begins one there.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn open(directory: &Path) -> Result<SledStore, OpenError> {
        let config = sled::Config::new().path(directory).cache_capacity(CACHE_BYTES);
        let db = config.flush_every_ms(None).open()?;
        let file = File::open(directory.join("db"))?;
        let revision = match db.get(HEAD_KEY)? {
            Some(head) => read_head(&head).ok_or(OpenError::Format)?,
            None if !db.is_empty() => return Err(OpenError::Format),
            None => {
                db.insert(HEAD_KEY, write_head(1))?;
                db.flush()?;
                file.sync_all()?;
                File::open(directory)?.sync_all()?;
                1
            }
        };
        let leases = read_leases(&db, Instant::now())?;
        let shared = Arc::new(Shared {
            db,
            synced: RwLock::new(revision),
            watches: Mutex::new(Watches::new(revision)),
            leases: Mutex::new(leases),
        });
        let (queue, requests) = sync::sync_channel(QUEUE_MAX);
        let committer = Committer { shared: shared.clone(), file, revision, next_lease: None };
        let committer = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run(&requests))?;
        Ok(SledStore { queue: Some(queue), committer: Some(committer), shared })
    }

    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Answer<'_, T> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Stopped("its committer ended".to_owned());
        let sent = match self.queue.as_ref().map(|queue| queue.try_send(request(reply))) {
            Some(Ok(())) => Ok(()),
            Some(Err(sync::TrySendError::Full(_))) => {
                Err(StoreError::Unavailable("its queue is full".to_owned()))
            }
            Some(Err(sync::TrySendError::Disconnected(_))) | None => Err(stopped()),
        };
        Box::pin(async move {
            sent?;
            answer.await.unwrap_or_else(|_| Err(stopped()))
        })
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(committer) = self.committer.take() {
            // A panic of the committer was answered to everybody who waited.
            let _ = committer.join();
        }
    }
}

impl Store for SledStore {
    fn is_shared(&self) -> bool {
        false
    }

    fn commit(&self, txn: Txn) -> Answer<'_, Committed> {
        if let Err(invalid) = txn.check() {
            return Box::pin(std::future::ready(Err(invalid)));
        }
        self.ask(|reply| Request::Commit(txn, reply))
    }

    fn range(&self, range: Range) -> Answer<'_, Page> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || shared.range(&range)).await;
            read.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
        })
    }

    fn watch(&self, prefix: Bytes, from: Revision) -> Answer<'_, Watch> {
        let watch = self.shared.watches.lock().add(prefix, from);
        Box::pin(std::future::ready(watch))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.ask(|reply| Request::Grant(ttl, reply))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        let mut leases = self.shared.leases.lock();
        let known = leases.get_mut(&lease).map(|lease| lease.ends = Instant::now() + lease.ttl);
        Box::pin(std::future::ready(known.ok_or(StoreError::LeaseOver(lease))))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.ask(|reply| Request::Revoke(lease, Some(reply)))
    }
}

impl Shared {
    fn range(&self, range: &Range) -> Result<Page, StoreError> {
        let revision = self.synced.read();
        let mut page = Page { revision: *revision, ..Page::default() };
        let prefix = batch::data_key(&range.prefix);
        let begin = if range.after >= range.prefix {
            batch::data_key(&range.after)
        } else {
            prefix.clone()
        };
        for item in self.db.range(begin..) {
            let (key, value) = item.map_err(stopped)?;
            if !key.starts_with(&prefix) {
                break;
            }
            let key = Bytes::copy_from_slice(&key[1..]);
            if key == range.after && !range.after.is_empty() {
                continue;
            }
            if page.entries.len() == range.limit {
                page.more = true;
                break;
            }
            let (modified, _, value) = read_entry(&value).ok_or_else(damaged)?;
            page.entries.push(Entry { key, value: Bytes::copy_from_slice(value), modified });
        }
        Ok(page)
    }
}

struct Committer {
    shared: Arc<Shared>,
    file: File,
    revision: Revision,
    next_lease: Option<u64>,
}

impl Committer {
    fn run(mut self, requests: &sync::Receiver<Request>) {
        loop {
            let mut group = match self.wait(requests) {
                Ok(request) => request.into_iter().collect::<Vec<_>>(),
                Err(sync::RecvTimeoutError::Disconnected) => return,
                Err(sync::RecvTimeoutError::Timeout) => Vec::new(),
            };
            group.extend(self.leases_over().into_iter().map(|lease| Request::Revoke(lease, None)));
            group.extend(requests.try_iter().take(GROUP_MAX));
            if let Err(error) = self.commit(group) {
                tracing::error!(%error, "store stopped");
                return;
            }
        }
    }

    fn wait(
        &self,
        requests: &sync::Receiver<Request>,
    ) -> Result<Option<Request>, sync::RecvTimeoutError> {
        let first = self.shared.leases.lock().values().map(|lease| lease.ends).min();
        match first {
            None => requests.recv().map(Some).map_err(|_| sync::RecvTimeoutError::Disconnected),
            Some(ends) => {
                match requests.recv_timeout(ends.saturating_duration_since(Instant::now())) {
                    Err(sync::RecvTimeoutError::Timeout) => Ok(None),
                    other => other.map(Some),
                }
            }
        }
    }

    fn leases_over(&self) -> Vec<LeaseId> {
        let now = Instant::now();
        let leases = self.shared.leases.lock();
        leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
    }

    /// Decides the group's requests in order, makes them durable at once, and answers them.
    fn commit(&mut self, group: Vec<Request>) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut batch = Batch::new(&shared.db, self.revision);
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::with_capacity(group.len());
        for request in group {
            match request {
                Request::Commit(txn, reply) => {
                    let committed =
                        batch.txn(txn, &|lease| shared.leases.lock().contains_key(&lease));
                    let committed = match committed {
                        Err(StoreError::Stopped(reason)) => {
                            return Err(StoreError::Stopped(reason));
                        }
                        other => other,
                    };
                    answers.push(Box::new(move || drop(reply.send(committed))));
                }
                Request::Grant(ttl, reply) => {
                    let lease = self.mint_lease(&shared.db)?;
                    batch.grant(lease, ttl);
                    shared.leases.lock().insert(lease, Lease { ttl, ends: Instant::now() + ttl });
                    answers.push(Box::new(move || drop(reply.send(Ok(lease)))));
                }
                Request::Revoke(lease, reply) => {
                    shared.leases.lock().remove(&lease);
                    batch.revoke(lease)?;
                    if let Some(reply) = reply {
                        answers.push(Box::new(move || drop(reply.send(Ok(())))));
                    }
                }
            }
        }
        self.sync(batch)?;
        for answer in answers {
            answer();
        }
        Ok(())
    }

    fn sync(&mut self, batch: Batch<'_>) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let (mut writes, revision, changes) = batch.into_parts();
        writes.insert(HEAD_KEY, write_head(revision));
        let mut synced = self.shared.synced.write();
        self.shared.db.apply_batch(writes).map_err(stopped)?;
        self.shared.db.flush().map_err(stopped)?;
        self.file.sync_data().map_err(stopped)?;
        *synced = revision;
        self.revision = revision;
        drop(synced);
        self.shared.watches.lock().publish(changes);
        metrics::store_synced(began.elapsed());
        Ok(())
    }

    fn mint_lease(&mut self, db: &sled::Db) -> Result<LeaseId, StoreError> {
        let next = match self.next_lease {
            Some(next) => next,
            None => {
                let last = db.scan_prefix(b"l").keys().next_back().transpose().map_err(stopped)?;
                let last = last.and_then(|key| key[1..].try_into().ok().map(u64::from_be_bytes));
                // Above every revision too, so that an id is not used again after its lease is gone.
                last.unwrap_or(0).max(self.revision) + 1
            }
        };
        self.next_lease = Some(next + 1);
        Ok(LeaseId(next))
    }
}

fn stopped(error: impl std::fmt::Display) -> StoreError {
    StoreError::Stopped(error.to_string())
}

fn damaged() -> StoreError {
    StoreError::Stopped("a value in the store is too short".to_owned())
}

fn write_head(revision: Revision) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(FORMAT_VERSION.to_be_bytes());
    head.extend(revision.to_be_bytes());
    head
}

fn read_head(head: &[u8]) -> Option<Revision> {
    let rest = head.strip_prefix(MAGIC)?;
    let (version, revision) = rest.split_first_chunk::<8>()?;
    let revision = revision.try_into().ok().map(u64::from_be_bytes)?;
    (u64::from_be_bytes(*version) == FORMAT_VERSION).then_some(revision)
}

/// Leases outlive the process; each has its whole time again.
fn read_leases(db: &sled::Db, now: Instant) -> Result<BTreeMap<LeaseId, Lease>, OpenError> {
    let mut leases = BTreeMap::new();
    for item in db.scan_prefix(b"l") {
        let (key, value) = item?;
        let id = key[1..].try_into().map(u64::from_be_bytes).map_err(|_| OpenError::Format)?;
        let ttl =
            value.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| OpenError::Format)?;
        let ttl = Duration::from_millis(ttl);
        leases.insert(LeaseId(id), Lease { ttl, ends: now + ttl });
    }
    Ok(leases)
}
