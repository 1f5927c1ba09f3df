//! What the admin API of meta-service and its clients must agree on: the bodies of requests and answers
//! under `/api/v1`, as JSON. The OpenAPI document is made from these types; fields are added, none is
//! changed or removed within `v1`. Times are milliseconds since the Unix epoch, sizes bytes.

mod access;
mod clients;
mod page;
mod problem;
mod sessions;
mod shards;
mod sites;
mod status;
mod storage;

pub use access::{
    Identity, NewToken, PutUser, Role, TokenCreated, TokenInfo, TokenList, UserInfo, UserList,
};
pub use clients::{
    ClientInfo, ClientPage, ClientQuery, SubscriptionInfo, SubscriptionPage, SubscriptionQuery,
};
pub use page::{LIMIT_DEFAULT, LIMIT_MAX};
pub use problem::{PROBLEM_JSON, Problem};
pub use sessions::{
    Backlog, BacklogMessage, BacklogQuery, Lag, Session, SessionPage, SessionQuery,
    SessionSubscription,
};
pub use shards::{
    Generation, MoveLeader, MoveReplica, Replica, Rolled, RunCheck, Shard, ShardList, SiteCheck,
    Verified, Verify,
};
pub use sites::{Site, SiteList, SiteState, Steered, Transition, TransitionList};
pub use status::{ClusterStatus, GatewayInfo, GatewayList, Liveness};
pub use storage::StorageTotals;

/// Before every path of this version of the API.
pub const BASE: &str = "/api/v1";
