//! What two Holdfast processes must agree on: ids, topic rules, the record format and the gRPC
//! messages. `GLOSSARY.md` beside this crate gives every word its one meaning.

pub mod batch;
pub mod ids;
pub mod matcher;
pub mod placed;
pub mod record;
pub mod topic;
pub mod version;

mod rpc;

pub use rpc::holdfast::gateway::v1 as gateway;
pub use rpc::holdfast::meta::v1 as meta;
pub use rpc::holdfast::shard::v1 as shard;
pub use rpc::holdfast::storage::v1 as storage;
pub use version::{PROTOCOL_VERSION, Versions};
