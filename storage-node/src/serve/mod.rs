//! What this site serves: streams of gateways, streams of other sites, runs and descriptions.

pub(crate) mod admin;
pub(crate) mod link;
pub(crate) mod match_count;
pub(crate) mod raft_service;
pub(crate) mod reads;
pub(crate) mod storage_service;
pub(crate) mod tails;
pub(crate) mod verify;

use holdfast_proto::version::Versions;
use tonic::Status;

use crate::site::Site;

/// Refuses a peer of another cluster, or with which no protocol version is shared. The version to speak
/// with it.
pub(crate) fn check_hello(
    who: &str,
    site: &Site,
    theirs: Versions,
    cluster_id: &str,
) -> Result<u32, Box<Status>> {
    let refuse = |reason: String| Box::new(Status::failed_precondition(format!("{who}: {reason}")));
    let common = site.config.versions().common(theirs);
    let version = common.map_err(|error| refuse(error.to_string()))?;
    check_cluster(who, site, cluster_id)?;
    Ok(version)
}

/// Refuses a caller of another cluster.
pub(crate) fn check_cluster(who: &str, site: &Site, cluster_id: &str) -> Result<(), Box<Status>> {
    let own = &site.cluster_id;
    if cluster_id == own {
        return Ok(());
    }
    Err(Box::new(Status::failed_precondition(format!(
        "{who} belongs to cluster {cluster_id:?}, this site to {own:?}"
    ))))
}
