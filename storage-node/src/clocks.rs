//! Whether this site's clock can be trusted: compared with those of the other sites, whose frames carry
//! theirs.
//!
//! Time decides what expires and what is dropped, so a site whose clock is off decides neither.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Distance from the median of the sites' clocks that is tolerated, in ms.
pub(crate) const SKEW_MAX_MS: i64 = 10_000;

/// What the other sites' clocks are ahead of this site's, as last heard, in ms.
#[derive(Default)]
pub(crate) struct Clocks(Mutex<HashMap<u64, i64>>);

impl Clocks {
    /// Notes a peer's clock, which came with a frame just now.
    pub(crate) fn heard(&self, site: u64, peer_ms: u64, own_ms: u64) {
        let ahead = i64::try_from(peer_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(own_ms);
        self.0.lock().insert(site, ahead);
    }

    /// How far the median of all clocks, this one included, is ahead of this one, in ms.
    pub(crate) fn skew_ms(&self) -> i64 {
        let mut ahead: Vec<i64> = self.0.lock().values().copied().collect();
        ahead.push(0);
        median(&mut ahead)
    }

    /// Whether this clock is too far from the others'.
    pub(crate) fn is_off(&self) -> bool {
        self.skew_ms().abs() > SKEW_MAX_MS
    }
}

/// The middle value; of two middle ones that nearer to 0, so that two sites alone accuse nobody.
fn median(values: &mut [i64]) -> i64 {
    values.sort_unstable();
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    if low.abs() <= high.abs() { low } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_knows_it() {
        let (now, hour) = (1_700_000_000_000, 3_600_000);
        let mine = Clocks::default();
        assert!(!mine.is_off(), "alone");
        mine.heard(1, now - hour, now);
        assert!(!mine.is_off(), "two clocks that differ accuse nobody");
        mine.heard(2, now - hour + 500, now);
        assert!(mine.is_off() && mine.skew_ms() < 0);
        let right = Clocks::default();
        right.heard(1, now + hour, now);
        right.heard(2, now + 20, now);
        assert!(!right.is_off(), "one wild peer is outvoted");
    }
}
