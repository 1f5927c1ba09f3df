//! The storage tier's part of a turn: who is given up, what moves, how far messages are consumed.

use holdfast_proto::{
    ids::SiteId,
    meta::{Liveness, SiteInfo, SiteState},
};

use super::{Control, Now};
use crate::{
    membership::Membership,
    retention,
    storage_view::{self, ClusterView},
    transitions::Step,
};

/// From this protocol version on sites know holders.
const TRANSITIONS_VERSION: u32 = 2;

/// How often retention is merged and figures are counted, at most.
const MERGE_MS: u64 = 1000;

impl Control {
    /// Gives up sites that were down for too long, and those whose disk was wiped, while enough others
    /// are left to take their places.
    pub(super) fn give_up(&mut self, now: Now) {
        let down = |info: &SiteInfo| info.liveness() != Liveness::Up;
        let sites = self.membership.sites();
        self.down_ms.retain(|site, _| sites.get(site).is_some_and(down));
        for (site, _) in sites.iter().filter(|(_, info)| down(info)) {
            self.down_ms.entry(*site).or_insert(now.mono_ms);
        }
        let mut given_up = self.membership.succeeded_sites();
        given_up.extend(self.overdue(now));
        for site in given_up {
            if self.can_spare(site) {
                self.touch(|membership| membership.set_state(site, SiteState::Lost));
            }
        }
    }

    /// Active sites that are down for longer than sites are waited for.
    fn overdue(&self, now: Now) -> Vec<SiteId> {
        let over =
            |since_ms: u64| now.mono_ms.saturating_sub(since_ms) > self.limits.replace_after_ms;
        let active = |site: &SiteId| {
            self.membership.sites().get(site).is_some_and(|info| info.state() == SiteState::Active)
        };
        let overdue = self.down_ms.iter().filter(|(site, since)| over(**since) && active(site));
        overdue.map(|(site, _)| *site).collect()
    }

    fn can_spare(&self, site: SiteId) -> bool {
        let membership = &self.membership;
        membership.set_back_from().is_none()
            && (membership.holdings(site) == (0, 0)
                || membership.eligible_without(site) >= membership.replication_factor())
    }

    /// Takes the next steps of shards, unless the store was set back.
    pub(super) fn move_shards(&mut self, now: Now) {
        if self.membership.set_back_from().is_some() {
            return;
        }
        let mut ended = Vec::new();
        self.touch(|membership| {
            ended = membership.end_pins();
            !ended.is_empty()
        });
        self.turn.steps.extend(ended.into_iter().map(|shard| Step::Unpin { shard }));
        let hold = self.hold().is_some();
        let members = self.members.get_or_insert_with(|| self.membership.members());
        let (transitions, reports) = (&mut self.transitions, &self.reports);
        let steps = self.membership.decide(transitions, members, reports, now.mono_ms, hold);
        self.changed |= !steps.is_empty();
        self.turn.steps.extend(steps);
        self.touch(Membership::settle_drained);
    }

    /// Why no transition may begin.
    fn hold(&self) -> Option<String> {
        let up = |info: &&SiteInfo| info.liveness() == Liveness::Up;
        for info in self.membership.sites().values().filter(up) {
            let name = &info.name;
            match self.reports.site(SiteId(info.site_id)) {
                None => return Some(format!("site {name} has not reported yet")),
                Some(held) if held.versions.newest < TRANSITIONS_VERSION => {
                    return Some(format!(
                        "site {name} speaks only protocol version {}: upgrade it first",
                        held.versions.newest
                    ));
                }
                Some(_) => {}
            }
        }
        None
    }

    /// Why nothing moves although something should.
    fn held_back(&self, now: Now) -> Option<String> {
        if let Some(version) = self.membership.set_back_from() {
            return Some(format!(
                "the store was set back: it had version {} of the topology or an older one, and a site has seen {version}",
                self.membership.version()
            ));
        }
        let kept = self.overdue(now).into_iter().find(|site| !self.can_spare(*site));
        if let Some(info) = kept.and_then(|site| self.membership.sites().get(&site)) {
            return Some(format!(
                "site {} is down and not replaced: that needs {} other active sites, and there are {}",
                info.name,
                self.membership.replication_factor(),
                self.membership.eligible_without(SiteId(info.site_id))
            ));
        }
        let shards = self.membership.placement();
        let wanted = shards.iter().any(|shard| !shard.holders.is_empty())
            || self.transitions.unplaced(shards).is_none_or(|shards| shards > 0);
        self.hold().filter(|_| wanted)
    }

    /// What operators see. Only between turns, when all is durable.
    pub fn describe(&self, now: Now) -> ClusterView {
        let held_back = self.held_back(now);
        storage_view::describe(&self.membership, &self.reports, held_back, self.routes.len())
    }

    /// Merges retention and counts figures, from time to time.
    pub(super) fn merge(&mut self, now: Now) {
        let due = |at: u64| now.mono_ms.saturating_sub(at) >= MERGE_MS;
        if !self.merged_ms.is_none_or(due) {
            return;
        }
        self.merged_ms = Some(now.mono_ms);
        self.turn.figures = Some(storage_view::figures(&self.membership, &self.reports));
        if !self.membership.is_formed() {
            return;
        }
        let merged = retention::merge(&self.reports, self.membership.shards());
        if merged != self.retention {
            self.retention.clone_from(&merged);
            self.turn.retention = Some(merged);
        }
    }
}
