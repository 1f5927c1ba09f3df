//! `meta-service --config FILE`

use std::process::ExitCode;

use holdfast_node_kit::{config, health::Health, http, net, shutdown::Shutdown, telemetry};
use meta_service::{config::Config, server};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let config: Config = config::from_args(config::Program {
        name: "meta-service",
        about: "Holdfast metadata service",
        describe: meta_service::describe_metrics,
    });
    let metrics = telemetry::init("meta-service", &config.name, meta_service::describe_metrics);
    let shutdown = Shutdown::on_signals();
    let health = Health::new();
    let listeners = async {
        Ok((net::bind(&config.grpc_listen).await?, net::bind(&config.http_listen).await?))
    };
    let (grpc, admin) = match listeners.await {
        Ok(listeners) => listeners,
        Err::<_, net::BindError>(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let admin = tokio::spawn(http::serve(admin, metrics, health.clone(), shutdown.clone()));
    let ended = server::run(config, grpc, shutdown.clone(), health).await;
    shutdown.trigger();
    if let Err(error) = admin.await {
        tracing::error!(%error, "http server");
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "stopped");
            ExitCode::FAILURE
        }
    }
}
