//! From what there is and what is wished to the next plan, or to the reason why not.

use std::collections::BTreeSet;

use super::{Plan, PlanError, REPLICATION_FACTOR, Wish, name_of};
use crate::local::data_dir::DataDir;
use crate::local::role::Role;
use crate::local::sites::Sites;

/// More processes of one role than this on one machine are a typing error.
const PROCESSES_MAX: u16 = 64;

impl Plan {
    /// Lays out what is wished, with the remembered ports where they are still free. Nothing of
    /// the cluster may run meanwhile: its own ports would look taken.
    pub(crate) fn lay_out(
        old: Option<&Plan>,
        wish: &Wish,
        sites: &Sites,
        dir: &DataDir,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::wished(old, wish)?;
        plan.leave_away(old, sites)?;
        plan.assign_ports(dir, &BTreeSet::new())?;
        Ok(plan)
    }

    /// Another number of processes for a cluster that runs.
    pub(crate) fn scaled(
        &self,
        wish: &Wish,
        sites: &Sites,
        dir: &DataDir,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::wished(Some(self), wish)?;
        plan.leave_away(Some(self), sites)?;
        let running = self.members().into_iter().map(|member| member.name).collect();
        plan.assign_ports(dir, &running)?;
        Ok(plan)
    }

    fn wished(old: Option<&Plan>, wish: &Wish) -> Result<Plan, PlanError> {
        let counts =
            |wished: Option<u16>, old: Option<u16>, default| wished.or(old).unwrap_or(default);
        let storage = counts(wish.storage, old.map(|plan| plan.storage), wish.storage_at_least());
        let usual = if storage >= REPLICATION_FACTOR { REPLICATION_FACTOR } else { 1 };
        let remembered = old.map(Plan::replication_factor);
        let plan = Plan {
            etcd: counts(wish.etcd, old.map(|plan| plan.etcd), 0),
            meta: counts(wish.meta, old.map(|plan| plan.meta), 1),
            storage,
            gone: old.map(|plan| plan.gone.clone()).unwrap_or_default(),
            gateways: counts(wish.gateways, old.map(|plan| plan.gateways), 2),
            replication_factor: Some(counts(wish.replication_factor, remembered, usual)),
            zones: counts(wish.zones, old.map(|plan| plan.zones), 0),
            mqtt_port: counts(wish.mqtt_port, old.map(|plan| plan.mqtt_port), 1883),
            ports: old.map(|plan| plan.ports.clone()).unwrap_or_default(),
        };
        plan.check_store(old)?;
        plan.check_storage(old)?;
        plan.check_gateways()?;
        Ok(plan)
    }

    fn check_store(&self, old: Option<&Plan>) -> Result<(), PlanError> {
        let refuse =
            |option, value, allowed: String| Err(PlanError::NotAllowed { option, value, allowed });
        if let Some(old) = old.filter(|old| old.etcd != self.etcd) {
            let allowed = match old.etcd {
                0 => "metadata of this cluster lies in sled, embedded in its meta-service, and stays \
                      there; --fresh begins anew"
                    .to_owned(),
                there => format!(
                    "metadata of this cluster lies in {there} etcd member(s) and stays there; \
                     --fresh begins anew"
                ),
            };
            return refuse("etcd", self.etcd, allowed);
        }
        if !matches!(self.etcd, 0 | 1 | 3 | 5) {
            let allowed = "1, 3 or 5: an even number survives no more losses than one less, a larger one \
                 only makes writes slower";
            return refuse("etcd", self.etcd, allowed.to_owned());
        }
        if self.meta != 1 && self.etcd == 0 {
            let allowed = "1, because its store is embedded in one process; for more add --etcd 3";
            return refuse("meta", self.meta, allowed.to_owned());
        }
        if !(1..=PROCESSES_MAX).contains(&self.meta) {
            return refuse("meta", self.meta, format!("1 to {PROCESSES_MAX}"));
        }
        Ok(())
    }

    fn check_storage(&self, old: Option<&Plan>) -> Result<(), PlanError> {
        let refuse =
            |option, value, allowed: String| Err(PlanError::NotAllowed { option, value, allowed });
        let replicas = self.replication_factor();
        if let Some(old) = old.filter(|old| old.replication_factor() != replicas) {
            let allowed = format!(
                "{}, fixed when the cluster was formed; --fresh begins anew",
                old.replication_factor()
            );
            return refuse("replication-factor", replicas, allowed);
        }
        if !matches!(replicas, 1 | 3 | 5) {
            return refuse("replication-factor", replicas, "1, 3 or 5".to_owned());
        }
        if !(replicas..=PROCESSES_MAX).contains(&self.storage) {
            let why =
                if replicas > 1 { " (a shard has as many replicas as the lowest)" } else { "" };
            let allowed = format!("{replicas} to {PROCESSES_MAX}{why}");
            return refuse("storage", self.storage, allowed);
        }
        if self.zones > self.storage {
            let allowed = format!("0 to the number of storage nodes, {}", self.storage);
            return refuse("zones", self.zones, allowed);
        }
        Ok(())
    }

    fn check_gateways(&self) -> Result<(), PlanError> {
        if !(1..=PROCESSES_MAX).contains(&self.gateways) {
            let allowed = format!("1 to {PROCESSES_MAX}");
            return Err(PlanError::NotAllowed {
                option: "gateways",
                value: self.gateways,
                allowed,
            });
        }
        if self.mqtt_port.checked_add(self.gateways).is_none() {
            let allowed = "room for all gateways up to 65535".to_owned();
            return Err(PlanError::NotAllowed {
                option: "mqtt-port",
                value: self.mqtt_port,
                allowed,
            });
        }
        Ok(())
    }

    /// Fewer storage nodes: those that were drained go, the last first.
    fn leave_away(&mut self, old: Option<&Plan>, sites: &Sites) -> Result<(), PlanError> {
        let Some(old) = old.filter(|old| old.storage > self.storage) else { return Ok(()) };
        let drained = sites.drained();
        let used = old.numbered().into_iter().filter(|(role, _)| *role == Role::Storage);
        let (mut names, mut may_go) = (Vec::new(), Vec::new());
        for (role, n) in used {
            let name = name_of(role, n);
            if drained.contains(&name) {
                may_go.push(n);
            }
            names.push(name);
        }
        let count = old.storage - self.storage;
        if may_go.len() < usize::from(count) {
            let drained = match may_go.len() {
                0 => "none is".to_owned(),
                _ => list(may_go.iter().map(|n| name_of(Role::Storage, *n)).collect()) + " is",
            };
            return Err(PlanError::NotDrained { count, names: list(names), drained });
        }
        self.gone.extend(may_go.into_iter().rev().take(usize::from(count)));
        Ok(())
    }
}

impl Wish {
    /// As many storage nodes as replicas, if the user says nothing else.
    fn storage_at_least(&self) -> u16 {
        self.replication_factor.unwrap_or(REPLICATION_FACTOR).max(REPLICATION_FACTOR)
    }
}

fn list(names: Vec<String>) -> String {
    names.join(", ")
}
