//! Which replicas this site holds: it follows the topology.
//!
//! A site runs a replica for every shard that names it, as member of the replica set or as holder of
//! history, and erases what neither names any more. Erasing cannot be taken back, so a topology that is
//! older than one seen before (a service whose store was set back) places nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_log::ReplicaKey;
use holdfast_log::run::{RunId, remove_run};
use holdfast_proto::ids::{ReplicaId, ShardId};
use holdfast_proto::meta::{ShardInfo, Topology};
use prost::Message;

use crate::replica::Replica;
use crate::replica::cell::RUNS_DIR;
use crate::site::Site;
use crate::state_store::StoreError;

/// Key of the last topology in the site's store.
const TOPOLOGY: &[u8] = b"topology";

/// What a shard's placement asks of one site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Duty {
    replica: ReplicaId,
    /// It only keeps history.
    holder: bool,
}

fn duty(placed: &ShardInfo, site: u64) -> Option<Duty> {
    let of = |one: &holdfast_proto::meta::ReplicaInfo| one.site_id == site;
    let member = placed.replicas.iter().find(|one| of(one));
    let holder = placed.holders.iter().find(|one| of(one));
    let named = member.or(holder)?;
    Some(Duty { replica: ReplicaId(named.replica_id), holder: member.is_none() })
}

/// Whether the topology names this replica of the site at all.
fn names(topology: &Topology, site: u64, key: ReplicaKey) -> bool {
    let of_shard = topology.placement.iter().filter(|one| one.shard == u32::from(key.shard.0));
    of_shard
        .flat_map(|placed| placed.replicas.iter().chain(&placed.holders))
        .any(|one| one.site_id == site && one.replica_id == key.replica.0)
}

impl Site {
    /// The topology that this site knew when it was stopped.
    pub(crate) fn remembered_topology(&self) -> Result<Option<Topology>, StoreError> {
        match self.store.get(TOPOLOGY)? {
            None => Ok(None),
            Some(bytes) => Ok(Some(Topology::decode(bytes)?)),
        }
    }

    /// Takes a topology: connects to sites, starts and ends replicas.
    pub(crate) async fn take_topology(self: &Arc<Self>, topology: Topology) {
        let sites = topology.sites.iter().map(|site| (site.site_id, site.address.clone()));
        self.peers.set_sites(sites);
        let known = self.topology();
        if topology.version < known.version {
            if !self.set_back.swap(true, Ordering::Relaxed) {
                let (version, newest) = (topology.version, known.version);
                tracing::error!(
                    version,
                    newest,
                    "topology is older than the last one: not followed"
                );
            }
            return;
        }
        self.set_back.store(false, Ordering::Relaxed);
        let changed = known.placement != topology.placement || known.sites != topology.sites;
        if changed && let Err(error) = self.store.put(TOPOLOGY, &topology.encode_to_vec()) {
            self.fatal.stop("remember the topology", &error);
        }
        let topology = Arc::new(topology);
        self.set_topology(topology.clone());
        for placed in &topology.placement {
            self.place(placed).await;
        }
        if !topology.placement.is_empty() {
            self.erase_unnamed(&topology);
        }
        self.news.notify_one();
    }

    async fn place(self: &Arc<Self>, placed: &ShardInfo) {
        let shard = ShardId(placed.shard as u16);
        let duty = duty(placed, self.site_id.0);
        if let Some(replica) = self.replica(shard)
            && duty.is_none_or(|duty| duty.replica != replica.key.replica)
        {
            self.end(&replica).await;
        }
        let Some(duty) = duty else { return };
        if let Some(replica) = self.replica(shard) {
            replica.set_holder(duty.holder);
            return;
        }
        let key = ReplicaKey { shard, replica: duty.replica };
        if self.is_quarantined(key) {
            return;
        }
        self.forget_predecessors(key);
        if let Err(error) = self.start(key, placed, duty.holder).await {
            tracing::error!(shard = shard.0, replica = key.replica.0, %error, "replica not started");
            self.quarantine(key, error.to_string());
        }
    }

    async fn end(&self, replica: &Arc<Replica>) {
        let key = replica.key;
        tracing::info!(shard = key.shard.0, replica = key.replica.0, "replica ends");
        self.forget_running(key.shard);
        replica.stop().await;
        replica.tails.stop_all(key.shard.0, 0);
        self.log.remove_replica(key, Box::new(|_| {}));
        self.erasable.lock().remove(&key);
        if let Err(error) = replica.cell.erase() {
            self.fatal.stop("erase a replica", &error);
        }
    }

    /// Removes what is left of replicas that the topology has taken from this site while it was away.
    fn erase_unnamed(&self, topology: &Topology) {
        let unnamed: Vec<ReplicaKey> = {
            let mut erasable = self.erasable.lock();
            let site = self.site_id.0;
            let gone = erasable.iter().filter(|key| !names(topology, site, **key)).copied();
            let gone: Vec<ReplicaKey> = gone.collect();
            erasable.retain(|key| !gone.contains(key));
            gone
        };
        for key in unnamed {
            tracing::info!(shard = key.shard.0, replica = key.replica.0, "erasing replica");
            self.release(key);
            self.erase(key);
            if self.replica(key.shard).is_none() {
                self.erase_runs(key.shard);
            }
        }
    }

    /// Removes what is left of this site's earlier replicas of the shard.
    fn forget_predecessors(&self, key: ReplicaKey) {
        for old in self.quarantined_keys() {
            if old.shard == key.shard && old.replica < key.replica {
                self.release(old);
                self.erasable.lock().remove(&old);
                self.erase(old);
            }
        }
    }

    /// Removes log and state of a replica that does not run.
    fn erase(&self, key: ReplicaKey) {
        self.log.remove_replica(key, Box::new(|_| {}));
        let erased = self.store.replica(key).and_then(|store| store.clear());
        if let Err(error) = erased {
            self.fatal.stop("erase a replica", &error);
        }
    }

    fn erase_runs(&self, shard: ShardId) {
        let files = match self.disk.list(RUNS_DIR) {
            Ok(files) => files,
            Err(error) => return tracing::warn!(%error, "runs not listed"),
        };
        let ids = files.iter().filter_map(|name| RunId::from_file_name(name));
        for id in ids.filter(|id| id.shard == shard) {
            if let Err(error) = remove_run(self.disk.as_ref(), RUNS_DIR, id) {
                tracing::warn!(shard = shard.0, first = id.first.0, %error, "run not removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::meta::ReplicaInfo;

    use super::*;

    fn placed() -> ShardInfo {
        let of = |replica_id, site_id| ReplicaInfo { replica_id, site_id };
        ShardInfo {
            shard: 3,
            replicas: vec![of(1, 10), of(2, 20), of(5, 40)],
            holders: vec![of(3, 30), of(4, 20)],
            ..ShardInfo::default()
        }
    }

    #[test]
    fn members_come_before_holders() {
        let duty_of = |site| duty(&placed(), site);
        assert_eq!(duty_of(20), Some(Duty { replica: ReplicaId(2), holder: false }));
        assert_eq!(duty_of(30), Some(Duty { replica: ReplicaId(3), holder: true }));
        assert_eq!(duty_of(50), None);
    }

    #[test]
    fn a_replica_is_named_by_site_shard_and_id() {
        let topology = Topology { placement: vec![placed()], ..Topology::default() };
        let key =
            |shard, replica| ReplicaKey { shard: ShardId(shard), replica: ReplicaId(replica) };
        assert!(names(&topology, 30, key(3, 3)));
        assert!(names(&topology, 20, key(3, 4)));
        assert!(!names(&topology, 20, key(3, 3)));
        assert!(!names(&topology, 30, key(4, 3)));
    }
}
