//! Users of the admin API.

use axum::{Json, http::StatusCode};
use holdfast_admin_api::{Identity, Problem, PutUser, UserInfo, UserList};
use prost::Message;

use super::{
    access::{ADMIN, Access},
    extract::{Asker, Body, Lead, Named},
    password,
    problem::{Kind, Refused},
    rows::{USERS, UserRow, name_of, user_key},
};
use crate::store::{Committed, Compare, Op, Txn, all, get};

/// Users that there can be.
const USERS_MAX: usize = 1_000;
/// How often a write is tried again because somebody else wrote the same.
const TRIES: usize = 8;

/// Refuses what cannot be the name of a user or token.
pub(crate) fn check_name(name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if (1..=63).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    let detail = format!("{name:?} is no name: 1 to 63 letters, digits, '-', '_', '.' or '@'");
    Err(Refused::new(Kind::Name, detail))
}

/// Two writers did the same again and again.
pub(crate) fn busy() -> Refused {
    Refused::new(Kind::Conflict, "somebody else changes the same now: ask again")
}

/// Writes a user from what was stored before; true: there was none.
pub(crate) async fn write(
    access: &Access,
    name: &str,
    change: impl Fn(Option<UserRow>) -> Result<UserRow, Refused>,
) -> Result<bool, Refused> {
    let key = user_key(name);
    for _ in 0..TRIES {
        let there = get(access.store.as_ref(), &key).await?;
        let row = change(there.as_ref().map(UserRow::read).transpose()?)?;
        let compare = match &there {
            None => Compare::Absent(key.clone()),
            Some(entry) => Compare::Unchanged(key.clone(), entry.modified),
        };
        let ops = vec![Op::put(key.clone(), row.encode_to_vec())];
        if let Committed::Yes(_) = access.store.commit(Txn { compares: vec![compare], ops }).await?
        {
            access.forget();
            return Ok(there.is_none());
        }
    }
    Err(busy())
}

fn unknown(name: &str) -> Refused {
    Refused::new(Kind::UnknownUser, format!("there is no user {name:?}"))
}

/// Who is asking, and what they may do.
#[utoipa::path(
    get, path = "/whoami", tag = "access",
    responses((status = OK, body = Identity), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn whoami(Asker(identity): Asker) -> Json<Identity> {
    Json(identity)
}

/// All users.
#[utoipa::path(
    get, path = "/users", tag = "access",
    responses((status = OK, body = UserList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(Lead(leading): Lead) -> Result<Json<UserList>, Refused> {
    let access = leading.access()?;
    let mut users = Vec::new();
    for entry in all(access.store.as_ref(), USERS).await? {
        users.push(UserRow::read(&entry)?.info(&name_of(&entry, USERS)?));
    }
    Ok(Json(UserList { users }))
}

/// Makes a user, or changes role or password of one.
///
/// The user `admin` stays an admin, and has the password of meta-service's password file: write a new one there.
#[utoipa::path(
    put, path = "/users/{name}", tag = "access",
    params(("name" = String, Path, description = "1 to 63 letters, digits, '-', '_', '.' or '@'")),
    request_body = PutUser,
    responses((status = OK, body = UserInfo), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn put(
    Lead(leading): Lead,
    Named(name): Named<String>,
    Body(PutUser { role, password }): Body<PutUser>,
) -> Result<Json<UserInfo>, Refused> {
    let access = leading.access()?;
    check_name(&name)?;
    if name == ADMIN {
        return Err(admin_user(access));
    }
    let hash = match password {
        None => None,
        Some(password) => {
            password::check(&password)?;
            Some(access.hasher.hash(password).await?)
        }
    };
    if access.user(&name).await?.is_none() {
        check_count(access).await?;
    }
    let change = |there: Option<UserRow>| match (&hash, there) {
        (Some(hash), _) => Ok(UserRow::new(role, hash.clone())),
        (None, Some(row)) => Ok(UserRow::new(role, row.password_hash)),
        (None, None) => Err(Refused::new(Kind::Password, "a new user needs a password")),
    };
    write(access, &name, change).await?;
    tracing::info!(user = name, ?role, "a user of the admin API was written");
    Ok(Json(UserInfo { name, role }))
}

async fn check_count(access: &Access) -> Result<(), Refused> {
    if all(access.store.as_ref(), USERS).await?.len() < USERS_MAX {
        return Ok(());
    }
    let detail = format!("there are {USERS_MAX} users, which is the most: delete one first");
    Err(Refused::new(Kind::Conflict, detail))
}

fn admin_user(access: &Access) -> Refused {
    let detail = format!(
        "the user admin stays, is an admin, and has the password that is in {} of the elected meta-service: write a new one there, it holds from its first use",
        access.password_file().display()
    );
    Refused::new(Kind::AdminUser, detail)
}

/// Deletes a user. Its credentials end at once.
#[utoipa::path(
    delete, path = "/users/{name}", tag = "access",
    params(("name" = String, Path, description = "The user")),
    responses((status = NO_CONTENT), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn delete(
    Lead(leading): Lead,
    Named(name): Named<String>,
) -> Result<StatusCode, Refused> {
    let access = leading.access()?;
    if name == ADMIN {
        return Err(admin_user(access));
    }
    check_name(&name).map_err(|_| unknown(&name))?;
    let key = user_key(&name);
    for _ in 0..TRIES {
        let Some(entry) = get(access.store.as_ref(), &key).await? else {
            return Err(unknown(&name));
        };
        let compares = vec![Compare::Unchanged(key.clone(), entry.modified)];
        let ops = vec![Op::Delete(key.clone())];
        if let Committed::Yes(_) = access.store.commit(Txn { compares, ops }).await? {
            access.forget();
            tracing::info!(user = name, "a user of the admin API was deleted");
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(busy())
}
