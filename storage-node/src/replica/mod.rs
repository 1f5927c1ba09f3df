//! One replica of a shard at this site: its Raft node, its state, and at the leader its proposer.

#[cfg(test)]
pub(crate) mod by_hand;
pub(crate) mod cell;
pub(crate) mod hand_over;
pub(crate) mod membership;
pub(crate) mod proposer;
pub(crate) mod retention;
pub(crate) mod run_file;
pub(crate) mod upkeep;
pub(crate) mod voting;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use holdfast_log::{ReplicaKey, SiteLog};
use holdfast_node_kit::shutdown::Shutdown;
use holdfast_proto::shard::Status;
use holdfast_proto::storage as pb;
use openraft::ServerState;
use openraft::Snapshot;
use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse, VoteRequest, VoteResponse};
use parking_lot::Mutex;

use crate::config::RaftConfig;
use crate::fatal::Fatal;
use crate::feed::FeedQueue;
use crate::raft::network::Permission;
use crate::raft::{Raft, ShardRaft, Vote, codec};
use crate::serve::tails::Tails;
use cell::Cell;
use proposer::ProposalQueue;
use voting::{Ballot, HandedOver, Voting};

/// How long openraft's voters keep a lease of their own: its shortest, see `site::raft_config`.
pub(crate) const OPENRAFT_LEASE: Duration = Duration::from_millis(4);

/// One replica of a shard at this site.
pub(crate) struct Replica {
    pub(crate) key: ReplicaKey,
    pub(crate) raft: Raft,
    pub(crate) cell: Arc<Cell>,
    pub(crate) log: SiteLog,
    log_reserve_bytes: u64,
    pub(crate) tails: Tails,
    pub(crate) feed: Arc<FeedQueue>,
    pub(crate) limits: RaftConfig,
    pub(crate) fatal: Fatal,
    /// Raised when the replica leaves this site or the process stops.
    pub(crate) stopped: Shutdown,
    queue: ProposalQueue,
    disk: DiskState,
    contact: Mutex<Instant>,
    led_since: Mutex<Instant>,
    appending: AtomicBool,
    voting: Voting,
    handed_over: Permission,
    /// Held while something is proposed.
    proposing: tokio::sync::Mutex<()>,
    handing_over: AtomicBool,
    holder: AtomicBool,
    step: Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Alive while commands of this leader's upkeep are not answered.
    upkeep: Mutex<Weak<()>>,
    leader: AtomicU64,
}

/// Conditions of the site's disk, shared by its replicas.
#[derive(Clone, Default)]
pub(crate) struct DiskState {
    /// Above the high mark: no client appends.
    pub(crate) full: Arc<AtomicBool>,
    /// What has to go until the disk is below its low mark; 0 if it has not been above the high one.
    pub(crate) excess_bytes: Arc<AtomicU64>,
    /// The site log has little room left: no client appends until checkpoints have freed some.
    pub(crate) log_full: Arc<AtomicBool>,
    /// A sync takes too long: leaders are not to be trusted with writes.
    pub(crate) stalled: Arc<AtomicBool>,
}

/// What a replica is made of.
pub(crate) struct Parts {
    pub(crate) key: ReplicaKey,
    pub(crate) raft: Raft,
    pub(crate) cell: Arc<Cell>,
    pub(crate) log: SiteLog,
    pub(crate) tails: Tails,
    pub(crate) feed: Arc<FeedQueue>,
    pub(crate) limits: RaftConfig,
    pub(crate) fatal: Fatal,
    pub(crate) disk: DiskState,
    /// Shown to voters by the network.
    pub(crate) handed_over: Permission,
    /// Room that the site log keeps.
    pub(crate) log_reserve_bytes: u64,
}

impl Replica {
    pub(crate) fn new(parts: Parts) -> Replica {
        Replica {
            queue: ProposalQueue::new(parts.limits.queue_bytes_max),
            key: parts.key,
            raft: parts.raft,
            cell: parts.cell,
            log: parts.log,
            log_reserve_bytes: parts.log_reserve_bytes,
            tails: parts.tails,
            feed: parts.feed,
            limits: parts.limits,
            fatal: parts.fatal,
            stopped: Shutdown::new(),
            disk: parts.disk,
            contact: Mutex::new(Instant::now()),
            led_since: Mutex::new(Instant::now()),
            appending: AtomicBool::new(false),
            voting: Voting::default(),
            handed_over: parts.handed_over,
            proposing: tokio::sync::Mutex::default(),
            handing_over: AtomicBool::new(false),
            holder: AtomicBool::new(false),
            step: Mutex::default(),
            upkeep: Mutex::default(),
            leader: AtomicU64::new(0),
        }
    }

    /// The term in which this replica leads and may decide: it has applied the first entry of its own
    /// term, a quorum answered within the lease, its disk answers, and it does not hand over.
    ///
    /// # Errors
    /// `NotLeader`, or `Unavailable` if it leads but may not decide now.
    pub(crate) fn serving(&self) -> Result<u64, Status> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return Err(Status::NotLeader);
        }
        let term = metrics.current_term;
        let own_applied =
            metrics.last_applied.is_some_and(|applied| applied.leader_id.term == term);
        let heard = metrics.membership_config.voter_ids().count() == 1
            || metrics.millis_since_quorum_ack.is_some_and(|ms| ms <= self.limits.lease_ms);
        let resigned = self.is_handing_over() || self.voting.has_abdicated(&metrics.vote);
        if own_applied && heard && !resigned && !self.disk_stalled() {
            Ok(term)
        } else {
            Err(Status::Unavailable)
        }
    }

    /// The site that leads, as far as known; 0 if not.
    pub(crate) fn leader_site(&self) -> u64 {
        self.leader.load(Ordering::Relaxed)
    }

    /// Leader's site and term, read from Raft; remembered for [`Replica::leader_site`].
    pub(crate) fn refresh_leader(&self) -> (u64, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let member = metrics
            .current_leader
            .and_then(|leader| metrics.membership_config.membership().get_node(&leader).copied());
        // What was heard before the process was started says nothing of now.
        let known = metrics.state == ServerState::Leader || self.voting.has_heard();
        let site = member.filter(|_| known).map_or(0, |member| member.site);
        self.leader.store(site, Ordering::Relaxed);
        (site, metrics.current_term)
    }

    pub(crate) fn disk_full(&self) -> bool {
        self.disk.full.load(Ordering::Relaxed)
    }

    /// The site log was found with little room left: what it can do without is purged.
    pub(crate) fn log_full(&self) -> bool {
        self.disk.log_full.load(Ordering::Relaxed)
    }

    /// Whether the site log takes so many bytes of client appends at the leader, and keeps its reserve.
    pub(crate) fn log_has_room(&self, bytes: usize) -> bool {
        self.log.stats().room_bytes >= bytes as u64 + self.log_reserve_bytes
    }

    /// The same at a follower. Half of the reserve is for what leaders have accepted already: refused
    /// entries cannot be committed, and the cut that would free room is behind them.
    pub(crate) fn log_has_room_to_follow(&self, bytes: usize) -> bool {
        self.log.stats().room_bytes >= bytes as u64 + self.log_reserve_bytes / 2
    }

    pub(crate) fn disk_stalled(&self) -> bool {
        self.disk.stalled.load(Ordering::Relaxed)
    }

    /// When this replica last heard of a live leader or candidate that it follows.
    pub(crate) fn last_contact(&self) -> Instant {
        *self.contact.lock()
    }

    /// Leadership is on its way to another replica: nothing is proposed and no heartbeat sent.
    pub(crate) fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    /// Whether it has handed over the leadership that it holds by this vote.
    pub(crate) fn has_abdicated(&self, held: &Vote) -> bool {
        self.voting.has_abdicated(held)
    }

    /// As a leader it is silent, because it hands over or has done so.
    pub(crate) fn has_stopped_leading(&self) -> bool {
        self.is_handing_over() || self.has_abdicated(&self.raft.metrics().borrow().vote)
    }

    /// The placement names it as a holder of history only.
    pub(crate) fn is_holder(&self) -> bool {
        self.holder.load(Ordering::Acquire)
    }

    pub(crate) fn set_holder(&self, holder: bool) {
        self.holder.store(holder, Ordering::Release);
    }

    /// Notes that this replica leads, or no more.
    pub(crate) fn set_leading(&self, leads: bool) {
        *self.led_since.lock() = Instant::now();
        self.cell.set_leading(leads);
    }

    /// Since when it leads, if it does.
    pub(crate) fn leads_since(&self) -> Instant {
        *self.led_since.lock()
    }

    pub(crate) fn touch(&self) {
        *self.contact.lock() = Instant::now();
    }

    /// The last entry of this replica's log.
    pub(crate) fn last_log_id(&self) -> Option<pb::RaftLogId> {
        self.raft.data_metrics().borrow().last_log.as_ref().map(codec::log_id_to)
    }

    /// Takes one AppendEntries at a time; `None` while another is under way.
    pub(crate) async fn append_entries(
        &self,
        request: AppendEntriesRequest<ShardRaft>,
    ) -> Option<Result<openraft::raft::AppendEntriesResponse<u64>, RaftError<u64>>> {
        if self.appending.swap(true, Ordering::Acquire) {
            return None;
        }
        let lane = self.voting.lane.lock().await;
        let answer = self.raft.append_entries(request).await;
        if let Ok(answer) = &answer
            && !matches!(answer, openraft::raft::AppendEntriesResponse::HigherVote(_))
        {
            self.touch();
            self.voting.follow();
        }
        drop(lane);
        self.appending.store(false, Ordering::Release);
        Some(answer)
    }

    /// Takes a snapshot from the leader.
    pub(crate) async fn install_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<ShardRaft>,
    ) -> Result<SnapshotResponse<u64>, openraft::error::Fatal<u64>> {
        let _lane = self.voting.lane.lock().await;
        self.touch();
        let answer = self.raft.install_full_snapshot(vote, snapshot).await?;
        self.touch();
        self.voting.follow();
        Ok(answer)
    }

    /// Votes, if that breaks no promise; see [`voting`].
    pub(crate) async fn vote(
        &self,
        request: VoteRequest<u64>,
        handed_over: Option<HandedOver>,
    ) -> Result<VoteResponse<u64>, RaftError<u64>> {
        let _lane = self.voting.lane.lock().await;
        let ballot = self.ballot(handed_over).await?;
        if !ballot.may_vote() {
            let last = self.raft.data_metrics().borrow().last_log;
            return Ok(VoteResponse::new(ballot.held, last, false));
        }
        // openraft keeps a lease of its own, if a short one.
        let rest = OPENRAFT_LEASE.saturating_sub(ballot.silent_for);
        tokio::time::sleep(rest).await;
        let answer = self.raft.vote(request).await?;
        if answer.vote_granted {
            self.touch();
        }
        Ok(answer)
    }

    /// Raises the term and asks for votes, if a vote for itself breaks no promise.
    pub(crate) async fn elect(&self, handed_over: Option<HandedOver>) {
        let _lane = self.voting.lane.lock().await;
        // A group that has ended says so to its proposer.
        let Ok(ballot) = self.ballot(handed_over).await else { return };
        if ballot.may_vote() {
            *self.handed_over.lock() = handed_over;
            self.touch();
            let _ = self.raft.trigger().elect().await;
        }
    }

    async fn ballot(&self, handed_over: Option<HandedOver>) -> Result<Ballot, RaftError<u64>> {
        let held = self.raft.with_raft_state(|state| *state.vote_ref()).await?;
        Ok(Ballot {
            held,
            silent_for: self.voting.silent_for(),
            serves: self.serving().is_ok(),
            abdicated: self.voting.has_abdicated(&held),
            handed_over,
            lease: self.limits.voter_lease(),
        })
    }

    /// Ends this replica's tasks and its Raft node.
    pub(crate) async fn stop(&self) {
        self.stopped.trigger();
        self.cell.set_leading(false);
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(shard = self.key.shard.0, %error, "raft did not end cleanly");
        }
    }
}
