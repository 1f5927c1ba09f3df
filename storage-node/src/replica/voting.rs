//! Whom this replica votes for, and the lease that its votes keep.
//!
//! A leader serves (decides, answers reads, names heads) while a quorum has answered it within its
//! lease. For that to be safe no other leader may be elected before the lease is over. So a voter that
//! follows a leader votes for nobody else until it has heard nothing of it for the voters' lease, which
//! is longer (`RaftConfig::voter_lease_ms`), with one exception: a leader that hands over says that it
//! serves no more, and names itself in [`HandedOver`]; its lease need not be waited for.
//!
//! Why no two leaders serve at once. Let leader L serve at time s: it has not handed over, and a quorum
//! Q has each acknowledged an append that L sent no earlier than its lease before s. Let M be the first
//! leader after L to be elected, before s, by a quorum R. A voter V in both acknowledged L's append, so
//! that it held L's vote, and later granted M's. Consider how V first left L's vote. A vote is only left
//! by a grant to another or by standing oneself (an append of a later leader would make M not the
//! first), and both pass [`Ballot::may_vote`] with L's vote held. Either V had heard nothing of L for
//! the voters' lease: then L's own lease was over, it does not serve at s. Or L had handed over: then
//! it stopped serving before it said so, and never serves under that vote again:
//!
//! * [`Voting::abdicate`] comes before the request to elect is sent, and `Replica::serving` is refused
//!   from then on for as long as that vote is held, whatever becomes of the hand-over. If nobody is
//!   elected the leader stays silent until the voters' leases are over and they elect somebody. Only a
//!   target that answers that it did not take the hand-over lets the leader go on, as the permission
//!   then is with nobody.
//! * That lives in memory, so a leader that is started anew does not lead on: its own vote is read back
//!   as one of a candidate (`raft::log_store`), and it needs a new election.
//!
//! So a permission never ends, needs no clock, and may arrive late. That V's check and its grant are not
//! overtaken by an append is what the lane is for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openraft::LeaderId;
use parking_lot::Mutex;

use crate::raft::Vote;

/// A leader that serves no more and asked another replica to follow it.
pub(crate) type HandedOver = LeaderId<u64>;

/// What one replica remembers of its votes, besides what Raft keeps.
pub(crate) struct Voting {
    /// Held while an append, a snapshot or a vote is worked on.
    pub(crate) lane: tokio::sync::Mutex<()>,
    /// When a leader was last acknowledged. A replica that was just started may have done so just now.
    followed: Mutex<Instant>,
    /// A leader was acknowledged in this life of the process.
    heard: AtomicBool,
    /// The vote under which this replica, as leader, serves no more.
    abdicated: Mutex<Option<HandedOver>>,
}

/// What a vote is decided by.
pub(crate) struct Ballot {
    /// The vote that this replica holds.
    pub(crate) held: Vote,
    /// Since when the leader it follows, if any, is silent.
    pub(crate) silent_for: Duration,
    /// This replica leads and serves.
    pub(crate) serves: bool,
    /// Its own leadership was handed over.
    pub(crate) abdicated: bool,
    /// What the candidate brings.
    pub(crate) handed_over: Option<HandedOver>,
    /// The voters' lease.
    pub(crate) lease: Duration,
}

impl Ballot {
    /// Whether a vote breaks no promise. Whether the candidate's log is new enough is Raft's to check.
    pub(crate) fn may_vote(&self) -> bool {
        if self.handed_over == Some(self.held.leader_id) || self.abdicated {
            return true;
        }
        let bound = self.held.committed && self.silent_for < self.lease;
        !self.serves && !bound
    }
}

impl Default for Voting {
    fn default() -> Self {
        Voting {
            lane: tokio::sync::Mutex::default(),
            followed: Mutex::new(Instant::now()),
            heard: AtomicBool::new(false),
            abdicated: Mutex::default(),
        }
    }
}

impl Voting {
    /// A leader was acknowledged just now.
    pub(crate) fn follow(&self) {
        *self.followed.lock() = Instant::now();
        self.heard.store(true, Ordering::Release);
    }

    /// Whether the leader that this replica holds a vote for was heard since the process started.
    pub(crate) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// Since when no leader was acknowledged.
    pub(crate) fn silent_for(&self) -> Duration {
        self.followed.lock().elapsed()
    }

    /// From now on this replica does not serve as that leader.
    pub(crate) fn abdicate(&self, leader: HandedOver) {
        *self.abdicated.lock() = Some(leader);
    }

    /// The hand-over was not taken by anybody.
    pub(crate) fn abdication_refused(&self) {
        *self.abdicated.lock() = None;
    }

    /// Whether this replica has handed over what it holds by this vote.
    pub(crate) fn has_abdicated(&self, held: &Vote) -> bool {
        *self.abdicated.lock() == Some(held.leader_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(1_150);

    fn following(silent_ms: u64) -> Ballot {
        Ballot {
            held: Vote::new_committed(5, 1),
            silent_for: Duration::from_millis(silent_ms),
            serves: false,
            abdicated: false,
            handed_over: None,
            lease: LEASE,
        }
    }

    #[test]
    fn a_follower_keeps_its_leaders_lease() {
        assert!(!following(0).may_vote());
        assert!(!following(1_149).may_vote());
        assert!(following(1_150).may_vote());
    }

    #[test]
    fn who_follows_nobody_is_free() {
        assert!(Ballot { held: Vote::new(5, 1), ..following(0) }.may_vote());
    }

    #[test]
    fn only_the_leader_that_is_followed_can_end_its_lease() {
        let by = |term, node| Some(HandedOver::new(term, node));
        assert!(Ballot { handed_over: by(5, 1), ..following(0) }.may_vote());
        assert!(!Ballot { handed_over: by(4, 1), ..following(0) }.may_vote());
        assert!(!Ballot { handed_over: by(5, 2), ..following(0) }.may_vote());
        assert!(!Ballot { handed_over: by(6, 1), ..following(0) }.may_vote());
    }

    #[test]
    fn a_leader_that_serves_votes_for_nobody() {
        let leading = || Ballot { serves: true, ..following(60_000) };
        assert!(!leading().may_vote());
        assert!(Ballot { abdicated: true, ..leading() }.may_vote());
        assert!(Ballot { serves: false, ..leading() }.may_vote());
    }

    #[test]
    fn an_abdication_is_of_one_vote() {
        let voting = Voting::default();
        voting.abdicate(HandedOver::new(5, 1));
        assert!(voting.has_abdicated(&Vote::new_committed(5, 1)));
        assert!(!voting.has_abdicated(&Vote::new_committed(6, 1)));
        voting.abdication_refused();
        assert!(!voting.has_abdicated(&Vote::new_committed(5, 1)));
    }
}
