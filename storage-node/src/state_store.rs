//! Durable state of the site's replicas: one sled database, one tree a replica.
//!
//! Invariants:
//! * A replica's tree changes only by whole checkpoints, one atomic batch each, which carries the Raft
//!   log id that the state is of.
//! * After a checkpoint has returned its data is on the disk: sled's `flush` alone does not promise
//!   that, so its file is synced after it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use holdfast_log::ReplicaKey;
use holdfast_proto::storage::SnapshotMeta;
use holdfast_shard::{Base, BaseError};
use prost::Message;
use thiserror::Error;

/// Why the state could not be read or written. All of them mean: stop this site.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("state database: {0}")]
    Sled(#[from] sled::Error),
    #[error("state database file: {0}")]
    Io(#[from] io::Error),
    #[error("state database holds something unreadable: {0}")]
    Unreadable(#[from] prost::DecodeError),
    #[error("snapshot is malformed")]
    Snapshot,
    #[error(
        "state database is of format {found}, this version reads only format 1: a later version \
         wrote it; run that one, or give this one an empty data_dir"
    )]
    Format { found: String },
}

/// The site's database.
#[derive(Clone)]
pub(crate) struct StateStore {
    db: sled::Db,
    file: Arc<File>,
    blobs: PathBuf,
}

/// One replica's tree.
#[derive(Clone)]
pub(crate) struct ReplicaStore {
    store: StateStore,
    key: ReplicaKey,
    tree: sled::Tree,
}

/// A key and its value; `None` removes it.
pub(crate) type Pair = (Vec<u8>, Option<Bytes>);

/// Key of the Raft log id and membership that a tree's state is of. Shard rows never start with 0.
const APPLIED: &[u8] = &[0, 1];
/// Key of the version of everything in the database: keys, rows, their encoding.
const FORMAT_KEY: &[u8] = b"format";
/// The version that this code writes and reads.
const FORMAT: &[u8] = b"1";
/// Values above this size live in files of their own.
const BLOB_BYTES_MIN: usize = 32 * 1024;
const CACHE_BYTES: u64 = 24 * 1024 * 1024;

impl StateStore {
    /// Opens or makes the database in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<StateStore, StoreError> {
        let db = sled::Config::new()
            .path(dir)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES)
            .open()?;
        let file = Arc::new(File::open(dir.join("db"))?);
        let store = StateStore { db, file, blobs: dir.join("blobs") };
        match store.get(FORMAT_KEY)? {
            None => store.put(FORMAT_KEY, FORMAT)?,
            Some(found) if found == FORMAT => {}
            Some(found) => {
                return Err(StoreError::Format {
                    found: String::from_utf8_lossy(&found).into_owned(),
                });
            }
        }
        Ok(store)
    }

    pub(crate) fn replica(&self, key: ReplicaKey) -> Result<ReplicaStore, StoreError> {
        let name = format!("replica/{}/{}", key.shard.0, key.replica.0);
        let tree = self.db.open_tree(name)?;
        Ok(ReplicaStore { store: self.clone(), key, tree })
    }

    /// Replaces one of the site's own values, durably.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.db.insert(key, value)?;
        self.sync(value.len() >= BLOB_BYTES_MIN)
    }

    /// Notes that this site holds the replica: from now on its log must know it.
    pub(crate) fn remember_replica(&self, key: ReplicaKey) -> Result<(), StoreError> {
        self.put(&held_key(key), b"")
    }

    /// Forgets that this site held the replica.
    pub(crate) fn forget_replica(&self, key: ReplicaKey) -> Result<(), StoreError> {
        self.db.remove(held_key(key))?;
        self.sync(false)
    }

    /// Whether this site held the replica when it was stopped.
    pub(crate) fn remembers_replica(&self, key: ReplicaKey) -> Result<bool, StoreError> {
        Ok(self.db.contains_key(held_key(key))?)
    }

    /// One of the site's own values.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.db.get(key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn sync(&self, blobs: bool) -> Result<(), StoreError> {
        self.db.flush()?;
        if blobs && self.blobs.is_dir() {
            for entry in std::fs::read_dir(&self.blobs)? {
                // A blob that sled removes meanwhile needs no sync.
                match File::open(entry?.path()) {
                    Ok(file) => file.sync_data()?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.file.sync_data()?;
        Ok(())
    }

    /// Bytes of the database's files.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

fn held_key(key: ReplicaKey) -> Vec<u8> {
    format!("held/{}/{}", key.shard.0, key.replica.0).into_bytes()
}

impl ReplicaStore {
    /// The Raft log id and membership of the state, if there ever was a checkpoint.
    pub(crate) fn applied(&self) -> Result<Option<SnapshotMeta>, StoreError> {
        match self.tree.get(APPLIED)? {
            None => Ok(None),
            Some(value) => Ok(Some(SnapshotMeta::decode(&value[..])?)),
        }
    }

    /// Writes a checkpoint; durable when it returns. Blocks on the disk.
    pub(crate) fn checkpoint(&self, pairs: &[Pair], meta: &SnapshotMeta) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        self.write(&mut batch, pairs, meta)
    }

    /// Replaces all state by that of a snapshot; durable when it returns. Blocks on the disk.
    pub(crate) fn install(&self, pairs: &[Pair], meta: &SnapshotMeta) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for key in self.tree.iter().keys() {
            batch.remove(key?);
        }
        self.write(&mut batch, pairs, meta)
    }

    fn write(
        &self,
        batch: &mut sled::Batch,
        pairs: &[Pair],
        meta: &SnapshotMeta,
    ) -> Result<(), StoreError> {
        let mut blobs = false;
        for (key, value) in pairs {
            match value {
                Some(value) => {
                    blobs |= value.len() >= BLOB_BYTES_MIN;
                    batch.insert(key.as_slice(), &value[..]);
                }
                None => batch.remove(key.as_slice()),
            }
        }
        batch.insert(APPLIED, meta.encode_to_vec());
        self.tree.apply_batch(std::mem::take(batch))?;
        self.store.sync(blobs)
    }

    /// All pairs but the log id, as one block: the state part of a snapshot.
    pub(crate) fn dump(&self) -> Result<Bytes, StoreError> {
        let mut block = Vec::new();
        for pair in self.tree.iter() {
            let (key, value) = pair?;
            if &key[..] == APPLIED {
                continue;
            }
            for part in [&key[..], &value[..]] {
                block.extend_from_slice(&(part.len() as u32).to_le_bytes());
                block.extend_from_slice(part);
            }
        }
        Ok(block.into())
    }

    /// Forgets everything of this replica.
    pub(crate) fn clear(&self) -> Result<(), StoreError> {
        self.tree.clear()?;
        self.store.forget_replica(self.key)
    }
}

/// The pairs of a block that [`ReplicaStore::dump`] made.
pub(crate) fn parse_dump(mut block: Bytes) -> Result<Vec<Pair>, StoreError> {
    let mut part = || -> Result<Option<Bytes>, StoreError> {
        if block.is_empty() {
            return Ok(None);
        }
        let length = block.first_chunk::<4>().ok_or(StoreError::Snapshot)?;
        let length = u32::from_le_bytes(*length) as usize;
        if block.len() - 4 < length {
            return Err(StoreError::Snapshot);
        }
        let mut part = block.split_to(4 + length);
        Ok(Some(part.split_off(4)))
    };
    let mut pairs = Vec::new();
    while let Some(key) = part()? {
        let value = part()?.ok_or(StoreError::Snapshot)?;
        pairs.push((key.to_vec(), Some(value)));
    }
    Ok(pairs)
}

impl Base for ReplicaStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        match self.tree.get(key) {
            Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
            Err(error) => Err(BaseError(error.to_string())),
        }
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError> {
        let from = after.unwrap_or(prefix);
        for pair in self.tree.range(from..) {
            let (key, value) = pair.map_err(|error| BaseError(error.to_string()))?;
            if !key.starts_with(prefix) {
                break;
            }
            if after == Some(&key[..]) {
                continue;
            }
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::ids::{ReplicaId, ShardId};

    use super::*;

    fn open(dir: &Path) -> ReplicaStore {
        let key = ReplicaKey { shard: ShardId(1), replica: ReplicaId(2) };
        StateStore::open(dir).unwrap().replica(key).unwrap()
    }

    #[test]
    fn a_later_format_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        StateStore::open(dir.path()).unwrap().put(FORMAT_KEY, b"2").unwrap();
        let Err(refused) = StateStore::open(dir.path()) else { panic!("opened") };
        assert!(refused.to_string().contains("later version"), "{refused}");
    }

    #[test]
    fn a_checkpoint_is_found_after_a_restart_and_dumps_whole() {
        let dir = tempfile::tempdir().unwrap();
        let meta = SnapshotMeta { snapshot_id: "s".into(), ..Default::default() };
        let big = Bytes::from(vec![7; 100_000]);
        let pairs: Vec<Pair> =
            vec![(vec![1, 1], Some(big.clone())), (vec![1, 2], Some(Bytes::from_static(b"b")))];
        {
            let replica = open(dir.path());
            assert!(replica.applied().unwrap().is_none());
            replica.checkpoint(&pairs, &meta).unwrap();
            replica.checkpoint(&[(vec![1, 2], None)], &meta).unwrap();
        }
        let replica = open(dir.path());
        assert_eq!(replica.applied().unwrap(), Some(meta.clone()));
        assert_eq!(replica.get(&[1, 1]).unwrap(), Some(big));
        assert_eq!(replica.get(&[1, 2]).unwrap(), None);
        let dumped = parse_dump(replica.dump().unwrap()).unwrap();
        assert_eq!(dumped, pairs[..1]);
        replica.install(&pairs[1..], &meta).unwrap();
        assert_eq!(replica.get(&[1, 1]).unwrap(), None);
        assert!(parse_dump(Bytes::from_static(&[9, 0, 0, 0, 1])).is_err());
    }
}
