//! `holdfast storage drain`: begins a drain and follows it until nothing is left on the site.

use std::time::Duration;

use clap::Args;
use holdfast_proto::meta::{SiteState, StorageDescription};
use serde::Serialize;
use thiserror::Error;
use tokio::time::sleep;

use crate::console::{self, size};
use crate::steering::{Steering, SteeringArgs, SteeringError, site_id, state_name};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What to drain, and how.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Site id in hexadecimal, or name
    site: String,
    #[command(flatten)]
    steering: SteeringArgs,
    /// Call the drain off: the site gets its share again
    #[arg(long)]
    cancel: bool,
    /// Return when the drain has begun
    #[arg(long)]
    no_wait: bool,
    /// A line of JSON for every step
    #[arg(long)]
    json: bool,
}

/// The site is not drained.
#[derive(Debug, Error)]
pub(crate) enum DrainError {
    #[error(transparent)]
    Steering(#[from] SteeringError),
    #[error(
        "interrupted: the drain goes on without this command; `holdfast storage drain {0}` follows it \
         again, with --cancel it calls it off"
    )]
    Interrupted(String),
    #[error(
        "site {site_id} is {state} now: somebody called the drain off, or it is down for too long"
    )]
    CalledOff { site_id: String, state: &'static str },
    #[error("site {0} is gone from the cluster")]
    Gone(String),
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Progress {
    site_id: String,
    name: String,
    state: &'static str,
    /// Replicas of the site that still count for votes.
    replicas: u32,
    /// Replicas that it keeps only for their history.
    holding: u32,
    /// History on its way that others still lack.
    missing_bytes: u64,
    drained: bool,
}

impl Progress {
    fn of(description: &StorageDescription, id: u64) -> Option<Progress> {
        let mut found = description.sites.iter().filter_map(|site| {
            let info = site.info.as_ref().filter(|info| info.site_id == id)?;
            Some((site, info))
        });
        let (site, info) = found.next()?;
        let moving = description.transitions.iter().filter(|moving| moving.from_site == id);
        Some(Progress {
            site_id: site_id(id),
            name: info.name.clone(),
            state: state_name(info.state()),
            replicas: site.replicas,
            holding: site.holding,
            missing_bytes: moving.map(|moving| moving.missing_bytes).sum(),
            drained: info.state() == SiteState::Drained,
        })
    }

    fn text(&self) -> String {
        format!(
            "{} ({}): {} replicas left, history of {} kept, {} of history still to be fetched",
            self.name,
            self.site_id,
            self.replicas,
            self.holding,
            size(self.missing_bytes)
        )
    }
}

/// Begins, calls off or follows a drain.
pub(crate) async fn run(args: &DrainArgs) -> Result<(), DrainError> {
    let mut steering = Steering::find(&args.steering)?;
    let id = steering.drain(&args.site, args.cancel).await?.site_id;
    if args.cancel || args.no_wait {
        let Some(progress) = Progress::of(&steering.describe().await?, id) else {
            return Err(DrainError::Gone(site_id(id)));
        };
        match (args.json, args.cancel) {
            (true, _) => console::json(&progress),
            (false, true) => console::line(format!("the drain of {} is called off", args.site)),
            (false, false) => console::line(progress.text()),
        }
        return Ok(());
    }
    tokio::select! {
        done = follow(&mut steering, id, args.json) => done,
        // Without a handler the signal ends the process, which is as good.
        Ok(()) = tokio::signal::ctrl_c() => Err(DrainError::Interrupted(args.site.clone())),
    }
}

async fn follow(steering: &mut Steering, id: u64, json: bool) -> Result<(), DrainError> {
    let mut shown = None;
    loop {
        let description = match steering.describe().await {
            Ok(description) => description,
            // The drain goes on when somebody is elected again, and so does this.
            Err(error @ SteeringError::NoAnswer { .. }) => {
                console::error(format!("{error}; waiting"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let progress =
            Progress::of(&description, id).ok_or_else(|| DrainError::Gone(site_id(id)))?;
        if shown.as_ref() != Some(&progress) {
            match json {
                true => console::json(&progress),
                false => console::line(progress.text()),
            }
        }
        if progress.drained {
            if !json {
                console::line(format!("{} is drained: its process may be stopped", progress.name));
            }
            return Ok(());
        }
        if progress.state != state_name(SiteState::Draining) {
            let (site_id, state) = (progress.site_id, progress.state);
            return Err(DrainError::CalledOff { site_id, state });
        }
        shown = Some(progress);
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::meta::{SiteDetail, SiteInfo, Transition};

    use super::*;

    #[test]
    fn progress_counts_what_leaves_this_site() {
        let info = SiteInfo {
            site_id: 7,
            name: "storage-4".into(),
            state: SiteState::Draining.into(),
            ..SiteInfo::default()
        };
        let site =
            SiteDetail { info: Some(info), replicas: 2, holding: 1, ..SiteDetail::default() };
        let moving = |from_site, missing_bytes| Transition {
            from_site,
            to_site: 1,
            missing_bytes,
            ..Transition::default()
        };
        let description = StorageDescription {
            sites: vec![site],
            transitions: vec![moving(7, 1024), moving(8, 5), moving(7, 1024)],
            ..StorageDescription::default()
        };
        let progress = Progress::of(&description, 7).expect("there");
        assert_eq!((progress.missing_bytes, progress.drained), (2048, false));
        assert!(progress.text().contains("2 replicas left"), "{}", progress.text());
        assert!(Progress::of(&description, 9).is_none());
    }
}
