//! A service in this process, and peers of it.

use std::{path::Path, time::Duration};

use holdfast_node_kit::{config::ConfigError, health::Health, net, shutdown::Shutdown};
use holdfast_proto::{
    PROTOCOL_VERSION,
    meta::{
        CoverFiltersRequest, GatewayReport, GatewayUpdate, SiteReport, SiteUpdate, Topology,
        meta_client::MetaClient,
    },
    shard::GatewayRef,
    storage,
};
use meta_service::{
    config::{Config, Limits},
    server,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

pub(crate) const LEASE_MS: u32 = 1_000;

pub(crate) struct Service {
    pub(crate) client: MetaClient<Channel>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(directory: &Path) -> Service {
        Service::start_with(directory, Limits::default()).await
    }

    pub(crate) async fn start_with(directory: &Path, limits: Limits) -> Service {
        Service::start_changed(directory, "", |config| Config { limits, ..config }).await
    }

    /// With more sections in its config.
    pub(crate) async fn start_configured(directory: &Path, sections: &str) -> Service {
        Service::start_changed(directory, sections, |config| config).await
    }

    async fn start_changed(
        directory: &Path,
        sections: &str,
        change: impl FnOnce(Config) -> Config,
    ) -> Service {
        let listener = net::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let text = format!(
            "name = \"test\"\ndata_dir = {directory:?}\ngrpc_listen = \"{address}\"\n\
             http_listen = \"127.0.0.1:0\"\nshards = 8\nlease_ms = {LEASE_MS}\n{sections}"
        );
        let config = change(configured(directory, &text));
        let shutdown = Shutdown::new();
        let run = server::run(config, listener, shutdown.clone(), Health::new());
        let task = tokio::spawn(async move { run.await.unwrap() });
        let client = MetaClient::new(holdfast_node_kit::grpc::connect(&address).await.unwrap());
        Service { client, shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }

    pub(crate) async fn describe(&mut self) -> Topology {
        self.client
            .describe(holdfast_proto::meta::DescribeClusterRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub(crate) async fn cover(&mut self, filters: &[&str]) -> Result<u64, Status> {
        cover(self.client.clone(), filters).await
    }
}

/// A config as its process reads it.
pub(crate) fn configured(directory: &Path, text: &str) -> Config {
    configure(directory, text).unwrap()
}

pub(crate) fn configure(directory: &Path, text: &str) -> Result<Config, ConfigError> {
    let path = directory.join("meta.toml");
    std::fs::write(&path, text).unwrap();
    holdfast_node_kit::config::load(&path)
}

pub(crate) async fn cover(
    mut client: MetaClient<Channel>,
    filters: &[&str],
) -> Result<u64, Status> {
    let filter = |filter: &&str| storage::Filter { namespace: 0, filter: (*filter).to_owned() };
    let filters = filters.iter().map(filter).collect();
    let request = CoverFiltersRequest { cluster_id: String::new(), filters };
    client.cover_filters(request).await.map(|reply| reply.into_inner().version)
}

pub(crate) fn site_report(site: u64) -> SiteReport {
    SiteReport {
        protocol_version: PROTOCOL_VERSION,
        site_id: site,
        name: format!("site-{site}"),
        address: format!("127.0.0.1:{}", 9000 + site),
        ..SiteReport::default()
    }
}

/// A site: its latest report is sent at once, and again four times a lease.
pub(crate) struct Site {
    pub(crate) report: watch::Sender<SiteReport>,
    pub(crate) updates: Streaming<SiteUpdate>,
}

impl Site {
    pub(crate) async fn connect(service: &Service, report: SiteReport) -> Site {
        Site::open(service.client.clone(), report).await.unwrap()
    }

    pub(crate) async fn open(
        mut client: MetaClient<Channel>,
        report: SiteReport,
    ) -> Result<Site, Status> {
        let (sender, reports) = mpsc::channel(4);
        let (report, latest) = watch::channel(report);
        tokio::spawn(beat(latest, sender));
        let updates = client.site(ReceiverStream::new(reports)).await?.into_inner();
        Ok(Site { report, updates })
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&Topology) -> bool) -> Topology {
        loop {
            let update = self.updates.message().await.unwrap().expect("the stream lives");
            let Some(topology) = update.topology else { continue };
            assert_eq!(topology.refused, "");
            if wanted(&topology) {
                return topology;
            }
        }
    }

    pub(crate) async fn refusal(&mut self) -> String {
        let update = self.updates.message().await.unwrap().expect("an answer");
        assert!(self.updates.message().await.unwrap().is_none(), "the stream ends");
        update.topology.unwrap_or_default().refused
    }
}

async fn beat<T: Clone>(mut latest: watch::Receiver<T>, sender: mpsc::Sender<T>) {
    let mut beat = tokio::time::interval(Duration::from_millis(u64::from(LEASE_MS) / 4));
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            _ = beat.tick() => {}
        }
        let report = latest.borrow_and_update().clone();
        if sender.send(report).await.is_err() {
            return;
        }
    }
}

pub(crate) async fn three_sites(service: &Service) -> Vec<Site> {
    let mut sites = Vec::new();
    for site in 1..=3 {
        sites.push(Site::connect(service, site_report(site)).await);
    }
    sites
}

/// A gateway; it acknowledges what its test makes it acknowledge.
pub(crate) struct Gateway {
    pub(crate) report: watch::Sender<GatewayReport>,
    pub(crate) updates: Streaming<GatewayUpdate>,
}

impl Gateway {
    pub(crate) async fn connect(service: &Service, incarnation: u64) -> Gateway {
        Gateway::open(service.client.clone(), incarnation).await.unwrap()
    }

    pub(crate) async fn open(
        mut client: MetaClient<Channel>,
        incarnation: u64,
    ) -> Result<Gateway, Status> {
        let gateway = GatewayRef {
            incarnation,
            name: format!("gateway-{incarnation}"),
            address: format!("127.0.0.1:{}", 8000 + incarnation),
        };
        let report = GatewayReport {
            protocol_version: PROTOCOL_VERSION,
            gateway: Some(gateway),
            renewal: 1,
            ..GatewayReport::default()
        };
        let (sender, reports) = mpsc::channel(4);
        let (report, latest) = watch::channel(report);
        tokio::spawn(beat(latest, sender));
        let updates = client.gateway(ReceiverStream::new(reports)).await?.into_inner();
        Ok(Gateway { report, updates })
    }

    pub(crate) async fn update(&mut self) -> GatewayUpdate {
        self.updates.message().await.unwrap().expect("the stream lives")
    }

    pub(crate) async fn until(&mut self, wanted: impl Fn(&GatewayUpdate) -> bool) -> GatewayUpdate {
        loop {
            let update = self.update().await;
            if wanted(&update) {
                return update;
            }
        }
    }

    pub(crate) fn acknowledge(&self, version: u64) {
        self.report.send_modify(|report| report.acknowledged_version = version);
    }
}

pub(crate) fn added(update: &GatewayUpdate, filter: &str) -> bool {
    update.filters.as_ref().is_some_and(|set| set.add.iter().any(|add| add.filter == filter))
}
