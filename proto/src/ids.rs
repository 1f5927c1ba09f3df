//! Ids that cross process boundaries, each a type of its own, and the hash that gives a client or a
//! retained topic its shard.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// Durable identity of one storage node's data; random, minted at first start.
    SiteId, u64, "{:016x}"
);
id!(
    /// Unit of replication: one Raft group.
    ShardId, u16, "{}"
);
id!(
    /// Raft node id: minted each time a site starts to hold a shard, never reused.
    ReplicaId, u64, "{}"
);
id!(
    /// Place of a message in a shard; dense, starts at 1, never reused.
    Position, u64, "{}"
);
id!(
    /// Fencing number of a session, raised by every claim.
    Epoch, u64, "{}"
);
id!(
    /// Random id of one gateway process life.
    Incarnation, u64, "{:016x}"
);
id!(
    /// Tenant; 0 by default.
    Namespace, u32, "{}"
);
id!(
    /// Time slice of a shard.
    Generation, u64, "{}"
);

impl Position {
    /// The first position of a shard.
    pub const FIRST: Position = Position(1);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

/// The shard that owns a client's session and stores its publishes.
#[must_use]
pub fn home_shard(namespace: Namespace, client_id: &str, shards: u16) -> ShardId {
    shard_of(namespace, b'c', client_id, shards)
}

/// The shard that keeps a topic's retained message.
#[must_use]
pub fn retained_shard(namespace: Namespace, topic: &str, shards: u16) -> ShardId {
    shard_of(namespace, b't', topic, shards)
}

fn shard_of(namespace: Namespace, kind: u8, name: &str, shards: u16) -> ShardId {
    let mut hash = Xxh3::new();
    hash.update(&[kind]);
    hash.update(&namespace.0.to_le_bytes());
    hash.update(name.as_bytes());
    let shards = u64::from(shards.max(1));
    ShardId((hash.digest() % shards) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_hash_is_frozen() {
        // Stored data depends on these values: they may never change.
        let shards: Vec<u16> = ["emqx_c", "a", "", "sensor-17"]
            .iter()
            .map(|client| home_shard(Namespace(0), client, 16).0)
            .collect();
        assert_eq!(shards, [FROZEN[0], FROZEN[1], FROZEN[2], FROZEN[3]]);
        assert_eq!(retained_shard(Namespace(7), "t/1", 16).0, FROZEN[4]);
    }

    const FROZEN: [u16; 5] = [14, 10, 4, 3, 13];

    #[test]
    fn shard_is_in_range_and_spreads() {
        let mut seen = [0u32; 16];
        for n in 0..4096 {
            seen[usize::from(home_shard(Namespace(0), &format!("c{n}"), 16).0)] += 1;
        }
        assert!(seen.iter().all(|count| (128..=384).contains(count)));
    }
}
