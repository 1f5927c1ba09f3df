//! The gRPC service that gateways use.

use std::collections::{HashMap, hash_map::Entry};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use holdfast_proto::batch::Batch;
use holdfast_proto::ids::{Position, ShardId};
use holdfast_proto::shard::{AppendOutcome, Outcome, Status as Decided, outcome};
use holdfast_proto::storage::{
    Chunk, CountMatchesReply, CountMatchesRequest, DescribeRequest, FetchRunRequest, Filter,
    GatewayFrame, GatewayHello, GetSessionsReply, GetSessionsRequest, ProposeCommandRequest,
    ProposeDone, ReadMatchesRequest, ReadPage, RollShardReply, RollShardRequest, SiteDescription,
    SiteHello, TailBlock, TailFilters, TailFiltersActive, TailStopped, VerifyShardReply,
    VerifyShardRequest, gateway_frame::Frame, site_frame::Frame as Out, storage_server::Storage,
};
use holdfast_proto::version::Versions;
use holdfast_shard::Request as Ask;
use parking_lot::Mutex;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::link::{GatewayLink, Outgoing};
use super::{admin, check_cluster, check_hello, match_count, reads, verify};
use crate::metrics::{self, Refused};
use crate::replica::cell::run_id;
use crate::replica::proposer::{Waiter, refusal};
use crate::replica::run_file;
use crate::site::Site;

/// The service; one a site.
pub(crate) struct StorageService(pub(crate) Arc<Site>);

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes of a run in one chunk.
const CHUNK_BYTES: usize = 256 * 1024;

#[tonic::async_trait]
impl Storage for StorageService {
    type LinkStream = Outgoing;
    type FetchRunStream = Frames<Chunk>;

    async fn link(
        &self,
        request: Request<Streaming<GatewayFrame>>,
    ) -> Result<Response<Outgoing>, Status> {
        let mut frames = request.into_inner();
        let hello = match frames.message().await? {
            Some(GatewayFrame { frame: Some(Frame::Hello(hello)) }) => hello,
            _ => return Err(Status::invalid_argument("the first frame must be a hello")),
        };
        let site = self.0.clone();
        let GatewayHello { protocol_version, cluster_id, gateway, protocol_version_min } = hello;
        let theirs = Versions::announced(protocol_version, protocol_version_min);
        let gateway = gateway.ok_or_else(|| Status::invalid_argument("hello names no gateway"))?;
        let who = format!("gateway {}", gateway.name);
        if let Err(status) = check_hello(&who, &site, theirs, &cluster_id) {
            tracing::warn!(gateway = gateway.name, reason = status.message(), "gateway refused");
            return Err(*status);
        }
        let link = site.links.open(gateway).map_err(|status| *status)?;
        link.send(Out::Hello(SiteHello {
            protocol_version: site.config.versions().newest,
            cluster_id: site.cluster_id.clone(),
            site_id: site.site_id.0,
            shards: u32::from(site.shards()),
            protocol_version_min: site.config.versions().oldest,
        }));
        link.send(Out::Leaders(site.leaders()));
        let session = LinkSession { site, link: link.clone(), filters: Arc::default() };
        tokio::spawn(session.run(frames));
        Ok(Response::new(Outgoing(link)))
    }

    async fn fetch_run(
        &self,
        request: Request<FetchRunRequest>,
    ) -> Result<Response<Frames<Chunk>>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        let row = request.run.ok_or_else(|| Status::invalid_argument("no run named"))?;
        let id = run_id(ShardId(request.shard as u16), &row);
        let disk = self.0.disk.clone();
        let read = tokio::task::spawn_blocking(move || run_file::read(disk.as_ref(), id));
        let file = read
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::not_found(error.to_string()))?;
        let chunks: Vec<_> = (0..file.len())
            .step_by(CHUNK_BYTES)
            .map(|from| file.slice(from..file.len().min(from + CHUNK_BYTES)))
            .map(|data| Ok(Chunk { data }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<SiteDescription>, Status> {
        Ok(Response::new(self.0.describe()))
    }

    async fn count_matches(
        &self,
        request: Request<CountMatchesRequest>,
    ) -> Result<Response<CountMatchesReply>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        let counted = match_count::count(&self.0, request).await;
        counted.map(Response::new).map_err(Status::invalid_argument)
    }

    async fn get_sessions(
        &self,
        request: Request<GetSessionsRequest>,
    ) -> Result<Response<GetSessionsReply>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        admin::sessions(&self.0, request).await.map(Response::new)
    }

    async fn read_matches(
        &self,
        request: Request<ReadMatchesRequest>,
    ) -> Result<Response<ReadPage>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        admin::matches(&self.0, request).await.map(Response::new)
    }

    async fn propose_command(
        &self,
        request: Request<ProposeCommandRequest>,
    ) -> Result<Response<ProposeDone>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        Ok(Response::new(admin::propose(&self.0, request).await))
    }

    async fn roll_shard(
        &self,
        request: Request<RollShardRequest>,
    ) -> Result<Response<RollShardReply>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        Ok(Response::new(admin::roll(&self.0, request.shard).await))
    }

    type VerifyShardStream = Frames<VerifyShardReply>;

    async fn verify_shard(
        &self,
        request: Request<VerifyShardRequest>,
    ) -> Result<Response<Frames<VerifyShardReply>>, Status> {
        let request = request.into_inner();
        self.check_caller(&request.cluster_id)?;
        let replies = verify::start(&self.0, &request)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

impl StorageService {
    fn check_caller(&self, cluster_id: &str) -> Result<(), Status> {
        check_cluster("the caller", &self.0, cluster_id).map_err(|status| *status)
    }
}

/// Reads one gateway's frames.
struct LinkSession {
    site: Arc<Site>,
    link: Arc<GatewayLink>,
    /// The filters that the gateway has added here and not removed.
    filters: Arc<Mutex<HashMap<Filter, u32>>>,
}

impl LinkSession {
    async fn run(self, mut frames: Streaming<GatewayFrame>) {
        let gateway = self.link.gateway.name.clone();
        tracing::info!(gateway, "gateway connected");
        let ended = loop {
            let frame = tokio::select! {
                () = self.site.shutdown.wait() => break "stopping".to_string(),
                frame = frames.message() => frame,
            };
            match frame {
                Ok(Some(GatewayFrame { frame: Some(frame) })) => self.take(frame),
                Ok(Some(_)) => {}
                Ok(None) => break "closed".to_string(),
                Err(status) => break status.message().to_string(),
            }
        };
        tracing::info!(gateway, reason = ended, "gateway disconnected");
        self.link.close(None);
        for replica in self.site.replicas() {
            replica.tails.forget(&self.link);
        }
        self.site.links.forget(&self.link, &self.filters.lock());
    }

    fn take(&self, frame: Frame) {
        let (site, link) = (&self.site, &self.link);
        match frame {
            Frame::Hello(_) => {
                link.close(Some(Status::invalid_argument("a second hello")));
            }
            Frame::Append(append) => self.append(ShardId(append.shard as u16), append.batch),
            Frame::Propose(propose) => {
                let waiter = Waiter::Propose(link.clone(), propose.request_id);
                let command = propose.command.unwrap_or_default();
                match site.replica(ShardId(propose.shard as u16)) {
                    Some(replica) => replica.request(Ask::Command(command), waiter),
                    None => {
                        let leader = site.leader_of(propose.shard as u16);
                        let outcome = refusal(Decided::NotLeader);
                        link.propose_done(propose.request_id, outcome, leader);
                    }
                }
            }
            Frame::TailFilters(change) => self.change_filters(change),
            Frame::TailStart(start) => {
                let shard = ShardId(start.shard as u16);
                match site.replica(shard).filter(|replica| replica.serving().is_ok()) {
                    None => {
                        let leader_site = site.leader_of(start.shard as u16);
                        let stopped = TailStopped { shard: start.shard, leader_site };
                        link.send(Out::TailStopped(stopped));
                    }
                    Some(replica) => {
                        let (head, time_ms) = {
                            let state = replica.cell.shard.lock();
                            (state.next_position(), replica.cell.time_ms(&state))
                        };
                        let from = match start.position {
                            0 => head,
                            position => Position(position),
                        };
                        // Where the tail is, before anything is pushed.
                        link.send(Out::TailBlock(TailBlock {
                            shard: start.shard,
                            from: from.0,
                            next: from.0,
                            time_ms,
                            records: bytes::Bytes::new(),
                        }));
                        replica.tails.start(link, self.filters.clone(), from, start.credit_bytes);
                    }
                }
            }
            Frame::TailCredit(credit) => {
                if let Some(replica) = site.replica(ShardId(credit.shard as u16)) {
                    replica.tails.credit(link, credit.bytes);
                }
            }
            Frame::Read(read) => reads::read(site, link, read),
            Frame::ReadRetained(read) => reads::read_retained(site, link, &read),
        }
    }

    fn append(&self, shard: ShardId, bytes: bytes::Bytes) {
        let Ok(batch) = Batch::check(bytes) else {
            // Its sequence cannot be trusted, so no answer can name it: the stream starts anew.
            metrics::refused(Refused::MalformedBatch);
            self.link.close(Some(Status::invalid_argument("malformed batch")));
            return;
        };
        let waiter = Waiter::Append(self.link.clone());
        match self.site.replica(shard) {
            Some(replica) => replica.request(Ask::Append(batch), waiter),
            None => {
                let sequence = batch.header().sequence;
                let append = AppendOutcome { sequence, ..AppendOutcome::default() };
                let outcome = Outcome {
                    status: Decided::NotLeader.into(),
                    outcome: Some(outcome::Outcome::Append(append)),
                };
                self.link.append_done(shard, outcome, self.site.leader_of(shard.0));
            }
        }
    }

    fn change_filters(&self, change: TailFilters) {
        self.site.links.change_interest(self.link.slot, &change.add, &change.remove);
        let mut filters = self.filters.lock();
        for gone in &change.remove {
            if let Entry::Occupied(mut known) = filters.entry(gone.clone()) {
                match *known.get() {
                    1 => drop(known.remove()),
                    times => *known.get_mut() = times - 1,
                }
            }
        }
        for filter in change.add {
            *filters.entry(filter).or_insert(0) += 1;
        }
        drop(filters);
        let active_from = self.site.led_heads();
        let request_id = change.request_id;
        self.link.send(Out::TailFiltersActive(TailFiltersActive { request_id, active_from }));
    }
}
