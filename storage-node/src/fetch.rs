//! Fetches runs that this site's state names but its disk lacks or has damaged, from sites that hold them.
//!
//! One run at a time, in memory (`shard.run_bytes_max` bounds it), at no more than
//! `shard.fetch_bytes_per_s`. A run that a reader waits for comes first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use holdfast_proto::ids::ShardId;
use holdfast_proto::meta::ReplicaInfo;
use holdfast_proto::shard::RunRow;
use holdfast_proto::storage::{FetchRunRequest, storage_client::StorageClient};

use crate::metrics;
use crate::replica::Replica;
use crate::replica::cell::run_id;
use crate::replica::run_file;
use crate::site::Site;

/// Pause between two looks for what is missing.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one run may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What was fetched for one shard since it began to lack runs.
struct Progress {
    started: Instant,
    runs: u64,
    bytes: u64,
    /// A failure was logged.
    failed: bool,
}

/// Fetches until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut progress: HashMap<ShardId, Progress> = HashMap::new();
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = site.fetching.notified() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = fetch_all(&site, &mut progress) => {}
        }
    }
}

/// Returns when nothing is missing, or what is missing cannot be had now.
async fn fetch_all(site: &Arc<Site>, progress: &mut HashMap<ShardId, Progress>) {
    let mut unreachable: Vec<ShardId> = Vec::new();
    loop {
        account(site, progress);
        let Some((replica, row)) = next(site, &unreachable) else { return };
        let shard = replica.key.shard;
        let begun = Instant::now();
        let fetched = fetch(site, &replica, &row).await;
        let Some(progress) = progress.get_mut(&shard) else { continue };
        match fetched {
            Ok(bytes) => {
                progress.runs += 1;
                progress.bytes += bytes;
                metrics::fetched(bytes);
                let due = Duration::from_secs_f64(
                    bytes as f64 / site.config.shard.fetch_bytes_per_s as f64,
                );
                tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
            }
            Err(reason) => {
                if !progress.failed {
                    progress.failed = true;
                    let first = row.first_position;
                    tracing::warn!(shard = shard.0, first, reason, "run not fetched");
                }
                unreachable.push(shard);
            }
        }
    }
}

/// The next run: one that a reader waits for, else of the first shard that lacks one.
fn next(site: &Site, unreachable: &[ShardId]) -> Option<(Arc<Replica>, RunRow)> {
    let mut first = None;
    for replica in site.replicas() {
        if unreachable.contains(&replica.key.shard) {
            continue;
        }
        match replica.cell.next_missing() {
            Some((row, true)) => return Some((replica, row)),
            Some((row, false)) if first.is_none() => first = Some((replica, row)),
            _ => {}
        }
    }
    first
}

/// Says once per shard when fetching begins and ends.
fn account(site: &Site, progress: &mut HashMap<ShardId, Progress>) {
    for replica in site.replicas() {
        let shard = replica.key.shard;
        let missing = replica.cell.missing_runs();
        if missing.is_empty() {
            if let Some(done) = progress.remove(&shard) {
                let (runs, bytes) = (done.runs, done.bytes);
                let took_ms = done.started.elapsed().as_millis() as u64;
                tracing::info!(shard = shard.0, runs, bytes, took_ms, "all runs fetched");
                site.news.notify_one();
            }
        } else if let Entry::Vacant(begun) = progress.entry(shard) {
            let bytes: u64 = missing.iter().map(|row| row.bytes).sum();
            tracing::info!(shard = shard.0, runs = missing.len(), bytes, "fetching runs");
            begun.insert(Progress { started: Instant::now(), runs: 0, bytes: 0, failed: false });
            site.news.notify_one();
        }
    }
}

/// Asks the shard's other holders one after the other.
async fn fetch(site: &Site, replica: &Arc<Replica>, row: &RunRow) -> Result<u64, String> {
    let placed = site.placement(replica.key.shard).ok_or("the shard is not placed")?;
    let mut reason = "no other site holds the shard".to_owned();
    // The leader has most to do: it is asked last.
    let leader = site.leader_of(replica.key.shard.0);
    let mut holders: Vec<&ReplicaInfo> = placed.replicas.iter().chain(&placed.holders).collect();
    holders.sort_by_key(|holder| holder.site_id == leader);
    for holder in holders.iter().filter(|holder| holder.site_id != site.site_id.0) {
        let fetched = fetch_from(site, replica, row, holder.site_id);
        match tokio::time::timeout(TIMEOUT, fetched).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            Ok(Err(failed)) => reason = failed,
            Err(elapsed) => reason = elapsed.to_string(),
        }
    }
    Err(reason)
}

async fn fetch_from(
    site: &Site,
    replica: &Arc<Replica>,
    row: &RunRow,
    holder: u64,
) -> Result<u64, String> {
    let channel = site.peers.channel(holder).await.map_err(|error| error.to_string())?;
    let request = FetchRunRequest {
        cluster_id: site.cluster_id.clone(),
        shard: u32::from(replica.key.shard.0),
        run: Some(*row),
    };
    let mut chunks = StorageClient::new(channel)
        .fetch_run(request)
        .await
        .map_err(|status| status.message().to_string())?
        .into_inner();
    let mut file = BytesMut::new();
    while let Some(chunk) = chunks.message().await.map_err(|status| status.message().to_string())? {
        if (file.len() + chunk.data.len()) as u64 > row.bytes {
            return Err("the file is longer than that run".into());
        }
        file.extend_from_slice(&chunk.data);
    }
    let (cell, row, bytes) = (replica.cell.clone(), *row, file.len() as u64);
    let stored = tokio::task::spawn_blocking(move || {
        let id = run_id(cell.key.shard, &row);
        run_file::store(cell.disk.as_ref(), id, row.checksum, &file)
            .map_err(|error| error.to_string())?;
        if cell.run_fetched(row) { Ok(bytes) } else { Err("the file is not that run".to_owned()) }
    });
    stored.await.map_err(|error| error.to_string())?
}
