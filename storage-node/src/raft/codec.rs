//! Raft values to and from their protobuf form, on the wire and in the site log.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use holdfast_proto::storage as pb;
use openraft::{EntryPayload, Membership, StoredMembership};
use prost::Message;
use thiserror::Error;

use super::{LogId, Member, RaftEntry, ShardEntry, Vote};

/// Bytes or a message that do not hold what they should.
#[derive(Debug, Error)]
pub(crate) enum CodecError {
    /// Not protobuf.
    #[error("not a valid message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A part that must be there is not.
    #[error("message lacks {0}")]
    Missing(&'static str),
}

pub(crate) fn vote_to(vote: &Vote) -> pb::RaftVote {
    pb::RaftVote {
        term: vote.leader_id.term,
        replica_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from(vote: Option<&pb::RaftVote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError::Missing("vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.replica_id)
    } else {
        Vote::new(vote.term, vote.replica_id)
    })
}

pub(crate) fn log_id_to(id: &LogId) -> pb::RaftLogId {
    pb::RaftLogId { term: id.leader_id.term, replica_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from(id: &pb::RaftLogId) -> LogId {
    LogId::new(openraft::CommittedLeaderId::new(id.term, id.replica_id), id.index)
}

pub(crate) fn membership_to(membership: &Membership<u64, Member>) -> pb::RaftMembership {
    pb::RaftMembership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::RaftConfig { voters: voters.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| pb::RaftMember { replica_id: *id, site_id: member.site })
            .collect(),
    }
}

pub(crate) fn membership_from(membership: &pb::RaftMembership) -> Membership<u64, Member> {
    let configs = membership
        .configs
        .iter()
        .map(|config| config.voters.iter().copied().collect::<BTreeSet<_>>())
        .collect();
    let members: BTreeMap<_, _> = membership
        .members
        .iter()
        .map(|member| (member.replica_id, Member { site: member.site_id }))
        .collect();
    Membership::new(configs, members)
}

pub(crate) fn stored_membership_from(
    log_id: Option<&pb::RaftLogId>,
    membership: Option<&pb::RaftMembership>,
) -> StoredMembership<u64, Member> {
    match membership {
        Some(membership) => {
            StoredMembership::new(log_id.map(log_id_from), membership_from(membership))
        }
        None => StoredMembership::default(),
    }
}

/// The entry as a message; the payload's bytes are shared, not copied.
pub(crate) fn entry_to(entry: &RaftEntry) -> pb::RaftEntry {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(data) => Some(pb::raft_entry::Payload::Entry(data.0.clone())),
        EntryPayload::Membership(membership) => {
            Some(pb::raft_entry::Payload::Membership(membership_to(membership)))
        }
    };
    pb::RaftEntry { log_id: Some(log_id_to(&entry.log_id)), payload }
}

pub(crate) fn entry_from(entry: pb::RaftEntry) -> Result<RaftEntry, CodecError> {
    let log_id = log_id_from(entry.log_id.as_ref().ok_or(CodecError::Missing("log id"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::raft_entry::Payload::Entry(data)) => EntryPayload::Normal(ShardEntry(data)),
        Some(pb::raft_entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from(&membership))
        }
    };
    Ok(RaftEntry { log_id, payload })
}

/// The entry as it stands in the site log.
pub(crate) fn entry_bytes(entry: &RaftEntry) -> Bytes {
    let message = entry_to(entry);
    let mut out = BytesMut::with_capacity(message.encoded_len());
    // A BytesMut grows: encoding into it cannot fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

pub(crate) fn entry_from_bytes(bytes: Bytes) -> Result<RaftEntry, CodecError> {
    entry_from(pb::RaftEntry::decode(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_log() {
        let id = |index| LogId::new(openraft::CommittedLeaderId::new(3, 7), index);
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
            BTreeMap::from([1, 2, 3, 4].map(|n| (n, Member { site: n + 100 }))),
        );
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(ShardEntry(Bytes::from_static(b"abc"))),
            EntryPayload::Membership(membership),
        ] {
            let entry = RaftEntry { log_id: id(9), payload };
            assert_eq!(entry_from_bytes(entry_bytes(&entry)).unwrap(), entry);
        }
        assert!(entry_from_bytes(Bytes::from_static(b"\xff\xff")).is_err());
    }
}
