//! The frame: what the site log is made of. Owner of the log's bytes.
//!
//! ```text
//! 0  u32 crc32c of 4..32, seeded      12 u8  kind, u8 flags
//! 4  u32 crc32c of the payload, same  14 u16 shard
//! 8  u32 length of the payload        16 u64 replica id
//!                                     24 u64 index (its meaning depends on the kind)
//! 32 payload, then zeros up to a multiple of 8
//! ```
//! Little-endian. The seed is the crc32c of log id and segment sequence number. A round is a round
//! header (a frame whose index is the round's own offset) and frames; it starts at a multiple of
//! [`ROUND_ALIGN`], so that writing one never touches a sector of another.

use bytes::Bytes;
use holdfast_proto::ids::{ReplicaId, ShardId};

use super::ReplicaKey;

pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const ROUND_ALIGN: u64 = 512;
pub(crate) const ROUND_PAYLOAD_BYTES: usize = 40;
/// A round's header with its payload.
pub(crate) const ROUND_HEADER_BYTES: usize = HEADER_BYTES + ROUND_PAYLOAD_BYTES;

/// Set on frames that were appended again to free their first segment.
pub(crate) const FLAG_COPY: u8 = 1;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Starts a round; index: its offset.
    Round = 1,
    /// A log entry; index: its own.
    Entry = 2,
    /// The replica's vote.
    Vote = 3,
    /// Entries up to index are not needed any more.
    Purge = 4,
    /// Entries from index on are void.
    Truncate = 5,
    /// What is committed, as far as known.
    Committed = 6,
    /// The replica is gone.
    Removed = 7,
    /// The replica begins.
    Added = 8,
    /// Recovery found the replica damaged; payload: why.
    Damaged = 9,
    /// Who there is; payload: keys. Lost frames must not make a replica unknown.
    Roster = 10,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Round,
            2 => Kind::Entry,
            3 => Kind::Vote,
            4 => Kind::Purge,
            5 => Kind::Truncate,
            6 => Kind::Committed,
            7 => Kind::Removed,
            8 => Kind::Added,
            9 => Kind::Damaged,
            10 => Kind::Roster,
            _ => return None,
        })
    }
}

/// Makes a frame of one segment's one life different from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(log_id: u64, sequence: u32) -> Seed {
        Seed(crc32c::crc32c_append(crc32c::crc32c(&log_id.to_le_bytes()), &sequence.to_le_bytes()))
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// Bytes of a frame with a payload of `payload` bytes, padding included.
pub(crate) fn frame_bytes(payload: usize) -> usize {
    HEADER_BYTES + padded(payload)
}

pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// A frame's header without its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) key: ReplicaKey,
    pub(crate) index: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
}

impl Header {
    pub(crate) fn new(kind: Kind, flags: u8, key: ReplicaKey, index: u64) -> Header {
        Header { kind, flags, key, index, payload_bytes: 0, payload_crc: 0 }
    }

    /// Completes it for a payload and encodes it.
    pub(crate) fn encode(mut self, seed: Seed, payload: &[u8]) -> [u8; HEADER_BYTES] {
        self.payload_bytes = payload.len() as u32;
        self.payload_crc = seed.crc(payload);
        let mut out = [0; HEADER_BYTES];
        out[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[12] = self.kind as u8;
        out[13] = self.flags;
        out[14..16].copy_from_slice(&self.key.shard.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.key.replica.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.index.to_le_bytes());
        let crc = seed.crc(&out[4..]);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` if it is not one of this segment's present life.
    pub(crate) fn decode(seed: Seed, bytes: &[u8]) -> Option<Header> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        if seed.crc(&bytes[4..]) != u32_at(bytes, 0) {
            return None;
        }
        Some(Header {
            kind: Kind::of(bytes[12])?,
            flags: bytes[13],
            key: ReplicaKey {
                shard: ShardId(u16::from_le_bytes([bytes[14], bytes[15]])),
                replica: ReplicaId(u64_at(bytes, 16)),
            },
            index: u64_at(bytes, 24),
            payload_bytes: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 4),
        })
    }

    pub(crate) fn payload_is_good(&self, seed: Seed, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes as usize && seed.crc(payload) == self.payload_crc
    }
}

/// A place in the log. Sequences grow, so places are ordered as they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) sequence: u32,
    pub(crate) offset: u32,
}

/// What a round says of itself and of the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundHeader {
    /// Up to here the log was synced when the round was written.
    pub(crate) synced: Place,
    /// The segment before this one, and where it ends; sequence 0: none.
    pub(crate) previous: Place,
    /// Older segments were not needed any more at `synced`.
    pub(crate) oldest: u32,
    /// Length of the whole round, from its header up to the next round.
    pub(crate) bytes: u32,
    /// How many frames follow.
    pub(crate) frames: u32,
    /// A bit for each replica (`member_bit`) that has a frame in it.
    pub(crate) members: u64,
    /// Where the frames end.
    pub(crate) end: u32,
}

impl RoundHeader {
    pub(crate) fn encode(&self, seed: Seed, offset: u32) -> [u8; ROUND_HEADER_BYTES] {
        let mut payload = [0; ROUND_PAYLOAD_BYTES];
        let words = [
            self.synced.sequence,
            self.synced.offset,
            self.previous.sequence,
            self.previous.offset,
            self.oldest,
            self.bytes,
            self.frames,
            self.end,
        ];
        for (at, word) in words.iter().enumerate() {
            payload[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        payload[32..40].copy_from_slice(&self.members.to_le_bytes());
        let header = Header::new(Kind::Round, 0, NOBODY, u64::from(offset)).encode(seed, &payload);
        let mut out = [0; ROUND_HEADER_BYTES];
        out[..HEADER_BYTES].copy_from_slice(&header);
        out[HEADER_BYTES..].copy_from_slice(&payload);
        out
    }

    /// Reads the round header at `offset` of a segment's bytes; `None` if there is none.
    pub(crate) fn decode(seed: Seed, segment: &[u8], offset: u32) -> Option<RoundHeader> {
        let bytes = segment.get(offset as usize..offset as usize + ROUND_HEADER_BYTES)?;
        if bytes[12] != Kind::Round as u8 {
            return None;
        }
        let header = Header::decode(seed, bytes)?;
        let payload = &bytes[HEADER_BYTES..];
        if header.index != u64::from(offset) || !header.payload_is_good(seed, payload) {
            return None;
        }
        let place = |at| Place { sequence: u32_at(payload, at), offset: u32_at(payload, at + 4) };
        Some(RoundHeader {
            synced: place(0),
            previous: place(8),
            oldest: u32_at(payload, 16),
            bytes: u32_at(payload, 20),
            frames: u32_at(payload, 24),
            end: u32_at(payload, 28),
            members: u64_at(payload, 32),
        })
    }
}

/// The key of frames that belong to no replica.
pub(crate) const NOBODY: ReplicaKey = ReplicaKey { shard: ShardId(0), replica: ReplicaId(0) };

/// Bytes of a key in a roster.
const KEY_BYTES: usize = 10;

/// The payload of a roster.
pub(crate) fn encode_roster(keys: impl Iterator<Item = ReplicaKey>) -> Bytes {
    let mut out = Vec::new();
    for key in keys {
        out.extend_from_slice(&key_bytes(key));
    }
    out.into()
}

/// The keys of a roster.
pub(crate) fn decode_roster(payload: &[u8]) -> impl Iterator<Item = ReplicaKey> {
    payload.chunks_exact(KEY_BYTES).map(|bytes| ReplicaKey {
        shard: ShardId(u16::from_le_bytes([bytes[0], bytes[1]])),
        replica: ReplicaId(u64_at(bytes, 2)),
    })
}

fn key_bytes(key: ReplicaKey) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes[..2].copy_from_slice(&key.shard.0.to_le_bytes());
    bytes[2..].copy_from_slice(&key.replica.0.to_le_bytes());
    bytes
}

/// The bit of a replica in a round's `members`.
pub(crate) fn member_bit(key: ReplicaKey) -> u64 {
    1 << (crc32c::crc32c(&key_bytes(key)) % 64)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_is_read_back_and_never_in_another_life(
            shard: u16, replica: u64, index: u64, flags in 0u8..2, kind in 2u8..10, log_id: u64,
            sequence in 1u32..1000, other in 1u32..1000,
            payload in prop::collection::vec(any::<u8>(), 0..60), flipped: usize,
        ) {
            let seed = Seed::new(log_id, sequence);
            let key = ReplicaKey { shard: ShardId(shard), replica: ReplicaId(replica) };
            let kind = Kind::of(kind).unwrap();
            let mut bytes = Header::new(kind, flags, key, index).encode(seed, &payload).to_vec();
            let header = Header::decode(seed, &bytes).unwrap();
            prop_assert_eq!((header.kind, header.flags, header.key, header.index), (kind, flags, key, index));
            prop_assert!(header.payload_is_good(seed, &payload));
            if other != sequence {
                prop_assert_eq!(Header::decode(Seed::new(log_id, other), &bytes), None);
            }
            bytes[flipped % HEADER_BYTES] ^= 4;
            prop_assert_eq!(Header::decode(seed, &bytes), None);
            if !payload.is_empty() {
                let mut damaged = payload.clone();
                damaged[flipped % payload.len()] ^= 1;
                prop_assert!(!header.payload_is_good(seed, &damaged));
            }
        }
    }

    #[test]
    fn a_round_header_is_good_at_its_own_offset_only() {
        let seed = Seed::new(5, 6);
        let round = RoundHeader {
            synced: Place { sequence: 6, offset: 512 },
            previous: Place { sequence: 5, offset: 4_096 },
            oldest: 3,
            bytes: 1_024,
            frames: 2,
            members: 1 << 63,
            end: 700,
        };
        let mut segment = vec![0; 2_048];
        segment[512..512 + ROUND_HEADER_BYTES].copy_from_slice(&round.encode(seed, 512));
        assert_eq!(RoundHeader::decode(seed, &segment, 512), Some(round));
        segment.copy_within(512..1_024, 1_024);
        assert_eq!(RoundHeader::decode(seed, &segment, 1_024), None);
        assert_eq!(RoundHeader::decode(seed, &segment, 2_000), None);
    }
}
