//! Why the cluster did not do what a connection asked for.

use thiserror::Error;

/// A failure, sorted by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ClusterError {
    /// Retry later: no leader, no quorum, a full queue or no answer in time.
    #[error("{what} is unavailable")]
    Unavailable {
        /// What gave no answer.
        what: &'static str,
    },
    /// Stop: another connection owns the session by now.
    #[error("another connection owns the session")]
    Fenced,
    /// Reject: the cluster refuses the request.
    #[error("the cluster refuses it: {reason}")]
    Refused {
        /// What is wrong with it.
        reason: String,
    },
    /// Stop: the gateway shuts down.
    #[error("the gateway is stopping")]
    Stopping,
    /// Stop: the gateway's own gRPC address cannot be served.
    #[error("cannot serve gRPC at {address}: {reason}")]
    Listen {
        /// The address from the config.
        address: String,
        /// What the system says.
        reason: String,
    },
}
