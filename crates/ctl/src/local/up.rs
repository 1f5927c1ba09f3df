//! `holdfast up`: prepares the data folder and hands it to the supervisor.

use std::io;
use std::path::PathBuf;

use clap::Args;
use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;

use crate::console;
use crate::local::config_file::Setting;
use crate::local::data_dir::DataArgs;
use crate::local::data_dir::DataDir;
use crate::local::plan::{Plan, PlanError, Wish};
use crate::local::process;
use crate::local::programs::{ProgramError, Programs};
use crate::local::role::Role;
use crate::local::sites::{Sites, SitesError};
use crate::local::supervisor::{Supervisor, SupervisorError};

/// What to start. Numbers that are not given stay as they were at the last start.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Remove the data of an earlier cluster first
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Number of gateways (2)
    #[arg(long, value_name = "N")]
    pub(crate) gateways: Option<u16>,
    /// Number of storage nodes (3); fewer than before only if the others are drained
    #[arg(long, value_name = "N")]
    pub(crate) storage: Option<u16>,
    /// Number of meta-service processes (1); more than one need --etcd
    #[arg(long, value_name = "N")]
    pub(crate) meta: Option<u16>,
    /// Keep metadata in an etcd of as many members, 1, 3 or 5 (0: in the meta-service itself)
    #[arg(long, value_name = "N")]
    pub(crate) etcd: Option<u16>,
    /// Replicas of each shard, 1, 3 or 5 (3, or 1 on fewer than 3 storage nodes)
    #[arg(long, value_name = "N")]
    pub(crate) replication_factor: Option<u16>,
    /// Zones over which storage nodes are spread in turn (0: none)
    #[arg(long, value_name = "N")]
    pub(crate) zones: Option<u16>,
    /// MQTT port of the first gateway, the others follow (1883); 0 picks free ones
    #[arg(long, value_name = "P")]
    pub(crate) mqtt_port: Option<u16>,
    /// Leave a process that died as it is
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// Set a config field in all processes of a role, or in one process, e.g.
    /// gateway.mqtt.keep_alive_max_s=60 or storage-1.protocol_version_max=1
    #[arg(long, value_name = "ROLE|NAME.FIELD=VALUE")]
    pub(crate) set: Vec<Setting>,
}

/// The cluster cannot be started.
#[derive(Debug, Error)]
pub(crate) enum UpError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Sites(#[from] SitesError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a cluster runs in {} already (pid {pid}): stop it with `holdfast down`", path.display())]
    Running { path: PathBuf, pid: String },
}

/// Starts the cluster and returns when it has been stopped.
pub(crate) async fn run(args: UpArgs) -> Result<(), UpError> {
    let shutdown = Shutdown::on_signals();
    let mut programs = Programs::find()?;
    let path = args.data.data;
    let file_error = |source| UpError::File { path: path.clone(), source };
    let dir = DataDir::create(&path).map_err(file_error)?;
    let Some(lock) = dir.lock().map_err(file_error)? else {
        let pid = dir.supervisor_pid().map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        return Err(UpError::Running { path, pid });
    };
    let old = stop_leftovers(&dir, args.fresh).await?;
    let wish = Wish {
        etcd: args.etcd,
        meta: args.meta,
        storage: args.storage,
        gateways: args.gateways,
        mqtt_port: args.mqtt_port,
        replication_factor: args.replication_factor,
        zones: args.zones,
    };
    let plan = Plan::lay_out(old.as_ref(), &wish, &Sites::load(&dir)?, &dir)?;
    if !plan.of_role(Role::Etcd).is_empty() {
        programs = programs.with_etcd()?;
    }
    plan.save(&dir)?;
    console::line(format!("data in {}", dir.root().display()));
    let supervisor = Supervisor::new(plan, dir, programs, args.set, !args.no_restart);
    let done = supervisor.run(&shutdown).await;
    drop(lock);
    Ok(done?)
}

/// Ends what a killed supervisor left, and returns the plan to go on with.
async fn stop_leftovers(dir: &DataDir, fresh: bool) -> Result<Option<Plan>, UpError> {
    let Some(old) = Plan::load(dir)? else { return Ok(None) };
    let members = old.members();
    let left = process::running(&members, dir);
    if !left.is_empty() {
        let names: Vec<String> = left.into_keys().collect();
        console::line(format!("stopping what an earlier run left: {}", names.join(", ")));
        process::stop_all(&members, dir, || ()).await;
    }
    if !fresh {
        return Ok(Some(old));
    }
    dir.clear(&old.names_ever())
        .map_err(|source| UpError::File { path: dir.root().to_owned(), source })?;
    Ok(None)
}
