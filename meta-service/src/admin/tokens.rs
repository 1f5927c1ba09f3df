//! Bearer tokens of the admin API. A token is shown once; its SHA-256 is kept.

use axum::{Json, http::StatusCode};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use holdfast_admin_api::{Identity, NewToken, Problem, TokenCreated, TokenInfo, TokenList};
use holdfast_node_kit::clock;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    access::Access,
    extract::{Asker, Body, Lead, Named},
    password,
    problem::{Kind, Refused},
    rows::{SECRETS, TokenRow, secret_key, token_key},
    users::{busy, check_name},
};
use crate::store::{Committed, Compare, Entry, Op, Txn, all, get};

/// All tokens begin so; scanners for leaked secrets look for it.
pub(crate) const TOKEN_PREFIX: &str = "hfa_";
/// Tokens that there can be.
const TOKENS_MAX: usize = 1_000;
/// Longest life, seconds: a hundred years.
const LIFE_S_MAX: u64 = 100 * 366 * 86_400;

/// Whose token this is; nobody's if it is not known or has ended.
pub(crate) async fn find(
    access: &Access,
    key: &Bytes,
    now_ms: u64,
) -> Result<Option<Identity>, Refused> {
    let Some(entry) = get(access.store.as_ref(), key).await? else { return Ok(None) };
    let row = TokenRow::read(&entry)?;
    if row.is_over(now_ms) {
        remove(access, &entry, &row).await?;
        return Ok(None);
    }
    let TokenInfo { name, role, .. } = row.info();
    Ok(Some(Identity { name, role }))
}

/// Removes both keys of a token, unless somebody else did.
async fn remove(access: &Access, entry: &Entry, row: &TokenRow) -> Result<Committed, Refused> {
    let compares = vec![Compare::Unchanged(entry.key.clone(), entry.modified)];
    let ops = vec![Op::Delete(entry.key.clone()), Op::Delete(token_key(&row.name))];
    Ok(access.store.commit(Txn { compares, ops }).await?)
}

/// All tokens that have not ended, without their secrets.
async fn known(access: &Access, now_ms: u64) -> Result<Vec<TokenInfo>, Refused> {
    let mut tokens = Vec::new();
    for entry in all(access.store.as_ref(), SECRETS).await? {
        let row = TokenRow::read(&entry)?;
        if row.is_over(now_ms) {
            remove(access, &entry, &row).await?;
        } else {
            tokens.push(row.info());
        }
    }
    tokens.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(tokens)
}

/// All tokens, without their secrets.
#[utoipa::path(
    get, path = "/tokens", tag = "access",
    responses((status = OK, body = TokenList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(Lead(leading): Lead) -> Result<Json<TokenList>, Refused> {
    let tokens = known(leading.access()?, clock::now_ms()).await?;
    Ok(Json(TokenList { tokens }))
}

/// Makes a token. It is shown this once.
#[utoipa::path(
    post, path = "/tokens", tag = "access",
    request_body = NewToken,
    responses((status = CREATED, body = TokenCreated), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn create(
    Lead(leading): Lead,
    Asker(asker): Asker,
    Body(NewToken { name, role, expires_in_s }): Body<NewToken>,
) -> Result<(StatusCode, Json<TokenCreated>), Refused> {
    let access = leading.access()?;
    check_name(&name)?;
    if role > asker.role {
        return Err(Refused::new(Kind::Role, "a token may not do more than who asks for it"));
    }
    if expires_in_s.is_some_and(|life| !(1..=LIFE_S_MAX).contains(&life)) {
        let detail = format!("expires_in_s: 1 to {LIFE_S_MAX}, or none: it lives for ever");
        return Err(Refused::new(Kind::Malformed, detail));
    }
    let now_ms = clock::now_ms();
    let there = known(access, now_ms).await?;
    if there.iter().any(|token| token.name == name) {
        return Err(exists(&name));
    }
    if there.len() >= TOKENS_MAX {
        let detail = format!("there are {TOKENS_MAX} tokens, which is the most: delete one first");
        return Err(Refused::new(Kind::Conflict, detail));
    }
    let expires_ms = expires_in_s.map(|life| now_ms + life * 1_000);
    let info = TokenInfo { name, role, created_ms: now_ms, expires_ms };
    let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(password::random::<32>()?));
    let hash = Sha256::digest(&token);
    let (name_key, secret) = (token_key(&info.name), secret_key(&hash));
    let ops = vec![
        Op::put(name_key.clone(), hash.to_vec()),
        Op::put(secret, TokenRow::new(&info).encode_to_vec()),
    ];
    let compares = vec![Compare::Absent(name_key)];
    match access.store.commit(Txn { compares, ops }).await? {
        Committed::Refused => Err(exists(&info.name)),
        Committed::Yes(_) => {
            tracing::info!(token = info.name, ?role, by = asker.name, "a token was made");
            Ok((StatusCode::CREATED, Json(TokenCreated { token, info })))
        }
    }
}

fn exists(name: &str) -> Refused {
    let detail = format!("there is a token {name:?}: delete it first, or choose another name");
    Refused::new(Kind::TokenExists, detail)
}

/// Deletes a token. It ends at once.
#[utoipa::path(
    delete, path = "/tokens/{name}", tag = "access",
    params(("name" = String, Path, description = "The token's name")),
    responses((status = NO_CONTENT), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn delete(
    Lead(leading): Lead,
    Named(name): Named<String>,
) -> Result<StatusCode, Refused> {
    let access = leading.access()?;
    let unknown = || Refused::new(Kind::UnknownToken, format!("there is no token {name:?}"));
    check_name(&name).map_err(|_| unknown())?;
    let found = get(access.store.as_ref(), &token_key(&name)).await?.ok_or_else(unknown)?;
    let entry = get(access.store.as_ref(), &secret_key(&found.value)).await?.ok_or_else(unknown)?;
    match remove(access, &entry, &TokenRow::read(&entry)?).await? {
        Committed::Refused => Err(busy()),
        Committed::Yes(_) => {
            tracing::info!(token = name, "a token was deleted");
            Ok(StatusCode::NO_CONTENT)
        }
    }
}
