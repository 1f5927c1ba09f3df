//! From a load to what it needs: a pure function.

use serde::{Serialize, Serializer};

use super::constants::{
    CONNECTION_BYTES, CORES_USABLE, CPU_S_PER_MILLION_BATCHED, CPU_S_PER_MILLION_DELIVERIES,
    CPU_S_PER_MILLION_SINGLE, DISK_HIGH, GATEWAY_BASE_BYTES, GATEWAY_CPU_SHARE, GATEWAYS_MIN,
    GENERATION_BYTES_MAX, GENERATION_S, LOG_BYTES_MAX, MEMORY_USABLE, RECORD_OVERHEAD_BYTES,
    SESSION_DISK_BYTES, SESSION_ETCD_BYTES, SESSION_MEMORY_BYTES, SESSION_META_BYTES, SHARDS,
    SINGLE_RATE, STORAGE_BASE_BYTES, STORAGE_BUFFER_BYTES, WRITTEN_PER_RECORD_BYTE,
};

/// What is asked of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Load {
    /// Messages published a second, on average.
    pub(super) rate: f64,
    /// Bytes of a payload, on average.
    pub(super) size_bytes: f64,
    /// How long messages are kept, in seconds.
    pub(super) retention_s: f64,
    /// Durable sessions.
    pub(super) sessions: f64,
    /// Clients that are connected at a time.
    pub(super) connections: f64,
    /// Connected subscribers that receive a message, on average.
    pub(super) subscribers_per_message: f64,
    /// Replicas of a shard.
    pub(super) replication_factor: f64,
    /// Bytes of disk of a storage node.
    pub(super) disk_per_node: f64,
    /// Bytes of memory of a node of either tier.
    pub(super) memory_per_node: f64,
    /// Cores of a node of either tier.
    pub(super) cores_per_node: f64,
}

/// Low and high estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What it needs. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Needs {
    pub(super) load: Load,
    #[serde(serialize_with = "whole")]
    pub(super) record_bytes: f64,
    /// Until a message is really gone: retention and the generation that it is in.
    #[serde(serialize_with = "whole")]
    pub(super) kept_s: f64,
    /// Bytes of all storage nodes together, without logs.
    #[serde(serialize_with = "whole")]
    pub(super) stored_bytes: f64,
    #[serde(serialize_with = "whole")]
    pub(super) storage_nodes: f64,
    /// One more than needed, so that one may be lost for good and everything fits on the others.
    #[serde(serialize_with = "whole")]
    pub(super) storage_nodes_with_spare: f64,
    #[serde(serialize_with = "whole")]
    pub(super) disk_per_storage_node: f64,
    #[serde(serialize_with = "whole")]
    pub(super) memory_per_storage_node: f64,
    /// Written by a storage node in a second.
    #[serde(serialize_with = "whole")]
    pub(super) written_per_storage_node: f64,
    #[serde(serialize_with = "whole")]
    pub(super) gateways: f64,
    #[serde(serialize_with = "whole")]
    pub(super) gateways_with_spare: f64,
    #[serde(serialize_with = "whole")]
    pub(super) memory_per_gateway: f64,
    /// All gateways and storage nodes together, on average.
    pub(super) cores: Range,
    #[serde(serialize_with = "whole")]
    pub(super) etcd_bytes: f64,
    #[serde(serialize_with = "whole")]
    pub(super) meta_memory: f64,
    /// Bytes a second from publishers, to subscribers, and between storage nodes.
    #[serde(serialize_with = "whole")]
    pub(super) network_in: f64,
    #[serde(serialize_with = "whole")]
    pub(super) network_out: f64,
    #[serde(serialize_with = "whole")]
    pub(super) network_replication: f64,
    /// The disk of a storage node cannot hold its log.
    pub(super) disk_too_small: bool,
}

/// Nodes and bytes have no fractions.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn whole<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(value.round() as u64)
}

/// Computes it.
pub(super) fn needs(load: Load) -> Needs {
    let replicas = load.replication_factor;
    let record_bytes = load.size_bytes + RECORD_OVERHEAD_BYTES;
    let kept_s = load.retention_s + generation_s(load.rate * record_bytes);
    let messages = load.rate * kept_s * record_bytes;
    let stored_bytes = replicas * (messages + load.sessions * SESSION_DISK_BYTES);
    let cores = cores(&load);

    let for_data = (load.disk_per_node * DISK_HIGH - LOG_BYTES_MAX).max(0.0);
    let session_memory = replicas * load.sessions * SESSION_MEMORY_BYTES;
    let storage_base = STORAGE_BASE_BYTES + STORAGE_BUFFER_BYTES;
    let for_sessions = (load.memory_per_node * MEMORY_USABLE - storage_base).max(1.0);
    let usable_cores = load.cores_per_node * CORES_USABLE;
    let disk_too_small = for_data <= 0.0;
    let by_disk = if disk_too_small { 0.0 } else { stored_bytes / for_data };
    let storage_nodes = [
        by_disk,
        session_memory / for_sessions,
        cores.high * (1.0 - GATEWAY_CPU_SHARE) / usable_cores,
    ]
    .into_iter()
    .fold(replicas, |most, nodes| most.max(nodes.ceil()));

    let for_connections = (load.memory_per_node * MEMORY_USABLE - GATEWAY_BASE_BYTES).max(1.0);
    let gateways = (load.connections * CONNECTION_BYTES / for_connections)
        .max(cores.high * GATEWAY_CPU_SHARE / usable_cores)
        .ceil()
        .max(1.0);
    let gateways_with_spare = (gateways + 1.0).max(GATEWAYS_MIN);
    Needs {
        load,
        record_bytes,
        kept_s,
        stored_bytes,
        storage_nodes,
        storage_nodes_with_spare: storage_nodes + 1.0,
        disk_per_storage_node: (stored_bytes / storage_nodes + LOG_BYTES_MAX) / DISK_HIGH,
        memory_per_storage_node: (storage_base + session_memory / storage_nodes) / MEMORY_USABLE,
        written_per_storage_node: load.rate * record_bytes * WRITTEN_PER_RECORD_BYTE * replicas
            / storage_nodes,
        gateways,
        gateways_with_spare,
        memory_per_gateway: (GATEWAY_BASE_BYTES + load.connections * CONNECTION_BYTES / gateways)
            / MEMORY_USABLE,
        cores,
        etcd_bytes: load.sessions * SESSION_ETCD_BYTES,
        meta_memory: load.sessions * SESSION_META_BYTES,
        network_in: load.rate * load.size_bytes,
        network_out: load.rate * load.size_bytes * load.subscribers_per_message,
        network_replication: load.rate * record_bytes * (replicas - 1.0),
        disk_too_small,
    }
}

/// How long a generation is written to: until it is old or large.
fn generation_s(bytes_per_s: f64) -> f64 {
    if bytes_per_s <= 0.0 {
        return GENERATION_S;
    }
    GENERATION_S.min(GENERATION_BYTES_MAX * SHARDS / bytes_per_s)
}

/// Low: everything shares rounds. High: the first of them are rounds of their own. More deliveries than one
/// of a message cost as much in both.
fn cores(load: &Load) -> Range {
    let deliveries = load.rate * (load.subscribers_per_message - 1.0).max(0.0);
    let more = deliveries * CPU_S_PER_MILLION_DELIVERIES / 1e6;
    let alone = load.rate.min(SINGLE_RATE);
    let single = alone * CPU_S_PER_MILLION_SINGLE + (load.rate - alone) * CPU_S_PER_MILLION_BATCHED;
    Range { low: load.rate * CPU_S_PER_MILLION_BATCHED / 1e6 + more, high: single / 1e6 + more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            rate: 1_000.0,
            size_bytes: 256.0,
            retention_s: 604_800.0,
            sessions: 100_000.0,
            connections: 50_000.0,
            subscribers_per_message: 1.0,
            replication_factor: 3.0,
            disk_per_node: 1e12,
            memory_per_node: 16e9,
            cores_per_node: 4.0,
        }
    }

    fn is_near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() <= wanted.abs() * 1e-6
    }

    #[test]
    fn a_week_of_a_thousand_a_second() {
        let needs = needs(load());
        assert!(is_near(needs.record_bytes, 330.0));
        // 330 kB/s fill a generation of 16 GiB in 52,059.6 s, before it is a day old.
        assert!(
            is_near(needs.kept_s, 604_800.0 + 17_179_869_184.0 / 330_000.0),
            "{}",
            needs.kept_s
        );
        // 3 x (330 kB/s x 656,859.6 s + 100,000 x 1 kB) = 3 x (216.76 GB + 0.1 GB)
        assert!((needs.stored_bytes - 650.59e9).abs() < 0.01e9, "{}", needs.stored_bytes);
        // 650.6 GB fit on one disk of 900 usable GB, but three replicas need three nodes.
        assert!(is_near(needs.storage_nodes, 3.0) && is_near(needs.storage_nodes_with_spare, 4.0));
        // (216.86 GB + 0.54 GB) / 0.9
        assert!(
            (needs.disk_per_storage_node - 241.56e9).abs() < 0.01e9,
            "{}",
            needs.disk_per_storage_node
        );
        // (13 MB + 134.2 MB + 280 MB) / 0.7
        assert!(
            (needs.memory_per_storage_node - 610.3e6).abs() < 0.1e6,
            "{}",
            needs.memory_per_storage_node
        );
        // 1,000 x 330 x 2.3 on each of three
        assert!(is_near(needs.written_per_storage_node, 759_000.0));
        // (8 MB + 50,000 x 5.6 kB) / 0.7
        assert!(is_near(needs.memory_per_gateway, 288e6 / 0.7));
        assert!(is_near(needs.gateways, 1.0) && is_near(needs.gateways_with_spare, 2.0));
        assert!(is_near(needs.cores.low, 0.017) && is_near(needs.cores.high, 1.085));
        assert!(is_near(needs.etcd_bytes, 110e6) && is_near(needs.meta_memory, 3e6));
        assert!(is_near(needs.network_in, 256e3) && is_near(needs.network_out, 256e3));
        assert!(is_near(needs.network_replication, 660e3));
    }

    #[test]
    fn the_scarcest_thing_decides_the_nodes() {
        // 3 x 1,000,000 x 2.8 kB = 8.4 GB on nodes that have 2 GB x 0.7 - 147.2 MB = 1.2528 GB for it: 6.7
        let many = needs(Load { sessions: 1e6, memory_per_node: 2e9, ..load() });
        assert!(is_near(many.storage_nodes, 7.0), "{}", many.storage_nodes);
        // 650.59 GB on disks with 100 GB x 0.9 - 0.537 GB = 89.46 GB for it: 7.3
        let small = needs(Load { disk_per_node: 100e9, ..load() });
        assert!(is_near(small.storage_nodes, 8.0), "{}", small.storage_nodes);
        // 1 M connections x 5.6 kB = 5.6 GB in gateways with 1.392 GB for them: 4.02
        let busy = needs(Load { connections: 1e6, memory_per_node: 2e9, ..load() });
        assert!(is_near(busy.gateways, 5.0), "{}", busy.gateways);
        // 100,000/s: 1.085 + 99,000 x 17e-6 = 2.768 cores, and 7 more deliveries each x 2e-6: 1.4
        let fast =
            needs(Load { rate: 1e5, subscribers_per_message: 8.0, cores_per_node: 1.0, ..load() });
        assert!(
            is_near(fast.cores.high, 4.168) && is_near(fast.cores.low, 3.1),
            "{:?}",
            fast.cores
        );
        // 4.168 x 0.5 / 0.6 = 3.47
        assert!(is_near(fast.gateways, 4.0), "{}", fast.gateways);
    }

    #[test]
    fn nothing_needs_the_least() {
        let none =
            Load { rate: 0.0, sessions: 0.0, connections: 0.0, replication_factor: 1.0, ..load() };
        let needs = needs(none);
        assert!(is_near(needs.storage_nodes, 1.0) && is_near(needs.gateways, 1.0));
        assert!(is_near(needs.kept_s, 691_200.0));
        assert!(needs.stored_bytes < 1.0 && !needs.disk_too_small);
        assert!(super::needs(Load { disk_per_node: 1e8, ..load() }).disk_too_small);
    }
}
