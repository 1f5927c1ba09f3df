//! Memory and disk that the processes of each role take, and what a session adds to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use holdfast_e2e::cluster::Cluster;

use crate::meter::Meter;
use crate::registry;
use crate::report::Report;

/// Bytes by what they are, of an average process of a role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Footprint(BTreeMap<String, f64>);

impl Footprint {
    /// What the processes take now.
    pub(crate) async fn read(cluster: &Cluster) -> Footprint {
        let processes = cluster.status().await.processes;
        let usage = Meter::new(&processes).read();
        let mut bytes: BTreeMap<String, f64> = BTreeMap::new();
        for role in ["storage", "meta", "etcd", "gateway"] {
            let of_role: Vec<_> = processes.iter().filter(|process| process.role == role).collect();
            let share = 1.0 / of_role.len().max(1) as f64;
            for process in of_role {
                let resident = usage.resident.get(&process.name).copied().unwrap_or(0);
                *bytes.entry(format!("{role}_memory")).or_default() += resident as f64 * share;
                let Some(data) = &process.data else { continue };
                let disk = bytes_on_disk(Path::new(data)) as f64;
                *bytes.entry(format!("{role}_disk")).or_default() += disk * share;
            }
        }
        let etcds = cluster.names("etcd").len();
        if etcds > 0 {
            for (what, metric) in [
                ("etcd_db", "etcd_mvcc_db_total_size_in_bytes"),
                ("etcd_db_in_use", "etcd_mvcc_db_total_size_in_use_in_bytes"),
            ] {
                let sum = registry::sum(cluster, "etcd", metric).await;
                bytes.insert(what.to_owned(), sum as f64 / etcds as f64);
            }
        }
        Footprint(bytes)
    }

    /// Adds what there is more than before, for each of a number of sessions.
    pub(crate) fn add_growth(&self, before: &Footprint, sessions: usize, report: &mut Report) {
        for (what, bytes) in &self.0 {
            let earlier = before.0.get(what).copied().unwrap_or(0.0);
            report.add(format!("{what}_bytes_per_session"), (bytes - earlier) / sessions as f64);
        }
        for (what, bytes) in &self.0 {
            report.add(format!("{what}_mb"), bytes / 1e6);
        }
    }
}

/// Blocks of all files in a folder; files that go meanwhile count nothing.
fn bytes_on_disk(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_on_disk(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
