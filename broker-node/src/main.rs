//! The gateway: terminates MQTT, runs one session core per connected client, owns no disk.

mod cluster;
mod codec;
mod config;
mod connection;
mod inbox;
mod listener;
mod metrics;

use std::process::ExitCode;
use std::time::Duration;

use holdfast_node_kit::health::Health;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_node_kit::{config as files, http, net, telemetry};
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::connection::Shared;

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = files::from_args("Holdfast gateway: MQTT for clients");
    let prometheus = telemetry::init("broker-node", &config.name);
    let shutdown = Shutdown::on_signals();
    match run(&config, prometheus, &shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "gateway failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(
    config: &Config,
    prometheus: telemetry::PrometheusHandle,
    shutdown: &Shutdown,
) -> Result<(), Box<dyn std::error::Error>> {
    let health = Health::new();
    let http_listener = net::bind(&config.http_listen).await?;
    let mqtt_listener = net::bind(&config.mqtt_listen).await?;
    // The cluster side and the metrics outlive the connections, which need them to end well.
    let stopped = Shutdown::new();
    tokio::spawn(http::serve(http_listener, prometheus, health.clone(), stopped.clone()));
    let cluster = tokio::select! {
        started = Cluster::start(config.cluster_config(), stopped.clone(), health.clone()) => started?,
        () = shutdown.wait() => return Ok(()),
    };
    let shared = Shared::new(config.mqtt.clone(), &config.cluster, cluster);
    tracing::info!(listen = %config.mqtt_listen, "serving MQTT");
    listener::serve(mqtt_listener, shared.clone(), shutdown.clone()).await;
    health.set_not_ready("stopping");
    let time = Duration::from_millis(config.mqtt.drain_timeout_ms);
    if timeout(time, shared.registry.drain()).await.is_err() {
        tracing::warn!(left = shared.registry.len(), "connections did not end in time");
    }
    stopped.trigger();
    Ok(())
}
