//! The durable pairs of one replica, in one file that is replaced as a whole: what the state database is
//! to a real site.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_log::{Disk, OpenOptions, ReplicaKey, SimDisk};
use holdfast_shard::{Base, BaseError};
use parking_lot::Mutex;

const DIR: &str = "state";

pub(crate) type Pairs = BTreeMap<Vec<u8>, Bytes>;
pub(crate) type Changes = [(Vec<u8>, Option<Bytes>)];

/// Term and index of a log entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LogId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

impl LogId {
    pub(crate) fn encode(self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64_le(self.term);
        out.put_u64_le(self.index);
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> LogId {
        LogId { term: bytes.get_u64_le(), index: bytes.get_u64_le() }
    }
}

/// The pairs and the entry that they are of. Clones are the same.
#[derive(Clone)]
pub(crate) struct DiskBase {
    disk: SimDisk,
    path: String,
    state: Arc<Mutex<(LogId, Pairs)>>,
}

impl DiskBase {
    pub(crate) fn open(disk: &SimDisk, key: ReplicaKey) -> DiskBase {
        let path = format!("{DIR}/{}-{}", key.shard.0, key.replica.0);
        let state = match disk.content(&path) {
            Ok(content) => read(&content),
            Err(_) => (LogId::default(), Pairs::new()),
        };
        DiskBase { disk: disk.clone(), path, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn applied(&self) -> LogId {
        self.state.lock().0
    }

    pub(crate) fn pairs(&self) -> Pairs {
        self.state.lock().1.clone()
    }

    /// The pairs with these changes.
    pub(crate) fn with(&self, changes: &Changes) -> Pairs {
        let mut pairs = self.pairs();
        for (key, value) in changes {
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        pairs
    }

    /// Replaces everything; durable when it returns, unchanged if it fails.
    pub(crate) fn replace(&self, applied: LogId, pairs: Pairs) -> io::Result<()> {
        let mut body = BytesMut::new();
        body.put_slice(&applied.encode());
        for (key, value) in &pairs {
            for part in [&key[..], &value[..]] {
                body.put_u32_le(part.len() as u32);
                body.put_slice(part);
            }
        }
        let crc = crc32c::crc32c(&body).to_le_bytes();
        let temporary = format!("{}.tmp", self.path);
        self.disk.create_dir(DIR)?;
        let file = self.disk.open(&temporary, OpenOptions::CREATE)?;
        file.truncate(0)?;
        file.write_all_at(&mut [IoSlice::new(&crc), IoSlice::new(&body)], 0)?;
        file.sync_data()?;
        self.disk.rename(&temporary, &self.path)?;
        self.disk.sync_dir(DIR)?;
        *self.state.lock() = (applied, pairs);
        Ok(())
    }
}

fn read(content: &[u8]) -> (LogId, Pairs) {
    let (crc, mut rest) = content.split_at(4);
    assert_eq!(crc, crc32c::crc32c(rest).to_le_bytes(), "a checkpoint is whole or not there");
    let applied = LogId::decode(rest);
    rest.advance(16);
    let mut part = || {
        let length = rest.get_u32_le() as usize;
        let (part, after) = rest.split_at(length);
        rest = after;
        (part.to_vec(), rest.is_empty())
    };
    let mut pairs = Pairs::new();
    let mut done = content.len() == 20;
    while !done {
        let (key, _) = part();
        let (value, last) = part();
        pairs.insert(key, value.into());
        done = last;
    }
    (applied, pairs)
}

impl Base for DiskBase {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BaseError> {
        Ok(self.state.lock().1.get(key).cloned())
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), BaseError> {
        let state = self.state.lock();
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let below = state.1.range::<[u8], _>((from, Bound::Unbounded));
        for (key, value) in below.take_while(|(key, _)| key.starts_with(prefix)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
