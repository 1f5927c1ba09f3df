//! Several transactions as one of etcd's: which fit together, and which of them it was that did not hold.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use etcd_client::{
    Compare as EtcdCompare, CompareOp, GetOptions, PutOptions, Txn as EtcdTxn, TxnOp,
};

use super::{Keys, identity};
use crate::store::{Compare, OPS_MAX, Op, Revision, Txn};

/// Bytes of keys and values of several transactions as one. One alone may have more.
const BYTES_MAX: usize = 1 << 20;

/// Several transactions with nothing to do with each other.
#[derive(Debug, Default)]
pub(super) struct Merged {
    compares: HashMap<Bytes, Vec<Compare>>,
    compare_count: usize,
    written: HashSet<Bytes>,
    bytes: usize,
}

impl Merged {
    /// Takes a transaction in, unless it touches what another writes, or the sum breaks a limit.
    pub(super) fn take(&mut self, txn: &Txn) -> bool {
        let new = |compare: &&Compare| {
            !self.compares.get(compare.key()).is_some_and(|known| known.contains(compare))
        };
        let compare_count = self.compare_count + txn.compares.iter().filter(new).count();
        let bytes = self.bytes + size(txn);
        let first = self.compares.is_empty() && self.written.is_empty();
        let fits = compare_count <= OPS_MAX
            && self.written.len() + txn.ops.len() <= OPS_MAX
            && bytes <= BYTES_MAX;
        let taken = first || (fits && self.is_apart(txn));
        if !taken {
            return false;
        }
        for compare in &txn.compares {
            let known = self.compares.entry(compare.key().clone()).or_default();
            if !known.contains(compare) {
                known.push(compare.clone());
                self.compare_count += 1;
            }
        }
        self.written.extend(txn.ops.iter().map(|op| op.key().clone()));
        self.bytes = bytes;
        true
    }

    fn is_apart(&self, txn: &Txn) -> bool {
        let written = txn.ops.iter().map(Op::key);
        let mut compared = txn.compares.iter().map(|compare| (compare.key(), compare));
        written
            .into_iter()
            .all(|key| !self.written.contains(key) && !self.compares.contains_key(key))
            && compared.all(|(key, compare)| {
                !self.written.contains(key)
                    && self.compares.get(key).is_none_or(|known| known.contains(compare))
            })
    }
}

/// The request. If a condition does not hold, its answer has what the conditions look at.
pub(super) fn request<'a>(txns: impl Iterator<Item = &'a Txn> + Clone, keys: &Keys) -> EtcdTxn {
    let mut compares: Vec<&Compare> = Vec::new();
    let mut looked_at = Vec::new();
    for compare in txns.clone().flat_map(|txn| &txn.compares) {
        if !compares.contains(&compare) {
            compares.push(compare);
            let options = match compare {
                Compare::Value(..) => GetOptions::new(),
                Compare::Absent(_) | Compare::Unchanged(..) => GetOptions::new().with_keys_only(),
            };
            looked_at.push(TxnOp::get(keys.full(compare.key()), Some(options)));
        }
    }
    let mut ops: Vec<TxnOp> = txns.flat_map(|txn| &txn.ops).map(|op| encode(op, keys)).collect();
    if ops.is_empty()
        && let Some(compare) = compares.first()
    {
        // etcd decides a transaction without operations on what one member happens to have.
        let options = Some(GetOptions::new().with_keys_only());
        ops.push(TxnOp::get(keys.full(compare.key()), options));
    }
    let compares: Vec<_> = compares.into_iter().map(|compare| condition(compare, keys)).collect();
    EtcdTxn::new().when(compares).and_then(ops).or_else(looked_at)
}

fn encode(op: &Op, keys: &Keys) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0.cast_signed()));
            TxnOp::put(keys.full(key), value.to_vec(), options)
        }
        Op::Delete(key) => TxnOp::delete(keys.full(key), None),
    }
}

fn condition(compare: &Compare, keys: &Keys) -> EtcdCompare {
    let key = keys.full(compare.key());
    match compare {
        Compare::Absent(_) => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::Unchanged(_, revision) => {
            EtcdCompare::mod_revision(key, CompareOp::Equal, identity::signed(*revision))
        }
        Compare::Value(_, value) => EtcdCompare::value(key, CompareOp::Equal, value.to_vec()),
    }
}

/// What is at a key: its revision and, if it was asked for, its value.
pub(super) type Found = HashMap<Bytes, (Revision, Bytes)>;

/// Whether all of a transaction's conditions hold on this.
pub(super) fn holds(txn: &Txn, found: &Found) -> bool {
    txn.compares.iter().all(|compare| match (compare, found.get(compare.key())) {
        (Compare::Absent(_), found) => found.is_none(),
        (Compare::Unchanged(_, wanted), Some((revision, _))) => revision == wanted,
        (Compare::Value(_, wanted), Some((_, value))) => value == wanted,
        (_, None) => false,
    })
}

/// The one revision, above `mark`, that wrote everything that these transactions put, if there is one.
pub(super) fn written_at<'a>(
    txns: impl Iterator<Item = &'a Txn>,
    found: &Found,
    mark: Revision,
) -> Option<Revision> {
    let mut at = None;
    for op in txns.flat_map(|txn| &txn.ops) {
        match (op, found.get(op.key())) {
            (Op::Put { value, .. }, Some((revision, there)))
                if there == value
                    && *revision > mark
                    && *at.get_or_insert(*revision) == *revision => {}
            (Op::Delete(_), None) => {}
            _ => return None,
        }
    }
    at
}

/// A later write of a key in one transaction replaces an earlier one; etcd refuses both together.
pub(super) fn without_repeats(mut txn: Txn) -> Txn {
    let mut seen = HashSet::new();
    txn.ops.reverse();
    txn.ops.retain(|op| seen.insert(op.key().clone()));
    txn.ops.reverse();
    txn
}

fn size(txn: &Txn) -> usize {
    let compared = |compare: &Compare| match compare {
        Compare::Value(key, value) => key.len() + value.len(),
        Compare::Absent(key) | Compare::Unchanged(key, _) => key.len(),
    };
    let written = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    };
    txn.compares.iter().map(compared).sum::<usize>() + txn.ops.iter().map(written).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Txn {
        Txn { compares: vec![], ops: vec![Op::put(key, "x")] }
    }

    fn fenced(fence: Revision, key: &'static str) -> Txn {
        Txn { compares: vec![Compare::Unchanged("fence".into(), fence)], ..put(key) }
    }

    #[test]
    fn those_apart_are_merged_and_equal_conditions_count_once() {
        let mut merged = Merged::default();
        assert!(merged.take(&fenced(1, "a")) && merged.take(&fenced(1, "b")));
        assert_eq!(merged.compare_count, 1);
        assert!(!merged.take(&put("a")), "written twice");
        assert!(!merged.take(&put("fence")), "a neighbour looks at it");
        assert!(!merged.take(&fenced(2, "c")), "both cannot hold");
        let looks = Txn { compares: vec![Compare::Absent("b".into())], ops: vec![] };
        assert!(!merged.take(&looks), "a neighbour writes it");
    }

    #[test]
    fn limits_hold_for_the_sum_and_one_alone_is_always_taken() {
        let mut merged = Merged::default();
        for n in 0..OPS_MAX {
            let txn = Txn { compares: vec![], ops: vec![Op::put(n.to_string(), "x")] };
            assert!(merged.take(&txn));
        }
        assert!(!merged.take(&put("one more")));
        let large = Txn { compares: vec![], ops: vec![Op::put("k", vec![0; BYTES_MAX])] };
        let mut merged = Merged::default();
        assert!(merged.take(&large) && !merged.take(&put("a")));
    }

    #[test]
    fn what_was_written_is_recognised() {
        let txns = [put("a"), put("b")];
        let found = |revisions: [Revision; 2]| {
            let at = |n: usize| (revisions[n], Bytes::from("x"));
            Found::from([("a".into(), at(0)), ("b".into(), at(1))])
        };
        assert_eq!(written_at(txns.iter(), &found([7, 7]), 6), Some(7));
        assert_eq!(written_at(txns.iter(), &found([7, 8]), 6), None, "not together");
        assert_eq!(written_at(txns.iter(), &found([7, 7]), 7), None, "by somebody before");
    }
}
