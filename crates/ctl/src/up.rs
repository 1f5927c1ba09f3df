//! `holdfast up`: prepares the data folder and hands it to the supervisor.

use std::io;
use std::path::PathBuf;

use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;

use crate::data_dir::DataDir;
use crate::plan::{Plan, PlanError, Wish};
use crate::programs::{ProgramError, Programs};
use crate::role::Role;
use crate::sites::{Sites, SitesError};
use crate::supervisor::{Supervisor, SupervisorError};
use crate::{UpArgs, console, process};

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
