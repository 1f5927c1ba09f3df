//! Whether a command keeps the rules of the format; it is refused before it reaches the log if not.

use bytes::Bytes;
use holdfast_proto::ids::{Namespace, ShardId, home_shard, retained_shard};
use holdfast_proto::record::Record;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{ClientKey, CommitCursor, SetRetained, ShardPosition, Subscription};
use holdfast_proto::topic;

/// Longest client id, in bytes: what MQTT can say.
const CLIENT_ID_BYTES_MAX: usize = 65_535;

/// Bits of the subscription options byte that MQTT 5 defines.
const OPTIONS_MASK: u32 = 0b0011_1111;

/// The rules of one shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    pub(crate) shard: ShardId,
    pub(crate) shards: u16,
}

impl Check {
    /// Whether the command is well formed and meant for this shard.
    pub(crate) fn command(self, command: &Kind) -> bool {
        match command {
            Kind::Claim(claim) => {
                self.client(claim.client.as_ref())
                    && claim.gateway.as_ref().is_some_and(|gateway| gateway.incarnation != 0)
                    && claim.will.as_ref().is_none_or(|will| is_will(&will.record))
            }
            Kind::CommitCursor(commit) => {
                self.client(commit.client.as_ref()) && self.commit(commit)
            }
            Kind::Subscribe(subscribe) => {
                self.client(subscribe.client.as_ref())
                    && subscribe.subscriptions.iter().all(|wanted| self.subscription(wanted))
            }
            Kind::Unsubscribe(unsubscribe) => self.client(unsubscribe.client.as_ref()),
            Kind::ReleaseReceived(release) => self.client(release.client.as_ref()),
            Kind::Disconnect(disconnect) => {
                self.client(disconnect.client.as_ref())
                    && disconnect.commit.as_ref().is_none_or(|commit| self.commit(commit))
            }
            Kind::SetRetained(set) => self.set_retained(set),
            Kind::FireWill(fire) => self.client(fire.client.as_ref()),
            Kind::Expire(expire) => self.client(expire.client.as_ref()),
            Kind::Abandon(abandon) => self.client(abandon.client.as_ref()),
            Kind::MoveOn(move_on) => {
                self.client(move_on.client.as_ref()) && self.positions(&move_on.cursor)
            }
        }
    }

    fn client(self, client: Option<&ClientKey>) -> bool {
        client.is_some_and(|client| {
            client.client_id.len() <= CLIENT_ID_BYTES_MAX
                && self.shard
                    == home_shard(Namespace(client.namespace), &client.client_id, self.shards)
        })
    }

    fn positions(self, positions: &[ShardPosition]) -> bool {
        positions.iter().all(|to| to.shard < u32::from(self.shards))
    }

    fn commit(self, commit: &CommitCursor) -> bool {
        let shards = u32::from(self.shards);
        self.positions(&commit.cursor)
            && commit.in_flight.iter().all(|message| {
                message.shard < shards
                    && (1..=u32::from(u16::MAX)).contains(&message.packet_id)
                    && (1..=2).contains(&message.qos)
            })
    }

    fn subscription(self, wanted: &Subscription) -> bool {
        topic::check_filter(&wanted.filter).is_ok()
            && wanted.options & !OPTIONS_MASK == 0
            && wanted.options & 0b11 != 0b11
            && (wanted.since.is_empty() || wanted.since.len() == usize::from(self.shards))
    }

    fn set_retained(self, set: &SetRetained) -> bool {
        let fits = set.client.is_some()
            && topic::check_name(&set.topic).is_ok()
            && self.shard == retained_shard(Namespace(set.namespace), &set.topic, self.shards);
        fits && record(&set.record).is_some_and(|record| {
            record.topic() == set.topic && record.namespace() == Namespace(set.namespace)
        })
    }
}

/// The one record that the bytes are.
fn record(bytes: &Bytes) -> Option<Record> {
    let mut rest = bytes.clone();
    let record = Record::split_checked_from(&mut rest).ok()?;
    rest.is_empty().then_some(record)
}

fn is_will(bytes: &Bytes) -> bool {
    record(bytes)
        .is_some_and(|record| record.is_will() && topic::check_name(record.topic()).is_ok())
}
