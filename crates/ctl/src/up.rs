//! `holdfast up`: prepares the data folder and hands it to the supervisor.

use std::fs;
use std::io;
use std::path::PathBuf;

use holdfast_node_kit::shutdown::Shutdown;
use thiserror::Error;

use crate::config_file::{self, Setting};
use crate::data_dir::DataDir;
use crate::plan::{Plan, PlanError, Wish};
use crate::role::Role;
use crate::supervisor::{Supervisor, SupervisorError};
use crate::{UpArgs, console, process};

/// The cluster cannot be started.
#[derive(Debug, Error)]
pub(crate) enum UpError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a cluster runs in {} already (pid {pid}): stop it with `holdfast down`", path.display())]
    Running { path: PathBuf, pid: String },
    #[error("{} is missing: build it first (`make build`)", .0.display())]
    NoProgram(PathBuf),
}

/// Starts the cluster and returns when it has been stopped.
pub(crate) async fn run(args: UpArgs) -> Result<(), UpError> {
    let shutdown = Shutdown::on_signals();
    let programs = programs()?;
    let path = args.data.data;
    let file_error = |source| UpError::File { path: path.clone(), source };
    let dir = DataDir::create(&path).map_err(file_error)?;
    let Some(lock) = dir.lock().map_err(file_error)? else {
        let pid = dir.supervisor_pid().map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        return Err(UpError::Running { path, pid });
    };
    let old = stop_leftovers(&dir, args.fresh).await?;
    let wish = Wish {
        meta: args.meta,
        storage: args.storage,
        gateways: args.gateways,
        mqtt_port: args.mqtt_port,
    };
    let plan = Plan::lay_out(old.as_ref(), &wish, &dir)?;
    plan.save(&dir)?;
    write_configs(&plan, &dir, &args.set)?;
    console::line(format!("data in {}", dir.root().display()));
    let supervisor = Supervisor::new(plan, dir, programs, !args.no_restart);
    let done = supervisor.run(&shutdown).await;
    drop(lock);
    Ok(done?)
}

/// The programs lie beside this one.
fn programs() -> Result<PathBuf, UpError> {
    let own = std::env::current_exe()
        .map_err(|source| UpError::File { path: PathBuf::from("holdfast"), source })?;
    let folder = own.parent().map(PathBuf::from).unwrap_or_default();
    for role in Role::ALL {
        let program = folder.join(role.binary());
        if !program.is_file() {
            return Err(UpError::NoProgram(program));
        }
    }
    Ok(folder)
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
    let names: Vec<String> = members.into_iter().map(|member| member.name).collect();
    dir.clear(&names).map_err(|source| UpError::File { path: dir.root().to_owned(), source })?;
    Ok(None)
}

fn write_configs(plan: &Plan, dir: &DataDir, settings: &[Setting]) -> Result<(), UpError> {
    for member in plan.members() {
        let path = dir.config(&member.name);
        let text = config_file::render(plan, &member, dir, settings);
        fs::write(&path, text).map_err(|source| UpError::File { path, source })?;
    }
    Ok(())
}
