//! Time, as a value that tests can set.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Where time comes from.
pub trait Clock: Send + Sync {
    /// Wall clock: ms since the Unix epoch. May jump.
    fn now_ms(&self) -> u64;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn default() -> Self {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now_ms(&self) -> u64 {
        // A clock before 1970 counts as 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves only when told.
#[derive(Debug, Default)]
pub struct SimClock {
    times: Mutex<(u64, Duration)>,
}

impl SimClock {
    /// A clock whose wall time is `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> SimClock {
        SimClock { times: Mutex::new((now_ms, Duration::ZERO)) }
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times.lock();
        times.0 += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        times.1 += by;
    }

    /// Sets the wall clock alone, forwards or back.
    pub fn set_wall_ms(&self, now_ms: u64) {
        self.times.lock().0 = now_ms;
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.times.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.times.lock().1
    }
}
