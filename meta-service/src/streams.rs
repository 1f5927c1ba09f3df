//! The long streams of sites and gateways: reports in, topology and durable filters out, one task each.

use std::sync::Arc;

use holdfast_control::control::{Event, StreamId};
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::meta::{
    GatewayReport, GatewayUpdate, ShardRetention, SiteReport, SiteUpdate, Topology,
};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use crate::controller::{Controller, Told, View};

/// Updates that a peer may leave unread; what changes meanwhile is one more.
pub(crate) const UNREAD_MAX: usize = 2;

/// What differs between sites and gateways.
pub(crate) trait Peer: Send + 'static {
    /// What it sends.
    type Report: Send + 'static;
    /// What it is sent.
    type Update: Send + 'static;

    /// The report as an event.
    fn event(stream: StreamId, report: Self::Report) -> Event;
    /// What it does not know yet, if anything.
    fn update(&mut self, controller: &Controller, view: &View, told: &Told)
    -> Option<Self::Update>;
    /// Why it is refused.
    fn refusal(topology: Topology) -> Self::Update;
}

/// Serves one peer until either end closes.
pub(crate) async fn serve<P: Peer>(
    mut peer: P,
    controller: Controller,
    reports: Streaming<P::Report>,
    updates: mpsc::Sender<Result<P::Update, Status>>,
    shutdown: Shutdown,
) {
    let Some((stream, told)) = controller.open().await else { return };
    tokio::select! {
        () = talk(&mut peer, &controller, stream, told, reports, &updates) => {}
        () = shutdown.wait() => {}
    }
    // Fails only if the controller ended.
    let _ = controller.tell(Event::Closed { stream }).await;
}

async fn talk<P: Peer>(
    peer: &mut P,
    controller: &Controller,
    stream: StreamId,
    mut told: watch::Receiver<Told>,
    mut reports: Streaming<P::Report>,
    updates: &mpsc::Sender<Result<P::Update, Status>>,
) {
    let mut view = controller.view.clone();
    loop {
        tokio::select! {
            report = reports.message() => {
                let Ok(Some(report)) = report else { return };
                if !controller.tell(P::event(stream, report)).await {
                    return;
                }
                continue;
            }
            changed = told.changed() => if changed.is_err() { return },
            changed = view.changed() => if changed.is_err() { return },
        }
        let now = told.borrow_and_update().clone();
        if let Some(refused) = now.refused {
            let topology = Topology {
                protocol_version: controller.versions.newest,
                protocol_version_min: controller.versions.oldest,
                cluster_id: controller.cluster_id.to_string(),
                refused,
                ..Topology::default()
            };
            // The peer may have gone.
            let _ = updates.send(Ok(P::refusal(topology))).await;
            return;
        }
        if !now.accepted {
            continue;
        }
        let seen = view.borrow_and_update().clone();
        if let Some(update) = peer.update(controller, &seen, &now)
            && updates.send(Ok(update)).await.is_err()
        {
            return;
        }
    }
}

/// A storage site; what it was sent.
#[derive(Debug, Default)]
pub(crate) struct SitePeer {
    version: Option<u64>,
    retention: Arc<[ShardRetention]>,
}

impl Peer for SitePeer {
    type Report = SiteReport;
    type Update = SiteUpdate;

    fn event(stream: StreamId, report: SiteReport) -> Event {
        Event::Site { stream, report }
    }

    fn update(&mut self, _: &Controller, view: &View, _: &Told) -> Option<SiteUpdate> {
        let version = Some(view.topology.version);
        let topology = (self.version != version).then(|| Topology::clone(&view.topology));
        self.version = version;
        let known = std::mem::replace(&mut self.retention, view.retention.clone());
        let retention = changed(&known, &view.retention);
        (topology.is_some() || !retention.is_empty()).then_some(SiteUpdate { topology, retention })
    }

    fn refusal(topology: Topology) -> SiteUpdate {
        SiteUpdate { topology: Some(topology), ..SiteUpdate::default() }
    }
}

/// Shards whose retention is another than what was known of it; at first nothing was.
fn changed(known: &Arc<[ShardRetention]>, new: &Arc<[ShardRetention]>) -> Vec<ShardRetention> {
    if Arc::ptr_eq(known, new) {
        return Vec::new();
    }
    let nothing = |shard| ShardRetention { shard, ..ShardRetention::default() };
    let news = new.iter().enumerate().filter(|(at, retention)| match known.get(*at) {
        Some(known) => known != *retention,
        None => nothing(retention.shard) != **retention,
    });
    news.map(|(_, retention)| *retention).collect()
}

/// A gateway; what it was sent.
#[derive(Debug, Default)]
pub(crate) struct GatewayPeer {
    version: u64,
    filters: Option<u64>,
    renewed: u64,
    covered: u64,
}

impl Peer for GatewayPeer {
    type Report = GatewayReport;
    type Update = GatewayUpdate;

    fn event(stream: StreamId, report: GatewayReport) -> Event {
        Event::Gateway { stream, report }
    }

    /// The first one has the whole set in it, so that no renewal is heard before the set.
    fn update(
        &mut self,
        controller: &Controller,
        view: &View,
        told: &Told,
    ) -> Option<GatewayUpdate> {
        let topology =
            (view.topology.version != self.version).then(|| Topology::clone(&view.topology));
        let filters = match self.filters {
            Some(version) if version >= view.filter_version => None,
            known => controller.filters.lock().since(known),
        };
        let news = topology.is_some() || filters.is_some();
        if !news && told.renewed == self.renewed && view.covered == self.covered {
            return None;
        }
        self.version = view.topology.version;
        self.filters = filters.as_ref().map(|set| set.version).or(self.filters);
        self.renewed = told.renewed;
        self.covered = view.covered;
        Some(GatewayUpdate {
            topology,
            filters,
            renewed: told.renewed,
            covered_version: view.covered,
        })
    }

    fn refusal(topology: Topology) -> GatewayUpdate {
        GatewayUpdate { topology: Some(topology), ..GatewayUpdate::default() }
    }
}
