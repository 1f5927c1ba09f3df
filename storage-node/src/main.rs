//! `storage-node`: one site of Holdfast's data plane. See `DESIGN.md` beside this crate.

mod admission;
mod clocks;
mod config;
mod disk_watch;
mod drain;
#[cfg(test)]
mod expiry_cost;
mod fatal;
mod feed;
mod fetch;
mod identity;
mod metrics;
mod placing;
mod raft;
mod replica;
mod serve;
mod site;
mod state_store;
mod topology;
mod walk;

use std::process::ExitCode;
use std::sync::Arc;

use holdfast_log::{Disk, LogObserver, LogOptions, RealDisk, SiteLog};
use holdfast_node_kit::config::{Program, from_args};
use holdfast_node_kit::health::Health;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_node_kit::{grpc, http, net, runtime, telemetry};
use holdfast_proto::storage::raft_server::RaftServer;
use holdfast_proto::storage::storage_server::StorageServer;
use tonic::transport::server::TcpIncoming;

use config::Config;
use fatal::Fatal;
use identity::Identity;
use replica::DiskState;
use serve::raft_service::RaftService;
use serve::storage_service::StorageService;
use site::{Site, SiteParts};
use state_store::StateStore;

fn main() -> ExitCode {
    let config: Config = from_args(Program {
        name: "storage-node",
        about: "A site of Holdfast's durable message log",
        describe: metrics::describe,
    });
    runtime::run(config.worker_threads, run(config))
}

/// Runs the site until it is told to stop.
async fn run(config: Config) -> Result<(), String> {
    let metrics = telemetry::init("storage-node", &config.name, metrics::describe);
    // Told to stop: the site leaves first, and only then everything ends.
    let told = Shutdown::on_signals();
    let shutdown = Shutdown::new();
    let health = Health::new();
    let http = net::bind(&config.http_listen).await.map_err(text)?;
    tokio::spawn(http::serve(http, metrics, health.clone(), shutdown.clone()));
    let listener = net::bind(&config.grpc_listen).await.map_err(text)?;

    health.set_not_ready("opening data");
    let opened = open(config, &told, shutdown.clone()).await?;
    let Some(site) = opened else { return Ok(()) };
    if let Some(topology) = site.remembered_topology().map_err(text)? {
        site.take_topology(topology).await;
    }
    site::spawn_upkeep(&site);
    tokio::spawn(topology::run(site.clone()));
    tokio::spawn(disk_watch::run(site.clone(), health.clone()));
    tokio::spawn(leave(site.clone(), told, health));
    tokio::spawn(fetch::run(site.clone()));

    let mut server = grpc::server();
    let server = server
        .add_service(
            StorageServer::new(StorageService(site.clone()))
                .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX),
        )
        .add_service(
            RaftServer::new(RaftService(site.clone()))
                .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX),
        );
    let stop = shutdown.clone();
    let served = server.serve_with_incoming_shutdown(
        TcpIncoming::from(listener).with_nodelay(Some(true)),
        async move {
            stop.wait().await;
        },
    );
    tokio::select! {
        served = served => served.map_err(text)?,
        () = linger(&shutdown) => {}
    }
    close(&site).await;
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn leave(site: Arc<Site>, told: Shutdown, health: Health) {
    told.wait().await;
    health.set_not_ready("stopping");
    drain::run(&site).await;
    site.shutdown.trigger();
}

/// Streams may still be open a moment after the signal.
async fn linger(shutdown: &Shutdown) {
    shutdown.wait().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
}

async fn close(site: &Site) {
    site.links.close_all();
    for replica in site.replicas() {
        replica.stop().await;
    }
    site.log.close();
}

/// Opens the data directory; `None` if told to stop while waiting for a cluster to join.
async fn open(
    config: Config,
    told: &Shutdown,
    shutdown: Shutdown,
) -> Result<Option<Arc<Site>>, String> {
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| format!("data_dir {}: {error}", config.data_dir.display()))?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.data_dir).map_err(text)?);
    let lock = disk.lock("lock").map_err(|error| {
        format!("data_dir {} is in use by another process: {error}", config.data_dir.display())
    })?;
    // Held as long as the process lives.
    std::mem::forget(lock);
    let mut identity = Identity::load_or_mint(disk.as_ref()).map_err(text)?;
    if identity.cluster_id.is_empty() {
        let joined = topology::first(&config, &identity, told).await.map_err(text)?;
        let Some(topology) = joined else { return Ok(None) };
        identity.cluster_id = topology.cluster_id;
        identity.save(disk.as_ref()).map_err(text)?;
    }
    tracing::info!(site = %identity.site, cluster = identity.cluster_id, "site opens");
    disk.create_dir(replica::cell::RUNS_DIR).map_err(text)?;
    let store = StateStore::open(&config.data_dir.join("state")).map_err(text)?;
    let options = LogOptions {
        segment_bytes: config.log.segment_bytes as u32,
        bytes_max: config.log.bytes_max,
        cache_bytes_max: config.log.cache_bytes_max,
        observer: Some(Arc::new(Rounds)),
        ..LogOptions::default()
    };
    let on_fatal = |error| Fatal::default().stop("site log", &error);
    let (log, recovered) =
        SiteLog::open(disk.clone(), "log", options, Box::new(on_fatal)).map_err(text)?;
    for replica in recovered.iter().filter(|replica| replica.damaged.is_some()) {
        let reason = replica.damaged.as_deref().unwrap_or_default();
        tracing::error!(
            shard = replica.key.shard.0,
            reason,
            "replica is damaged and will not vote"
        );
    }
    Ok(Some(Site::new(SiteParts {
        site_id: identity.site,
        cluster_id: identity.cluster_id,
        disk,
        log,
        store,
        shutdown,
        disk_state: DiskState::default(),
        recovered,
        config,
    })))
}

/// Passes the site log's figures on to the metrics.
struct Rounds;

impl LogObserver for Rounds {
    fn round(&self, frames: usize, bytes: u64, sync: std::time::Duration) {
        metrics::log_round(frames, bytes, sync);
    }
}
