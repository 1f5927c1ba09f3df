use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a user or token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything but messages.
    Viewer,
    /// Everything.
    Admin,
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// Name of the user or token.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A user, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserInfo {
    /// Unique.
    pub name: String,
    /// What the user may do.
    pub role: Role,
}

/// All users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserList {
    /// By name.
    pub users: Vec<UserInfo>,
}

/// Makes a user, or changes one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutUser {
    /// What the user may do.
    pub role: Role,
    /// 12 to 256 bytes; unchanged if absent, needed for a new user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// Asks for a bearer token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// For people; unique.
    pub name: String,
    /// What it may do; not more than who asks.
    pub role: Role,
    /// Life in seconds; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// A new token. It is shown this once; only its hash is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// To be sent as `Authorization: Bearer …`.
    pub token: String,
    /// What is known of it.
    pub info: TokenInfo,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_ms: u64,
    /// When it ends; absent: never.
    pub expires_ms: Option<u64>,
}

/// All tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenInfo>,
}
