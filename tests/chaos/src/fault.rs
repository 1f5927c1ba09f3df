//! The matrix: what is done to whom, for how long.

use std::time::Duration;

/// To whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// One that half of the clients use.
    Gateway,
    /// The storage node that leads the most shards; all traffic that counts is on those.
    StorageLeader,
    /// A storage node that leads no shard of the traffic, and holds a replica of all of those.
    StorageFollower,
    /// The storage node that has a disk of its own.
    StorageWithDisk,
    /// All storage nodes but one.
    StorageMajority,
    AllStorage,
    MetaElected,
    MetaStandby,
    AllMeta,
    EtcdLeader,
    AllEtcd,
    MetasAndEtcdLeader,
    Everything,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// kill -9; started again in the end.
    Kill,
    /// SIGSTOP, and SIGCONT in the end.
    Pause,
    /// No packets between the target and others, or none from the target to them.
    Cut { from: Target, one_way: bool },
    /// No packets to and from anybody.
    Unplug,
    /// Everything to and from all storage nodes takes longer, each way.
    Delay(Duration),
    /// The disk is full.
    FullDisk,
    /// Writes and syncs hang.
    StalledDisk,
    /// The wall clock jumps by so many seconds, and back in the end.
    Jump(i64),
}

/// A line of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) damage: Damage,
    pub(crate) target: Target,
    pub(crate) lasts: Duration,
}

impl Target {
    /// Whether there is such a target only where etcd is the store.
    fn needs_etcd(self) -> bool {
        matches!(
            self,
            Target::MetaStandby | Target::EtcdLeader | Target::AllEtcd | Target::MetasAndEtcdLeader
        )
    }
}

impl Fault {
    /// Why this line cannot be run here, if so.
    pub(crate) fn lacks(&self, etcd: bool, namespaces: bool) -> Option<&'static str> {
        let from = match self.damage {
            Damage::Cut { from, .. } => Some(from),
            _ => None,
        };
        if !etcd && [Some(self.target), from].into_iter().flatten().any(Target::needs_etcd) {
            return Some("the store is not etcd");
        }
        let is_cut = matches!(self.damage, Damage::Cut { .. } | Damage::Unplug);
        (is_cut && !namespaces).then_some("no network namespaces here")
    }
}

const HOUR_S: i64 = 3_600;

/// All lines. `etcd_outage`: how long all of etcd is down.
pub(crate) fn matrix(etcd_outage: Duration) -> Vec<Fault> {
    use Target::*;
    let seconds = Duration::from_secs;
    let line = |name, damage, target, lasts| Fault { name, damage, target, lasts: seconds(lasts) };
    let kill = |name, target| line(name, Damage::Kill, target, 5);
    let pause = |name, target| line(name, Damage::Pause, target, 8);
    let cut = |name, target, from| line(name, Damage::Cut { from, one_way: false }, target, 10);
    let jump = |name, target, by| line(name, Damage::Jump(by), target, 10);
    vec![
        kill("kill-gateway", Gateway),
        kill("kill-storage-leader", StorageLeader),
        kill("kill-storage-follower", StorageFollower),
        kill("kill-meta-elected", MetaElected),
        kill("kill-meta-standby", MetaStandby),
        kill("kill-etcd-leader", EtcdLeader),
        kill("kill-metas-and-etcd-leader", MetasAndEtcdLeader),
        Fault { lasts: etcd_outage, ..kill("kill-all-etcd", AllEtcd) },
        pause("pause-gateway", Gateway),
        pause("pause-storage-leader", StorageLeader),
        pause("pause-storage-follower", StorageFollower),
        pause("pause-meta-elected", MetaElected),
        pause("pause-meta-standby", MetaStandby),
        pause("pause-etcd-leader", EtcdLeader),
        cut("cut-gateway-storage", Gateway, StorageLeader),
        cut("cut-storage-storage", StorageLeader, StorageFollower),
        line(
            "cut-storage-storage-one-way",
            Damage::Cut { from: StorageFollower, one_way: true },
            StorageLeader,
            10,
        ),
        line("cut-storage-from-all", Damage::Unplug, StorageLeader, 10),
        cut("cut-gateway-meta", Gateway, AllMeta),
        cut("cut-storage-meta", StorageLeader, AllMeta),
        cut("cut-meta-etcd", MetaElected, AllEtcd),
        line("cut-gateway-from-all", Damage::Unplug, Gateway, 10),
        line("delay-200-ms", Damage::Delay(Duration::from_millis(200)), AllStorage, 10),
        line("full-disk", Damage::FullDisk, StorageWithDisk, 10),
        line("stalled-disk", Damage::StalledDisk, StorageWithDisk, 10),
        jump("clock-storage-leader-forward", StorageLeader, HOUR_S),
        jump("clock-storage-leader-back", StorageLeader, -HOUR_S),
        jump("clock-gateway-forward", Gateway, HOUR_S),
        jump("clock-gateway-back", Gateway, -HOUR_S),
        jump("clock-meta-forward", MetaElected, HOUR_S),
        jump("clock-meta-back", MetaElected, -HOUR_S),
        line("kill-storage-majority", Damage::Kill, StorageMajority, 20),
        line("kill-everything", Damage::Kill, Everything, 1),
    ]
}
