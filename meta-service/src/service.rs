//! The gRPC face.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use holdfast_control::routes::Filter;
use holdfast_proto::{
    ids::Namespace,
    meta::{
        CoverFiltersReply, CoverFiltersRequest, DescribeClusterRequest, GatewayReport,
        GatewayUpdate, SessionFeed, SessionFeedDone, SiteReport, SiteUpdate, Topology,
        meta_server::Meta,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    leading::Role,
    metrics,
    standby::Standby,
    streams::{self, GatewayPeer, Peer, SitePeer, UNREAD_MAX},
};

/// Serves the `Meta` service.
pub(crate) struct MetaService {
    pub(crate) role: Role,
    pub(crate) standby: Arc<Standby>,
    pub(crate) cover_filters_max: usize,
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl MetaService {
    fn stream<P: Peer + Default>(
        &self,
        request: Request<Streaming<P::Report>>,
    ) -> Result<Response<Updates<P::Update>>, Status> {
        let leading = self.role.leading()?;
        let (sender, updates) = mpsc::channel(UNREAD_MAX);
        tokio::spawn(streams::serve(
            P::default(),
            leading.controller.clone(),
            request.into_inner(),
            sender,
            leading.over.clone(),
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }
}

fn check_cluster(ours: &str, cluster_id: &str) -> Result<(), Status> {
    if cluster_id.is_empty() || cluster_id == ours {
        return Ok(());
    }
    metrics::request_refused("other_cluster");
    Err(Status::failed_precondition(format!("this is cluster {ours}, not {cluster_id}")))
}

#[tonic::async_trait]
impl Meta for MetaService {
    type SiteStream = Updates<SiteUpdate>;
    type GatewayStream = Updates<GatewayUpdate>;
    type FeedSessionsStream = Updates<SessionFeedDone>;

    async fn site(
        &self,
        request: Request<Streaming<SiteReport>>,
    ) -> Result<Response<Self::SiteStream>, Status> {
        self.stream::<SitePeer>(request)
    }

    async fn gateway(
        &self,
        request: Request<Streaming<GatewayReport>>,
    ) -> Result<Response<Self::GatewayStream>, Status> {
        self.stream::<GatewayPeer>(request)
    }

    async fn cover_filters(
        &self,
        request: Request<CoverFiltersRequest>,
    ) -> Result<Response<CoverFiltersReply>, Status> {
        let leading = self.role.leading()?;
        let request = request.into_inner();
        check_cluster(&leading.controller.cluster_id, &request.cluster_id)?;
        if request.filters.len() > self.cover_filters_max {
            metrics::request_refused("cover_filters_max");
            return Err(Status::invalid_argument(format!(
                "more than {} filters",
                self.cover_filters_max
            )));
        }
        let mut filters = Vec::with_capacity(request.filters.len());
        for asked in &request.filters {
            let filter = Filter::of_subscription(Namespace(asked.namespace), &asked.filter);
            filters.push(filter.ok_or_else(|| {
                metrics::request_refused("malformed_filter");
                Status::invalid_argument(format!("malformed filter {:?}", asked.filter))
            })?);
        }
        match leading.controller.cover(filters).await {
            Some(Ok(version)) => Ok(Response::new(CoverFiltersReply { version })),
            Some(Err(_)) => Err(Status::resource_exhausted("too many requests wait for gateways")),
            None => Err(Status::unavailable("stopping")),
        }
    }

    async fn feed_sessions(
        &self,
        request: Request<Streaming<SessionFeed>>,
    ) -> Result<Response<Self::FeedSessionsStream>, Status> {
        let leading = self.role.leading()?;
        let (sender, answers) = mpsc::channel(UNREAD_MAX);
        let (sessions, over) = (leading.sessions.clone(), leading.over.clone());
        tokio::spawn(async move { sessions.serve(request.into_inner(), sender, over).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn describe(
        &self,
        _: Request<DescribeClusterRequest>,
    ) -> Result<Response<Topology>, Status> {
        let topology = match self.role.leading() {
            Ok(leading) => leading.controller.view.borrow().topology.clone(),
            Err(_) => self.standby.describe().await?,
        };
        Ok(Response::new(Topology::clone(&topology)))
    }
}
