//! Keys of the durable pairs: one byte that names the table, then big-endian parts. Each value is the
//! table's message of `shard.proto` in protobuf encoding.
//!
//! ```text
//! 01                                ShardRow
//! 02 u64 generation                 GenerationRow
//! 03 u64 generation, u64 first      RunRow
//! 04 u32 namespace, client id       SessionRow
//! 05 u64 incarnation                ProducerRow
//! 06 u32 namespace, topic           RetainedRow
//! f0..                              the shell's own
//! ```

use std::sync::Arc;

use bytes::Bytes;
use holdfast_proto::ids::{Generation, Incarnation, Namespace, Position};
use holdfast_proto::shard::{ClientKey, RunRow};
use prost::Message;

/// Table of the shard's scalars.
pub const SHARD: u8 = 0x01;
/// Table of generations.
pub const GENERATION: u8 = 0x02;
/// Table of runs.
pub const RUN: u8 = 0x03;
/// Table of sessions.
pub const SESSION: u8 = 0x04;
/// Table of producers.
pub const PRODUCER: u8 = 0x05;
/// Table of retained messages.
pub const RETAINED: u8 = 0x06;
/// First table byte that the shell may use for pairs of its own.
pub const SHELL: u8 = 0xf0;

/// A key in memory; cheap to clone.
pub(crate) type Key = Arc<[u8]>;

/// Key of a generation's row.
#[must_use]
pub fn generation(generation: Generation) -> Vec<u8> {
    let mut key = vec![GENERATION];
    key.extend_from_slice(&generation.0.to_be_bytes());
    key
}

/// Key of a run's row.
#[must_use]
pub fn run(generation: Generation, first: Position) -> Vec<u8> {
    let mut key = vec![RUN];
    key.extend_from_slice(&generation.0.to_be_bytes());
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

/// A run's row as a pair, for the checkpoint that it belongs to.
#[must_use]
pub fn run_pair(row: &RunRow) -> (Vec<u8>, Option<Bytes>) {
    let key = run(Generation(row.generation), Position(row.first_position));
    (key, Some(row.encode_to_vec().into()))
}

/// Key of a session's row.
#[must_use]
pub fn session(client: &ClientKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + client.client_id.len());
    write_named(&mut key, SESSION, Namespace(client.namespace), &client.client_id);
    key
}

/// Key of a producer's row.
#[must_use]
pub fn producer(incarnation: Incarnation) -> [u8; 9] {
    let mut key = [PRODUCER; 9];
    key[1..].copy_from_slice(&incarnation.0.to_be_bytes());
    key
}

/// Key of a retained message's row; of a prefix of topics if `topic` is one.
#[must_use]
pub fn retained(namespace: Namespace, topic: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(5 + topic.len());
    write_named(&mut key, RETAINED, namespace, topic);
    key
}

/// Overwrites `key` with the key of a named row.
pub(crate) fn write_named(key: &mut Vec<u8>, table: u8, namespace: Namespace, name: &str) {
    key.clear();
    key.push(table);
    key.extend_from_slice(&namespace.0.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
}

/// The name in the key of a session or retained message.
pub(crate) fn name(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(5..)?).ok()
}

/// The client in a session's key.
pub(crate) fn client(key: &[u8]) -> Option<ClientKey> {
    let namespace: [u8; 4] = key.get(1..5)?.try_into().ok()?;
    Some(ClientKey { namespace: u32::from_be_bytes(namespace), client_id: name(key)?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen() {
        let client = ClientKey { namespace: 7, client_id: "ab".into() };
        assert_eq!(session(&client), b"\x04\0\0\0\x07ab");
        assert_eq!(retained(Namespace(256), "t/1"), b"\x06\0\0\x01\0t/1");
        assert_eq!(generation(Generation(1)), b"\x02\0\0\0\0\0\0\0\x01");
        assert_eq!(run(Generation(1), Position(2)), b"\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        assert_eq!(producer(Incarnation(3)), *b"\x05\0\0\0\0\0\0\0\x03");
        assert_eq!(super::client(&session(&client)), Some(client));
    }
}
