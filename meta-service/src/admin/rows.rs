//! Users and tokens in the store.
//!
//! `admin/user/` name → [`UserRow`]; `admin/token/` name → SHA-256 of the token; `admin/secret/` SHA-256 of the
//! token → [`TokenRow`]. Both of a token's keys are written and removed together.

use bytes::Bytes;
use holdfast_admin_api::{Role, TokenInfo, UserInfo};
use prost::Message;

use super::problem::{Kind, Refused};
use crate::store::Entry;

/// Prefix of users.
pub(crate) const USERS: &[u8] = b"admin/user/";
/// Prefix of the names of tokens.
pub(crate) const TOKENS: &[u8] = b"admin/token/";
/// Prefix of tokens.
pub(crate) const SECRETS: &[u8] = b"admin/secret/";

const VIEWER: u32 = 0;
const ADMIN: u32 = 1;

/// A user.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UserRow {
    #[prost(uint32, tag = "1")]
    role: u32,
    /// In PHC format: it names its algorithm and parameters.
    #[prost(string, tag = "2")]
    pub(crate) password_hash: String,
}

/// A token.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TokenRow {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    role: u32,
    #[prost(uint64, tag = "3")]
    created_ms: u64,
    /// 0: never.
    #[prost(uint64, tag = "4")]
    expires_ms: u64,
}

fn role_row(role: Role) -> u32 {
    match role {
        Role::Viewer => VIEWER,
        Role::Admin => ADMIN,
    }
}

/// A role that this version does not know may do the least.
fn role(row: u32) -> Role {
    if row == ADMIN { Role::Admin } else { Role::Viewer }
}

impl UserRow {
    pub(crate) fn new(role: Role, password_hash: String) -> UserRow {
        UserRow { role: role_row(role), password_hash }
    }

    pub(crate) fn role(&self) -> Role {
        role(self.role)
    }

    pub(crate) fn info(&self, name: &str) -> UserInfo {
        UserInfo { name: name.to_owned(), role: self.role() }
    }

    pub(crate) fn read(entry: &Entry) -> Result<UserRow, Refused> {
        UserRow::decode(&*entry.value).map_err(|_| damaged(&entry.key))
    }
}

impl TokenRow {
    pub(crate) fn new(info: &TokenInfo) -> TokenRow {
        TokenRow {
            name: info.name.clone(),
            role: role_row(info.role),
            created_ms: info.created_ms,
            expires_ms: info.expires_ms.unwrap_or(0),
        }
    }

    pub(crate) fn info(&self) -> TokenInfo {
        TokenInfo {
            name: self.name.clone(),
            role: role(self.role),
            created_ms: self.created_ms,
            expires_ms: (self.expires_ms > 0).then_some(self.expires_ms),
        }
    }

    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.expires_ms > 0 && self.expires_ms <= now_ms
    }

    pub(crate) fn read(entry: &Entry) -> Result<TokenRow, Refused> {
        TokenRow::decode(&*entry.value).map_err(|_| damaged(&entry.key))
    }
}

pub(crate) fn damaged(key: &[u8]) -> Refused {
    let key = String::from_utf8_lossy(key);
    Refused::new(Kind::DamagedRow, format!("the store's row {key:?} is damaged: restore the store"))
}

pub(crate) fn user_key(name: &str) -> Bytes {
    [USERS, name.as_bytes()].concat().into()
}

pub(crate) fn token_key(name: &str) -> Bytes {
    [TOKENS, name.as_bytes()].concat().into()
}

pub(crate) fn secret_key(hash: &[u8]) -> Bytes {
    [SECRETS, hash].concat().into()
}

/// The rest of a key after its prefix, as text.
pub(crate) fn name_of(entry: &Entry, prefix: &[u8]) -> Result<String, Refused> {
    let name = entry.key.strip_prefix(prefix).and_then(|name| std::str::from_utf8(name).ok());
    name.map(str::to_owned).ok_or_else(|| damaged(&entry.key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let info =
            TokenInfo { name: "t".into(), role: Role::Admin, created_ms: 5, expires_ms: Some(9) };
        let value = TokenRow::new(&info).encode_to_vec().into();
        let row = TokenRow::read(&Entry { key: secret_key(b"h"), value, modified: 1 }).unwrap();
        assert_eq!(row.info(), info);
        assert!(!row.is_over(8) && row.is_over(9));
        let value = UserRow::new(Role::Viewer, "$x".into()).encode_to_vec().into();
        let entry = Entry { key: user_key("bob"), value, modified: 1 };
        let row = UserRow::read(&entry).unwrap();
        assert_eq!((row.role(), row.password_hash.as_str()), (Role::Viewer, "$x"));
        assert_eq!(name_of(&entry, USERS).unwrap(), "bob");
    }

    /// What is stored today must be readable for ever.
    #[test]
    fn rows_of_format_1_are_written_the_same() {
        let info =
            TokenInfo { name: "t".into(), role: Role::Admin, created_ms: 5, expires_ms: None };
        let token = TokenRow::new(&info).encode_to_vec();
        assert_eq!(token, [0x0a, 1, b't', 0x10, 1, 0x18, 5]);
        let user = UserRow::new(Role::Admin, "$x".into()).encode_to_vec();
        assert_eq!(user, [0x08, 1, 0x12, 2, b'$', b'x']);
        let keys = [user_key("u"), token_key("t"), secret_key(&[7])];
        assert_eq!(keys, [&b"admin/user/u"[..], b"admin/token/t", b"admin/secret/\x07"]);
    }

    #[test]
    fn damaged_rows_and_roles_of_later_versions_give_nothing_away() {
        let entry = Entry { key: user_key("bob"), value: Bytes::from_static(&[0xff]), modified: 1 };
        assert_eq!(UserRow::read(&entry).unwrap_err().kind, Kind::DamagedRow);
        assert_eq!(role(7), Role::Viewer);
    }
}
