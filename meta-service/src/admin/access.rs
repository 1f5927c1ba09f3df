//! Who may use the admin API: users with passwords, and tokens.
//!
//! A password is checked by its argon2id hash, which costs a core for a moment; what was right is remembered
//! for a minute, in memory alone, under a hash with a key of this process. The user `admin` has the
//! password of the password file.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use holdfast_admin_api::{Identity, Role};
use holdfast_node_kit::clock;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{
    password::{self, Hasher},
    password_file::PasswordFile,
    problem::{Kind, Refused},
    rows::{UserRow, secret_key, user_key},
    tokens::{self, TOKEN_PREFIX},
    users,
};
use crate::store::{Store, get};

/// The user that is always there.
pub(crate) const ADMIN: &str = "admin";
/// How long right credentials are remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Credentials that are remembered.
const REMEMBERED_MAX: usize = 1024;
/// Failed logins are logged at most this often.
const LOGGED: Duration = Duration::from_secs(1);

type Digested = [u8; 32];

/// Who may use the admin API.
pub(crate) struct Access {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hasher: Hasher,
    file: PasswordFile,
    /// The password file was looked at.
    prepared: OnceCell<()>,
    key: [u8; 32],
    remembered: Mutex<HashMap<Digested, (Identity, Instant)>>,
    logged: Mutex<Option<Instant>>,
}

impl Access {
    /// Nothing is read yet: see [`Access::prepare`].
    pub(crate) fn open(store: Arc<dyn Store>, file: PathBuf) -> Result<Access, Refused> {
        Ok(Access {
            store,
            hasher: Hasher::new(),
            file: PasswordFile::new(file),
            prepared: OnceCell::new(),
            key: password::random()?,
            remembered: Mutex::default(),
            logged: Mutex::default(),
        })
    }

    /// Takes the password of the user `admin` from its file, or makes one if there is neither file nor user.
    pub(crate) async fn prepare(&self) -> Result<(), Refused> {
        self.prepared.get_or_try_init(|| self.take_file()).await.copied()
    }

    async fn take_file(&self) -> Result<(), Refused> {
        let stored = self.user(ADMIN).await?.map(|row| row.password_hash);
        match self.file.wanted(stored.is_some()) {
            Ok(None) => Ok(()),
            Ok(Some(password)) => self.take(password, stored).await,
            Err(error) => {
                let path = self.file.path().display();
                tracing::error!(%path, %error, "the user admin gets no password from its file: mend the file");
                Ok(())
            }
        }
    }

    async fn take(&self, password: String, stored: Option<String>) -> Result<(), Refused> {
        let known = stored.is_some();
        if self.hasher.verify(password.clone(), stored).await? {
            return Ok(());
        }
        let hash = self.hasher.hash(password).await?;
        users::write(self, ADMIN, |_| Ok(UserRow::new(Role::Admin, hash.clone()))).await?;
        if known {
            let path = self.file.path().display();
            tracing::info!(%path, "the user admin has a new password, from its file");
        }
        Ok(())
    }

    /// Who asks, by the header `Authorization`.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Refused> {
        self.prepare().await?;
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            let how = "credentials are needed: a bearer token, or a user with its password";
            return Err(Refused::new(Kind::Credentials, how));
        };
        let value = value.to_str().unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let rest = rest.trim();
        let found = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => self.bearer(rest).await?,
            "basic" => self.basic(rest).await?,
            _ => None,
        };
        found.ok_or_else(|| {
            self.log_failure();
            let detail = "the credentials are not right, or have expired: check the token, or user and password";
            Refused::new(Kind::Credentials, detail)
        })
    }

    async fn bearer(&self, token: &str) -> Result<Option<Identity>, Refused> {
        let random = token.strip_prefix(TOKEN_PREFIX).map(|rest| URL_SAFE_NO_PAD.decode(rest));
        let Some(Ok(_)) = random else { return Ok(None) };
        let key = secret_key(&Sha256::digest(token));
        tokens::find(self, &key, clock::now_ms()).await
    }

    async fn basic(&self, encoded: &str) -> Result<Option<Identity>, Refused> {
        let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((name, password)) =
            decoded.as_deref().and_then(|credentials| credentials.split_once(':'))
        else {
            return Ok(None);
        };
        let digest = self.digest(name, password);
        if let Some(identity) = self.recall(&digest) {
            return Ok(Some(identity));
        }
        let mut found = self.check(name, password).await?;
        if found.is_none() && name == ADMIN && self.file.has_changed() {
            self.take_file().await?;
            found = self.check(name, password).await?;
        }
        if let Some(identity) = &found {
            self.remember(digest, identity.clone());
        }
        Ok(found)
    }

    async fn check(&self, name: &str, password: &str) -> Result<Option<Identity>, Refused> {
        let row = self.user(name).await?;
        let stored = row.as_ref().map(|row| row.password_hash.clone());
        let right = self.hasher.verify(password.to_owned(), stored).await?;
        let identity = |row: UserRow| Identity { name: name.to_owned(), role: row.role() };
        Ok(row.filter(|_| right).map(identity))
    }

    /// A user.
    pub(crate) async fn user(&self, name: &str) -> Result<Option<UserRow>, Refused> {
        if users::check_name(name).is_err() {
            return Ok(None);
        }
        let entry = get(self.store.as_ref(), &user_key(name)).await?;
        entry.map(|entry| UserRow::read(&entry)).transpose()
    }

    fn digest(&self, name: &str, password: &str) -> Digested {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(password);
        hash.finalize().into()
    }

    fn recall(&self, digest: &Digested) -> Option<Identity> {
        let remembered = self.remembered.lock();
        let (identity, since) = remembered.get(digest)?;
        (since.elapsed() < REMEMBERED).then(|| identity.clone())
    }

    fn remember(&self, digest: Digested, identity: Identity) {
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(digest, (identity, Instant::now()));
        }
    }

    /// Where the password of the user `admin` is.
    pub(crate) fn password_file(&self) -> &Path {
        self.file.path()
    }

    /// Passwords or roles have changed.
    pub(crate) fn forget(&self) {
        self.remembered.lock().clear();
    }

    /// They are counted by their status.
    fn log_failure(&self) {
        let mut logged = self.logged.lock();
        if logged.is_none_or(|at| at.elapsed() >= LOGGED) {
            *logged = Some(Instant::now());
            tracing::warn!("a request to the admin API had wrong credentials");
        }
    }
}
