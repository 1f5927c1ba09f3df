//! Elections and heartbeats of all replicas of this site, in one loop.
//!
//! openraft's own elections are off: it has no pre-vote. Here a follower that hears no leader asks a
//! majority first whether it would win, and only then raises the term; so a site that was cut off
//! disturbs nobody when it returns. A leader that hears no quorum, or whose disk stalls, stops its
//! heartbeats, so that the others elect.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_proto::ids::ShardId;
use holdfast_proto::storage::{self as pb, raft_message::Body};
use openraft::error::Fatal;
use openraft::{RaftMetrics, ServerState};
use rand::Rng;
use tokio::task::JoinSet;

use super::peers::Peers;
use super::{LogId, Member, Vote, codec};
use crate::config::RaftConfig;
use crate::replica::Replica;
use crate::site::Site;

/// Pause between two looks at all replicas.
const TICK: Duration = Duration::from_millis(50);
/// Candidates that wait for the voters' lease stand at different times within this, in ms.
const LEASE_SPREAD_MS: u64 = 150;
/// How long an answer to a pre-vote is waited for.
const PRE_VOTE_TIMEOUT: Duration = Duration::from_millis(300);

/// When a shard's next heartbeat or election is due.
struct Timer {
    heartbeat: Instant,
    patience: Duration,
    asking: Option<tokio::task::JoinHandle<()>>,
}

/// Sees changes of leadership of one replica's shard as they happen; ends with the replica.
pub(crate) async fn watch(site: Arc<Site>, replica: Arc<Replica>) {
    let mut metrics = replica.raft.metrics();
    let mut seen = None;
    loop {
        let news = tokio::select! {
            () = replica.stopped.wait() => return,
            changed = metrics.wait_for(|metrics| seen != Some(Seen::of(metrics))) => {
                changed.map(|metrics| Seen::of(&metrics))
            }
        };
        let Ok(news) = news else {
            let state = replica.raft.metrics().borrow().running_state.clone();
            // A group that was not told to end has met a storage error, and would be missing silently.
            if let Err(error) = state
                && !matches!(error, Fatal::Stopped)
            {
                site.fatal.stop("raft", &error);
            }
            return;
        };
        site.leadership_seen(&replica, news.state == ServerState::Leader);
        site.news.notify_one();
        seen = Some(news);
    }
}

/// What others want to know of a replica at once.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    state: ServerState,
    vote: Vote,
    leader: Option<u64>,
    /// It has applied an entry of the term: a leader can serve.
    applied_own: bool,
    membership: Option<LogId>,
    /// The membership is committed.
    settled: bool,
}

impl Seen {
    fn of(metrics: &RaftMetrics<u64, Member>) -> Seen {
        let membership = *metrics.membership_config.log_id();
        Seen {
            state: metrics.state,
            vote: metrics.vote,
            leader: metrics.current_leader,
            applied_own: metrics
                .last_applied
                .is_some_and(|applied| applied.leader_id.term == metrics.current_term),
            membership,
            settled: membership <= metrics.last_applied,
        }
    }
}

/// Runs until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut timers: HashMap<ShardId, Timer> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            _ = ticks.tick() => {}
        }
        for replica in site.replicas() {
            let timer =
                timers.entry(replica.key.shard).or_insert_with(|| Timer::new(&replica.limits));
            timer.look(&site, &replica).await;
        }
    }
}

impl Timer {
    fn new(limits: &RaftConfig) -> Timer {
        Timer { heartbeat: Instant::now(), patience: patience(limits), asking: None }
    }

    async fn look(&mut self, site: &Arc<Site>, replica: &Arc<Replica>) {
        let now = Instant::now();
        let (state, voter, alone, heard) = {
            let metrics = replica.raft.metrics();
            let metrics = metrics.borrow();
            let heard =
                metrics.millis_since_quorum_ack.is_none_or(|ms| ms <= 2 * replica.limits.lease_ms);
            let voter = metrics.membership_config.voter_ids().any(|id| id == metrics.id);
            let alone = voter && metrics.membership_config.voter_ids().count() == 1;
            (metrics.state, voter, alone, heard)
        };
        let leads = state == ServerState::Leader;
        site.leadership_seen(replica, leads);
        if leads {
            replica.touch();
            // It may have led before it could serve; that it can changes nothing that `watch` sees.
            let named = site.leader_of(replica.key.shard.0) == site.site_id.0;
            if !named && replica.serving().is_ok() {
                site.leadership_seen(replica, true);
            }
            let silent = !heard || replica.disk_stalled() || replica.has_stopped_leading();
            if now >= self.heartbeat && !silent {
                self.heartbeat = now + Duration::from_millis(replica.limits.heartbeat_ms);
                // A group that has ended says so to its proposer.
                let _ = replica.raft.trigger().heartbeat().await;
            }
        } else if voter
            && !replica.disk_stalled()
            && !site.is_leaving()
            && (alone || now.duration_since(replica.last_contact()) > self.patience)
            && self.asking.as_ref().is_none_or(tokio::task::JoinHandle::is_finished)
        {
            self.patience = patience(&replica.limits);
            let (peers, replica) = (site.peers.clone(), replica.clone());
            self.asking = Some(tokio::spawn(async move { stand(&peers, &replica).await }));
        }
    }
}

fn patience(limits: &RaftConfig) -> Duration {
    let mut random = rand::rng();
    let drawn_ms = random.random_range(limits.election_min_ms..=limits.election_max_ms);
    // Nobody votes before the voters' lease is over. Those who drew less would all stand just then.
    let lease_ms = limits.voter_lease_ms() + random.random_range(0..=LEASE_SPREAD_MS);
    Duration::from_millis(drawn_ms.max(lease_ms))
}

/// Asks the others, and elects if a majority would agree.
async fn stand(peers: &Arc<Peers>, replica: &Replica) {
    let (request, others, quorum) = {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let others: Vec<(u64, u64)> = voters
            .iter()
            .filter(|id| **id != metrics.id)
            .filter_map(|id| membership.get_node(id).map(|member| (*id, member.site)))
            .collect();
        let request = pb::VoteRequest {
            vote: Some(codec::vote_to(&metrics.vote)),
            last: replica.last_log_id(),
            ..pb::VoteRequest::default()
        };
        (request, others, voters.len() / 2 + 1)
    };
    let mut asked = JoinSet::new();
    for (target, site) in others {
        let (peers, shard, request) = (peers.clone(), replica.key.shard.0, request);
        asked.spawn(async move {
            let answer = peers.ask(site, shard, target, Body::PreVote(request));
            match tokio::time::timeout(PRE_VOTE_TIMEOUT, answer).await {
                Ok(Ok(Body::PreVoteDone(done))) => done.granted,
                _ => false,
            }
        });
    }
    let mut granted = 1;
    while granted < quorum {
        match asked.join_next().await {
            Some(Ok(true)) => granted += 1,
            Some(_) => {}
            None => return,
        }
    }
    tracing::info!(shard = replica.key.shard.0, "standing for election");
    replica.elect(None).await;
}

/// Whether this replica would vote for one with that log.
pub(crate) fn would_vote(replica: &Replica, request: &pb::VoteRequest) -> pb::VoteDone {
    let metrics = replica.raft.metrics();
    let metrics = metrics.borrow();
    let silent = if metrics.state == ServerState::Leader {
        replica.has_abdicated(&metrics.vote)
    } else {
        replica.last_contact().elapsed() >= replica.limits.voter_lease()
    };
    let own = replica.last_log_id();
    let place =
        |id: &Option<pb::RaftLogId>| id.map_or((0, 0, 0), |id| (id.term, id.replica_id, id.index));
    let granted = silent && place(&request.last) >= place(&own);
    pb::VoteDone { vote: Some(codec::vote_to(&metrics.vote)), granted, last: own }
}
