//! The stream to meta-service: this site reports, and takes the topology.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::{grpc, shutdown::Shutdown};
use holdfast_proto::PROTOCOL_VERSION;
use holdfast_proto::meta::{SiteReport, SiteUpdate, Topology, meta_client::MetaClient};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::config::Config;
use crate::identity::Identity;
use crate::site::Site;

/// Pause between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between attempts to reach meta-service.
const RECONNECT: Duration = Duration::from_millis(500);

/// Why there is no topology.
#[derive(Debug, Error)]
pub(crate) enum TopologyError {
    /// Retry, elsewhere too.
    #[error("meta-service not reached: {0}")]
    Unreachable(String),
    /// Stop: this site does not belong there.
    #[error("refused by meta-service: {0}")]
    Refused(String),
}

/// What this site says of itself before it has joined, and the base of what it says later.
pub(crate) fn introduction(config: &Config, identity: &Identity) -> SiteReport {
    let mut labels = HashMap::new();
    if !config.zone.is_empty() {
        labels.insert("zone".to_owned(), config.zone.clone());
    }
    SiteReport {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: identity.cluster_id.clone(),
        site_id: identity.site.0,
        name: config.name.clone(),
        address: config.grpc_advertise.clone().unwrap_or_else(|| config.grpc_listen.clone()),
        labels,
        ..SiteReport::default()
    }
}

struct Stream {
    reports: mpsc::Sender<SiteReport>,
    updates: Streaming<SiteUpdate>,
}

async fn open(address: &str, first: SiteReport) -> Result<Stream, TopologyError> {
    let unreachable = |reason: String| TopologyError::Unreachable(format!("{address}: {reason}"));
    let channel = grpc::connect(address).await.map_err(|error| unreachable(error.to_string()))?;
    let (reports, queue) = mpsc::channel(4);
    reports.send(first).await.map_err(|error| unreachable(error.to_string()))?;
    let updates = MetaClient::new(channel)
        .site(ReceiverStream::new(queue))
        .await
        .map_err(|status| unreachable(status.message().to_string()))?
        .into_inner();
    Ok(Stream { reports, updates })
}

impl Stream {
    async fn next(&mut self) -> Result<Topology, TopologyError> {
        loop {
            let update = match self.updates.message().await {
                Ok(Some(update)) => update,
                Ok(None) => return Err(TopologyError::Unreachable("stream ended".into())),
                Err(status) => {
                    return Err(TopologyError::Unreachable(status.message().to_string()));
                }
            };
            match update.topology {
                Some(topology) if topology.refused.is_empty() => return Ok(topology),
                Some(topology) => return Err(TopologyError::Refused(topology.refused)),
                None => {}
            }
        }
    }
}

/// Waits for the first topology that names a cluster; for a site that has not joined one yet.
pub(crate) async fn first(
    config: &Config,
    identity: &Identity,
    shutdown: &Shutdown,
) -> Result<Option<Topology>, TopologyError> {
    let mut reported = false;
    for address in config.meta.iter().cycle() {
        let attempt = async { open(address, introduction(config, identity)).await?.next().await };
        let result = tokio::select! {
            () = shutdown.wait() => return Ok(None),
            result = attempt => result,
        };
        match result {
            Ok(topology) if !topology.cluster_id.is_empty() => return Ok(Some(topology)),
            Err(refused @ TopologyError::Refused(_)) => return Err(refused),
            Ok(_) => {}
            Err(error) if !reported => {
                tracing::info!(%error, "waiting for meta-service");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECONNECT).await;
    }
    Ok(None)
}

/// Reports and takes topologies until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let identity = Identity { site: site.site_id, cluster_id: site.cluster_id.clone() };
    let introduction = introduction(&site.config, &identity);
    for address in site.config.meta.clone().iter().cycle() {
        let ended = tokio::select! {
            () = site.shutdown.wait() => return,
            ended = follow(&site, address, &introduction) => ended,
        };
        match ended {
            TopologyError::Refused(reason) => {
                tracing::error!(reason, "meta-service refuses this site; it serves on as it is");
            }
            TopologyError::Unreachable(reason) => {
                tracing::warn!(reason, "no stream to meta-service");
            }
        }
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = tokio::time::sleep(RECONNECT) => {}
        }
    }
}

fn report(site: &Site, introduction: &SiteReport) -> SiteReport {
    SiteReport { leading: site.leading(), damaged: site.damaged(), ..introduction.clone() }
}

async fn follow(site: &Arc<Site>, address: &str, introduction: &SiteReport) -> TopologyError {
    let mut stream = match open(address, report(site, introduction)).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            topology = stream.next() => match topology {
                Ok(topology) => site.take_topology(topology).await,
                Err(error) => return error,
            },
            _ = ticks.tick() => {
                if stream.reports.send(report(site, introduction)).await.is_err() {
                    return TopologyError::Unreachable("stream ended".into());
                }
            }
        }
    }
}
