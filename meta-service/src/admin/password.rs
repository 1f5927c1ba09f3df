//! Passwords: argon2id hashes, and what is allowed.

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::SaltString,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use tokio::sync::Semaphore;

use super::problem::{Kind, Refused};

/// Lengths that are allowed, bytes.
const BYTES: std::ops::RangeInclusive<usize> = 12..=256;
/// Memory of one computation, KiB. With the passes it is what OWASP asks for at least.
const MEMORY_KIB: u32 = 19 << 10;
const PASSES: u32 = 2;
/// Computations at once: they take a core and 19 MiB each.
const AT_ONCE: usize = 2;

/// Refuses passwords that are too short or too long.
pub(crate) fn check(password: &str) -> Result<(), Refused> {
    if BYTES.contains(&password.len()) {
        return Ok(());
    }
    let detail = format!(
        "a password of {} bytes is not allowed: {} to {}",
        password.len(),
        BYTES.start(),
        BYTES.end()
    );
    Err(Refused::new(Kind::Password, detail))
}

/// Random bytes for passwords, tokens and salts.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    let failed = |error| format!("the system gives no random numbers: {error}");
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Refused::new(Kind::Unavailable, failed(error)))?;
    Ok(bytes)
}

/// A password that nobody can guess.
pub(crate) fn make() -> Result<String, Refused> {
    Ok(URL_SAFE_NO_PAD.encode(random::<24>()?))
}

/// Compared with where there is no such user, so that the answer takes as long. No password is known for it.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9ib2R5$\
                      bm9ib2R5bm9ib2R5bm9ib2R5bm9ib2R5bm9ib2R5bm8";

/// Computes hashes, a few at once.
pub(crate) struct Hasher {
    gate: Semaphore,
}

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher { gate: Semaphore::new(AT_ONCE) }
    }

    /// The hash to store.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Refused> {
        self.compute(move || hash(&password)).await?
    }

    /// Whether this is the password of the hash; never without one.
    pub(crate) async fn verify(
        &self,
        password: String,
        stored: Option<String>,
    ) -> Result<bool, Refused> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| NOBODY.to_owned());
        Ok(self.compute(move || matches(&password, &stored)).await? && known)
    }

    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let failed = || Refused::new(Kind::Unavailable, "passwords cannot be checked now");
        let _permit = self.gate.acquire().await.map_err(|_| failed())?;
        tokio::task::spawn_blocking(work).await.map_err(|_| failed())
    }
}

fn hash(password: &str) -> Result<String, Refused> {
    let failed = |what: String| Refused::new(Kind::Unavailable, format!("hashing: {what}"));
    let params =
        Params::new(MEMORY_KIB, PASSES, 1, None).map_err(|error| failed(error.to_string()))?;
    let salt =
        SaltString::encode_b64(&random::<16>()?).map_err(|error| failed(error.to_string()))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| failed(error.to_string()))?.to_string())
}

/// Compares in constant time. A hash that cannot be read belongs to no password.
fn matches(password: &str, stored: &str) -> bool {
    let Ok(stored) = PasswordHash::new(stored) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &stored).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

    use super::*;

    #[tokio::test]
    async fn only_the_password_fits_its_hash() {
        let hasher = Hasher::new();
        let stored = hasher.hash("correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(hasher.verify("correct horse".to_owned(), Some(stored.clone())).await.unwrap());
        assert!(!hasher.verify("correct house".to_owned(), Some(stored)).await.unwrap());
        assert!(!hasher.verify("correct horse".to_owned(), None).await.unwrap());
        assert!(!hasher.verify("correct horse".to_owned(), Some("junk".into())).await.unwrap());
    }

    #[test]
    fn what_nobody_is_compared_with_is_computed_as_others_are() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        assert_eq!(nobody.hash.unwrap().len(), 32);
        let params = Params::try_from(&nobody).unwrap();
        assert_eq!((params.m_cost(), params.t_cost()), (MEMORY_KIB, PASSES));
    }

    #[test]
    fn passwords_have_12_to_256_bytes() {
        assert!(check("elevenbytes").is_err());
        assert!(check("twelve bytes").is_ok());
        assert!(check(&"x".repeat(257)).is_err());
        assert!(check(&make().unwrap()).is_ok());
    }
}
