//! Puts the service together and runs it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use holdfast_node_kit::{grpc, health::Health, shutdown::Shutdown};
use holdfast_proto::meta::meta_server::MetaServer;
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::transport::server::TcpIncoming;

use crate::{
    config::{Config, StoreKind},
    controller::{self, ControllerError},
    leading::{Leading, Role, Standing},
    service::MetaService,
    sessions::Sessions,
    store::Store,
    stores::sled::{OpenError, SledStore},
    sweep,
};

/// Why the service ended. Stop the process.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The data directory cannot be used.
    #[error("data directory {path}: {source}")]
    Directory {
        /// It.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data directory {path}: another process uses it")]
    InUse {
        /// It.
        path: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The controller ended.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The gRPC server ended.
    #[error("serving gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// A task panicked.
    #[error("a task ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Serves on `listener` until `shutdown`, or until something fails.
///
/// # Errors
/// What failed.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: Shutdown,
    health: Health,
) -> Result<(), ServerError> {
    let data_dir = config.data_dir.clone().unwrap_or_default();
    // Held until everything has ended.
    let _lock = lock(&data_dir)?;
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Sled | StoreKind::Etcd => Arc::new(SledStore::open(&data_dir.join("store"))?),
    };
    let (controller, controller_loop) = controller::start(&config, store.clone()).await?;
    let (cluster_id, shards) = (controller.cluster_id.clone(), controller.shards);
    let sessions =
        Sessions::load(store.clone(), cluster_id, shards, config.limits.list_max).await?;
    let sessions = Arc::new(sessions);
    let (standing, role) = Role::new();
    let leading = Leading {
        controller: controller.clone(),
        sessions: sessions.clone(),
        over: shutdown.clone(),
    };
    standing.send_replace(Standing::Leading(Arc::new(leading)));
    let service = MetaService { role, cover_filters_max: config.limits.cover_filters_max };
    let service = MetaServer::new(service)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);

    let mut tasks: JoinSet<Result<(), ServerError>> = JoinSet::new();
    let stop = shutdown.clone();
    tasks.spawn(async move { Ok(controller_loop.run(stop, health).await?) });
    let (stop, limits) = (shutdown.clone(), controller::route_limits(&config));
    let every = Duration::from_secs(config.limits.sweep_s);
    tasks.spawn(async move { Ok(sweep::run(controller, sessions, limits, every, stop).await?) });
    let stop = shutdown.clone();
    tasks.spawn(async move {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = grpc::server().add_service(service);
        Ok(server.serve_with_incoming_shutdown(incoming, async move { stop.wait().await }).await?)
    });
    let mut ended = Ok(());
    while let Some(result) = tasks.join_next().await {
        let result = result.map_err(ServerError::from).and_then(|result| result);
        // One that ends stops the others; the first failure is the cause.
        shutdown.trigger();
        ended = ended.and(result);
    }
    drop(standing);
    // The tasks of the last streams let go of the store a moment after their streams end; who starts the
    // service again finds the directory free.
    while Arc::strong_count(&store) > 1 {
        tokio::task::yield_now().await;
    }
    ended
}

fn lock(path: &Path) -> Result<File, ServerError> {
    let failed = |source| ServerError::Directory { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let file = File::create(path.join("LOCK")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
