//! `holdfast capacity`: what a load needs, computed from what was measured.

mod constants;
mod sizing;

use clap::Args;

use self::constants::{
    CONNECTION_BYTES, CORES_USABLE, CPU_S_PER_MILLION_BATCHED, CPU_S_PER_MILLION_DELIVERIES,
    CPU_S_PER_MILLION_SINGLE, DISK_HIGH, GATEWAY_BASE_BYTES, GATEWAY_CPU_SHARE, LOG_BYTES_MAX,
    MEMORY_USABLE, RECORD_OVERHEAD_BYTES, SESSION_DISK_BYTES, SESSION_ETCD_BYTES,
    SESSION_MEMORY_BYTES, SESSION_META_BYTES, SINGLE_RATE, STORAGE_BASE_BYTES,
    STORAGE_BUFFER_BYTES, WRITTEN_PER_RECORD_BYTE,
};
use self::sizing::{Load, Needs, needs};
use crate::amount::{Bytes, Count, Span, size, span};
use crate::console;
use crate::failure::{Failure, Outcome};

/// Beyond these nothing that is computed means anything.
const RATE_MAX: f64 = 1e9;
const SIZE_MAX: f64 = (256 << 20) as f64;
const RETENTION_MAX_S: f64 = 100.0 * 366.0 * 86_400.0;
const SESSIONS_MAX: f64 = 1e10;

/// What is asked of the cluster.
#[derive(Debug, Args)]
pub(crate) struct CapacityArgs {
    /// Messages published a second, on average
    #[arg(long, value_name = "PER-SECOND")]
    rate: Count,
    /// Bytes of a payload, on average
    #[arg(long, value_name = "BYTES", default_value = "256")]
    size: Bytes,
    /// How long messages are kept
    #[arg(long, value_name = "TIME", default_value = "7d")]
    retention: Span,
    /// Durable sessions
    #[arg(long, value_name = "N", default_value = "0")]
    sessions: Count,
    /// Clients that are connected at a time [default: as many as sessions]
    #[arg(long, value_name = "N")]
    connections: Option<Count>,
    /// Connected subscribers that receive a message, on average
    #[arg(long, value_name = "N", default_value = "1")]
    subscribers_per_message: Count,
    /// Replicas of a shard: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3)]
    replication_factor: u32,
    /// Disk of a storage node
    #[arg(long, value_name = "BYTES", default_value = "1TB")]
    disk_per_node: Bytes,
    /// Memory of a node of either tier
    #[arg(long, value_name = "BYTES", default_value = "16GB")]
    memory_per_node: Bytes,
    /// Cores of a node of either tier
    #[arg(long, value_name = "N", default_value = "4")]
    cores_per_node: Count,
    /// Show the formulae with their constants
    #[arg(long)]
    explain: bool,
    /// Print JSON for scripts; fields are added, none is changed
    #[arg(long)]
    json: bool,
}

impl CapacityArgs {
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn load(&self) -> Outcome<Load> {
        if !matches!(self.replication_factor, 1 | 3 | 5) {
            return Err(Failure::usage("--replication-factor: 1, 3 or 5 are allowed"));
        }
        let positive = [
            ("--disk-per-node", self.disk_per_node.0 > 0),
            ("--memory-per-node", self.memory_per_node.0 > 0),
            ("--cores-per-node", self.cores_per_node.0 > 0.0),
        ];
        if let Some((option, _)) = positive.into_iter().find(|(_, is_positive)| !is_positive) {
            return Err(Failure::usage(format!("{option}: more than 0 is wanted")));
        }
        let most = [
            ("--rate", self.rate.0, RATE_MAX, "1G"),
            ("--size", self.size.0 as f64, SIZE_MAX, "256MiB, what MQTT can carry"),
            ("--retention", self.retention.0 as f64, RETENTION_MAX_S, "100 years"),
            ("--sessions", self.sessions.0, SESSIONS_MAX, "10G"),
            ("--connections", self.connections.unwrap_or(self.sessions).0, SESSIONS_MAX, "10G"),
            ("--subscribers-per-message", self.subscribers_per_message.0, SESSIONS_MAX, "10G"),
        ];
        if let Some((option, _, _, words)) = most.into_iter().find(|it| it.1 > it.2) {
            return Err(Failure::usage(format!("{option}: at most {words}")));
        }
        Ok(Load {
            rate: self.rate.0,
            size_bytes: self.size.0 as f64,
            retention_s: self.retention.0 as f64,
            sessions: self.sessions.0,
            connections: self.connections.unwrap_or(self.sessions).0,
            subscribers_per_message: self.subscribers_per_message.0,
            replication_factor: f64::from(self.replication_factor),
            disk_per_node: self.disk_per_node.0 as f64,
            memory_per_node: self.memory_per_node.0 as f64,
            cores_per_node: self.cores_per_node.0,
        })
    }
}

/// Computes and shows it.
pub(crate) fn run(args: &CapacityArgs) -> Outcome {
    let needs = needs(args.load()?);
    if args.json {
        console::json(&needs);
        return Ok(());
    }
    show(&needs);
    if args.explain {
        console::line(format!("\n{}", explanation()));
    } else {
        console::note("--explain shows the formulae and what was measured");
    }
    if needs.disk_too_small {
        return Err(Failure::usage("--disk-per-node: the log alone needs more")
            .hint("1 GB is the least; log.bytes_max of the storage nodes decides it"));
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn bytes(bytes: f64) -> String {
    size(bytes.max(0.0) as u64)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn show(needs: &Needs) {
    let load = &needs.load;
    console::facts(&[
        (
            "storage nodes",
            format!(
                "{}, better {}: one may then be lost for good",
                needs.storage_nodes, needs.storage_nodes_with_spare
            ),
        ),
        ("  disk of each", bytes(needs.disk_per_storage_node)),
        ("  memory of each", bytes(needs.memory_per_storage_node)),
        ("  written by each", format!("{}/s", bytes(needs.written_per_storage_node))),
        ("gateways", format!("{}, better {}", needs.gateways, needs.gateways_with_spare)),
        ("  memory of each", bytes(needs.memory_per_gateway)),
        (
            "cores, both tiers",
            format!("{:.1} to {:.1} busy on average", needs.cores.low, needs.cores.high),
        ),
        ("etcd members", format!("3 with {} of data each for sessions", bytes(needs.etcd_bytes))),
        (
            "meta-services",
            format!("2 with {} of memory each for sessions", bytes(needs.meta_memory)),
        ),
        (
            "network",
            format!(
                "{}/s from publishers, {}/s to subscribers, {}/s between storage nodes",
                bytes(needs.network_in),
                bytes(needs.network_out),
                bytes(needs.network_replication)
            ),
        ),
        (
            "stored",
            format!(
                "{} on all nodes: messages of {} B kept for up to {}, {} replicas",
                bytes(needs.stored_bytes),
                needs.record_bytes,
                span(needs.kept_s as u64),
                load.replication_factor
            ),
        ),
    ]);
}

fn explanation() -> String {
    let mib = |bytes: f64| bytes / 1_048_576.0;
    format!(
        "\
Measured on two shared cores with 256 B payloads and three replicas; README, \"How fast\", says how.
  record             = payload + {RECORD_OVERHEAD_BYTES} B
  kept               = retention + the generation a message is in (a day, or 1 GiB of its shard)
  stored             = replicas x (rate x kept x record + sessions x {SESSION_DISK_BYTES} B)
  disk of a node     = (stored / nodes + log.bytes_max {log} MiB) / disk_high {DISK_HIGH}
  memory of a node   = ({STORAGE_BASE_BYTES} B + buffers {buffers} MiB
                        + replicas x sessions x {SESSION_MEMORY_BYTES} B / nodes) / {MEMORY_USABLE}
  written by a node  = rate x record x {WRITTEN_PER_RECORD_BYTE} x replicas / nodes
  memory of a gateway = ({GATEWAY_BASE_BYTES} B + connections x {CONNECTION_BYTES} B / gateways) / {MEMORY_USABLE}
  cores, at least    = rate x {CPU_S_PER_MILLION_BATCHED} s per million: messages come in batches
  cores, at most     = the first {SINGLE_RATE}/s x {CPU_S_PER_MILLION_SINGLE} s per million (each its own round), the rest as above
                       + {CPU_S_PER_MILLION_DELIVERIES} s per million deliveries beyond one of each message
  etcd, meta-service = sessions x {SESSION_ETCD_BYTES} B, sessions x {SESSION_META_BYTES} B
Assumed: memory is filled to {MEMORY_USABLE}, cores are busy to {CORES_USABLE}, gateways use {GATEWAY_CPU_SHARE} of the CPU time.
etcd keeps 2 GiB unless --quota-backend-bytes says otherwise; log, disk and generations are those of the defaults.",
        log = mib(LOG_BYTES_MAX),
        buffers = mib(STORAGE_BUFFER_BYTES),
    )
}
