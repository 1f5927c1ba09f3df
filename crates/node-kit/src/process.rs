//! The process itself: CPU time, memory, files, threads, from `/proc/self` when metrics are scraped, and
//! its clock. They are written apart from the recorder, whose counters are whole numbers.

use std::fmt::Write;
use std::fs;

use metrics::{Unit, describe_counter, describe_gauge};

use crate::clock;

/// A metric of the process itself.
struct Metric {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
    /// None: it cannot be read here, and is left out.
    read: fn() -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        help: "User and system CPU time of the process",
        read: || cpu_seconds(&own("stat")?),
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        unit: Unit::Bytes,
        help: "Memory of the process that is in RAM",
        read: || resident(&own("statm")?),
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Files and sockets that the process has open",
        read: || Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64),
    },
    Metric {
        name: "process_max_fds",
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Files and sockets that the process may have open at once",
        read: || max_fds(&own("limits")?),
    },
    Metric {
        name: "process_threads",
        kind: Kind::Gauge,
        unit: Unit::Count,
        help: "Threads of the process",
        read: || stat_field(&own("stat")?, 20),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        help: "When the process started, since the Unix epoch",
        read: || start_time(&own("stat")?, &fs::read_to_string("/proc/stat").ok()?),
    },
    Metric {
        name: "holdfast_process_clock_seconds",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        help: "The wall clock as the process reads it, since the Unix epoch",
        read: || Some(clock::now_ms() as f64 / 1_000.0),
    },
];

const BUILD_INFO: &str = "holdfast_build_info";
const BUILD_INFO_HELP: &str = "1; which version of the program runs, by `version`";

/// Declares the metrics of the process itself.
pub(crate) fn describe() {
    describe_gauge!(BUILD_INFO, BUILD_INFO_HELP);
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
        }
    }
}

/// All of them with their values now, as Prometheus text.
pub(crate) fn render() -> String {
    let mut text = String::new();
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    write(&mut text, BUILD_INFO, BUILD_INFO_HELP, Kind::Gauge, version, 1.0);
    for metric in METRICS {
        if let Some(value) = (metric.read)() {
            write(&mut text, metric.name, metric.help, metric.kind, "", value);
        }
    }
    text
}

fn write(text: &mut String, name: &str, help: &str, kind: Kind, labels: &str, value: f64) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n");
}

fn own(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// Fields are counted from 1; the name (field 2) is in brackets and may hold blanks.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// utime and stime are fields 14 and 15, in ticks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / system_constant(libc::_SC_CLK_TCK)?)
}

/// starttime is field 22, in ticks since the machine started.
fn start_time(stat: &str, machine: &str) -> Option<f64> {
    let booted: f64 =
        machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + stat_field(stat, 22)? / system_constant(libc::_SC_CLK_TCK)?)
}

fn resident(statm: &str) -> Option<f64> {
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * system_constant(libc::_SC_PAGESIZE)?)
}

/// The soft limit; none if there is no limit.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
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

    const STAT: &str = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 50 0 0 20 0 12 0 300 1";

    fn ticks() -> f64 {
        system_constant(libc::_SC_CLK_TCK).expect("Linux has it")
    }

    #[test]
    fn a_name_with_blanks_and_brackets_is_skipped() {
        assert_eq!(cpu_seconds(STAT), Some(150.0 / ticks()));
        assert_eq!(stat_field(STAT, 20), Some(12.0));
        assert_eq!(start_time(STAT, "cpu 1 2\nbtime 1000\n"), Some(1000.0 + 300.0 / ticks()));
    }

    #[test]
    fn the_second_field_is_the_resident_set() {
        let page = system_constant(libc::_SC_PAGESIZE).expect("Linux has it");
        assert_eq!(resident("900 3 1 1 0 1 0"), Some(3.0 * page));
    }

    #[test]
    fn the_soft_limit_of_files_is_taken() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files  unlimited  unlimited files"), None);
    }

    #[test]
    fn all_of_them_are_read_on_linux() {
        let text = render();
        for metric in METRICS {
            assert!(text.contains(&format!("\n{} ", metric.name)), "{}: {text}", metric.name);
        }
    }
}
