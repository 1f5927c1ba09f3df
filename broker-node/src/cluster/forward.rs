//! Live messages between gateways, for regular sessions; and the gRPC service of a gateway.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use holdfast_node_kit::grpc;
use holdfast_proto::gateway::gateway_client::GatewayClient;
use holdfast_proto::gateway::gateway_server::{Gateway, GatewayServer};
use holdfast_proto::gateway::{
    ForwardBlock, ForwardInterest, KickReply, KickRequest, ListClientsReply, ListClientsRequest,
    TakeOverReply, TakeOverRequest,
};
use holdfast_proto::record::Record;
use holdfast_proto::storage::Filter;
use holdfast_proto::version::Versions;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::regular::{InterestChange, Peer, Scratch};
use super::{Shared, metrics as names};

/// Blocks on the way to one peer besides its buffer.
const BLOCKS_IN_FLIGHT: usize = 2;
/// First pause after a lost stream.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Serves other gateways until the process ends.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let service = GatewayServer::new(Service { shared })
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    if let Err(error) = grpc::server().add_service(service).serve_with_incoming(incoming).await {
        tracing::error!(%error, "the gRPC server of this gateway has ended");
    }
}

struct Service {
    shared: Arc<Shared>,
}

type Blocks = Pin<Box<dyn Stream<Item = Result<ForwardBlock, Status>> + Send>>;

#[tonic::async_trait]
impl Gateway for Service {
    type ForwardStream = Blocks;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardInterest>>,
    ) -> Result<Response<Blocks>, Status> {
        let mut interest = request.into_inner();
        let hello = interest.message().await?.ok_or_else(|| Status::cancelled("no interest"))?;
        let theirs = Versions::announced(hello.protocol_version, hello.protocol_version_min);
        let common = self.shared.config.versions.common(theirs);
        common.map_err(|none| Status::failed_precondition(none.to_string()))?;
        self.shared.check_cluster(&hello.cluster_id)?;
        let (sender, receiver) = mpsc::channel(BLOCKS_IN_FLIGHT);
        tokio::spawn(serve_peer(self.shared.clone(), hello, interest, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }

    async fn take_over(
        &self,
        request: Request<TakeOverRequest>,
    ) -> Result<Response<TakeOverReply>, Status> {
        let request = request.into_inner();
        self.shared.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.shared.give_up(request).await))
    }

    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Result<Response<ListClientsReply>, Status> {
        let request = request.into_inner();
        self.shared.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.shared.list_clients(request).await))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickReply>, Status> {
        let request = request.into_inner();
        self.shared.check_cluster(&request.cluster_id)?;
        Ok(Response::new(self.shared.kick(request).await))
    }
}

/// Sends a peer what it asks for until it goes away.
async fn serve_peer(
    shared: Arc<Shared>,
    hello: ForwardInterest,
    mut interest: Streaming<ForwardInterest>,
    sender: mpsc::Sender<ForwardBlock>,
) {
    let peer = Peer::new(shared.config.forward_buffer_bytes_max);
    let id = shared.regular.add_peer(peer.clone());
    let mut filters: HashMap<(u32, String), Filter> = HashMap::new();
    let mut change = |asked: ForwardInterest| {
        let mut change = InterestChange::default();
        for filter in asked.remove {
            if filters.remove(&(filter.namespace, filter.filter.clone())).is_some() {
                change.remove.push(filter);
            }
        }
        for filter in asked.add {
            let key = (filter.namespace, filter.filter.clone());
            if filters.insert(key, filter.clone()).is_none() {
                change.add.push(filter);
            }
        }
        shared.regular.change_peer(id, &change);
    };
    change(hello);
    loop {
        tokio::select! {
            asked = interest.message() => match asked {
                Ok(Some(asked)) => change(asked),
                Ok(None) | Err(_) => break,
            },
            block = next_block(&peer, &sender) => {
                let Some((permit, records)) = block else { break };
                permit.send(ForwardBlock { records });
            }
        }
    }
    shared.regular.remove_peer(id, filters.into_values());
}

/// Waits for room first, then for records: what is taken is always sent.
async fn next_block<'a>(
    peer: &Peer,
    sender: &'a mpsc::Sender<ForwardBlock>,
) -> Option<(mpsc::Permit<'a, ForwardBlock>, bytes::Bytes)> {
    let permit = sender.reserve().await.ok()?;
    Some((permit, peer.take().await.freeze()))
}

/// Takes what another gateway's clients publish for our regular sessions, until the task is aborted.
pub(crate) async fn listen(shared: Arc<Shared>, incarnation: u64, address: String) {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Err(status) = listen_once(&shared, incarnation, &address, &mut pause).await
            && pause == FIRST_PAUSE
        {
            // Once until it works again.
            let error = status.message();
            tracing::warn!(address, error, "no live messages from another gateway");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(shared.config.reconnect_ms_max));
    }
}

async fn listen_once(
    shared: &Shared,
    incarnation: u64,
    address: &str,
    pause: &mut Duration,
) -> Result<(), Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let channel = grpc::connect(address).await.map_err(unavailable)?;
    let mut client = GatewayClient::new(channel)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
    let (sender, receiver) = mpsc::unbounded_channel();
    shared.regular.listen(incarnation, sender);
    let (me, cluster_id) = (shared.me.clone(), shared.cluster_id.clone());
    let versions = shared.config.versions;
    let interest =
        UnboundedReceiverStream::new(receiver).map(move |change: InterestChange| ForwardInterest {
            protocol_version: versions.newest,
            protocol_version_min: versions.oldest,
            cluster_id: cluster_id.clone(),
            gateway: Some(me.clone()),
            add: change.add,
            remove: change.remove,
        });
    let mut blocks = client.forward(interest).await?.into_inner();
    *pause = FIRST_PAUSE;
    while let Some(block) = blocks.message().await? {
        let mut rest = block.records;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let record = Record::split_from(&mut rest)
                .map_err(|error| Status::data_loss(error.to_string()))?;
            records.push(record);
        }
        shared.deliver_regular(&records);
    }
    Ok(())
}

impl Shared {
    fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        if cluster_id == self.cluster_id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "this gateway belongs to cluster {:?}, not {cluster_id:?}",
            self.cluster_id
        )))
    }

    /// Delivers messages that came from elsewhere to regular sessions.
    pub(crate) fn deliver_regular(&self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        let mut scratch = Scratch::default();
        let now_ms = holdfast_node_kit::clock::now_ms();
        metrics::counter!(names::FORWARDED).increment(records.len() as u64);
        for record in records {
            self.regular.deliver(record, &mut scratch, now_ms);
        }
    }
}
