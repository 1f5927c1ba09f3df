//! Fetches runs that this site's state names but its disk lacks, from sites that hold them.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use holdfast_proto::shard::RunRow;
use holdfast_proto::storage::{FetchRunRequest, storage_client::StorageClient};

use crate::replica::Replica;
use crate::replica::cell::run_id;
use crate::replica::run_file;
use crate::site::Site;

/// Pause between two looks for what is missing.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after each fetched run: bounds the load on the holder.
const PAUSE: Duration = Duration::from_millis(20);

/// Fetches until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for replica in site.replicas() {
            let missing = replica.cell.missing_runs();
            for row in &missing {
                fetch(&site, &replica, row).await;
                tokio::time::sleep(PAUSE).await;
            }
            if !missing.is_empty() && replica.cell.missing_runs().is_empty() {
                tracing::info!(
                    shard = replica.key.shard.0,
                    runs = missing.len(),
                    "all runs fetched"
                );
            }
        }
    }
}

/// Asks the shard's other holders one after the other.
async fn fetch(site: &Site, replica: &Arc<Replica>, row: &RunRow) {
    let Some(placed) = site.placement(replica.key.shard) else { return };
    let holders = placed.replicas.iter().map(|holder| holder.site_id);
    for holder in holders.filter(|holder| *holder != site.site_id.0) {
        match fetch_from(site, replica, row, holder).await {
            Ok(()) => {
                let shard = replica.key.shard.0;
                tracing::info!(shard, first = row.first_position, "run fetched");
                return;
            }
            Err(reason) => {
                let shard = replica.key.shard.0;
                tracing::warn!(shard, first = row.first_position, reason, "run not fetched");
            }
        }
    }
}

async fn fetch_from(
    site: &Site,
    replica: &Arc<Replica>,
    row: &RunRow,
    holder: u64,
) -> Result<(), String> {
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
        file.extend_from_slice(&chunk.data);
    }
    let (cell, row) = (replica.cell.clone(), *row);
    let stored = tokio::task::spawn_blocking(move || {
        let id = run_id(cell.key.shard, &row);
        run_file::store(cell.disk.as_ref(), id, &file).map_err(|error| error.to_string())?;
        if cell.run_ready(row) { Ok(()) } else { Err("the file is not that run".to_owned()) }
    });
    stored.await.map_err(|error| error.to_string())?
}
