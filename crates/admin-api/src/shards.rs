use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A shard of the log with its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shard {
    /// From 0 on.
    pub shard: u32,
    /// Name of the site that leads and serves; absent while there is none.
    pub leader: Option<String>,
    /// Raft term of the leader.
    pub term: u64,
    /// Name of the site that should lead.
    pub preferred_leader: String,
    /// Placed by an operator; stays so until it is released, or a site of it is drained or lost.
    pub pinned: bool,
    /// Replicas in the order of preference, then former ones that keep history.
    pub replicas: Vec<Replica>,
    /// Next position of the log.
    pub next_position: u64,
    /// Bytes of its runs at the leader.
    pub run_bytes: u64,
    /// Generations, the oldest first; only if one shard is asked for, and one of its sites answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generations: Option<Vec<Generation>>,
}

/// A replica of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    /// In hexadecimal.
    pub replica_id: String,
    /// Name of its site.
    pub site: String,
    /// Is in the replica set; if not, it only keeps history.
    pub member: bool,
    /// Votes, by the leader's word.
    pub votes: bool,
    /// Has everything but the last moments, by the leader's word.
    pub caught_up: bool,
    /// Runs that it lacks.
    pub missing_runs: u64,
    /// Their bytes.
    pub missing_bytes: u64,
}

/// A part of a shard's log that is dropped as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Counts up.
    pub generation: u64,
    /// First position.
    pub first_position: u64,
    /// First position of the next one; absent while it is written to.
    pub end_position: Option<u64>,
    /// When it began.
    pub started_ms: u64,
    /// When it was sealed; absent while it is written to.
    pub sealed_ms: Option<u64>,
    /// Sorted files of it.
    pub runs: u64,
    /// Their bytes.
    pub run_bytes: u64,
}

/// All shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardList {
    /// By number.
    pub shards: Vec<Shard>,
}

/// Makes a site the leader of a shard, and keeps it so while it can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveLeader {
    /// Id or name of a site that has a replica of the shard.
    pub site: String,
}

/// Moves a replica of a shard to another site, and keeps it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveReplica {
    /// Id or name of a site that has a replica of the shard.
    pub from: String,
    /// Id or name of one that has none.
    pub to: String,
}

/// The current generation of a shard was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rolled {
    /// The shard.
    pub shard: u32,
    /// The generation that began.
    pub generation: u64,
}

/// How to verify a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Verify {
    /// Only the replica of this site (id or name).
    pub site: Option<String>,
    /// Bytes that each site reads in a second; 0 or absent: as fast as it can.
    pub bytes_per_s: Option<u64>,
}

/// What verifying a shard showed: all its files were read, their checksums computed and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// The shard.
    pub shard: u32,
    /// Every site was asked, nothing is damaged, missing or different.
    pub ok: bool,
    /// By site.
    pub sites: Vec<SiteCheck>,
    /// Replicas differ, in words.
    pub differences: Vec<String>,
}

/// What one site's replica showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteCheck {
    /// Name of the site.
    pub site: String,
    /// Why it could not be asked; absent if it was.
    pub error: Option<String>,
    /// Index in the log of the state that was looked at.
    pub applied_index: u64,
    /// Files that were read.
    pub runs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged or missing files.
    pub bad: Vec<RunCheck>,
}

/// A damaged or missing file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunCheck {
    /// Generation that it belongs to.
    pub generation: u64,
    /// First position.
    pub first_position: u64,
    /// Position after the last.
    pub end_position: u64,
    /// What is wrong.
    pub problem: String,
}
