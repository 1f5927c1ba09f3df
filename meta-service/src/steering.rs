//! What operators ask over gRPC.

use holdfast_control::steering::{Steer, SteerRefusal};
use holdfast_proto::meta::{
    DescribeStorageRequest, DrainSiteRequest, ForgetSiteRequest, ReplaceSiteRequest, SteerReply,
    StorageDescription, steering_server::Steering,
};
use tonic::{Request, Response, Status};

use crate::{leading::Role, metrics};

/// Serves the `Steering` service.
pub(crate) struct SteeringService {
    pub(crate) role: Role,
}

impl SteeringService {
    async fn steer(&self, steer: Steer) -> Result<Response<SteerReply>, Status> {
        match self.role.leading()?.controller.steer(steer).await {
            Some(Ok(site)) => Ok(Response::new(SteerReply { site_id: site.0 })),
            Some(Err(refusal)) => Err(refused(&refusal)),
            None => Err(stopping()),
        }
    }
}

fn refused(refusal: &SteerRefusal) -> Status {
    metrics::request_refused("steering");
    match refusal {
        SteerRefusal::Unknown { .. } | SteerRefusal::UnknownShard { .. } => {
            Status::not_found(refusal.to_string())
        }
        SteerRefusal::Ambiguous { .. } => Status::invalid_argument(refusal.to_string()),
        SteerRefusal::TooFewSites { .. }
        | SteerRefusal::Up { .. }
        | SteerRefusal::Lost { .. }
        | SteerRefusal::Holds { .. }
        | SteerRefusal::NoReplica { .. }
        | SteerRefusal::HasReplica { .. }
        | SteerRefusal::Unusable { .. }
        | SteerRefusal::Leaving { .. }
        | SteerRefusal::SameZone { .. }
        | SteerRefusal::UnderWay { .. }
        | SteerRefusal::SetBack => Status::failed_precondition(refusal.to_string()),
    }
}

fn stopping() -> Status {
    Status::unavailable("stopping")
}

#[tonic::async_trait]
impl Steering for SteeringService {
    async fn describe_storage(
        &self,
        _: Request<DescribeStorageRequest>,
    ) -> Result<Response<StorageDescription>, Status> {
        let description = self.role.leading()?.controller.describe_storage().await;
        description.map(Response::new).ok_or_else(stopping)
    }

    async fn drain_site(
        &self,
        request: Request<DrainSiteRequest>,
    ) -> Result<Response<SteerReply>, Status> {
        let DrainSiteRequest { site, cancel } = request.into_inner();
        self.steer(Steer::Drain { site, cancel }).await
    }

    async fn replace_site(
        &self,
        request: Request<ReplaceSiteRequest>,
    ) -> Result<Response<SteerReply>, Status> {
        self.steer(Steer::Replace { site: request.into_inner().site }).await
    }

    async fn forget_site(
        &self,
        request: Request<ForgetSiteRequest>,
    ) -> Result<Response<SteerReply>, Status> {
        self.steer(Steer::Forget { site: request.into_inner().site }).await
    }
}
