//! Puts the service together and runs it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::OptionFuture};
use holdfast_node_kit::{grpc, health::Health, net, shutdown::Shutdown};
use holdfast_proto::meta::meta_server::MetaServer;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::transport::server::TcpIncoming;

use crate::{
    admin::{self, access::Access},
    certificates,
    config::{Config, StoreKind},
    controller::{self, ControllerError},
    election::{Candidate, Elected, Lost, News, Place},
    leading::{Leading, Role, Standing},
    metrics,
    service::MetaService,
    sessions::Sessions,
    standby::Standby,
    store::{Store, StoreError},
    stores::{
        etcd::{EtcdError, EtcdStore},
        sled::{OpenError, SledStore},
    },
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
    /// The etcd store cannot be opened.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// The store will not work again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This process is elected no longer.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The controller ended.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The gRPC server ended.
    #[error("serving gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The admin API's address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] net::BindError),
    /// The admin API cannot be started.
    #[error("the admin API: {0}")]
    Admin(String),
    /// A task panicked.
    #[error("a task ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl ServerError {
    /// Whether a new election mends nothing.
    fn is_final(&self) -> bool {
        let error = match self {
            ServerError::Store(error)
            | ServerError::Lost(Lost::Store(error))
            | ServerError::Controller(ControllerError::Store(error)) => error,
            ServerError::Lost(_)
            | ServerError::Controller(ControllerError::Superseded | ControllerError::Expired) => {
                return false;
            }
            _ => return true,
        };
        matches!(error, StoreError::Stopped(_) | StoreError::Invalid(_))
    }
}

/// Serves on `listener` until `shutdown`, or until something fails that a new election does not mend.
///
/// # Errors
/// What failed.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: Shutdown,
    health: Health,
) -> Result<(), ServerError> {
    metrics::elected(false);
    metrics::store_up(false);
    let (standing, role) = Role::new();
    let standby = Arc::new(Standby::default());
    let service = MetaService {
        role: role.clone(),
        standby: standby.clone(),
        cover_filters_max: config.limits.cover_filters_max,
    };
    let admin = match &config.admin {
        Some(section) => {
            let listener = net::bind(&section.listen).await?;
            Some(admin::serve(&config, section, role.clone(), listener, shutdown.clone()))
        }
        None => None,
    };
    let watched = certificates::watch(&config, shutdown.clone());
    let server = serve(service, role, config.store, listener, shutdown.clone());
    let office = Office { config, standby, standing, health, shutdown: shutdown.clone() };
    // Whichever ends stops the other, and both are waited for: a resignation takes a moment.
    let stop = |ended| {
        shutdown.trigger();
        ended
    };
    let (admin, watched) = (tokio::spawn(OptionFuture::from(admin)), tokio::spawn(watched));
    let (office, server, admin, watched) = tokio::join!(
        office.run().map(stop),
        tokio::spawn(server).map(|ended| stop(ended?)),
        admin.map(|ended| ended.map(drop).map_err(ServerError::from)),
        watched.map(|ended| ended.map_err(ServerError::from))
    );
    office.and(server).and(admin).and(watched)
}

async fn serve(
    service: MetaService,
    mut role: Role,
    store: StoreKind,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<(), ServerError> {
    if store == StoreKind::Sled {
        // Nobody else can be elected, and it takes no time: peers wait for it in the listener's queue.
        tokio::select! {
            () = role.known() => {}
            () = shutdown.wait() => return Ok(()),
        }
    }
    let service = MetaServer::new(service)
        .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = grpc::server().add_service(service);
    Ok(server.serve_with_incoming_shutdown(incoming, async move { shutdown.wait().await }).await?)
}

/// What a process does to be elected, and while it is.
struct Office {
    config: Config,
    standby: Arc<Standby>,
    standing: watch::Sender<Standing>,
    health: Health,
    shutdown: Shutdown,
}

impl Office {
    async fn run(self) -> Result<(), ServerError> {
        // Held until everything has ended.
        let mut _lock = None;
        let store: Arc<dyn Store> = match (&self.config.etcd, &self.config.data_dir) {
            (Some(etcd), _) => {
                let waiting = |reason: &str| self.health.set_not_ready(format!("etcd: {reason}"));
                tokio::select! {
                    store = EtcdStore::open(etcd, waiting) => Arc::new(store?),
                    () = self.shutdown.wait() => return Ok(()),
                }
            }
            (None, data_dir) => {
                let data_dir = data_dir.clone().unwrap_or_default();
                _lock = Some(lock(&data_dir)?);
                Arc::new(SledStore::open(&data_dir.join("store"))?)
            }
        };
        metrics::store_up(true);
        self.standby.open(store.clone());
        let ended = self.stand(&store).await;
        self.shutdown.trigger();
        drop(self);
        // The tasks of the last streams let go of the store a moment after their streams end; who starts the
        // service again finds the directory free.
        while Arc::strong_count(&store) > 1 {
            tokio::task::yield_now().await;
        }
        ended
    }

    /// Is elected, leads, and stands again, until the process stops.
    async fn stand(&self, store: &Arc<dyn Store>) -> Result<(), ServerError> {
        let ttl = Duration::from_secs(self.config.election_ttl_s);
        let place = Place {
            address: self.config.advertised().to_owned(),
            admin: self.config.admin_advertised(),
            name: self.config.name.clone(),
        };
        let mut candidate = Candidate::new(store.clone(), place, ttl);
        loop {
            let elected = tokio::select! {
                elected = candidate.campaign(|news| self.wait_behind(news)) => elected?,
                () = self.follow(store) => continue,
                () = self.shutdown.wait() => return Ok(()),
            };
            tracing::info!("elected");
            metrics::store_up(true);
            metrics::elected(true);
            let ended = self.lead(&elected).await;
            metrics::elected(false);
            match ended {
                _ if self.shutdown.is_triggered() => return Ok(()),
                Err(error) if !store.is_shared() || error.is_final() => return Err(error),
                Err(error) => {
                    metrics::store_up(!matches!(error, ServerError::Lost(Lost::Silent)));
                    tracing::error!(%error, "elected no longer");
                    self.standing.send_replace(Standing::Unknown(error.to_string()));
                    self.health.set_not_ready(error.to_string());
                }
                Ok(()) => {}
            }
        }
    }

    async fn follow(&self, store: &Arc<dyn Store>) {
        if store.is_shared() {
            self.standby.follow().await;
        } else {
            std::future::pending().await
        }
    }

    fn wait_behind(&self, news: News) {
        match news {
            News::Elected(place) => {
                metrics::store_up(true);
                self.standing.send_if_modified(|standing| {
                    let news = !matches!(standing, Standing::Standby(known) if *known == place);
                    if news {
                        tracing::info!(address = place.address, "another is elected");
                        *standing = Standing::Standby(place);
                    }
                    news
                });
                self.health.set_ready();
            }
            News::Trouble(error) => {
                metrics::store_up(false);
                self.health.set_not_ready(error.to_string());
                self.standing.send_replace(Standing::Unknown(error.to_string()));
            }
        }
    }

    /// Leads until the lease is lost, the store fails or the process stops; then resigns.
    async fn lead(&self, elected: &Elected) -> Result<(), ServerError> {
        let over = Shutdown::new();
        let mut keep = pin!(elected.keep());
        let mut tasks = JoinSet::new();
        let mut ended = tokio::select! {
            started = self.start(elected, &over, &mut tasks) => started,
            lost = &mut keep => Err(lost.into()),
            () = self.shutdown.wait() => Ok(()),
        };
        if ended.is_ok() {
            ended = tokio::select! {
                lost = &mut keep => Err(lost.into()),
                Some(task) = tasks.join_next() => task.map_err(ServerError::from).and_then(|ended| ended),
                () = self.shutdown.wait() => Ok(()),
            };
        }
        self.standing.send_replace(Standing::Unknown("the last one resigned".to_owned()));
        over.trigger();
        if ended.is_err() {
            // What is on its way is refused by the fence, or read by the next one.
            tasks.abort_all();
        }
        elected.resign().await;
        while let Some(task) = tasks.join_next().await {
            // The first failure is the cause.
            ended = ended.and(task.map_err(ServerError::from).and_then(|ended| ended));
        }
        ended
    }

    async fn start(
        &self,
        elected: &Elected,
        over: &Shutdown,
        tasks: &mut JoinSet<Result<(), ServerError>>,
    ) -> Result<(), ServerError> {
        let (store, tenure) = (elected.fenced(), elected.tenure());
        let (controller, controller_loop) =
            controller::start(&self.config, store.clone(), tenure).await?;
        let (cluster_id, shards) = (controller.cluster_id.clone(), controller.shards);
        let sessions = Arc::new(Sessions::load(store, cluster_id, shards).await?);
        let (stop, health) = (over.clone(), self.health.clone());
        tasks.spawn(async move { Ok(controller_loop.run(stop, health).await?) });
        let (stop, limits) = (over.clone(), controller::route_limits(&self.config));
        let every = Duration::from_secs(self.config.limits.sweep_s);
        let (sweeper, swept) = (controller.clone(), sessions.clone());
        tasks.spawn(async move { Ok(sweep::run(sweeper, swept, limits, every, stop).await?) });
        let access = self.open_access(elected, over)?;
        let leading = Leading { controller, sessions, access, over: over.clone() };
        self.standing.send_replace(Standing::Leading(Arc::new(leading)));
        Ok(())
    }

    fn open_access(
        &self,
        elected: &Elected,
        over: &Shutdown,
    ) -> Result<Option<Arc<Access>>, ServerError> {
        let Some(admin) = &self.config.admin else { return Ok(None) };
        let file = admin.password_file(self.config.data_dir.as_deref());
        // Not fenced: rows of users are written with compares of their own.
        let access = Access::open(elected.store(), file);
        let access = Arc::new(access.map_err(|error| ServerError::Admin(error.to_string()))?);
        let (prepared, stop) = (access.clone(), over.clone());
        // Computing a password's hash takes a moment: streams do not wait for it.
        tokio::spawn(async move {
            tokio::select! {
                ended = prepared.prepare() => if let Err(error) = ended {
                    tracing::warn!(%error, "the password file: tried again at the next request");
                },
                () = stop.wait() => {}
            }
        });
        Ok(Some(access))
    }
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
