//! Local time that never jumps, as a number that pure parts can take.

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds since this process first asked, plus one: 0 is before everything.
#[must_use]
pub(crate) fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}
