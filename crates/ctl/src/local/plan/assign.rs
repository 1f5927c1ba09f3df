//! Which process gets which ports.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Plan, PlanError, name_of};
use crate::local::data_dir::DataDir;
use crate::local::ports::Ports;
use crate::local::role::Role;

impl Plan {
    /// What is asked for takes its ports first, then what is remembered; the rest gets free ones.
    /// Processes that are `running` keep theirs.
    pub(super) fn assign_ports(
        &mut self,
        dir: &DataDir,
        running: &BTreeSet<String>,
    ) -> Result<(), PlanError> {
        let mut seed = DefaultHasher::new();
        dir.root().hash(&mut seed);
        let mut ports = Ports::new(seed.finish());
        for process in running.iter().filter_map(|name| self.ports.get(name)) {
            let taken = [Some(process.grpc), Some(process.http), process.mqtt, process.admin];
            taken.into_iter().flatten().for_each(|port| ports.reserve(port));
        }
        let starting: Vec<(Role, u16)> = self
            .numbered()
            .into_iter()
            .filter(|(role, n)| !running.contains(&name_of(*role, *n)))
            .collect();
        self.assign_fixed(&starting, &mut ports)?;
        let names: BTreeSet<String> = starting.iter().map(|(role, n)| name_of(*role, *n)).collect();
        let pick_mqtt = self.mqtt_port == 0;
        let mut open: Vec<&mut u16> = Vec::new();
        for (name, process) in self.ports.iter_mut().filter(|(name, _)| names.contains(*name)) {
            open.push(&mut process.grpc);
            if !(name.starts_with(Role::Etcd.name()) && process.http != 0) {
                open.push(&mut process.http);
            }
            open.extend(process.mqtt.as_mut().filter(|_| pick_mqtt));
            open.extend(process.admin.as_mut());
        }
        open.retain_mut(|port| **port == 0 || !ports.take(**port));
        for port in open {
            *port = ports.take_any().ok_or(PlanError::NoPort)?;
        }
        Ok(())
    }

    /// Ports that must be those and no others: the user's for clients, and those by which the members
    /// of an etcd know each other for good.
    fn assign_fixed(
        &mut self,
        starting: &[(Role, u16)],
        ports: &mut Ports,
    ) -> Result<(), PlanError> {
        for (role, n) in starting {
            let name = name_of(*role, *n);
            let process = self.ports.entry(name.clone()).or_default();
            match role {
                Role::Gateway if self.mqtt_port == 0 => {
                    process.mqtt = Some(process.mqtt.unwrap_or(0));
                }
                Role::Gateway => {
                    // The counts were checked: there is room for all gateways.
                    let wanted = self.mqtt_port + (n - 1);
                    if !ports.take(wanted) {
                        return Err(PlanError::MqttPortTaken(wanted));
                    }
                    process.mqtt = Some(wanted);
                }
                Role::Etcd if process.http != 0 && !ports.take(process.http) => {
                    return Err(PlanError::PeerPortTaken { port: process.http, name });
                }
                Role::Meta => process.admin = Some(process.admin.unwrap_or(0)),
                Role::Etcd | Role::Storage => {}
            }
        }
        Ok(())
    }
}
