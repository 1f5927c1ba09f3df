//! Telling other gateways that a session was claimed here, until they have heard it.
//!
//! Their connection is fenced and can write nothing, but an idle one would not notice.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use holdfast_node_kit::grpc;
use holdfast_proto::gateway::gateway_client::GatewayClient;
use holdfast_proto::gateway::{TakeOverReply, TakeOverRequest};
use holdfast_proto::meta::{Liveness, Topology};
use holdfast_proto::shard::{ClaimOutcome, ClientKey, GatewayRef};
use tokio::sync::oneshot;
use tonic::transport::Channel;

use super::claims::HandOver;
use super::owners::Tell;
use super::{Shared, monotonic};

/// A gateway that does not answer within this is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Connections for single questions, by the other gateway's incarnation.
#[derive(Debug, Default)]
pub(crate) struct Channels(DashMap<u64, Channel>);

impl Channels {
    /// The channel to a gateway. Those to gateways that `lives` denies are closed when one is added.
    async fn to(
        &self,
        gateway: &GatewayRef,
        lives: impl Fn(u64) -> bool,
    ) -> Result<Channel, tonic::transport::Error> {
        if let Some(known) = self.0.get(&gateway.incarnation) {
            return Ok(known.clone());
        }
        let channel = grpc::connect(&gateway.address).await?;
        self.0.retain(|incarnation, _| lives(*incarnation));
        self.0.insert(gateway.incarnation, channel.clone());
        Ok(channel)
    }
}

/// Whether the topology names the gateway and has not declared it dead.
fn lives(topology: Option<&Topology>, incarnation: u64) -> bool {
    topology.into_iter().flat_map(|topology| &topology.gateways).any(|known| {
        known.liveness() != Liveness::Dead
            && known.gateway.as_ref().is_some_and(|gateway| gateway.incarnation == incarnation)
    })
}

impl Shared {
    /// Tells whom a claim has to tell, in the background. Returns the hand-over of the owner that it
    /// replaced, if that may answer soon.
    pub(super) fn tell(
        self: &Arc<Shared>,
        whom: Tell,
        outcome: &ClaimOutcome,
        client: &ClientKey,
        epoch: u64,
    ) -> Option<HandOver> {
        let request = || TakeOverRequest {
            cluster_id: self.cluster_id.clone(),
            client: Some(client.clone()),
            epoch,
        };
        match (whom, &outcome.previous_owner) {
            (Tell::Nobody, _) | (Tell::Previous, None) => None,
            (Tell::Everyone, _) => {
                self.tell_all_but(self.me.incarnation, &request());
                None
            }
            (Tell::Previous, Some(owner)) => {
                let (sender, answer) = oneshot::channel();
                let (shared, owner, request) = (self.clone(), owner.clone(), request());
                let may_answer = !self.is_dead(owner.incarnation);
                tokio::spawn(async move {
                    let reply = shared.tell_until_heard(&owner, &request).await.unwrap_or_default();
                    if !reply.found {
                        // It may have claimed without learning that, and then has told nobody itself.
                        shared.tell_all_but(owner.incarnation, &request);
                    }
                    // The claim may have given up waiting.
                    let _ = sender.send(reply.uncommitted);
                });
                may_answer.then_some(answer)
            }
        }
    }

    /// One that the topology does not know (yet) may live.
    fn is_dead(&self, incarnation: u64) -> bool {
        let topology = self.control.topology.borrow();
        topology.iter().flat_map(|topology| &topology.gateways).any(|known| {
            known.liveness() == Liveness::Dead
                && known.gateway.as_ref().is_some_and(|gateway| gateway.incarnation == incarnation)
        })
    }

    fn lives(&self, incarnation: u64) -> bool {
        lives(self.control.topology.borrow().as_deref(), incarnation)
    }

    fn tell_all_but(self: &Arc<Shared>, told: u64, request: &TakeOverRequest) {
        let topology = self.control.topology.borrow().clone();
        let gateways = topology.iter().flat_map(|topology| &topology.gateways);
        for gateway in gateways.filter_map(|known| known.gateway.clone()) {
            let other = gateway.incarnation != told && gateway.incarnation != self.me.incarnation;
            if other && lives(topology.as_deref(), gateway.incarnation) {
                let (shared, request) = (self.clone(), request.clone());
                tokio::spawn(async move {
                    shared.tell_until_heard(&gateway, &request).await;
                });
            }
        }
    }

    /// Repeats the request until it is answered, or the gateway has been dead or unknown for as long as a
    /// proposal is retried: one that was only asleep hears it when it wakes up.
    async fn tell_until_heard(
        &self,
        gateway: &GatewayRef,
        request: &TakeOverRequest,
    ) -> Option<TakeOverReply> {
        let mut pause_ms = self.config.retry_ms;
        let mut lived_ms = monotonic::now_ms();
        loop {
            let call = self.tell_once(gateway, request);
            if let Ok(Some(reply)) = tokio::time::timeout(ANSWER_WITHIN, call).await {
                return Some(reply);
            }
            let now_ms = monotonic::now_ms();
            if self.lives(gateway.incarnation) {
                lived_ms = now_ms;
            } else if now_ms >= lived_ms + self.config.propose_deadline_ms {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(self.config.reconnect_ms_max);
        }
    }

    async fn tell_once(
        &self,
        gateway: &GatewayRef,
        request: &TakeOverRequest,
    ) -> Option<TakeOverReply> {
        let lives = |incarnation| self.lives(incarnation);
        let channel = self.channels.to(gateway, lives).await.ok()?;
        let reply = GatewayClient::new(channel).take_over(request.clone()).await;
        reply
            .map_err(|error| tracing::debug!(%error, "a gateway does not answer"))
            .ok()
            .map(tonic::Response::into_inner)
    }
}
