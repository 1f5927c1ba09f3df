//! What processes use, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;

use holdfast_e2e::cluster::Process;

/// Reads what the processes of a cluster and this one have used so far.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Role, name and pid.
    processes: Vec<(String, String, i32)>,
    ticks_per_second: f64,
    page_bytes: u64,
}

/// What was used up to a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// CPU seconds by role.
    pub(crate) cpu: BTreeMap<String, f64>,
    /// CPU seconds of the load generator.
    pub(crate) own_cpu: f64,
    /// Bytes that storage nodes gave to their disks.
    pub(crate) written: u64,
    /// Resident bytes by process.
    pub(crate) resident: BTreeMap<String, u64>,
}

impl Meter {
    /// A meter for the processes that live.
    pub(crate) fn new(processes: &[Process]) -> Meter {
        let alive = processes
            .iter()
            .filter_map(|process| Some((process.role.clone(), process.name.clone(), process.pid?)));
        Meter {
            processes: alive.collect(),
            ticks_per_second: system_constant(libc::_SC_CLK_TCK) as f64,
            page_bytes: system_constant(libc::_SC_PAGESIZE).unsigned_abs(),
        }
    }

    /// Whether there is anything to measure but ourselves.
    pub(crate) fn sees_processes(&self) -> bool {
        !self.processes.is_empty()
    }

    /// Names of the gateways.
    pub(crate) fn gateways(&self) -> Vec<String> {
        let gateways = self.processes.iter().filter(|(role, _, _)| role == "gateway");
        gateways.map(|(_, name, _)| name.clone()).collect()
    }

    /// Everything used so far.
    pub(crate) fn read(&self) -> Usage {
        let mut usage = Usage { own_cpu: self.cpu_seconds("self"), ..Usage::default() };
        for (role, name, pid) in &self.processes {
            let pid = pid.to_string();
            *usage.cpu.entry(role.clone()).or_default() += self.cpu_seconds(&pid);
            usage.resident.insert(name.clone(), self.resident_bytes(&pid));
            if role == "storage" {
                usage.written += written_bytes(&pid);
            }
        }
        usage
    }

    fn cpu_seconds(&self, pid: &str) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(2);
        ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / self.ticks_per_second
    }

    fn resident_bytes(&self, pid: &str) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
        pages.unwrap_or(0) * self.page_bytes
    }
}

impl Usage {
    /// What was used since an earlier reading; resident bytes stay as they are now.
    pub(crate) fn since(&self, earlier: &Usage) -> Usage {
        let cpu = self.cpu.iter().map(|(role, seconds)| {
            (role.clone(), seconds - earlier.cpu.get(role).copied().unwrap_or(0.0))
        });
        Usage {
            cpu: cpu.collect(),
            own_cpu: self.own_cpu - earlier.own_cpu,
            written: self.written.saturating_sub(earlier.written),
            resident: self.resident.clone(),
        }
    }

    /// CPU seconds of all processes of the cluster.
    pub(crate) fn cpu_sum(&self) -> f64 {
        self.cpu.values().sum()
    }
}

fn written_bytes(pid: &str) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let field = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    field.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

#[allow(unsafe_code, reason = "sysconf has no safe wrapper in std")]
fn system_constant(name: libc::c_int) -> i64 {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    unsafe { libc::sysconf(name) }
}

/// Lets this process, and the cluster that it starts, open as many sockets as the system allows; tells
/// how many.
#[allow(unsafe_code, reason = "setrlimit has no safe wrapper in std")]
pub(crate) fn raise_file_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live rlimit of this frame.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
