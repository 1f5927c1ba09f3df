//! Latencies in buckets that are 1/32 wide of what they hold, from a microsecond to hours.

use std::time::Duration;

/// Buckets of each power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// How often which latency was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Latencies {
    /// Takes note of one.
    pub(super) fn add(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket_of(us);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// Adds those of another.
    pub(super) fn merge(&mut self, other: &Latencies) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The latency that as many per mille are not above, in microseconds; none if there is none.
    pub(super) fn per_mille(&self, share: u64) -> Option<u64> {
        let rank = (self.count * share).div_ceil(1_000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(highest_of(bucket).min(self.max_us))
    }

    /// The longest, in microseconds.
    pub(super) fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max_us)
    }
}

fn bucket_of(us: u64) -> usize {
    let power = us.max(1).ilog2();
    let bucket = if power < STEP_BITS {
        us
    } else {
        let shift = power - STEP_BITS;
        (u64::from(shift) + 1) * STEPS + ((us >> shift) - STEPS)
    };
    // At most 60 powers of 32 buckets.
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The largest latency of a bucket.
fn highest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut last = 0;
        for us in 0..100_000 {
            let bucket = bucket_of(us);
            assert!(bucket == last || bucket == last + 1, "{us}");
            assert!(highest_of(bucket) >= us && highest_of(bucket) <= us + us / 32, "{us}");
            last = bucket;
        }
    }

    #[test]
    fn percentiles_are_near_what_was_seen() {
        let mut latencies = Latencies::default();
        assert_eq!((latencies.per_mille(500), latencies.max()), (None, None));
        (1..=1_000).for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let mut both = Latencies::default();
        both.merge(&latencies);
        let p50 = both.per_mille(500).expect("seen");
        assert!((500_000..=516_000).contains(&p50), "{p50}");
        assert_eq!((both.per_mille(1_000), both.max()), (Some(1_000_000), Some(1_000_000)));
    }
}
