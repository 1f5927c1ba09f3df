//! The gRPC face.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use holdfast_control::routes::Filter;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::{
    ids::Namespace,
    meta::{
        CoverFiltersReply, CoverFiltersRequest, DescribeClusterRequest, GatewayReport,
        GatewayUpdate, ListSessionsReply, ListSessionsRequest, SessionFeed, SessionFeedDone,
        SiteReport, SiteUpdate, Topology, meta_server::Meta,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    controller::Controller,
    metrics,
    sessions::Sessions,
    streams::{self, GatewayPeer, Peer, SitePeer, UNREAD_MAX},
};

/// Serves the `Meta` service.
pub(crate) struct MetaService {
    pub(crate) controller: Controller,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) cover_filters_max: usize,
    pub(crate) shutdown: Shutdown,
}

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl MetaService {
    fn stream<P: Peer + Default>(
        &self,
        request: Request<Streaming<P::Report>>,
    ) -> Response<Updates<P::Update>> {
        let (sender, updates) = mpsc::channel(UNREAD_MAX);
        let (controller, shutdown) = (self.controller.clone(), self.shutdown.clone());
        tokio::spawn(streams::serve(
            P::default(),
            controller,
            request.into_inner(),
            sender,
            shutdown,
        ));
        Response::new(Box::pin(ReceiverStream::new(updates)))
    }

    fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        if cluster_id.is_empty() || cluster_id == &*self.controller.cluster_id {
            return Ok(());
        }
        metrics::request_refused("other_cluster");
        let ours = &self.controller.cluster_id;
        Err(Status::failed_precondition(format!("this is cluster {ours}, not {cluster_id}")))
    }
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
        Ok(self.stream::<SitePeer>(request))
    }

    async fn gateway(
        &self,
        request: Request<Streaming<GatewayReport>>,
    ) -> Result<Response<Self::GatewayStream>, Status> {
        Ok(self.stream::<GatewayPeer>(request))
    }

    async fn cover_filters(
        &self,
        request: Request<CoverFiltersRequest>,
    ) -> Result<Response<CoverFiltersReply>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
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
        match self.controller.cover(filters).await {
            Some(Ok(version)) => Ok(Response::new(CoverFiltersReply { version })),
            Some(Err(_)) => Err(Status::resource_exhausted("too many requests wait for gateways")),
            None => Err(Status::unavailable("stopping")),
        }
    }

    async fn feed_sessions(
        &self,
        request: Request<Streaming<SessionFeed>>,
    ) -> Result<Response<Self::FeedSessionsStream>, Status> {
        let (sender, answers) = mpsc::channel(UNREAD_MAX);
        let (sessions, shutdown) = (self.sessions.clone(), self.shutdown.clone());
        tokio::spawn(async move { sessions.serve(request.into_inner(), sender, shutdown).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsReply>, Status> {
        self.sessions.list(request.into_inner()).await.map(Response::new)
    }

    async fn describe(
        &self,
        _: Request<DescribeClusterRequest>,
    ) -> Result<Response<Topology>, Status> {
        Ok(Response::new(Topology::clone(&self.controller.view.borrow().topology)))
    }
}
