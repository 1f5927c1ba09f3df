//! What a storage site writes itself: the site log (the Raft log of all of its replicas, one sync for
//! everybody) and runs (sorted, immutable files of records). Disk and time come through [`Disk`] and
//! [`Clock`], so that tests can lose, tear, stall and fail them. `DESIGN.md` beside this crate
//! describes the formats byte by byte.

pub mod clock;
pub mod disk;
mod real;
pub mod run;
pub mod sim;
pub mod site_log;

pub use clock::{Clock, SimClock, SystemClock};
pub use disk::{Disk, DiskFile, DiskLock, OpenOptions, Space};
pub use real::RealDisk;
pub use run::{Matches, ReadEnd, Run, RunError, RunId, RunInfo, remove_run, write_run};
pub use sim::{SimDisk, SimRng};
pub use site_log::{
    Done, LogCore, LogEntry, LogError, LogObserver, LogOptions, LogStats, RecoveredReplica,
    ReplicaKey, ReplicaLogState, SiteLog,
};
