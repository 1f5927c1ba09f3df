//! The members of the etcd cluster: one connection each, one of them asked until it fails.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity as TlsIdentity, TlsOptions,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::identity::Identity;
use crate::{config::EtcdConfig, store::StoreError};

/// Tries of a request at least, whatever the time: a dead member makes some of them fail at once.
const TRIES_MIN: u32 = 3;
/// First pause between tries, once the members were asked in turn.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a connection is asked whether it lives, and how long that may take.
const ALIVE: Duration = Duration::from_secs(2);

/// Why the etcd store cannot be opened. Stop: a human must look.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A file of the config cannot be read.
    #[error("{path}: {source}")]
    File {
        /// It.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The endpoints are not those of one cluster.
    #[error(
        "{first} belongs to etcd cluster {first_id:016x}, {other} to {other_id:016x}: \
         etcd.endpoints must be members of one cluster"
    )]
    Clusters {
        /// One endpoint.
        first: String,
        /// Its cluster.
        first_id: u64,
        /// Another.
        other: String,
        /// Its cluster.
        other_id: u64,
    },
    /// What is in the store cannot be believed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why one try of a request did not do it.
#[derive(Debug)]
pub(super) enum Failed {
    /// And none will.
    Refused(StoreError),
    /// The lease that it names is over.
    LeaseOver,
    /// The revision that it names is forgotten.
    Compacted,
    /// Another try may.
    Again {
        /// What went wrong.
        reason: String,
        /// This try may have done it all the same.
        maybe: bool,
    },
}

impl Failed {
    /// For a request that names neither lease nor revision.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Failed::Refused(error) => error,
            Failed::LeaseOver => StoreError::Unavailable("a lease is over".to_owned()),
            Failed::Compacted => StoreError::Unavailable("a revision is compacted".to_owned()),
            Failed::Again { reason, .. } => StoreError::Unavailable(reason),
        }
    }
}

#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    at: AtomicUsize,
    options: ConnectOptions,
    try_timeout: Duration,
    retry: Duration,
    silent: AtomicBool,
    pub(super) identity: Identity,
}

struct Member {
    url: String,
    client: Mutex<Option<Client>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

impl Members {
    pub(super) fn new(config: &EtcdConfig) -> Result<Members, EtcdError> {
        let try_timeout = Duration::from_millis(config.request_timeout_ms);
        let member = |url: &String| Member { url: url.clone(), client: Mutex::new(None) };
        Ok(Members {
            members: config.endpoints.iter().map(member).collect(),
            at: AtomicUsize::new(0),
            options: options(config, try_timeout)?,
            try_timeout,
            retry: Duration::from_millis(config.retry_ms),
            silent: AtomicBool::new(false),
            identity: Identity::default(),
        })
    }

    /// Asks every member which cluster it belongs to. Nothing: none answered, and why.
    pub(super) async fn identify(&self) -> Result<Result<(), String>, EtcdError> {
        let ask = |at: usize| async move { (at, self.status(at).await) };
        let answers = futures_util::future::join_all((0..self.members.len()).map(ask)).await;
        let mut first: Option<(usize, u64)> = None;
        let mut reasons = Vec::new();
        for (at, answer) in answers {
            match (answer, first) {
                (Err(reason), _) => reasons.push(format!("{}: {reason}", self.members[at].url)),
                (Ok(id), None) => first = Some((at, id)),
                (Ok(id), Some((_, first_id))) if id == first_id => {}
                (Ok(other_id), Some((other, first_id))) => {
                    return Err(EtcdError::Clusters {
                        first: self.members[other].url.clone(),
                        first_id,
                        other: self.members[at].url.clone(),
                        other_id,
                    });
                }
            }
        }
        let Some((at, _)) = first else { return Ok(Err(reasons.join("; "))) };
        self.at.store(at, Ordering::Relaxed);
        Ok(Ok(()))
    }

    async fn status(&self, at: usize) -> Result<u64, String> {
        let asked = timeout(self.try_timeout, async {
            self.client(at).await?.maintenance_client().status().await
        });
        match asked.await {
            Err(_) => Err("no answer in time".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(status)) => Ok(status.header().map_or(0, |header| header.cluster_id())),
        }
    }

    async fn client(&self, at: usize) -> Result<Client, Error> {
        let member = &self.members[at];
        if let Some(client) = member.client.lock().clone() {
            return Ok(client);
        }
        let client = Client::connect([&member.url], Some(self.options.clone())).await?;
        *member.client.lock() = Some(client.clone());
        Ok(client)
    }

    /// Begins a row of tries.
    pub(super) fn tries(&self) -> Tries {
        let retry = self.retry;
        let at_once = TRIES_MIN.max(u32::try_from(self.members.len()).unwrap_or(TRIES_MIN));
        Tries { began: Instant::now(), count: 0, at_once, pause: PAUSE_MIN, retry }
    }

    /// One try of a request; after a failure the next one asks another member.
    pub(super) async fn attempt<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.identity.mark().map_err(Failed::Refused)?;
        let at = self.at.load(Ordering::Relaxed);
        let mut sent = false;
        let answer = timeout(self.try_timeout, async {
            let client = self.client(at).await?;
            sent = true;
            request(client).await
        });
        let failed = match answer.await {
            Ok(Ok(answer)) => {
                if self.silent.swap(false, Ordering::Relaxed) {
                    tracing::info!(endpoint = self.members[at].url, "etcd answers again");
                }
                return Ok(answer);
            }
            Ok(Err(error)) => classify(&error, sent),
            Err(_) => Failed::Again { reason: "no answer in time".to_owned(), maybe: sent },
        };
        if let Failed::Again { reason, .. } = &failed {
            let next = (at + 1) % self.members.len();
            // Whoever failed at the same time may have moved on already.
            let _ = self.at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            tracing::debug!(endpoint = self.members[at].url, reason, "a try at etcd failed");
        }
        Err(failed)
    }

    /// Does a request that may be done twice.
    pub(super) async fn call<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut tries = self.tries();
        loop {
            match self.attempt(&request).await {
                Err(Failed::Again { reason, maybe }) => {
                    if !tries.another().await {
                        self.gave_up(&reason);
                        return Err(Failed::Again { reason, maybe });
                    }
                }
                done => return done,
            }
        }
    }

    /// Says so, once until somebody answers again.
    pub(super) fn gave_up(&self, reason: &str) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason, "etcd does not answer");
        }
    }
}

/// Tries of one request.
#[derive(Debug)]
pub(super) struct Tries {
    began: Instant,
    count: u32,
    at_once: u32,
    pause: Duration,
    retry: Duration,
}

impl Tries {
    /// Waits for the moment of the next try. False: it was tried for long enough.
    pub(super) async fn another(&mut self) -> bool {
        self.count += 1;
        if self.count < self.at_once {
            return true;
        }
        if self.began.elapsed() + self.pause > self.retry {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

fn options(config: &EtcdConfig, try_timeout: Duration) -> Result<ConnectOptions, EtcdError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(try_timeout)
        .with_keep_alive(ALIVE, ALIVE)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
        let password = String::from_utf8_lossy(&read(file)?).trim_end().to_owned();
        options = options.with_user(user, password);
    }
    if let Some(file) = &config.ca_file {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(file)?));
        if let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) {
            tls = tls.identity(TlsIdentity::from_pem(read(certificate)?, read(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn read(path: &Path) -> Result<Vec<u8>, EtcdError> {
    fs::read(path).map_err(|source| EtcdError::File { path: path.to_owned(), source })
}

fn classify(error: &Error, sent: bool) -> Failed {
    let again = |maybe| Failed::Again { reason: error.to_string(), maybe: maybe && sent };
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::LeaseKeepAliveError(reason) if reason.contains("not found") => {
            return Failed::LeaseOver;
        }
        _ => return again(true),
    };
    let says = |text: &str| status.message().contains(text);
    match status.code() {
        _ if !sent => again(false),
        Code::InvalidArgument => Failed::Refused(StoreError::Invalid(status.message().to_owned())),
        Code::NotFound if says("lease") => Failed::LeaseOver,
        Code::OutOfRange if says("compacted") => Failed::Compacted,
        Code::OutOfRange => Failed::Refused(StoreError::Unavailable(status.message().to_owned())),
        Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition => again(false),
        Code::Unavailable => again(!says("connect error") && !says("no leader")),
        _ => again(true),
    }
}
