//! What goes on beside the connections: following the topology, sending gathered filters, and all that
//! is due by time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::ids::{ShardId, SiteId};
use holdfast_proto::meta::{Liveness, Topology};
use tokio::task::JoinHandle;

use super::reach::{Cut, Patience, Reach};
use super::{Shared, forward, link, metrics as names, monotonic};

/// Pause between looks at what is due.
const TICK: Duration = Duration::from_millis(100);
/// A shard without a known leader for this long is asked for, in ms.
const PROBE_AFTER_MS: u64 = 1_000;

/// A task that ends when its peer leaves the topology, with the peer's address.
struct Kept {
    address: String,
    task: JoinHandle<()>,
}

/// The tasks for all peers of one kind, by id.
#[derive(Default)]
struct Peers(HashMap<u64, Kept>);

impl Peers {
    /// Starts tasks for new peers (and for those that moved), ends those of peers that are gone.
    fn reconcile(
        &mut self,
        wanted: HashMap<u64, String>,
        mut start: impl FnMut(u64, String) -> JoinHandle<()>,
    ) {
        self.0.retain(|id, kept| {
            let stays = wanted.get(id) == Some(&kept.address);
            if !stays {
                kept.task.abort();
            }
            stays
        });
        for (id, address) in wanted {
            self.0
                .entry(id)
                .or_insert_with(|| Kept { address: address.clone(), task: start(id, address) });
        }
    }
}

/// Keeps a link to every site and a forwarding stream from every other gateway.
pub(crate) async fn follow_topology(shared: Arc<Shared>) {
    let mut topologies = shared.control.topology.subscribe();
    let (mut sites, mut gateways) = (Peers::default(), Peers::default());
    loop {
        let topology = topologies.borrow_and_update().clone();
        if let Some(topology) = topology {
            sites.reconcile(site_addresses(&topology), |id, address| {
                tokio::spawn(link::keep(shared.clone(), SiteId(id), address))
            });
            gateways
                .reconcile(gateway_addresses(&topology, shared.me.incarnation), |id, address| {
                    tokio::spawn(forward::listen(shared.clone(), id, address))
                });
        }
        if topologies.changed().await.is_err() {
            return;
        }
    }
}

fn site_addresses(topology: &Topology) -> HashMap<u64, String> {
    let sites = topology.sites.iter().filter(|site| !site.address.is_empty());
    sites.map(|site| (site.site_id, site.address.clone())).collect()
}

fn gateway_addresses(topology: &Topology, me: u64) -> HashMap<u64, String> {
    topology
        .gateways
        .iter()
        .filter(|gateway| gateway.liveness() != Liveness::Dead)
        .filter_map(|gateway| gateway.gateway.as_ref())
        .filter(|gateway| gateway.incarnation != me)
        .map(|gateway| (gateway.incarnation, gateway.address.clone()))
        .collect()
}

/// The sites that have a replica of the shard.
fn replicas(topology: &Topology, shard: ShardId) -> Vec<SiteId> {
    let placed = topology.placement.iter().filter(|placed| placed.shard == u32::from(shard.0));
    placed.flat_map(|placed| &placed.replicas).map(|replica| SiteId(replica.site_id)).collect()
}

/// Where clients can go instead, `host:port`.
pub(super) fn other_gateways(topology: &Topology, me: u64) -> impl Iterator<Item = &str> {
    topology
        .gateways
        .iter()
        .filter(|known| known.liveness() == Liveness::Up && !known.mqtt_address.is_empty())
        .filter(move |known| known.gateway.as_ref().is_some_and(|of| of.incarnation != me))
        .map(|known| known.mqtt_address.as_str())
}

/// Sends what changes in the tails' filters: what gathered until this task ran goes into one frame.
pub(crate) async fn send_filters(shared: Arc<Shared>) {
    loop {
        shared.filters_gathered.notified().await;
        let mut out = Vec::new();
        let mut dispatch = shared.dispatch.lock();
        dispatch.flush(&mut out);
        shared.send_all(&mut out);
    }
}

/// Does what is due by time.
pub(crate) async fn tick(shared: Arc<Shared>) {
    let mut told = None;
    let mut reach = Reach::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now_ms = monotonic::now_ms();
        shared.tick_requests(now_ms);
        shared.tick_queues(now_ms);
        {
            let mut out = Vec::new();
            let mut dispatch = shared.dispatch.lock();
            dispatch.tick(now_ms, &mut out);
            shared.send_all(&mut out);
        }
        shared.probe_leaders(now_ms);
        shared.tell_health(now_ms, &mut told);
        let patience = Patience {
            seen_ms: shared.config.cut_after_ms,
            believed_ms: shared.control.lease_ms() * 3 / 2,
        };
        if reach.observe(shared.cut(now_ms), now_ms, patience) {
            tracing::error!("cut off from a site that others reach: clients go elsewhere");
            metrics::counter!(names::SENT_ELSEWHERE).increment(1);
            shared.cut_off.notify_one();
        }
    }
}

impl Shared {
    fn tick_queues(&self, now_ms: u64) {
        for shard in self.all_shards() {
            let mut queue = self.lane(shard).queue.lock();
            if queue.is_idle() {
                continue;
            }
            self.pump(shard, &mut queue, now_ms);
            let failed = queue.expire(now_ms, self.shard_time_ms(shard));
            if failed > 0 {
                let bytes = queue.queued_bytes();
                tracing::warn!(%shard, failed, bytes, "publishes failed: no leader took them in time");
                names::RefusedWhy::NoLeader.count(failed);
            }
        }
    }

    /// Asks replicas in turn for shards that nobody is known to lead.
    fn probe_leaders(&self, now_ms: u64) {
        let silent =
            |shard: &ShardId| self.leaders.lock().get(*shard).is_none_or(|s| !self.links.is_up(s));
        let silent: Vec<ShardId> = self.all_shards().filter(silent).collect();
        if silent.is_empty() {
            return;
        }
        let Some(topology) = self.control.topology.borrow().clone() else { return };
        for shard in silent {
            let mut replicas = replicas(&topology, shard);
            replicas.retain(|site| self.links.is_up(*site));
            let probed = self.leaders.lock().probe(shard, &replicas, PROBE_AFTER_MS, now_ms);
            if let Some(site) = probed {
                tracing::debug!(%shard, %site, "asking a replica who leads");
                self.leader_changed(shard);
            }
        }
    }

    /// Whether the leader of a shard has no link although others hear it: the metadata service, which is
    /// heard itself, and the shard's other replicas. It does not matter while there is nowhere else to go.
    fn cut(&self, now_ms: u64) -> Cut {
        let unlinked: Vec<(ShardId, SiteId)> = {
            let leaders = self.leaders.lock();
            let known = |shard| leaders.get(shard).map(|leader| (shard, leader));
            let is_unlinked = |(_, leader): &(ShardId, SiteId)| !self.links.is_up(*leader);
            self.all_shards().filter_map(known).filter(is_unlinked).collect()
        };
        if unlinked.is_empty() || self.control.routes.read().stores_everything(now_ms) {
            return Cut::No;
        }
        let Some(topology) = self.control.topology.borrow().clone() else { return Cut::No };
        if other_gateways(&topology, self.me.incarnation).next().is_none() {
            return Cut::No;
        }
        let heard = |site: SiteId| {
            let mut sites = topology.sites.iter();
            sites.any(|known| known.site_id == site.0 && known.liveness() == Liveness::Up)
        };
        let leaders = self.leaders.lock();
        let cut = unlinked.iter().filter(|(_, leader)| heard(*leader)).map(|(shard, _)| {
            let replicas = replicas(&topology, *shard);
            if leaders.is_heard_by(*shard, &replicas) { Cut::Seen } else { Cut::Believed }
        });
        cut.max().unwrap_or(Cut::No)
    }

    /// Tells whether a durable publish would be acknowledged now, when that changes: what the process
    /// says of itself meanwhile stands.
    fn tell_health(&self, now_ms: u64, told: &mut Option<Served>) {
        let stores_everything = self.control.routes.read().stores_everything(now_ms);
        metrics::gauge!(names::STORES_EVERYTHING).set(f64::from(u8::from(stores_everything)));
        let served = self.served();
        if *told == Some(served) || self.shutdown.is_triggered() {
            return;
        }
        *told = Some(served);
        match served {
            Served::All => self.health.set_ready(),
            Served::AllBut(shard) => {
                self.health.set_degraded(format!("no leader of shard {shard}"))
            }
            Served::None => self.health.set_not_ready("no leader of any shard"),
        }
    }

    fn served(&self) -> Served {
        Served::of(self.all_shards().map(|shard| {
            let leader = self.leaders.lock().get(shard);
            (shard, leader.is_some_and(|site| self.links.is_up(site)))
        }))
    }
}

/// Shards whose leaders this gateway reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    All,
    /// This one, and maybe others, are lacking.
    AllBut(ShardId),
    None,
}

impl Served {
    fn of(shards: impl Iterator<Item = (ShardId, bool)>) -> Served {
        let (mut lacking, mut reached) = (None, false);
        for (shard, is_reached) in shards {
            reached |= is_reached;
            if !is_reached {
                lacking = lacking.or(Some(shard));
            }
        }
        match lacking {
            None => Served::All,
            Some(shard) if reached => Served::AllBut(shard),
            Some(_) => Served::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_reaches_some_leader_takes_clients() {
        let of = |reached: [bool; 3]| Served::of((0..).map(ShardId).zip(reached));
        assert_eq!(of([true; 3]), Served::All);
        assert_eq!(of([true, false, false]), Served::AllBut(ShardId(1)));
        assert_eq!(of([false, false, true]), Served::AllBut(ShardId(0)));
        assert_eq!(of([false; 3]), Served::None);
    }
}
