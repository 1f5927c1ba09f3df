//! What is in the store: keys and rows.
//!
//! `cluster` → [`ClusterRow`]; `gateway/` incarnation → [`GatewayRow`]; `filter-version` → `u64`;
//! `filter/` namespace, filter → nothing; `feed/` shard → [`FeedRow`]; `session/` shard, namespace, client id →
//! number of the resync that wrote it, then a `SessionRow`. Numbers in keys and `u64` values are big-endian, so that
//! keys are in order. Rows are protobuf: fields are added, never reused.

use bytes::Bytes;
use holdfast_control::{
    membership::{GatewayState, Saved},
    registry::Feed,
    routes::Filter,
};
use holdfast_proto::{
    ids::{Incarnation, Namespace, ShardId},
    meta::{GatewayInfo, Topology},
    shard::{ClientKey, SessionRow},
};
use prost::Message;
use thiserror::Error;

/// Key of the [`ClusterRow`].
pub(crate) const CLUSTER_KEY: &[u8] = b"cluster";
/// Key of the filter set's version.
pub(crate) const FILTER_VERSION_KEY: &[u8] = b"filter-version";
/// Prefix of gateways.
pub(crate) const GATEWAYS: &[u8] = b"gateway/";
/// Prefix of durable filters.
pub(crate) const FILTERS: &[u8] = b"filter/";
/// Prefix of feeds.
pub(crate) const FEEDS: &[u8] = b"feed/";
const SESSIONS: &[u8] = b"session/";

/// Version of all keys and rows. A version that changes what this one would misread raises it.
const FORMAT: u32 = 1;

/// A row cannot be read. Stop.
#[derive(Debug, Error)]
#[error("the store's row {key:?} cannot be read: {why}")]
pub struct BadRow {
    /// Its key.
    pub key: Bytes,
    /// What is wrong with it.
    pub why: &'static str,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClusterRow {
    #[prost(message, optional, tag = "1")]
    topology: Option<Topology>,
    #[prost(uint64, tag = "2")]
    next_replica_id: u64,
    #[prost(uint64, tag = "3")]
    set_back_from: u64,
    /// Of the whole store; 0 is the same as 1.
    #[prost(uint32, tag = "4")]
    format: u32,
}

#[derive(Clone, PartialEq, Message)]
struct GatewayRow {
    #[prost(message, optional, tag = "1")]
    info: Option<GatewayInfo>,
    #[prost(uint64, tag = "2")]
    died_at_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FeedRow {
    #[prost(uint64, optional, tag = "1")]
    index: Option<u64>,
    #[prost(uint64, tag = "2")]
    resync: u64,
}

fn bad(key: &[u8]) -> BadRow {
    BadRow { key: Bytes::copy_from_slice(key), why: "it is damaged" }
}

pub(crate) fn write_cluster(saved: Saved) -> Vec<u8> {
    let row = ClusterRow {
        topology: Some(saved.topology),
        next_replica_id: saved.next_replica_id,
        set_back_from: saved.set_back_from,
        format: FORMAT,
    };
    row.encode_to_vec()
}

pub(crate) fn read_cluster(value: &[u8]) -> Result<Saved, BadRow> {
    let row = ClusterRow::decode(value).map_err(|_| bad(CLUSTER_KEY))?;
    if row.format > FORMAT {
        let why = "a later version wrote this store; run that one";
        return Err(BadRow { why, ..bad(CLUSTER_KEY) });
    }
    let topology = row.topology.ok_or_else(|| bad(CLUSTER_KEY))?;
    let (next_replica_id, set_back_from) = (row.next_replica_id, row.set_back_from);
    Ok(Saved { topology, next_replica_id, set_back_from })
}

pub(crate) fn gateway_key(gateway: Incarnation) -> Vec<u8> {
    [GATEWAYS, &gateway.0.to_be_bytes()].concat()
}

pub(crate) fn write_gateway(state: GatewayState) -> (Vec<u8>, Vec<u8>) {
    let incarnation = state.info.gateway.as_ref().map_or(0, |gateway| gateway.incarnation);
    let row = GatewayRow { info: Some(state.info), died_at_ms: state.died_at_ms };
    (gateway_key(Incarnation(incarnation)), row.encode_to_vec())
}

pub(crate) fn read_gateway(key: &[u8], value: &[u8]) -> Result<GatewayState, BadRow> {
    let row = GatewayRow::decode(value).map_err(|_| bad(key))?;
    let info = row.info.ok_or_else(|| bad(key))?;
    Ok(GatewayState { info, died_at_ms: row.died_at_ms })
}

pub(crate) fn filter_key(filter: &Filter) -> Vec<u8> {
    [FILTERS, &filter.namespace.0.to_be_bytes(), filter.filter.as_bytes()].concat()
}

pub(crate) fn read_filter(key: &[u8]) -> Result<Filter, BadRow> {
    let rest = key.strip_prefix(FILTERS).and_then(|rest| rest.split_first_chunk::<4>());
    let (namespace, filter) = rest.ok_or_else(|| bad(key))?;
    let filter = std::str::from_utf8(filter).map_err(|_| bad(key))?.to_owned();
    Ok(Filter { namespace: Namespace(u32::from_be_bytes(*namespace)), filter })
}

pub(crate) fn read_number(key: &[u8], value: &[u8]) -> Result<u64, BadRow> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| bad(key))
}

pub(crate) fn write_feed(shard: ShardId, feed: Feed) -> (Vec<u8>, Vec<u8>) {
    let row = FeedRow { index: feed.index, resync: feed.resync };
    ([FEEDS, &shard.0.to_be_bytes()].concat(), row.encode_to_vec())
}

pub(crate) fn read_feed(key: &[u8], value: &[u8]) -> Result<(ShardId, Feed), BadRow> {
    let shard = key.strip_prefix(FEEDS).and_then(|shard| shard.try_into().ok());
    let shard = shard.map(u16::from_be_bytes).ok_or_else(|| bad(key))?;
    let row = FeedRow::decode(value).map_err(|_| bad(key))?;
    Ok((ShardId(shard), Feed { index: row.index, resync: row.resync }))
}

/// Prefix of a shard's sessions.
pub(crate) fn sessions_prefix(shard: ShardId) -> Vec<u8> {
    [SESSIONS, &shard.0.to_be_bytes()].concat()
}

pub(crate) fn session_key(shard: ShardId, client: &ClientKey) -> Vec<u8> {
    let mut key = sessions_prefix(shard);
    key.extend(client.namespace.to_be_bytes());
    key.extend(client.client_id.as_bytes());
    key
}

pub(crate) fn write_session(resync: u64, row: &SessionRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(8 + row.encoded_len());
    value.extend(resync.to_be_bytes());
    row.encode_raw(&mut value);
    value
}

/// The client, the resync that wrote the row, and the row's bytes.
pub(crate) fn split_session<'a>(
    key: &[u8],
    value: &'a [u8],
) -> Result<(ClientKey, u64, &'a [u8]), BadRow> {
    let rest = key.get(SESSIONS.len() + 2..).and_then(|rest| rest.split_first_chunk::<4>());
    let (namespace, client_id) = rest.ok_or_else(|| bad(key))?;
    let (resync, row) = value.split_first_chunk::<8>().ok_or_else(|| bad(key))?;
    let client_id = std::str::from_utf8(client_id).map_err(|_| bad(key))?.to_owned();
    let client = ClientKey { namespace: u32::from_be_bytes(*namespace), client_id };
    Ok((client, u64::from_be_bytes(*resync), row))
}

pub(crate) fn read_session(key: &[u8], row: &[u8]) -> Result<SessionRow, BadRow> {
    SessionRow::decode(row).map_err(|_| bad(key))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use holdfast_proto::{
        meta::{ReplicaInfo, ShardInfo, ShardPin, SiteInfo},
        shard::{GatewayRef, Subscription},
    };

    use super::*;

    const SHARD: ShardId = ShardId(3);

    fn saved() -> Saved {
        let site = SiteInfo {
            site_id: 7,
            name: "storage-1".into(),
            address: "127.0.0.1:1".into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            ..SiteInfo::default()
        };
        let replica = ReplicaInfo { replica_id: 5, site_id: 7 };
        let shard = ShardInfo {
            shard: 0,
            replicas: vec![replica],
            retired: vec![2],
            holders: vec![ReplicaInfo { replica_id: 3, site_id: 9 }],
            pin: None,
        };
        let topology = Topology {
            version: 12,
            cluster_id: "c".into(),
            shards: 1,
            replication_factor: 1,
            sites: vec![site],
            placement: vec![shard],
            ..Topology::default()
        };
        Saved { topology, next_replica_id: 6, set_back_from: 0 }
    }

    fn gateway() -> GatewayState {
        let gateway = GatewayRef { incarnation: 0x0102, name: "g".into(), address: "h:1".into() };
        let info = GatewayInfo {
            gateway: Some(gateway),
            mqtt_address: "h:1883".into(),
            ..GatewayInfo::default()
        };
        GatewayState { info, died_at_ms: 99 }
    }

    fn filter() -> Filter {
        Filter { namespace: Namespace(1), filter: "t/#".into() }
    }

    fn feed() -> Feed {
        Feed { index: Some(44), resync: 2 }
    }

    fn session() -> (ClientKey, SessionRow) {
        let subscription =
            Subscription { filter: "t/#".into(), options: 1, ..Subscription::default() };
        let row = SessionRow {
            epoch: 9,
            instance: 8,
            expiry_interval_s: 60,
            subscriptions: vec![subscription],
            cursor: vec![1, 2],
            lost: 4,
            ..SessionRow::default()
        };
        (ClientKey { namespace: 1, client_id: "emqx_c".into() }, row)
    }

    fn written() -> Vec<(Vec<u8>, Vec<u8>)> {
        let (client, row) = session();
        vec![
            (CLUSTER_KEY.to_vec(), write_cluster(saved())),
            write_gateway(gateway()),
            (filter_key(&filter()), Vec::new()),
            write_feed(SHARD, feed()),
            (session_key(SHARD, &client), write_session(2, &row)),
        ]
    }

    /// Format 1 as a file: what is stored today must be readable for ever. `HOLDFAST_WRITE_GOLDEN=1`
    /// writes it anew; do that only for a new format, under a new name.
    #[test]
    fn rows_of_format_1_are_read_and_written_the_same() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows-1.bin");
        let framed = |part: &Vec<u8>| [&(part.len() as u32).to_le_bytes()[..], part].concat();
        let rows = written();
        let file: Vec<u8> =
            rows.iter().flat_map(|(key, row)| [framed(key), framed(row)].concat()).collect();
        if std::env::var_os("HOLDFAST_WRITE_GOLDEN").is_some() {
            fs::write(&path, &file).unwrap();
        }
        assert_eq!(fs::read(path).unwrap(), file);
        let [cluster, one, other, index, row] = &rows[..] else { panic!("five rows") };
        assert_eq!(read_cluster(&cluster.1).unwrap(), saved());
        assert_eq!(read_gateway(&one.0, &one.1).unwrap(), gateway());
        assert_eq!(read_filter(&other.0).unwrap(), filter());
        assert_eq!(read_feed(&index.0, &index.1).unwrap(), (SHARD, feed()));
        let (client, resync, bytes) = split_session(&row.0, &row.1).unwrap();
        let read = (client, read_session(&row.0, bytes).unwrap());
        assert_eq!((read, resync), (session(), 2));
    }

    #[test]
    fn what_is_pinned_is_kept() {
        let mut saved = saved();
        saved.topology.placement[0].pin = Some(ShardPin { leader: 7, sites: vec![7] });
        assert_eq!(read_cluster(&write_cluster(saved.clone())).unwrap(), saved);
    }

    #[test]
    fn a_store_of_a_later_version_is_refused_in_words() {
        let row = ClusterRow { format: FORMAT + 1, ..ClusterRow::default() };
        let refused = read_cluster(&row.encode_to_vec()).unwrap_err();
        assert!(refused.to_string().contains("later version"), "{refused}");
    }
}
