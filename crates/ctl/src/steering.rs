//! Asks the elected meta-service, wherever it is.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use holdfast_node_kit::grpc::{self, MESSAGE_BYTES_MAX};
use holdfast_node_kit::meta_addresses::MetaAddresses;
use holdfast_proto::ids::SiteId;
use holdfast_proto::meta::meta_client::MetaClient;
use holdfast_proto::meta::steering_client::SteeringClient;
use holdfast_proto::meta::{
    DescribeStorageRequest, DrainSiteRequest, ForgetSiteRequest, ListSessionsReply,
    ListSessionsRequest, Liveness, ReplaceSiteRequest, SiteState, SteerReply, StorageDescription,
};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::local::data_dir::DataArgs;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan, PlanError};
use crate::local::role::Role;

/// One that takes longer to answer is left for the next one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long they are asked in turn: an election takes a moment.
const PATIENCE: Duration = Duration::from_secs(15);
/// Before the next one is asked, unless the last one named the elected one.
const PAUSE: Duration = Duration::from_millis(100);

/// How the meta-services are found.
#[derive(Debug, Args)]
pub(crate) struct SteeringArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Meta-services to ask instead of those of the data folder
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) meta: Vec<String>,
}

/// No answer, or one that says no.
#[derive(Debug, Error)]
pub(crate) enum SteeringError {
    /// Reject: in the words of the service.
    #[error("{0}")]
    Refused(String),
    /// Stop: it must be upgraded first.
    #[error("the meta-service at {0} is too old to be asked for this")]
    TooOld(String),
    /// Retry: later.
    #[error("no meta-service answers at {addresses}: {last}")]
    NoAnswer { addresses: String, last: String },
    /// Stop.
    #[error("no cluster in {}: `holdfast up` starts one, --meta names one elsewhere", .0.display())]
    NoCluster(PathBuf),
    /// Stop.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The meta-services of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Steering {
    configured: Vec<String>,
    addresses: MetaAddresses,
    patience: Duration,
}

impl Steering {
    /// Those of the arguments, or of the cluster in the data folder.
    pub(crate) fn find(args: &SteeringArgs) -> Result<Steering, SteeringError> {
        if !args.meta.is_empty() {
            return Ok(Steering::at(args.meta.clone()));
        }
        let no_cluster = || SteeringError::NoCluster(args.data.data.clone());
        let dir = DataDir::open(&args.data.data).ok_or_else(no_cluster)?;
        let plan = Plan::load(&dir)?.ok_or_else(no_cluster)?;
        let metas = plan.members().into_iter().filter(|member| member.role == Role::Meta);
        Ok(Steering::at(metas.map(|member| member.grpc).collect()))
    }

    fn at(configured: Vec<String>) -> Steering {
        let addresses = MetaAddresses::new(configured.clone());
        Steering { configured, addresses, patience: PATIENCE }
    }

    /// A look at the elected one of those meta-services that run: its address and what it says. None
    /// if it does not answer soon.
    pub(crate) async fn glance(running: &[Member]) -> Option<(String, StorageDescription)> {
        let metas: Vec<String> = running
            .iter()
            .filter(|member| member.role == Role::Meta)
            .map(|member| member.grpc.clone())
            .collect();
        if metas.is_empty() {
            return None;
        }
        let mut steering = Steering { patience: Duration::ZERO, ..Steering::at(metas.clone()) };
        // Each may name the elected one; after as many nobody is elected right now.
        for _ in 0..=metas.len() {
            let asked = timeout(Duration::from_secs(1), steering.describe()).await;
            match asked {
                Ok(Ok(description)) => {
                    return Some((steering.addresses.current().to_owned(), description));
                }
                Ok(Err(SteeringError::NoAnswer { .. })) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
        None
    }

    /// Sites and transitions.
    pub(crate) async fn describe(&mut self) -> Result<StorageDescription, SteeringError> {
        self.ask(|channel| async move {
            steering(channel).describe_storage(DescribeStorageRequest {}).await
        })
        .await
    }

    /// Begins or calls off a drain.
    pub(crate) async fn drain(
        &mut self,
        site: &str,
        cancel: bool,
    ) -> Result<SteerReply, SteeringError> {
        self.ask(|channel| async move {
            let request = DrainSiteRequest { site: site.to_owned(), cancel };
            steering(channel).drain_site(request).await
        })
        .await
    }

    /// Gives a site up.
    pub(crate) async fn replace(&mut self, site: &str) -> Result<SteerReply, SteeringError> {
        self.ask(|channel| async move {
            steering(channel).replace_site(ReplaceSiteRequest { site: site.to_owned() }).await
        })
        .await
    }

    /// Removes a site that is gone.
    pub(crate) async fn forget(&mut self, site: &str) -> Result<SteerReply, SteeringError> {
        self.ask(|channel| async move {
            steering(channel).forget_site(ForgetSiteRequest { site: site.to_owned() }).await
        })
        .await
    }

    /// A page of sessions.
    pub(crate) async fn list_sessions(
        &mut self,
        request: &ListSessionsRequest,
    ) -> Result<ListSessionsReply, SteeringError> {
        self.ask(|channel| async move {
            let client = MetaClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
            let mut client = client;
            client.list_sessions(request.clone()).await
        })
        .await
    }

    /// Asks one after the other until one answers. All requests may be repeated.
    async fn ask<T, F, A>(&mut self, ask: F) -> Result<T, SteeringError>
    where
        F: Fn(Channel) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            let address = self.addresses.current().to_owned();
            let channel = grpc::connect(&address)
                .await
                .map_err(|error| SteeringError::Refused(format!("{address:?}: {error}")))?;
            let status = match timeout(ANSWER_TIMEOUT, ask(channel)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("{address} takes too long to answer")),
            };
            if status.code() == Code::Unimplemented {
                return Err(SteeringError::TooOld(address));
            }
            if !may_be_elsewhere(&status) {
                return Err(SteeringError::Refused(status.message().to_owned()));
            }
            let hinted = self.addresses.refused(&status);
            if Instant::now() >= deadline {
                let addresses = self.configured.join(", ");
                let last = status.message().to_owned();
                return Err(SteeringError::NoAnswer { addresses, last });
            }
            if !hinted {
                sleep(PAUSE).await;
            }
        }
    }
}

fn steering(channel: Channel) -> SteeringClient<Channel> {
    SteeringClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Whether another meta-service, or this one later, may answer better.
fn may_be_elsewhere(status: &Status) -> bool {
    let codes =
        [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Aborted, Code::DeadlineExceeded];
    codes.contains(&status.code())
}

/// As people write it.
pub(crate) fn site_id(id: u64) -> String {
    SiteId(id).to_string()
}

/// As people write it.
pub(crate) fn state_name(state: SiteState) -> &'static str {
    match state {
        SiteState::Active => "active",
        SiteState::Draining => "draining",
        SiteState::Drained => "drained",
        SiteState::Lost => "lost",
    }
}

/// As people write it.
pub(crate) fn liveness_name(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Up => "up",
        Liveness::Down => "down",
        Liveness::Dead => "dead",
    }
}
