//! Asks sites and the leaders of shards.
//!
//! Who leads is known from the controller's view, and from the sites themselves: one that does not lead names
//! who does. While nobody serves, all replicas are asked in turn until the time is over.

use std::time::Duration;

use holdfast_control::storage_view::{ClusterView, ShardView, SiteView};
use holdfast_proto::{
    ids::SiteId,
    meta::Liveness,
    shard::{Command, Outcome, Status},
    storage::{
        CountMatchesReply, GetSessionsReply, ProposeCommandRequest, ProposeDone, ReadPage,
        RollShardReply, storage_client::StorageClient,
    },
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, transport::Channel};

use super::{
    cluster::find_shard,
    peers::Peers,
    problem::{Kind, Refused},
};

/// Calls that are under way at once for one request.
pub(crate) const AT_ONCE: usize = 8;
/// How long one site may take.
pub(crate) const CALL: Duration = Duration::from_secs(5);
/// How long one request looks for leaders, of all shards.
pub(crate) const LOOKED_FOR: Duration = Duration::from_secs(10);
/// Before all replicas are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a site answers that may not lead the shard.
pub(crate) trait Reply {
    fn decided(&self) -> Status;
    /// Who leads; 0: not known.
    fn leader(&self) -> u64;
}

impl Reply for GetSessionsReply {
    fn decided(&self) -> Status {
        self.status()
    }
    fn leader(&self) -> u64 {
        self.leader_site
    }
}

impl Reply for RollShardReply {
    fn decided(&self) -> Status {
        self.status()
    }
    fn leader(&self) -> u64 {
        self.leader_site
    }
}

impl Reply for ReadPage {
    fn decided(&self) -> Status {
        self.status()
    }
    fn leader(&self) -> u64 {
        self.leader_site
    }
}

impl Reply for ProposeDone {
    fn decided(&self) -> Status {
        self.outcome.as_ref().map_or(Status::Unavailable, Outcome::status)
    }
    fn leader(&self) -> u64 {
        self.leader_site
    }
}

impl Reply for CountMatchesReply {
    fn decided(&self) -> Status {
        self.status()
    }
    fn leader(&self) -> u64 {
        0
    }
}

/// The cluster as it was when a request began, and the way to its sites.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) view: &'a ClusterView,
    pub(crate) peers: &'a Peers,
    until: Instant,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(view: &'a ClusterView, peers: &'a Peers) -> Asking<'a> {
        Asking { view, peers, until: Instant::now() + LOOKED_FOR }
    }

    pub(crate) fn cluster_id(&self) -> String {
        self.view.cluster_id.clone()
    }

    /// Number of shards.
    pub(crate) fn shards(&self) -> u16 {
        u16::try_from(self.view.shard_count).unwrap_or(u16::MAX)
    }

    /// Asks the shard's leader. What it refuses for another reason than not to lead or not to be able to serve
    /// now is an answer.
    pub(crate) async fn leader<R: Reply, F: Future<Output = Result<Response<R>, tonic::Status>>>(
        &self,
        shard: u32,
        limit: Duration,
        call: impl Fn(StorageClient<Channel>) -> F,
    ) -> Result<R, Refused> {
        let candidates = self.candidates(find_shard(self.view, shard)?);
        let until = self.until.min(Instant::now() + limit);
        let mut why = "none of its sites is up".to_owned();
        let mut named = None;
        for turn in 0.. {
            let site = match named.take() {
                Some(site) => site,
                None if candidates.is_empty() => break,
                None => candidates[turn % candidates.len()],
            };
            let name = &site.info.name;
            let left = until.saturating_duration_since(Instant::now());
            match self.peers.site(&site.info.address, CALL.min(left), &call).await {
                Ok(reply) => match reply.decided() {
                    Status::NotLeader => {
                        why = format!("site {name} does not lead it");
                        let leader = self.view.site(SiteId(reply.leader()));
                        named = leader.filter(|leader| leader.info.site_id != site.info.site_id);
                    }
                    Status::Unavailable => why = format!("site {name} cannot serve it now"),
                    _ => return Ok(reply),
                },
                Err(status) if is_final(status.code()) => {
                    let detail = format!("site {name} refuses: {}", status.message());
                    return Err(Refused::new(Kind::Unavailable, detail));
                }
                // A call that was cut short by our own time says nothing.
                Err(_) if left < CALL && turn > 0 => {}
                Err(status) => why = format!("site {name}: {}", status.message()),
            }
            if Instant::now() >= until {
                break;
            }
            if (turn + 1) % candidates.len().max(1) == 0 {
                sleep(PAUSE).await;
            }
        }
        let detail =
            format!("shard {shard} has no leader that answers ({why}): see shards, and ask again");
        Err(Refused::new(Kind::Unavailable, detail))
    }

    /// The leader first, then who is up.
    fn candidates(&self, shard: &ShardView) -> Vec<&'a SiteView> {
        let members = shard.replicas.iter().filter(|replica| replica.member).map(|held| held.site);
        let sites = shard.leader.into_iter().chain(members);
        let mut candidates: Vec<&SiteView> = Vec::new();
        for site in sites.filter_map(|site| self.view.site(site)) {
            let up = site.info.liveness() == Liveness::Up;
            let known = candidates.iter().any(|one| one.info.site_id == site.info.site_id);
            if up && !known {
                candidates.push(site);
            }
        }
        candidates
    }

    /// Has the shard's leader apply a command.
    pub(crate) async fn propose(&self, shard: u32, command: Command) -> Result<Outcome, Refused> {
        let request =
            ProposeCommandRequest { cluster_id: self.cluster_id(), shard, command: Some(command) };
        // The command's own deadline at the site is a little longer than one call: it may be applied later.
        let call = |mut client: StorageClient<Channel>| {
            let request = request.clone();
            async move { client.propose_command(request).await }
        };
        let done = self.leader(shard, LOOKED_FOR, call).await?;
        Ok(done.outcome.unwrap_or_default())
    }
}

/// Another try would be answered the same.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::NotFound
    )
}
