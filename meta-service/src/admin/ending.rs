//! Ends connections and sessions.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use holdfast_admin_api::Problem;
use holdfast_control::storage_view::ClusterView;
use holdfast_proto::{
    gateway::{KickRequest, gateway_client::GatewayClient},
    shard::{
        Claim, ClaimOutcome, ClientKey, Command, Disconnect, GatewayRef, Status,
        command::Command as Asked, outcome::Outcome as Decided,
    },
};

use super::{
    Api,
    asking::Asking,
    cluster,
    extract::{Lead, Named},
    lag, password,
    problem::{Kind, Refused},
    sessions::{client, unknown},
};

/// How long a gateway may take to end a connection.
const KICK: Duration = Duration::from_secs(3);

/// Ends the connection of a session. The session stays, with what it has not read.
#[utoipa::path(
    post, path = "/sessions/{client_id}/kick", tag = "sessions",
    params(("client_id" = String, Path, description = "Percent-encoded")),
    responses((status = NO_CONTENT), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn kick(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Named(client_id): Named<String>,
) -> Result<StatusCode, Refused> {
    let view = cluster::view(&leading).await?;
    let asking = Asking::new(&view, &api.peers);
    let client = client(client_id);
    let row = lag::row(&asking, &client).await?.ok_or_else(|| unknown(&client))?;
    let not_connected = || {
        let detail = format!("session {:?} is not connected", client.client_id);
        Refused::new(Kind::NotConnected, detail)
    };
    let owner = row.owner.ok_or_else(not_connected)?;
    match kick_at(&asking, &owner, &client, row.epoch).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_connected()),
    }
}

/// Whether the client was connected there by this epoch.
async fn kick_at(
    asking: &Asking<'_>,
    gateway: &GatewayRef,
    client: &ClientKey,
    epoch: u64,
) -> Result<bool, Refused> {
    let request =
        KickRequest { cluster_id: asking.cluster_id(), client: Some(client.clone()), epoch };
    let call = |mut peer: GatewayClient<_>| async move { peer.kick(request).await };
    let kicked = asking.peers.gateway(&gateway.address, KICK, call).await;
    let kicked = kicked.map_err(|status| {
        let detail = format!(
            "gateway {} does not answer ({}): its clients are given up when its lease ends, ask again then",
            gateway.name,
            status.message()
        );
        Refused::new(Kind::Unavailable, detail)
    })?;
    Ok(kicked.found)
}

/// Deletes a session with its subscriptions and what it has not read; ends its connection, if there is one.
#[utoipa::path(
    delete, path = "/sessions/{client_id}", tag = "sessions",
    params(("client_id" = String, Path, description = "Percent-encoded")),
    responses((status = NO_CONTENT), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Lead(leading): Lead,
    Named(client_id): Named<String>,
) -> Result<StatusCode, Refused> {
    let view = cluster::view(&leading).await?;
    let client = client(client_id);
    let asking = Asking::new(&view, &api.peers);
    if lag::row(&asking, &client).await?.is_none() {
        return Err(unknown(&client));
    }
    // To its end, also if the asker goes away in the middle.
    let over = leading.over.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            ended = end(&api, &view, &client) => ended,
            () = over.wait() => Err(Refused::stopping()),
        }
    });
    let broken = |_| Refused::new(Kind::Unavailable, "deleting the session broke off: ask again");
    task.await.map_err(broken)??;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the session over as one that keeps nothing, has its owner end the connection, and leaves it.
async fn end(api: &Api, view: &ClusterView, client: &ClientKey) -> Result<(), Refused> {
    let asking = Asking::new(view, &api.peers);
    let shard = lag::home(client, asking.shards());
    let attempt = u64::from_be_bytes(password::random()?).max(1);
    let gateway =
        GatewayRef { incarnation: attempt, name: "admin".to_owned(), ..GatewayRef::default() };
    let claim = Claim {
        client: Some(client.clone()),
        gateway: Some(gateway),
        clean_start: true,
        attempt,
        ..Claim::default()
    };
    let outcome = asking.propose(shard, command(Asked::Claim(claim))).await?;
    let ClaimOutcome { row, previous_owner, previous_epoch, .. } =
        match (outcome.status(), outcome.outcome) {
            (Status::Ok, Some(Decided::Claim(claimed))) => claimed,
            (status, _) => return Err(undecided(shard, status)),
        };
    tracing::info!(client_id = client.client_id, "an operator deletes a session");
    if let Some(owner) = previous_owner
        && let Err(error) = kick_at(&asking, &owner, client, previous_epoch).await
    {
        // It is fenced: whatever it still does for the client is refused.
        tracing::warn!(%error, gateway = owner.name, "a deleted session's connection may last a moment");
    }
    let row = row.unwrap_or_default();
    let disconnect = Disconnect {
        client: Some(client.clone()),
        epoch: row.epoch,
        instance: row.instance,
        discard_will: true,
        ..Disconnect::default()
    };
    // With a time of its own: the gateway may have taken most of the first one.
    let asking = Asking::new(view, &api.peers);
    let outcome = asking.propose(shard, command(Asked::Disconnect(disconnect))).await?;
    match outcome.status() {
        // The client is back already, with a new session; or the first try of this was done.
        Status::Ok | Status::Fenced | Status::NoSession => Ok(()),
        other => Err(undecided(shard, other)),
    }
}

fn command(command: Asked) -> Command {
    Command { command: Some(command) }
}

fn undecided(shard: u32, status: Status) -> Refused {
    let detail = format!("shard {shard} answers {}: ask again", status.as_str_name());
    Refused::new(Kind::Unavailable, detail)
}
