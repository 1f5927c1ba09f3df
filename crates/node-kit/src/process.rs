//! CPU time and memory of this process, read from `/proc/self` when metrics are scraped, and its clock.

use std::fs;

use metrics::{Unit, describe_gauge, gauge};

use crate::clock;

/// Declares the metrics of the process itself.
pub(crate) fn describe() {
    describe_gauge!(
        "holdfast_process_cpu_seconds_total",
        Unit::Seconds,
        "User and system CPU time of the process"
    );
    describe_gauge!(
        "holdfast_process_resident_bytes",
        Unit::Bytes,
        "Memory of the process that is in RAM"
    );
    describe_gauge!(
        "holdfast_process_clock_seconds",
        Unit::Seconds,
        "The wall clock as the process reads it, since the Unix epoch"
    );
}

/// Brings all of them up to date. A value that cannot be read keeps its last one.
pub(crate) fn refresh() {
    gauge!("holdfast_process_clock_seconds").set(clock::now_ms() as f64 / 1_000.0);
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_seconds(&s))
    {
        gauge!("holdfast_process_cpu_seconds_total").set(seconds);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/statm").ok().and_then(|s| resident(&s)) {
        gauge!("holdfast_process_resident_bytes").set(bytes);
    }
}

/// utime and stime are fields 14 and 15; the name (field 2) is in brackets and may hold blanks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / system_constant(libc::_SC_CLK_TCK)?)
}

fn resident(statm: &str) -> Option<f64> {
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * system_constant(libc::_SC_PAGESIZE)?)
}

#[allow(unsafe_code, reason = "sysconf has no safe wrapper in std")]
fn system_constant(name: libc::c_int) -> Option<f64> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_is_skipped() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 50 0 0";
        let ticks = system_constant(libc::_SC_CLK_TCK).expect("Linux has it");
        assert_eq!(cpu_seconds(stat), Some(150.0 / ticks));
    }

    #[test]
    fn the_second_field_is_the_resident_set() {
        let page = system_constant(libc::_SC_PAGESIZE).expect("Linux has it");
        assert_eq!(resident("900 3 1 1 0 1 0"), Some(3.0 * page));
    }
}
