//! A group of transactions on its way to one sled batch: each is decided on what the ones before it wrote.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use sled::IVec;

use super::{damaged, stopped};
use crate::store::{
    Change, Changes, Committed, Compare, Entry, LeaseId, Op, Revision, StoreError, Txn,
};

pub(super) fn data_key(key: &[u8]) -> Vec<u8> {
    [b"d", key].concat()
}

fn lease_key(lease: LeaseId) -> Vec<u8> {
    [b"l".as_slice(), &lease.0.to_be_bytes()].concat()
}

fn attached_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    [b"a".as_slice(), &lease.0.to_be_bytes(), key].concat()
}

/// Revision of the last write, lease (0: none) and value.
pub(super) fn read_entry(stored: &[u8]) -> Option<(Revision, u64, &[u8])> {
    let (modified, rest) = stored.split_first_chunk::<8>()?;
    let (lease, value) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*modified), u64::from_be_bytes(*lease), value))
}

pub(super) struct Batch<'a> {
    db: &'a sled::Db,
    revision: Revision,
    /// Raw keys of sled; nothing: to be removed.
    writes: HashMap<Vec<u8>, Option<IVec>>,
    changes: Vec<Changes>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(db: &'a sled::Db, revision: Revision) -> Batch<'a> {
        Batch { db, revision, writes: HashMap::new(), changes: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn into_parts(self) -> (sled::Batch, Revision, Vec<Changes>) {
        let mut writes = sled::Batch::default();
        for (key, value) in self.writes {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        (writes, self.revision, self.changes)
    }

    fn get(&self, raw: &[u8]) -> Result<Option<IVec>, StoreError> {
        match self.writes.get(raw) {
            Some(pending) => Ok(pending.clone()),
            None => self.db.get(raw).map_err(stopped),
        }
    }

    pub(super) fn txn(
        &mut self,
        txn: Txn,
        lives: &dyn Fn(LeaseId) -> bool,
    ) -> Result<Committed, StoreError> {
        for op in &txn.ops {
            match op {
                Op::Put { lease: Some(lease), .. } if !lives(*lease) => {
                    return Err(StoreError::LeaseOver(*lease));
                }
                _ => {}
            }
        }
        for compare in &txn.compares {
            if !self.holds(compare)? {
                return Ok(Committed::Refused);
            }
        }
        if txn.ops.is_empty() {
            return Ok(Committed::Yes(self.revision));
        }
        self.revision += 1;
        let mut changes = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            match op {
                Op::Put { key, value, lease } => self.put(key, value, lease, &mut changes)?,
                Op::Delete(key) => self.delete(key, &mut changes)?,
            }
        }
        self.changes.push(Changes { revision: self.revision, changes: changes.into() });
        Ok(Committed::Yes(self.revision))
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let key = match compare {
            Compare::Absent(key) | Compare::Unchanged(key, _) | Compare::Value(key, _) => key,
        };
        let stored = self.get(&data_key(key))?;
        let entry =
            stored.as_deref().map(|stored| read_entry(stored).ok_or_else(damaged)).transpose()?;
        Ok(match (compare, entry) {
            (Compare::Absent(_), entry) => entry.is_none(),
            (Compare::Unchanged(_, revision), Some((modified, ..))) => modified == *revision,
            (Compare::Value(_, wanted), Some((_, _, value))) => value == wanted,
            (_, None) => false,
        })
    }

    fn put(
        &mut self,
        key: Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
        changes: &mut Vec<Change>,
    ) -> Result<(), StoreError> {
        self.detach(&key)?;
        let id = lease.map_or(0, |lease| lease.0);
        let head = [self.revision.to_be_bytes(), id.to_be_bytes()].concat();
        self.writes.insert(data_key(&key), Some([head.as_slice(), &value].concat().into()));
        if let Some(lease) = lease {
            self.writes.insert(attached_key(lease, &key), Some(IVec::default()));
        }
        changes.push(Change::Put(Entry { key, value, modified: self.revision }));
        Ok(())
    }

    fn delete(&mut self, key: Bytes, changes: &mut Vec<Change>) -> Result<(), StoreError> {
        if self.detach(&key)? {
            self.writes.insert(data_key(&key), None);
            changes.push(Change::Delete(key));
        }
        Ok(())
    }

    /// Whether the key is there; it is attached to no lease from here on.
    fn detach(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let Some(stored) = self.get(&data_key(key))? else { return Ok(false) };
        let (_, lease, _) = read_entry(&stored).ok_or_else(damaged)?;
        if lease != 0 {
            self.writes.insert(attached_key(LeaseId(lease), key), None);
        }
        Ok(true)
    }

    pub(super) fn grant(&mut self, lease: LeaseId, ttl: Duration) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.writes.insert(lease_key(lease), Some(ttl_ms.to_be_bytes().as_slice().into()));
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let prefix = attached_key(lease, &[]);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for raw in self.db.scan_prefix(&prefix).keys() {
            keys.push(raw.map_err(stopped)?.to_vec());
        }
        keys.extend(self.writes.keys().filter(|raw| raw.starts_with(&prefix)).cloned());
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|raw| self.writes.get(raw).is_none_or(Option::is_some));
        self.writes.insert(lease_key(lease), None);
        if keys.is_empty() {
            return Ok(());
        }
        self.revision += 1;
        let mut changes = Vec::with_capacity(keys.len());
        for raw in keys {
            self.delete(Bytes::copy_from_slice(&raw[prefix.len()..]), &mut changes)?;
        }
        self.changes.push(Changes { revision: self.revision, changes: changes.into() });
        Ok(())
    }
}
