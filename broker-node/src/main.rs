//! The gateway: terminates MQTT, runs one session core per connected client, owns no disk.

mod cluster;
mod codec;
mod config;
mod connection;
mod figures;
mod inbox;
mod listener;
mod metrics;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use holdfast_node_kit::config::Program;
use holdfast_node_kit::health::Health;
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_node_kit::{config as files, http, net, runtime, telemetry};
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, ClusterError};
use crate::config::Config;
use crate::connection::Shared;

fn main() -> ExitCode {
    let config: Config = files::from_args(Program {
        name: "broker-node",
        about: "Holdfast gateway: MQTT for clients",
        describe: metrics::describe,
    });
    runtime::run(config.worker_threads, run(config))
}

async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let prometheus = telemetry::init("broker-node", &config.name, metrics::describe);
    let shutdown = Shutdown::on_signals();
    let health = Health::new();
    let http_listener = net::bind(&config.http_listen).await?;
    let mqtt_listener = net::bind(&config.mqtt_listen).await?;
    // The metrics outlive the connections.
    let stopped = Shutdown::new();
    tokio::spawn(http::serve(http_listener, prometheus, health.clone(), stopped.clone()));
    let started = Cluster::start(config.cluster_config(), shutdown.clone(), health.clone()).await;
    let cluster = match started {
        Err(ClusterError::Stopping) => return Ok(()),
        started => started?,
    };
    let shared = Shared::new(config.mqtt.clone(), &config.cluster, cluster.clone());
    tracing::info!(listen = %config.mqtt_listen, "serving MQTT");
    let spread = Duration::from_millis(config.mqtt.drain_spread_ms);
    tokio::spawn(send_elsewhere_when_cut_off(shared.clone(), spread));
    let stop = async {
        shutdown.wait().await;
        health.set_not_ready("stopping");
        sleep(Duration::from_millis(config.mqtt.drain_delay_ms)).await;
    };
    listener::serve(mqtt_listener, shared.clone(), stop).await;
    let time = Duration::from_millis(config.mqtt.drain_timeout_ms);
    if timeout(time, shared.registry.drain(spread)).await.is_err() {
        tracing::warn!(left = shared.registry.len(), "connections did not end in time");
    }
    cluster.leave().await;
    stopped.trigger();
    Ok(())
}

/// Clients that this gateway cannot serve for want of a site may do better at another one.
async fn send_elsewhere_when_cut_off(shared: Arc<Shared>, spread: Duration) {
    loop {
        shared.cluster.cut_off().await;
        if shared.cluster.another_gateway().is_some() {
            shared.registry.send_elsewhere(spread).await;
        }
    }
}
