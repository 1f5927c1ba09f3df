//! Times between two events, as percentiles.

use std::cell::RefCell;
use std::time::Instant;

/// More samples than this change no percentile.
const SAMPLES_MAX: usize = 4_000_000;

/// Samples in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: RefCell<Vec<u32>>,
}

impl Latencies {
    /// Adds a sample in nanoseconds.
    pub(crate) fn add(&self, nanos: u64) {
        let mut micros = self.micros.borrow_mut();
        if micros.len() < SAMPLES_MAX {
            micros.push(u32::try_from(nanos / 1000).unwrap_or(u32::MAX));
        }
    }

    /// Forgets all samples.
    pub(crate) fn clear(&self) {
        self.micros.borrow_mut().clear();
    }

    /// The given percentiles in milliseconds; none without samples.
    pub(crate) fn percentiles(&self, wanted: &[f64]) -> Option<Vec<f64>> {
        let mut sorted = self.micros.borrow().clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let at = |percent: &f64| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
            let index = (last as f64 * percent / 100.0).round() as usize;
            f64::from(sorted[index.min(last)]) / 1000.0
        };
        Some(wanted.iter().map(at).collect())
    }
}

/// Nanoseconds since this clock was made; fits into a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Begins at zero.
    pub(crate) fn new() -> Clock {
        Clock(Instant::now())
    }

    /// Now.
    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let latencies = Latencies::default();
        assert_eq!(latencies.percentiles(&[50.0]), None);
        (0..=100).for_each(|ms: u64| latencies.add(ms * 1_000_000));
        assert_eq!(latencies.percentiles(&[50.0, 99.0, 100.0]), Some(vec![50.0, 99.0, 100.0]));
    }
}
