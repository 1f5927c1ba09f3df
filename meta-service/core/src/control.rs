//! One turn of the controller: events in, then rows to persist, and effects that may be seen only once
//! those rows are durable.

mod storage;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_proto::{
    ids::{Incarnation, SiteId},
    meta::{GatewayReport, ShardRetention, SiteInfo, SiteReport, Topology},
};

use crate::{
    liveness::Leases,
    membership::{GatewayState, Membership, Refusal, Saved},
    reports::Reports,
    routes::{Delta, Filter, Routes, Wanted},
    steering::{Steer, SteerRefusal},
    storage_view::StorageFigures,
    transitions::{Members, Step, Transitions},
};

/// Names one peer's stream of this process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names one request to cover filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoverId(pub u64);

/// Names one operator's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SteerId(pub u64);

/// The time of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The controller's own monotone clock, in ms.
    pub mono_ms: u64,
    /// Ms since the Unix epoch; only for what outlives the process.
    pub wall_ms: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A site reported.
    Site {
        /// Its stream.
        stream: StreamId,
        /// The report.
        report: SiteReport,
    },
    /// A gateway reported.
    Gateway {
        /// Its stream.
        stream: StreamId,
        /// The report.
        report: GatewayReport,
    },
    /// A stream ended.
    Closed {
        /// Which.
        stream: StreamId,
    },
    /// Filters are to be durable.
    Cover {
        /// The request.
        request: CoverId,
        /// They.
        filters: Vec<Filter>,
    },
    /// An operator asks.
    Steer {
        /// The request.
        request: SteerId,
        /// For what.
        steer: Steer,
    },
    /// The registry was whole and was read.
    Sweep {
        /// Filters that sessions have.
        wanted: Wanted,
        /// Own clock when the reading began.
        read_ms: u64,
    },
}

/// What is to be done once the turn's rows are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The stream's peer is a member: it is told topology and filters from here on.
    Accept {
        /// Its stream.
        stream: StreamId,
    },
    /// The gateway's renewal was heard.
    Renewed {
        /// Its stream.
        stream: StreamId,
        /// Echo.
        renewal: u64,
    },
    /// The stream's peer is told why, and the stream ends.
    Refuse {
        /// Its stream.
        stream: StreamId,
        /// Why.
        refusal: Refusal,
    },
    /// The request's filters are in effect everywhere.
    Covered {
        /// The request.
        request: CoverId,
        /// The version that covers them.
        version: u64,
    },
    /// The operator's request is done, or refused.
    Steered {
        /// The request.
        request: SteerId,
        /// Its site.
        result: Result<SiteId, SteerRefusal>,
    },
    /// Too many requests wait.
    Busy {
        /// The one that is not taken.
        request: CoverId,
    },
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Turn {
    /// To persist, if the topology changed.
    pub saved: Option<Saved>,
    /// To persist.
    pub gateways: Vec<GatewayState>,
    /// To remove.
    pub forgotten: Vec<Incarnation>,
    /// To persist, and to tell gateways.
    pub deltas: Vec<Delta>,
    /// To tell everybody.
    pub topology: Option<Topology>,
    /// To tell sites.
    pub retention: Option<Vec<ShardRetention>>,
    /// To export, from time to time.
    pub figures: Option<StorageFigures>,
    /// To log.
    pub steps: Vec<Step>,
    /// The store was set back: sites have seen this version. Not ready, and to be logged.
    pub set_back_from: Option<u64>,
    /// Newest version that every live gateway has acknowledged.
    pub covered: u64,
    /// In order.
    pub effects: Vec<Effect>,
    /// Everybody got a fresh lease, because the controller had stood still.
    pub stalled: bool,
}

/// Times and bounds of the controller.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Silence after which a site's id may appear at another address, in ms.
    pub duplicate_ms: u64,
    /// Requests to cover filters that wait at once.
    pub covers_max: usize,
    /// Silence after which a site that is down is given up, in ms.
    pub replace_after_ms: u64,
    /// Shards that change their replicas at once.
    pub transitions_max: usize,
}

/// Everything the controller knows.
#[derive(Debug)]
pub struct Control {
    limits: Limits,
    membership: Membership,
    routes: Routes,
    reports: Reports,
    transitions: Transitions,
    /// As of the newest topology; none if it changed.
    members: Option<Members>,
    /// Since when sites are down, by the own clock.
    down_ms: BTreeMap<SiteId, u64>,
    retention: Vec<ShardRetention>,
    merged_ms: Option<u64>,
    sites: Leases<SiteId>,
    gateways: Leases<Incarnation>,
    site_streams: BTreeMap<SiteId, StreamId>,
    accepted: BTreeSet<StreamId>,
    asked: Vec<(CoverId, Vec<Filter>)>,
    waiting: Vec<(u64, CoverId)>,
    changed: bool,
    dirty_gateways: BTreeSet<Incarnation>,
    turn: Turn,
}

impl Control {
    /// A controller that starts now: every known peer has a fresh lease.
    pub fn new(limits: Limits, membership: Membership, mut routes: Routes, now: Now) -> Control {
        let lease_ms = membership.lease_ms();
        let up =
            membership.sites().iter().filter(|(_, site)| site.liveness == 0).map(|(id, _)| *id);
        let sites = Leases::new(lease_ms, up, now.mono_ms);
        let live = membership.gateways().iter().filter(|(_, gateway)| gateway.died_at_ms == 0);
        let live: Vec<Incarnation> = live.map(|(id, _)| *id).collect();
        for gateway in &live {
            // What it routes by is not known before it reports.
            routes.acknowledge(*gateway, 0);
        }
        let gateways = Leases::new(lease_ms, live, now.mono_ms);
        let transitions = Transitions::new(limits.transitions_max, membership.version());
        Control {
            limits,
            transitions,
            reports: Reports::default(),
            members: None,
            down_ms: BTreeMap::new(),
            retention: Vec::new(),
            merged_ms: None,
            membership,
            routes,
            sites,
            gateways,
            site_streams: BTreeMap::new(),
            accepted: BTreeSet::new(),
            asked: Vec::new(),
            waiting: Vec::new(),
            changed: true,
            dirty_gateways: BTreeSet::new(),
            turn: Turn::default(),
        }
    }

    /// Members and placement.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The durable filters.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Begins a turn; the loop calls it at least every eighth of a lease.
    pub fn begin(&mut self, now: Now) {
        let stalled = self.sites.turn(now.mono_ms) | self.gateways.turn(now.mono_ms);
        self.turn.stalled |= stalled;
        if stalled {
            self.down_ms.values_mut().for_each(|since_ms| *since_ms = now.mono_ms);
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Site { stream, report } => self.site(stream, report, now),
            Event::Gateway { stream, report } => self.gateway(stream, &report, now),
            Event::Closed { stream } => {
                self.accepted.remove(&stream);
                self.site_streams.retain(|_, known| *known != stream);
            }
            Event::Cover { request, filters } => {
                if self.waiting.len() + self.asked.len() >= self.limits.covers_max {
                    self.turn.effects.push(Effect::Busy { request });
                } else {
                    self.asked.push((request, filters));
                }
            }
            Event::Steer { request, steer } => self.steer(request, &steer),
            Event::Sweep { wanted, read_ms } => {
                let delta = self.routes.sweep(wanted, read_ms);
                self.turn.deltas.extend(delta);
            }
        }
    }

    fn site(&mut self, stream: StreamId, report: SiteReport, now: Now) {
        let checked = self
            .membership
            .check_site(&report)
            .and_then(|()| self.check_single(stream, &report, now));
        if let Err(refusal) = checked {
            return self.turn.effects.push(Effect::Refuse { stream, refusal });
        }
        let site = SiteId(report.site_id);
        self.take_over_address(&report);
        self.touch(|membership| membership.site(&report));
        let next_version = self.membership.version() + 1;
        for shard in self.membership.succeed_damaged(site, &report.damaged) {
            self.changed = true;
            self.transitions.note(shard, next_version);
        }
        self.site_streams.insert(site, stream);
        if report.leaving {
            self.sites.forget(site);
            self.reports.forget(site);
        } else {
            self.sites.renew(site, now.mono_ms);
            self.reports.take(report);
        }
        self.accept(stream);
    }

    /// A new site at the address of one whose stream has ended: that one's process is gone.
    fn take_over_address(&mut self, report: &SiteReport) {
        if self.membership.sites().contains_key(&SiteId(report.site_id)) {
            return;
        }
        let streams = &self.site_streams;
        let gone = |(site, info): &(&SiteId, &SiteInfo)| {
            info.address == report.address && !streams.contains_key(*site)
        };
        let gone: Vec<SiteId> =
            self.membership.sites().iter().filter(gone).map(|(site, _)| *site).collect();
        gone.into_iter().for_each(|site| self.site_down(site));
    }

    /// Changes members, and has what depends on them found anew if that changed something.
    fn touch(&mut self, change: impl FnOnce(&mut Membership) -> bool) -> bool {
        let changed = change(&mut self.membership);
        if changed {
            self.changed = true;
            self.members = None;
            self.transitions.replan();
        }
        changed
    }

    fn site_down(&mut self, site: SiteId) {
        self.sites.forget(site);
        self.reports.forget(site);
        self.touch(|membership| membership.site_down(site));
    }

    fn steer(&mut self, request: SteerId, steer: &Steer) {
        let mut result = Err(SteerRefusal::SetBack);
        self.touch(|membership| {
            let steered = membership.steer(steer);
            result = steered.clone().map(|(site, _)| site);
            steered.is_ok_and(|(_, changed)| changed)
        });
        self.turn.effects.push(Effect::Steered { request, result });
    }

    /// A site's data is one directory and one process: its id at a second address is a copy.
    fn check_single(&self, stream: StreamId, report: &SiteReport, now: Now) -> Result<(), Refusal> {
        let site = SiteId(report.site_id);
        let Some(known) = self.membership.sites().get(&site) else { return Ok(()) };
        let other = self.site_streams.get(&site).is_some_and(|known| *known != stream);
        let silent_ms = self.sites.silent_ms(site, now.mono_ms).unwrap_or(u64::MAX);
        if other && known.address != report.address && silent_ms <= self.limits.duplicate_ms {
            return Err(Refusal::SiteTwice { site, address: known.address.clone() });
        }
        Ok(())
    }

    fn gateway(&mut self, stream: StreamId, report: &GatewayReport, now: Now) {
        let gateway = match self.membership.check_gateway(report) {
            Ok(gateway) => gateway,
            Err(refusal) => return self.turn.effects.push(Effect::Refuse { stream, refusal }),
        };
        if self.membership.gateway(gateway, report, now.wall_ms) {
            self.changed = true;
            self.dirty_gateways.insert(gateway);
        }
        if report.leaving {
            self.gateways.forget(gateway);
            self.routes.forget(gateway);
        } else {
            self.gateways.renew(gateway, now.mono_ms);
            self.routes.acknowledge(gateway, report.acknowledged_version);
        }
        self.accept(stream);
        self.turn.effects.push(Effect::Renewed { stream, renewal: report.renewal });
    }

    fn accept(&mut self, stream: StreamId) {
        if self.accepted.insert(stream) {
            self.turn.effects.push(Effect::Accept { stream });
        }
    }

    /// Ends a turn: declares deaths, makes all filters that were asked for durable in one version, and
    /// answers those that are in effect.
    pub fn finish(&mut self, now: Now) -> Turn {
        self.declare(now);
        self.give_up(now);
        self.move_shards(now);
        if !self.asked.is_empty() {
            let asked = std::mem::take(&mut self.asked);
            let delta = self.routes.cover(asked.iter().flat_map(|(_, filters)| filters));
            self.turn.deltas.extend(delta);
            let version = self.routes.version();
            self.waiting.extend(asked.into_iter().map(|(request, _)| (version, request)));
        }
        self.merge(now);
        let mut turn = std::mem::take(&mut self.turn);
        turn.set_back_from = self.membership.set_back_from();
        turn.covered = self.routes.covered(now.mono_ms);
        for (version, request) in
            self.waiting.extract_if(.., |(version, _)| *version <= turn.covered)
        {
            turn.effects.push(Effect::Covered { request, version });
        }
        if std::mem::take(&mut self.changed) {
            self.membership.bump();
            turn.saved = Some(self.membership.saved());
            turn.topology = Some(self.membership.topology());
        }
        let known = self.membership.gateways();
        let dirty = std::mem::take(&mut self.dirty_gateways);
        turn.gateways = dirty.iter().filter_map(|gateway| known.get(gateway)).cloned().collect();
        turn
    }

    fn declare(&mut self, now: Now) {
        for site in self.sites.over(now.mono_ms) {
            self.site_down(site);
        }
        for gateway in self.gateways.over(now.mono_ms) {
            self.gateways.forget(gateway);
            self.routes.forget(gateway);
            self.changed |= self.membership.gateway_dead(gateway, now.wall_ms);
            self.dirty_gateways.insert(gateway);
        }
        let forgotten = self.membership.forget_dead(now.wall_ms);
        self.changed |= !forgotten.is_empty();
        self.turn.forgotten.extend(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::{
        PROTOCOL_VERSION, ids::Namespace, meta::Liveness, shard::GatewayRef, version::Versions,
    };

    use super::*;
    use crate::{membership, routes};

    const LEASE_MS: u64 = 1000;

    fn now(mono_ms: u64) -> Now {
        Now { mono_ms, wall_ms: 1_000_000 + mono_ms }
    }

    fn restored(gateways: Vec<GatewayState>) -> Control {
        let topology = Topology {
            cluster_id: "c".to_owned(),
            shards: 4,
            replication_factor: 3,
            lease_ms: LEASE_MS as u32,
            ..Topology::default()
        };
        let limits = membership::Limits {
            sites_max: 10,
            gateways_max: 10,
            dead_gateways_max: 2,
            dead_gateway_ms: 60_000,
            versions: Versions::default(),
        };
        let membership = Membership::new(
            limits,
            Saved { topology, next_replica_id: 1, set_back_from: 0 },
            gateways,
        );
        let limits = routes::Limits {
            values_max: 10,
            filters_max: 100,
            filter_bytes_max: 10_000,
            retire_ms: 100,
        };
        let routes = Routes::new(limits, 1, []);
        let limits = Limits {
            duplicate_ms: 300,
            covers_max: 2,
            replace_after_ms: 60_000,
            transitions_max: 4,
        };
        Control::new(limits, membership, routes, now(0))
    }

    fn gateway(incarnation: u64, acknowledged_version: u64) -> Event {
        let gateway = GatewayRef { incarnation, ..GatewayRef::default() };
        let report = GatewayReport {
            protocol_version: PROTOCOL_VERSION,
            gateway: Some(gateway),
            acknowledged_version,
            ..GatewayReport::default()
        };
        Event::Gateway { stream: StreamId(incarnation), report }
    }

    fn cover(request: u64) -> Event {
        let filter = Filter { namespace: Namespace(0), filter: format!("f{request}") };
        Event::Cover { request: CoverId(request), filters: vec![filter] }
    }

    fn turn(control: &mut Control, mono_ms: u64, events: Vec<Event>) -> Turn {
        control.begin(now(mono_ms));
        events.into_iter().for_each(|event| control.handle(event, now(mono_ms)));
        control.finish(now(mono_ms))
    }

    fn covered(turn: &Turn) -> Vec<u64> {
        let request = |effect: &Effect| match effect {
            Effect::Covered { request, .. } => Some(request.0),
            _ => None,
        };
        turn.effects.iter().filter_map(request).collect()
    }

    #[test]
    fn requests_of_one_turn_share_a_version() {
        let mut control = restored(vec![]);
        let first = turn(&mut control, 1, vec![cover(1), cover(2)]);
        assert_eq!((first.deltas.len(), covered(&first)), (1, vec![1, 2]));
    }

    #[test]
    fn a_cover_ends_with_the_acknowledgement_or_with_the_lease() {
        let mut control = restored(vec![]);
        turn(&mut control, 0, vec![gateway(1, 0), gateway(2, 0)]);
        let asked = turn(&mut control, 100, vec![cover(1)]);
        let version = asked.deltas[0].version;
        assert!(covered(&asked).is_empty());
        for at in (400..=1000).step_by(200) {
            assert!(covered(&turn(&mut control, at, vec![gateway(1, version)])).is_empty());
        }
        let over = turn(&mut control, 1001, vec![]);
        assert_eq!(covered(&over), [1]);
        let gateways = over.topology.unwrap().gateways;
        assert_eq!(gateways[1].liveness(), Liveness::Dead);
        assert_eq!(over.gateways.len(), 1, "a death is persisted");
    }

    #[test]
    fn a_stalled_controller_declares_nobody_dead() {
        let mut control = restored(vec![]);
        turn(&mut control, 0, vec![gateway(1, 0)]);
        let after = turn(&mut control, 50_000, vec![cover(1)]);
        assert!(after.stalled && covered(&after).is_empty());
        let known = control.membership().gateways();
        assert_eq!(known[&Incarnation(1)].died_at_ms, 0);
    }

    #[test]
    fn known_gateways_hold_covers_up_after_a_restart() {
        let mut before = restored(vec![]);
        let saved = turn(&mut before, 0, vec![gateway(1, 0)]).gateways;
        let mut control = restored(saved);
        assert!(covered(&turn(&mut control, 400, vec![cover(1)])).is_empty());
        assert!(covered(&turn(&mut control, 800, vec![])).is_empty());
        assert_eq!(covered(&turn(&mut control, 1001, vec![])), [1]);
    }

    #[test]
    fn dead_gateways_are_remembered_in_bounds() {
        let mut control = restored(vec![]);
        let leave = |incarnation| match gateway(incarnation, 0) {
            Event::Gateway { stream, report } => {
                Event::Gateway { stream, report: GatewayReport { leaving: true, ..report } }
            }
            other => other,
        };
        let last = turn(&mut control, 0, vec![leave(1), leave(2), leave(3)]);
        assert_eq!(
            (last.topology.unwrap().gateways.len(), last.forgotten),
            (2, vec![Incarnation(1)])
        );
        control.begin(now(70_000));
        assert_eq!(control.finish(now(70_000)).forgotten, [Incarnation(2), Incarnation(3)]);
    }

    #[test]
    fn too_many_covers_are_refused() {
        let mut control = restored(vec![]);
        turn(&mut control, 0, vec![gateway(1, 0)]);
        let full = turn(&mut control, 1, vec![cover(1), cover(2), cover(3)]);
        assert!(full.effects.contains(&Effect::Busy { request: CoverId(3) }));
    }
}
