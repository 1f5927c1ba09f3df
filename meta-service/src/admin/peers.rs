//! Sites and gateways, as the API asks them: a channel for each address, dropped when it failed, and a limit in
//! time for everything.

use std::{collections::HashMap, time::Duration};

use holdfast_node_kit::grpc;
use holdfast_proto::{
    gateway::gateway_client::GatewayClient, storage::storage_client::StorageClient,
};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

/// Addresses to which channels are kept.
const CHANNELS_MAX: usize = 4096;

/// Channels by address.
#[derive(Default)]
pub(crate) struct Peers {
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    async fn channel(&self, address: &str) -> Result<Channel, Status> {
        if let Some(channel) = self.channels.lock().get(address) {
            return Ok(channel.clone());
        }
        let made = grpc::connect(address).await;
        let channel = made.map_err(|error| Status::unavailable(format!("{address}: {error}")))?;
        let mut channels = self.channels.lock();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// A call to a site.
    pub(crate) async fn site<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        address: &str,
        limit: Duration,
        call: impl FnOnce(StorageClient<Channel>) -> F,
    ) -> Result<T, Status> {
        let channel = self.channel(address).await?;
        let client = StorageClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        self.limited(address, limit, call(client)).await
    }

    /// A call to a gateway.
    pub(crate) async fn gateway<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        address: &str,
        limit: Duration,
        call: impl FnOnce(GatewayClient<Channel>) -> F,
    ) -> Result<T, Status> {
        let channel = self.channel(address).await?;
        let client = GatewayClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        self.limited(address, limit, call(client)).await
    }

    async fn limited<T>(
        &self,
        address: &str,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let late = || Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs()));
        let answer = timeout(limit, call).await.unwrap_or_else(|_| Err(late()));
        if let Err(status) = &answer
            && matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
        {
            // The next call begins with a connection of its own.
            self.channels.lock().remove(address);
        }
        answer.map(Response::into_inner)
    }
}
