//! Retained messages: one row a topic, the newest of each client wins.
//!
//! A cleared topic keeps its row for a while, so that an older message of the same client, whose second
//! step comes late, cannot bring it back.

use std::collections::HashSet;

use bytes::Bytes;
use holdfast_proto::ids::Namespace;
use holdfast_proto::record::{NEVER_EXPIRES, Record};
use holdfast_proto::shard::{RetainedRow, SetRetained};
use holdfast_proto::topic;

use crate::FORGET_AFTER_MS;
use crate::base::Base;
use crate::error::ShardError;
use crate::keys::{self, Key};
use crate::shard::Shard;
use crate::table::decode;

fn record(row: &RetainedRow) -> Option<Record> {
    Record::split_from(&mut row.record.clone()).ok()
}

/// Shard time at which the row is forgotten, if ever.
pub(crate) fn forgotten_ms(row: &RetainedRow) -> Option<u64> {
    let record = record(row)?;
    let kept_ms = if record.payload().is_empty() {
        FORGET_AFTER_MS
    } else if record.expiry_interval_s() == NEVER_EXPIRES {
        return None;
    } else {
        u64::from(record.expiry_interval_s()) * 1000 + FORGET_AFTER_MS
    };
    Some(row.time_ms.saturating_add(kept_ms))
}

/// Whether the row is a message that subscribers get at this time.
fn is_shown(row: &RetainedRow, time_ms: u64) -> bool {
    record(row).is_some_and(|record| {
        !record.payload().is_empty() && record.expiry_left_s(row.time_ms, time_ms) != Some(0)
    })
}

/// Whether the row stays: the same client published it later. All that one client publishes, its wills
/// too, is stored in one home shard, so positions alone tell.
fn is_later(row: &RetainedRow, set: &SetRetained) -> bool {
    row.client == set.client && row.home_position > set.home_position
}

impl<B: Base> Shard<B> {
    /// Sets, replaces or clears a retained message.
    pub(crate) fn set_retained(&mut self, set: SetRetained) -> Result<(), ShardError> {
        let key = Key::from(keys::retained(Namespace(set.namespace), &set.topic));
        let mut old_ms = None;
        if let Some(row) = self.retained.get(&self.base, &key)? {
            if is_later(&row, &set) {
                return Ok(());
            }
            old_ms = forgotten_ms(&row);
        }
        let row = RetainedRow {
            // The row outlives the entry: it must not keep the whole entry's memory.
            record: Bytes::copy_from_slice(&set.record),
            time_ms: set.time_ms,
            client: set.client,
            epoch: set.epoch,
            home_shard: set.home_shard,
            home_position: set.home_position,
        };
        self.index.forget(&key, old_ms, forgotten_ms(&row));
        self.retained.put(key, Some(row));
        Ok(())
    }

    /// Retained messages that match one of the (valid, not shared) filters, `limit` at most; neither
    /// cleared nor expired ones.
    ///
    /// # Errors
    /// The base cannot be read.
    pub fn retained(
        &self,
        namespace: Namespace,
        filters: &[String],
        limit: usize,
    ) -> Result<Vec<RetainedRow>, ShardError> {
        let mut found = Found { rows: Vec::new(), seen: HashSet::new(), limit };
        for filter in filters {
            if topic::has_wildcard(filter) {
                self.search(namespace, filter, &mut found)?;
                continue;
            }
            let key = keys::retained(namespace, filter);
            if let Some(row) = self.retained.get(&self.base, &key)?
                && is_shown(&row, self.row.time_ms)
            {
                found.add(&key, row.into_owned());
            }
        }
        Ok(found.rows)
    }

    /// Finds what one filter with wildcards matches.
    fn search(
        &self,
        namespace: Namespace,
        filter: &str,
        found: &mut Found,
    ) -> Result<(), ShardError> {
        let prefix = keys::retained(namespace, literal_prefix(filter));
        let matches = |key: &[u8]| keys::name(key).is_some_and(|name| topic::matches(filter, name));
        for (key, row) in self.retained.resident_below(&prefix) {
            if matches(key) && is_shown(row, self.row.time_ms) && !found.add(key, row.clone()) {
                return Ok(());
            }
        }
        let mut failed = None;
        self.base.scan(&prefix, None, &mut |key, value| {
            if self.retained.is_resident(key) || !matches(key) {
                return true;
            }
            match decode::<RetainedRow>(key, value) {
                Ok(row) => !is_shown(&row, self.row.time_ms) || found.add(key, row),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// The levels before the first wildcard, which every match starts with.
fn literal_prefix(filter: &str) -> &str {
    let wild = filter.find(['+', '#']).unwrap_or(filter.len());
    filter[..wild].strip_suffix('/').unwrap_or(&filter[..wild])
}

/// Rows found so far, each once.
struct Found {
    rows: Vec<RetainedRow>,
    seen: HashSet<Box<[u8]>>,
    limit: usize,
}

impl Found {
    /// Adds a row; returns whether there is room for more.
    fn add(&mut self, key: &[u8], row: RetainedRow) -> bool {
        if self.rows.len() < self.limit && self.seen.insert(key.into()) {
            self.rows.push(row);
        }
        self.rows.len() < self.limit
    }
}
