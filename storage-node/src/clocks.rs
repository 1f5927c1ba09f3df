//! This site's time: its own clock as long as that goes evenly, checked against those of the other sites,
//! whose frames carry theirs.
//!
//! A leader stamps its time into entries, a shard's time never goes back, and sessions and messages expire
//! by it. So one leader whose clock jumps an hour ahead must not take the shard there. When the own clock
//! jumps, this site's time goes on evenly instead, and follows a jump only where the median of all
//! sites' clocks, the own one among them, has gone. A site whose clock is away from that median says so
//! and rolls, drops and expires nothing.

use std::collections::HashMap;
use std::time::Instant;

use holdfast_node_kit::clock;
use parking_lot::Mutex;

/// Distance between clocks, and size of a jump, that is tolerated, in ms.
const SKEW_MAX_MS: i64 = 10_000;

/// Time as this site and its peers have it.
pub(crate) struct Clocks {
    began: Instant,
    time: Mutex<Time>,
}

impl Default for Clocks {
    fn default() -> Self {
        Clocks { began: Instant::now(), time: Mutex::new(Time::begin(clock::now_ms())) }
    }
}

impl Clocks {
    /// This site's time, ms since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        let even_ms = self.even_ms();
        self.time.lock().now_ms(clock::now_ms(), even_ms)
    }

    /// Notes a peer's clock, which came with a frame just now.
    pub(crate) fn heard(&self, site: u64, peer_ms: u64) {
        let even_ms = self.even_ms();
        let mut time = self.time.lock();
        time.now_ms(clock::now_ms(), even_ms);
        time.heard(site, peer_ms);
    }

    /// How far the median of all sites' clocks is ahead of this one's, in ms.
    pub(crate) fn skew_ms(&self) -> i64 {
        let even_ms = self.even_ms();
        let mut time = self.time.lock();
        time.now_ms(clock::now_ms(), even_ms);
        time.skew_ms()
    }

    /// Whether this site's clock is too far from the others'.
    pub(crate) fn is_off(&self) -> bool {
        self.skew_ms().abs() > SKEW_MAX_MS
    }

    fn even_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Time as a function of clocks. Distances are in ms, ahead of `now_ms`.
struct Time {
    now_ms: u64,
    /// The even clock at `now_ms`.
    even_ms: u64,
    /// The own clock.
    own: i64,
    /// The peers', as last heard.
    peers: HashMap<u64, i64>,
}

impl Time {
    fn begin(clock_ms: u64) -> Time {
        Time { now_ms: clock_ms, even_ms: 0, own: 0, peers: HashMap::new() }
    }

    /// The time when the own clock and the even one show this.
    fn now_ms(&mut self, clock_ms: u64, even_ms: u64) -> u64 {
        self.now_ms += even_ms.saturating_sub(self.even_ms);
        self.even_ms = even_ms;
        self.own = ahead(clock_ms, self.now_ms);
        if self.own.abs() <= SKEW_MAX_MS {
            self.shift(self.own);
        } else {
            let median = self.median();
            if median.abs() > SKEW_MAX_MS {
                self.shift(median);
            }
        }
        self.now_ms
    }

    fn heard(&mut self, site: u64, peer_ms: u64) {
        self.peers.insert(site, ahead(peer_ms, self.now_ms));
        let median = self.median();
        if median.abs() > SKEW_MAX_MS {
            self.shift(median);
        }
    }

    fn skew_ms(&self) -> i64 {
        self.median() - self.own
    }

    fn shift(&mut self, by: i64) {
        self.now_ms = self.now_ms.saturating_add_signed(by);
        self.own -= by;
        self.peers.values_mut().for_each(|ahead| *ahead -= by);
    }

    fn median(&self) -> i64 {
        let mut all: Vec<i64> = self.peers.values().copied().chain([self.own]).collect();
        median(&mut all)
    }
}

fn ahead(clock_ms: u64, now_ms: u64) -> i64 {
    i64::try_from(clock_ms).unwrap_or(i64::MAX).saturating_sub_unsigned(now_ms)
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

    const T: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_jump_of_the_own_clock_is_not_followed_and_known() {
        let mut time = Time::begin(T);
        time.heard(1, T);
        time.heard(2, T + 20);
        for (clock_ms, even_ms) in [(T + HOUR, 0), (T + HOUR + 100, 100), (T + 200 - HOUR, 200)] {
            assert_eq!(time.now_ms(clock_ms, even_ms), T + even_ms);
            assert!(time.skew_ms().abs() > SKEW_MAX_MS);
        }
        assert_eq!(time.now_ms(T + 350, 300), T + 350, "right again, and followed");
        assert!(time.skew_ms().abs() < 100);
    }

    #[test]
    fn a_jump_of_all_clocks_is_followed() {
        let mut time = Time::begin(T);
        time.heard(1, T);
        time.heard(2, T);
        assert_eq!(time.now_ms(T + HOUR, 10), T + 10);
        time.heard(1, T + HOUR);
        assert_eq!(time.now_ms(T + HOUR, 20), T + HOUR, "two of three");
        assert_eq!(time.skew_ms(), 0);
    }

    #[test]
    fn a_site_that_starts_with_a_wrong_clock_is_put_right() {
        let mut time = Time::begin(T + HOUR);
        time.heard(1, T);
        assert_eq!(time.now_ms(T + HOUR, 0), T + HOUR, "two clocks that differ accuse nobody");
        time.heard(2, T + 500);
        assert_eq!(time.now_ms(T + HOUR + 10, 10), T + 510);
        assert!(time.skew_ms() < -SKEW_MAX_MS);
    }

    #[test]
    fn one_wild_peer_is_outvoted() {
        let mut time = Time::begin(T);
        time.heard(1, T + HOUR);
        time.heard(2, T + 20);
        assert_eq!(time.now_ms(T + 5, 5), T + 5);
        assert_eq!(time.skew_ms(), 20);
    }

    #[test]
    fn alone_the_own_clock_counts() {
        let mut time = Time::begin(T);
        assert_eq!(time.now_ms(T + HOUR, 1), T + HOUR);
        assert_eq!(time.skew_ms(), 0);
    }
}
