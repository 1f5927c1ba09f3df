//! The stream to the metadata service: reports and lease out, topology and durable filters in.
//!
//! When no metadata service answers, the last topology and filter set stay in use; the lease runs out
//! and every QoS 1 and 2 publish goes to the log from then on.

use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::grpc;
use holdfast_node_kit::meta_addresses::MetaAddresses;
use holdfast_proto::meta::meta_client::MetaClient;
use holdfast_proto::meta::{GatewayReport, GatewayUpdate, Topology};
use holdfast_proto::shard::GatewayRef;
use holdfast_proto::version::Versions;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::config::ClusterConfig;
use super::metrics as names;
use super::monotonic;
use super::routes::{Routes, Turns};

/// Pause before a service that refused us is asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Hints that are followed without a pause: during an election they may lead in a circle.
pub(super) const HINTS_IN_A_ROW_MAX: u32 = 3;
/// First pause after a lost stream.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Lease that is assumed until the topology names one.
const FIRST_LEASE_MS: u64 = 10_000;
/// A service that does not answer the first report within this is left for the next one.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the metadata service tells, and what it is told.
#[derive(Debug)]
pub(crate) struct Control {
    config: ClusterConfig,
    me: GatewayRef,
    /// Where the elected metadata service is.
    addresses: Mutex<MetaAddresses>,
    /// Newest topology of a formed cluster.
    pub(crate) topology: watch::Sender<Option<Arc<Topology>>>,
    /// Which publishes are durable.
    pub(crate) routes: RwLock<Routes>,
    /// Turns of publishing that run.
    pub(crate) turns: Mutex<Turns>,
    /// Wakes the stream to report an acknowledged version.
    pub(crate) report: Notify,
    leaving: watch::Sender<bool>,
    left: Notify,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    #[error("no answer to the first report")]
    Silent,
    #[error("the service ended the stream")]
    Ended,
    #[error("the service refuses this gateway: {0}")]
    Refused(String),
    #[error("this gateway leaves")]
    Left,
}

impl Control {
    /// Knows nothing yet.
    #[must_use]
    pub(crate) fn new(config: ClusterConfig, me: GatewayRef) -> Arc<Control> {
        Arc::new(Control {
            addresses: Mutex::new(MetaAddresses::new(config.meta.clone())),
            config,
            me,
            topology: watch::Sender::new(None),
            routes: RwLock::default(),
            turns: Mutex::default(),
            report: Notify::new(),
            leaving: watch::Sender::new(false),
            left: Notify::new(),
        })
    }

    /// Keeps a stream to one of the services up, for ever.
    pub(crate) async fn run(self: Arc<Control>) {
        let mut pause = FIRST_PAUSE;
        let mut hints = 0;
        loop {
            let address = self.meta_addresses().current().to_owned();
            let end = self.stream(&address, &mut pause).await;
            if self.follow(&end) && hints < HINTS_IN_A_ROW_MAX {
                hints += 1;
                tracing::debug!(address, error = %end, "another metadata service is elected");
                continue;
            }
            hints = 0;
            match &end {
                StreamEnd::Left => {
                    self.left.notify_one();
                    return;
                }
                StreamEnd::Refused(_) => {
                    tracing::error!(address, error = %end, "metadata service refuses this gateway");
                    pause = REFUSED_PAUSE;
                }
                // Once until it works again.
                end if pause == FIRST_PAUSE => {
                    tracing::warn!(address, error = %end, "no stream to the metadata service");
                }
                end => {
                    tracing::debug!(address, error = %end, "still no stream to the metadata service");
                }
            }
            if self.pause_or_leave(pause).await {
                self.left.notify_one();
                return;
            }
            pause = (pause * 2).min(Duration::from_millis(self.config.reconnect_ms_max));
        }
    }

    /// Goes on to the next address. True: the service named the elected one.
    fn follow(&self, end: &StreamEnd) -> bool {
        let mut addresses = self.addresses.lock();
        match end {
            StreamEnd::Status(status) => addresses.refused(status),
            StreamEnd::Left => false,
            _ => {
                addresses.failed();
                false
            }
        }
    }

    /// The addresses of the metadata services, beginning with the one that was elected when last heard.
    pub(crate) fn meta_addresses(&self) -> MetaAddresses {
        self.addresses.lock().clone()
    }

    async fn pause_or_leave(&self, pause: Duration) -> bool {
        let mut leaving = self.leaving.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = until_set(&mut leaving) => true,
        }
    }

    /// Tells the metadata service that this gateway is gone, if it hears it soon.
    pub(crate) async fn leave(&self) {
        self.leaving.send_replace(true);
        let soon = Duration::from_millis(500);
        // Without an answer its lease runs out.
        let _ = tokio::time::timeout(soon, self.left.notified()).await;
    }

    async fn stream(&self, address: &str, pause: &mut Duration) -> StreamEnd {
        let Err(end) = self.stream_until_end(address, pause).await;
        end
    }

    async fn stream_until_end(
        &self,
        address: &str,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, StreamEnd> {
        let mut client = client(address).await?;
        let (sender, receiver) = mpsc::channel(4);
        self.routes.write().registering();
        let mut acknowledged = self.send_report(&sender, false).await?;
        let updates = client.gateway(ReceiverStream::new(receiver));
        let updates = tokio::time::timeout(ANSWER_WITHIN, updates).await;
        let mut updates = updates.map_err(|_| StreamEnd::Silent)?.map_err(Box::new)?.into_inner();
        let mut leaving = self.leaving.subscribe();
        let mut renewal = tokio::time::interval(self.renewal_interval());
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        renewal.reset();
        loop {
            tokio::select! {
                update = updates.message() => {
                    let update = update.map_err(Box::new)?.ok_or(StreamEnd::Ended)?;
                    let lease_changed = self.update(update)?;
                    *pause = FIRST_PAUSE;
                    if lease_changed {
                        renewal = tokio::time::interval(self.renewal_interval());
                        renewal.reset();
                    }
                }
                _ = renewal.tick() => acknowledged = self.send_report(&sender, false).await?,
                () = self.report.notified() => {}
                () = until_set(&mut leaving) => {
                    self.send_report(&sender, true).await?;
                    drop(sender);
                    // The service ends its side when it has read the report.
                    while let Ok(Some(_)) = updates.message().await {}
                    return Err(StreamEnd::Left);
                }
            }
            if self.acknowledged() != acknowledged {
                acknowledged = self.send_report(&sender, false).await?;
            }
        }
    }

    /// How long the metadata service takes a silent process for alive, in ms.
    pub(crate) fn lease_ms(&self) -> u64 {
        let topology = self.topology.borrow();
        topology.as_ref().map_or(0, |topology| u64::from(topology.lease_ms)).max(1_000)
    }

    fn renewal_interval(&self) -> Duration {
        let known = self.topology.borrow().is_some();
        Duration::from_millis(if known { self.lease_ms() } else { FIRST_LEASE_MS } / 4)
    }

    /// Newest version under which every publish is routed.
    fn acknowledged(&self) -> u64 {
        let turns = self.turns.lock();
        turns.acknowledged(self.routes.read().version())
    }

    /// Renews the lease and acknowledges; returns the version that it acknowledged.
    async fn send_report(
        &self,
        sender: &mpsc::Sender<GatewayReport>,
        leaving: bool,
    ) -> Result<u64, StreamEnd> {
        let acknowledged = self.acknowledged();
        let cluster_id = self.topology.borrow().as_ref().map(|t| t.cluster_id.clone());
        let report = GatewayReport {
            protocol_version: self.config.versions.newest,
            cluster_id: cluster_id.unwrap_or_default(),
            gateway: Some(self.me.clone()),
            mqtt_address: self.config.mqtt_address.clone(),
            renewal: self.routes.write().renew(monotonic::now_ms()),
            acknowledged_version: acknowledged,
            leaving,
            protocol_version_min: self.config.versions.oldest,
        };
        sender.send(report).await.map_err(|_| StreamEnd::Ended)?;
        Ok(acknowledged)
    }

    /// Takes in an update; returns whether the lease's length changed.
    fn update(&self, update: GatewayUpdate) -> Result<bool, StreamEnd> {
        let before_ms = self.renewal_interval();
        if let Some(topology) = update.topology {
            self.check(&topology)?;
            if topology.shards > 0 {
                self.topology.send_replace(Some(Arc::new(topology)));
            }
        }
        {
            // Filters before the lease: a late renewal must not revive an older set.
            let mut routes = self.routes.write();
            if let Some(set) = &update.filters {
                routes.apply(set);
                metrics::gauge!(names::DURABLE_FILTERS).set(routes.len() as f64);
            }
            if update.covered_version > 0 {
                routes.covered(update.covered_version);
            }
            if update.renewed > 0 {
                routes.renewed(update.renewed, self.lease_ms());
            }
        }
        Ok(self.renewal_interval() != before_ms)
    }

    fn check(&self, topology: &Topology) -> Result<(), StreamEnd> {
        if !topology.refused.is_empty() {
            return Err(StreamEnd::Refused(topology.refused.clone()));
        }
        let theirs = Versions::announced(topology.protocol_version, topology.protocol_version_min);
        let common = self.config.versions.common(theirs);
        common.map_err(|none| StreamEnd::Refused(none.to_string()))?;
        let known = self.topology.borrow();
        if let Some(known) = known.as_ref()
            && known.cluster_id != topology.cluster_id
        {
            let other = &topology.cluster_id;
            return Err(StreamEnd::Refused(format!("it belongs to cluster {other:?}")));
        }
        Ok(())
    }
}

async fn until_set(flag: &mut watch::Receiver<bool>) {
    // The sender lives as long as this stream's owner.
    let _ = flag.wait_for(|set| *set).await;
}

/// A client of the metadata service at `address`.
pub(crate) async fn client(address: &str) -> Result<MetaClient<Channel>, tonic::transport::Error> {
    let channel = grpc::connect(address).await?;
    Ok(MetaClient::new(channel)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX))
}
