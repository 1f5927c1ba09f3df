//! Rows of one table: those in memory over those in the base.
//!
//! A row in memory is the newest. It stays there while the base may not have it (changed since the last
//! checkpoint, or part of one under way) and, as a cache, while its owner says so.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;

use crate::base::Base;
use crate::error::ShardError;
use crate::keys::Key;

/// Rows of one type, by key.
#[derive(Debug)]
pub(crate) struct Table<V> {
    resident: HashMap<Key, Slot<V>>,
    /// Keys of `resident` in order, for tables that are searched by prefix.
    ordered: Option<BTreeSet<Key>>,
    dirty: Vec<Key>,
    frozen: Vec<Key>,
}

#[derive(Debug)]
struct Slot<V> {
    /// `None`: the row was removed.
    row: Option<V>,
    dirty: bool,
    frozen: bool,
}

/// Decodes a row of the base.
pub(crate) fn decode<V: Message + Default>(key: &[u8], value: &[u8]) -> Result<V, ShardError> {
    V::decode(value).map_err(|error| ShardError::row(key, error))
}

impl<V: Message + Default + Clone> Table<V> {
    pub(crate) fn new() -> Table<V> {
        Table { resident: HashMap::new(), ordered: None, dirty: Vec::new(), frozen: Vec::new() }
    }

    /// A table whose resident rows can be searched by prefix.
    pub(crate) fn searchable() -> Table<V> {
        Table { ordered: Some(BTreeSet::new()), ..Table::new() }
    }

    /// The newest value of a row.
    pub(crate) fn get<B: Base>(
        &self,
        base: &B,
        key: &[u8],
    ) -> Result<Option<Cow<'_, V>>, ShardError> {
        if let Some(slot) = self.resident.get(key) {
            return Ok(slot.row.as_ref().map(Cow::Borrowed));
        }
        match base.get(key)? {
            None => Ok(None),
            Some(value) => Ok(Some(Cow::Owned(decode(key, &value)?))),
        }
    }

    /// As [`Table::get`], and keeps the row in memory.
    pub(crate) fn load<B: Base>(&mut self, base: &B, key: &[u8]) -> Result<Option<&V>, ShardError> {
        if !self.resident.contains_key(key) {
            let Some(value) = base.get(key)? else { return Ok(None) };
            self.keep(Key::from(key), decode(key, &value)?);
        }
        Ok(self.resident.get(key).and_then(|slot| slot.row.as_ref()))
    }

    /// Keeps a row of the base in memory.
    pub(crate) fn keep(&mut self, key: Key, row: V) {
        self.note(&key);
        self.resident.insert(key, Slot { row: Some(row), dirty: false, frozen: false });
    }

    /// A row in memory, to be changed.
    pub(crate) fn edit(&mut self, key: &[u8]) -> Option<&mut V> {
        let slot = self.resident.get_mut(key)?;
        if !slot.dirty && slot.row.is_some() {
            slot.dirty = true;
            self.dirty.push(Key::from(key));
        }
        slot.row.as_mut()
    }

    /// Sets or removes a row.
    pub(crate) fn put(&mut self, key: Key, row: Option<V>) {
        if let Some(slot) = self.resident.get_mut(&key) {
            slot.row = row;
            if !slot.dirty {
                slot.dirty = true;
                self.dirty.push(key);
            }
            return;
        }
        self.note(&key);
        self.dirty.push(key.clone());
        self.resident.insert(key, Slot { row, dirty: true, frozen: false });
    }

    fn note(&mut self, key: &Key) {
        if let Some(ordered) = &mut self.ordered {
            ordered.insert(key.clone());
        }
    }

    /// Whether the row, or its absence, is in memory: then the base may be behind.
    pub(crate) fn is_resident(&self, key: &[u8]) -> bool {
        self.resident.contains_key(key)
    }

    /// All rows in memory.
    pub(crate) fn resident(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.resident.iter().filter_map(|(key, slot)| Some((key, slot.row.as_ref()?)))
    }

    /// Keys above `after` whose row, or its absence, is in memory, in order; none of a table that is
    /// not searchable.
    pub(crate) fn resident_after<'a>(
        &'a self,
        after: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, Option<&'a V>)> {
        let after = (Bound::Excluded(Key::from(after)), Bound::Unbounded);
        let keys = self.ordered.iter().flat_map(move |keys| keys.range(after.clone()));
        keys.filter_map(|key| Some((key, self.resident.get(key)?.row.as_ref())))
    }

    /// Rows in memory whose key starts with `prefix`, in order; none of a table that is not searchable.
    pub(crate) fn resident_below<'a>(
        &'a self,
        prefix: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, &'a V)> {
        let keys = self.ordered.iter().flat_map(move |keys| keys.range(Key::from(prefix)..));
        keys.take_while(move |key| key.starts_with(prefix))
            .filter_map(|key| Some((key, self.resident.get(key)?.row.as_ref()?)))
    }

    /// Hands out everything that the base may not have, as of now.
    pub(crate) fn freeze(&mut self, pairs: &mut Vec<(Vec<u8>, Option<Bytes>)>) {
        for key in self.dirty.drain(..) {
            let Some(slot) = self.resident.get_mut(&key) else { continue };
            slot.dirty = false;
            if !slot.frozen {
                slot.frozen = true;
                self.frozen.push(key);
            }
        }
        for key in &self.frozen {
            let Some(slot) = self.resident.get(key) else { continue };
            let value = slot.row.as_ref().map(|row| Bytes::from(row.encode_to_vec()));
            pairs.push((key.to_vec(), value));
        }
    }

    /// What was handed out is in the base now. Keeps rows that changed since, and those that `keep`
    /// wants cached.
    pub(crate) fn thaw(&mut self, keep: impl Fn(&V) -> bool) {
        for key in self.frozen.drain(..) {
            if let Some(slot) = self.resident.get_mut(&key) {
                slot.frozen = false;
            }
        }
        let ordered = &mut self.ordered;
        self.resident.retain(|key, slot| {
            let kept = slot.dirty || slot.row.as_ref().is_some_and(&keep);
            if !kept && let Some(ordered) = ordered {
                ordered.remove(key);
            }
            kept
        });
        if self.resident.capacity() > 4 * self.resident.len() + 1024 {
            self.resident.shrink_to_fit();
        }
    }
}
