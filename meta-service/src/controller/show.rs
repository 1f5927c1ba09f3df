//! What a turn came to, once it is durable: to streams, to whoever asked, to logs and metrics.

use std::sync::Arc;

use holdfast_control::{
    control::{Effect, StreamId, Turn},
    transitions::Step,
};
use holdfast_proto::{
    ids::SiteId,
    meta::{Liveness, Topology},
};

use super::{Busy, ControllerLoop, Told};
use crate::metrics;

impl ControllerLoop {
    /// Everything in the turn is durable now.
    pub(super) fn show(&mut self, turn: Turn) {
        if turn.stalled {
            tracing::warn!("the controller stood still: every site and gateway gets a fresh lease");
            metrics::controller_stalled();
        }
        self.show_storage(&turn);
        let news = !turn.deltas.is_empty() || turn.topology.is_some() || turn.retention.is_some();
        if !turn.deltas.is_empty() {
            let mut filters = self.filters.lock();
            turn.deltas.into_iter().for_each(|delta| filters.apply(delta));
        }
        let filter_version = self.control.routes().version();
        let covered = turn.covered;
        let topology = turn.topology.map(Arc::new);
        if let Some(topology) = &topology {
            self.log_changes(topology);
        }
        self.view.send_if_modified(|view| {
            let changed = news || view.covered != covered;
            if let Some(topology) = topology {
                view.topology = topology;
            }
            if let Some(retention) = turn.retention {
                view.retention = retention.into();
            }
            (view.filter_version, view.covered) = (filter_version, covered);
            changed
        });
        self.gauges
            .filters(self.control.routes().len(), filter_version - covered.min(filter_version));
        for effect in turn.effects {
            self.effect(effect);
        }
    }

    fn show_storage(&mut self, turn: &Turn) {
        turn.steps.iter().for_each(log_step);
        if let Some(figures) = turn.figures {
            self.gauges.storage(figures);
        }
        let Some(seen) = turn.set_back_from else { return };
        if !std::mem::replace(&mut self.set_back_logged, true) {
            let version = self.control.membership().version();
            tracing::error!(
                seen,
                version,
                "a site has seen a newer topology: the store was set back, nothing is placed until it is restored"
            );
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Accept { stream } => self.told(stream, |told| told.accepted = true),
            Effect::Renewed { stream, renewal } => {
                self.told(stream, |told| told.renewed = told.renewed.max(renewal));
            }
            Effect::Refuse { stream, refusal } => {
                tracing::warn!(reason = %refusal, "peer refused");
                metrics::peer_refused();
                self.told(stream, |told| told.refused = Some(refusal.to_string()));
            }
            Effect::Covered { request, version } => {
                if let Some((reply, asked)) = self.covers.remove(&request) {
                    metrics::covered(asked.elapsed());
                    // The asker may have gone.
                    let _ = reply.send(Ok(version));
                }
            }
            Effect::Steered { request, result } => {
                if let Err(refusal) = &result {
                    tracing::info!(%refusal, "an operator's request is refused");
                }
                if let Some(reply) = self.steered.remove(&request) {
                    let _ = reply.send(result);
                }
            }
            Effect::Busy { request } => {
                metrics::request_refused("covers_max");
                if let Some((reply, _)) = self.covers.remove(&request) {
                    let _ = reply.send(Err(Busy));
                }
            }
        }
    }

    fn told(&self, stream: StreamId, change: impl FnOnce(&mut Told)) {
        if let Some(told) = self.streams.get(&stream) {
            told.send_modify(change);
        }
    }

    fn log_changes(&self, new: &Topology) {
        let old = self.view.borrow().topology.clone();
        if old.placement.is_empty() && !new.placement.is_empty() {
            tracing::info!(shards = new.shards, sites = new.sites.len(), "cluster formed");
        }
        let mut silent = (0, 0);
        for site in &new.sites {
            let before = old.sites.iter().find(|old| old.site_id == site.site_id);
            let before = before.map(|old| (old.liveness, old.state));
            if before != Some((site.liveness, site.state)) {
                let (liveness, state) = (site.liveness().as_str_name(), site.state().as_str_name());
                let id = format!("{:016x}", site.site_id);
                tracing::info!(site = %id, name = site.name, liveness, state, "site");
                let before = before.map(|(liveness, _)| liveness);
                let fell_silent = site.liveness() != Liveness::Up && before != Some(site.liveness);
                silent.0 += usize::from(fell_silent);
            }
        }
        for gateway in &new.gateways {
            let before = old.gateways.iter().find(|old| old.gateway == gateway.gateway);
            if before.map(|old| old.liveness) != Some(gateway.liveness) {
                let (known, state) =
                    (gateway.gateway.clone().unwrap_or_default(), gateway.liveness());
                let incarnation = format!("{:016x}", known.incarnation);
                tracing::info!(
                    incarnation,
                    name = known.name,
                    state = state.as_str_name(),
                    "gateway"
                );
                silent.1 += usize::from(state != Liveness::Up);
            }
        }
        metrics::peers_silent(silent.0, silent.1);
        let up = |liveness: i32| liveness == i32::from(Liveness::Up);
        let sites = new.sites.iter().filter(|site| up(site.liveness)).count();
        let gateways = new.gateways.iter().filter(|gateway| up(gateway.liveness)).count();
        self.gauges.members(sites, gateways, new.version);
    }
}

fn log_step(step: &Step) {
    let id = |site: &SiteId| format!("{:016x}", site.0);
    match step {
        Step::Move { shard, from, to } => {
            tracing::info!(shard, from = %id(from), to = %id(to), "a replica moves");
        }
        Step::Turn { shard, from, to } => {
            tracing::warn!(shard, from = %id(from), to = %id(to), "a replica cannot join: another does");
        }
        Step::Confirm { .. } => {}
        Step::Finish { shard } => tracing::info!(shard, "a replica has moved"),
        Step::Lead { shard, site } => {
            tracing::debug!(shard, site = %id(site), "another leader is preferred");
        }
        Step::Unpin { shard } => {
            tracing::info!(
                shard,
                "what was pinned of a shard cannot be kept up: placement decides"
            );
        }
    }
}
