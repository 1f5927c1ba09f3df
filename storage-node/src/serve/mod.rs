//! What this site serves: streams of gateways, streams of other sites, runs and descriptions.

pub(crate) mod link;
pub(crate) mod raft_service;
pub(crate) mod reads;
pub(crate) mod storage_service;
pub(crate) mod tails;

use tonic::Status;

/// Refuses a peer of another protocol version or cluster.
pub(crate) fn check_hello(
    who: &str,
    version: u32,
    cluster_id: &str,
    own_cluster_id: &str,
) -> Result<(), Box<Status>> {
    if version != holdfast_proto::PROTOCOL_VERSION {
        let own = holdfast_proto::PROTOCOL_VERSION;
        return Err(Box::new(Status::failed_precondition(format!(
            "{who} speaks protocol version {version}, this site speaks {own}"
        ))));
    }
    if cluster_id != own_cluster_id {
        return Err(Box::new(Status::failed_precondition(format!(
            "{who} belongs to cluster {cluster_id:?}, this site to {own_cluster_id:?}"
        ))));
    }
    Ok(())
}
