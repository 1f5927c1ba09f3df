//! Who has not been heard of for a full lease.
//!
//! Invariant: a peer's lease is over only when this controller was itself running for a full lease and
//! heard nothing of the peer in that time. Hence every known peer gets a fresh lease when the controller
//! starts, and again whenever its own loop stood still for more than half a lease: what peers sent
//! meanwhile may wait unread, so their silence proves nothing.

use std::collections::BTreeMap;

/// Leases of one kind of peers, on the controller's own monotone clock (ms).
#[derive(Debug)]
pub struct Leases<K> {
    lease_ms: u64,
    heard_ms: BTreeMap<K, u64>,
    turned_ms: u64,
}

impl<K: Ord + Copy> Leases<K> {
    /// Leases of `known` peers, each fresh at `now_ms`.
    pub fn new(lease_ms: u64, known: impl IntoIterator<Item = K>, now_ms: u64) -> Leases<K> {
        let heard_ms = known.into_iter().map(|peer| (peer, now_ms)).collect();
        Leases { lease_ms, heard_ms, turned_ms: now_ms }
    }

    /// To be called with every turn of the controller's loop, before anything else. True: the loop had
    /// stood still, and everybody has a fresh lease.
    pub fn turn(&mut self, now_ms: u64) -> bool {
        let stalled = now_ms.saturating_sub(self.turned_ms) > self.lease_ms / 2;
        self.turned_ms = now_ms;
        if stalled {
            for heard_ms in self.heard_ms.values_mut() {
                *heard_ms = now_ms;
            }
        }
        stalled
    }

    /// The peer was heard of.
    pub fn renew(&mut self, peer: K, now_ms: u64) {
        self.heard_ms.insert(peer, now_ms);
    }

    /// The peer no longer holds a lease (it left, or was declared dead).
    pub fn forget(&mut self, peer: K) {
        self.heard_ms.remove(&peer);
    }

    /// Whether the peer holds a lease, be it over or not.
    pub fn holds(&self, peer: K) -> bool {
        self.heard_ms.contains_key(&peer)
    }

    /// How long the peer has been silent; nothing if it holds no lease.
    pub fn silent_ms(&self, peer: K, now_ms: u64) -> Option<u64> {
        self.heard_ms.get(&peer).map(|heard_ms| now_ms.saturating_sub(*heard_ms))
    }

    /// Peers whose lease is over.
    pub fn over(&self, now_ms: u64) -> Vec<K> {
        let over = |heard_ms: &u64| now_ms.saturating_sub(*heard_ms) > self.lease_ms;
        self.heard_ms.iter().filter(|(_, heard_ms)| over(heard_ms)).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(leases: &mut Leases<u8>, from: u64, to: u64) {
        for now in (from..=to).step_by(100) {
            assert!(!leases.turn(now));
        }
    }

    #[test]
    fn silence_for_a_lease_ends_it() {
        let mut leases = Leases::new(1000, [], 0);
        leases.renew(1, 0);
        leases.renew(2, 0);
        run(&mut leases, 0, 500);
        leases.renew(2, 500);
        run(&mut leases, 600, 1000);
        assert!(leases.over(1000).is_empty());
        run(&mut leases, 1100, 1100);
        assert_eq!(leases.over(1100), [1]);
    }

    #[test]
    fn a_start_gives_everybody_a_fresh_lease() {
        let mut leases = Leases::new(1000, [7], 5_000);
        run(&mut leases, 5_000, 6_000);
        assert!(leases.over(6_000).is_empty());
        assert_eq!(leases.over(6_001), [7]);
    }

    #[test]
    fn an_own_stall_gives_everybody_a_fresh_lease() {
        let mut leases = Leases::new(1000, [7], 0);
        run(&mut leases, 0, 400);
        assert!(leases.turn(9_000));
        assert!(leases.over(9_900).is_empty());
        assert_eq!(leases.over(10_001), [7]);
    }

    #[test]
    fn the_forgotten_are_not_missed() {
        let mut leases = Leases::new(1000, [7], 0);
        leases.forget(7);
        assert!(!leases.holds(7));
        assert!(leases.over(5_000).is_empty());
    }
}
