//! The stream to meta-service: this site reports, and takes the topology.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_node_kit::meta_addresses::MetaAddresses;
use holdfast_node_kit::{grpc, shutdown::Shutdown};
use holdfast_proto::meta::{
    ReplicaReport, SiteReport, SiteUpdate, Topology, meta_client::MetaClient,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::config::Config;
use crate::identity::Identity;
use crate::replica::Replica;
use crate::site::Site;

/// Pause between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What changes within this time goes into one report.
const REPORT_GAP: Duration = Duration::from_millis(50);
/// Pause between attempts to reach meta-service.
const RECONNECT: Duration = Duration::from_millis(500);

/// Why there is no topology.
#[derive(Debug, Error)]
pub(crate) enum TopologyError {
    /// Retry, elsewhere too.
    #[error("meta-service at {address} not reached: {}", status.message())]
    Unreachable {
        /// Who was asked.
        address: String,
        /// What it, or the transport, said; it may name whom to ask instead.
        status: Status,
    },
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
        protocol_version: config.versions().newest,
        protocol_version_min: config.versions().oldest,
        feature_level: holdfast_shard::FEATURE_LEVEL,
        cluster_id: identity.cluster_id.clone(),
        site_id: identity.site.0,
        name: config.name.clone(),
        address: config.grpc_advertise.clone().unwrap_or_else(|| config.grpc_listen.clone()),
        labels,
        ..SiteReport::default()
    }
}

/// One stream to a metadata service.
struct Stream {
    address: String,
    reports: mpsc::Sender<SiteReport>,
    updates: Streaming<SiteUpdate>,
}

impl Stream {
    async fn open(address: &str, first: SiteReport) -> Result<Stream, TopologyError> {
        let failed = |status| TopologyError::Unreachable { address: address.to_owned(), status };
        let channel = grpc::connect(address)
            .await
            .map_err(|error| failed(Status::invalid_argument(error.to_string())))?;
        let (reports, queue) = mpsc::channel(4);
        // The queue is empty.
        let _ = reports.send(first).await;
        let mut client = MetaClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        let updates = client.site(ReceiverStream::new(queue)).await.map_err(failed)?.into_inner();
        Ok(Stream { address: address.to_owned(), reports, updates })
    }

    fn failed(&self, status: Status) -> TopologyError {
        TopologyError::Unreachable { address: self.address.clone(), status }
    }

    async fn report(&self, report: SiteReport) -> Result<(), TopologyError> {
        let sent = self.reports.send(report).await;
        sent.map_err(|_| self.failed(Status::unavailable("stream ended")))
    }

    /// The next update; if it has a topology, this site is welcome.
    async fn next(&mut self) -> Result<SiteUpdate, TopologyError> {
        let update = match self.updates.message().await {
            Ok(Some(update)) => update,
            Ok(None) => return Err(self.failed(Status::unavailable("stream ended"))),
            Err(status) => return Err(self.failed(status)),
        };
        match &update.topology {
            Some(topology) if !topology.refused.is_empty() => {
                Err(TopologyError::Refused(topology.refused.clone()))
            }
            _ => Ok(update),
        }
    }
}

/// Waits for the first topology that names a cluster; for a site that has not joined one yet.
pub(crate) async fn first(
    config: &Config,
    identity: &Identity,
    shutdown: &Shutdown,
) -> Result<Option<Topology>, TopologyError> {
    let mut addresses = MetaAddresses::new(config.meta.clone());
    let mut reported = false;
    loop {
        let asked = tokio::select! {
            () = shutdown.wait() => return Ok(None),
            asked = ask_for_cluster(addresses.current(), introduction(config, identity)) => asked,
        };
        let at_once = match asked {
            Ok(Some(topology)) => return Ok(Some(topology)),
            Err(refused @ TopologyError::Refused(_)) => return Err(refused),
            Ok(None) => false,
            Err(TopologyError::Unreachable { address, status }) => {
                let at_once = addresses.refused(&status);
                if !at_once && !reported {
                    let reason = status.message();
                    tracing::info!(address, reason, "waiting for meta-service");
                    reported = true;
                }
                at_once
            }
        };
        if !at_once {
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

async fn ask_for_cluster(
    address: &str,
    introduction: SiteReport,
) -> Result<Option<Topology>, TopologyError> {
    let mut stream = Stream::open(address, introduction).await?;
    loop {
        if let Some(topology) = stream.next().await?.topology {
            return Ok(Some(topology).filter(|topology| !topology.cluster_id.is_empty()));
        }
    }
}

/// Reports and takes topologies until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let identity = Identity { site: site.site_id, cluster_id: site.cluster_id.clone() };
    let introduction = introduction(&site.config, &identity);
    let mut addresses = MetaAddresses::new(site.config.meta.clone());
    // The same is said once.
    let mut said = None;
    loop {
        let ended = tokio::select! {
            () = site.shutdown.wait() => return,
            ended = follow(&site, addresses.current(), &introduction) => ended,
        };
        let at_once = match ended {
            TopologyError::Refused(reason) => {
                if said.as_ref() != Some(&reason) {
                    tracing::error!(
                        reason,
                        "meta-service refuses this site; it serves on as it is"
                    );
                }
                said = Some(reason);
                site.refused.store(true, Ordering::Release);
                addresses.failed();
                false
            }
            TopologyError::Unreachable { address, status } => {
                let at_once = addresses.refused(&status);
                if !at_once {
                    said = None;
                    let reason = status.message();
                    tracing::warn!(address, reason, "no stream to meta-service");
                }
                at_once
            }
        };
        if !at_once {
            tokio::select! {
                () = site.shutdown.wait() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }
}

fn report(site: &Site, introduction: &SiteReport) -> SiteReport {
    let capacity_bytes = match site.config.shard.disk_quota_bytes {
        0 => site.disk.space().map_or(0, |space| space.total_bytes),
        quota => quota,
    };
    SiteReport {
        leading: site.leading(),
        damaged: site.damaged(),
        leaving: site.is_leaving(),
        replicas: site.replicas().iter().map(|replica| replica_report(replica)).collect(),
        used_bytes: site.used_bytes.load(Ordering::Relaxed),
        capacity_bytes,
        topology_version: site.topology().version,
        ..introduction.clone()
    }
}

fn replica_report(replica: &Replica) -> ReplicaReport {
    let missing = replica.cell.missing_runs();
    let mut report = ReplicaReport {
        shard: u32::from(replica.key.shard.0),
        replica_id: replica.key.replica.0,
        missing_runs: missing.len() as u64,
        missing_bytes: missing.iter().map(|row| row.bytes).sum(),
        run_bytes: replica.cell.run_bytes(),
        ..ReplicaReport::default()
    };
    if let Ok(term) = replica.serving() {
        report.leading_term = term;
        report.voters = replica.cell.voters();
        report.caught_up = replica.caught_up();
        report.next_position = replica.cell.shard.lock().next_position().0;
        if let Some(retained) = replica.retention_report() {
            report.retention = Some(retained.retention);
            report.low_marks = retained.low_marks;
        }
    }
    report
}

async fn follow(site: &Arc<Site>, address: &str, introduction: &SiteReport) -> TopologyError {
    let mut stream = match Stream::open(address, report(site, introduction)).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut soon = false;
    loop {
        tokio::select! {
            update = stream.next() => match update {
                Ok(update) => take(site, update).await,
                Err(error) => return error,
            },
            () = site.news.notified(), if !soon => {
                soon = true;
                ticks.reset_after(REPORT_GAP);
            }
            _ = ticks.tick() => {
                soon = false;
                if let Err(error) = stream.report(report(site, introduction)).await {
                    return error;
                }
            }
        }
    }
}

async fn take(site: &Arc<Site>, update: SiteUpdate) {
    site.refused.store(false, Ordering::Release);
    site.retention.take(update.retention);
    if let Some(topology) = update.topology {
        site.take_topology(topology).await;
    }
}
