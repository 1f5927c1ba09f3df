//! Follows drains until nothing is left on the sites.

use std::time::Duration;

use holdfast_admin_api::{SiteList, SiteState};
use serde::Serialize;
use tokio::time::sleep;

use super::list::state_name;
use crate::amount::size;
use crate::api::{Api, Request};
use crate::console::{self, Progress};
use crate::failure::{Exit, Failure, Outcome};

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How far a drain is. Its JSON form is for scripts: fields are added, none is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Drain {
    site_id: String,
    pub(super) name: String,
    state: &'static str,
    /// Replicas of the site that still count for votes.
    replicas: u32,
    /// Replicas that it keeps only for their history.
    holding: u32,
    /// History on its way that others still lack.
    missing_bytes: u64,
    pub(super) drained: bool,
}

impl Drain {
    /// How far the drain of a site is; none if there is no such site.
    pub(super) fn of(listing: &SiteList, id: &str) -> Option<Drain> {
        let site = listing.sites.iter().find(|site| site.site_id == id)?;
        let leaving = |from: &Option<String>| from.as_ref() == Some(&site.name);
        let moving = listing.transitions.iter().filter(|moving| leaving(&moving.from));
        Some(Drain {
            site_id: site.site_id.clone(),
            name: site.name.clone(),
            state: state_name(site.state),
            replicas: site.replicas,
            holding: site.holding,
            missing_bytes: moving.map(|moving| moving.missing_bytes).sum(),
            drained: site.state == SiteState::Drained,
        })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{}: {} replicas left, history of {} kept, {} of history still to be fetched",
            self.name,
            self.replicas,
            self.holding,
            size(self.missing_bytes)
        )
    }
}

/// Shows how far the drains of these sites are until all are done. Ctrl-C leaves them to the cluster.
pub(super) async fn follow(api: &Api, ids: &[String], json: bool) -> Outcome {
    tokio::select! {
        done = until_drained(api, ids, json) => done,
        // Without a handler the signal ends the process, which is as good.
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::failed(
            "interrupted: the drain goes on without this command",
        )
        .hint("repeat the command to follow it again; `holdfast sites drain SITE --cancel` calls it off")),
    }
}

async fn until_drained(api: &Api, ids: &[String], json: bool) -> Outcome {
    let mut progress = Progress::default();
    let mut shown: Vec<Drain> = Vec::new();
    loop {
        let listing: SiteList = match api.ask(Request::get("/sites")).await {
            Ok(listing) => listing,
            // The drain goes on when somebody is elected again, and so does this.
            Err(error) if error.is_passing() => {
                progress.show(format!("{error}; waiting"));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut now = Vec::new();
        for id in ids {
            let gone =
                || Failure::new(Exit::NotFound, format!("site {id} is gone from the cluster"));
            now.push(Drain::of(&listing, id).ok_or_else(gone)?);
        }
        let left: Vec<&Drain> = now.iter().filter(|drain| !drain.drained).collect();
        let texts: Vec<String> = left.iter().map(|drain| drain.text()).collect();
        if json {
            now.iter().filter(|drain| !shown.contains(drain)).for_each(console::json);
        } else if !left.is_empty() {
            let held = listing.held_back.map(|why| format!(" (held back: {why})"));
            progress.show(texts.join(" | ") + &held.unwrap_or_default());
        }
        if left.is_empty() {
            return Ok(());
        }
        let draining = state_name(SiteState::Draining);
        if let Some(other) = left.iter().find(|drain| drain.state != draining) {
            let message = format!("site {} ({}) is {} now", other.name, other.site_id, other.state);
            return Err(Failure::failed(message)
                .hint("somebody called the drain off, or it is down for too long"));
        }
        shown = now;
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use holdfast_admin_api::{Liveness, Site, Transition};

    use super::*;

    #[test]
    fn progress_counts_what_leaves_this_site() {
        let site = Site {
            site_id: "7".into(),
            name: "storage-4".into(),
            address: String::new(),
            zone: String::new(),
            labels: Default::default(),
            state: SiteState::Draining,
            liveness: Liveness::Up,
            replicas: 2,
            leading: 0,
            holding: 1,
            used_bytes: 0,
            capacity_bytes: 0,
            missing_bytes: 0,
        };
        let moving = |from: &str, missing_bytes| Transition {
            shard: 0,
            from: Some(from.to_owned()),
            to: None,
            votes_moved: false,
            missing_bytes,
        };
        let transitions =
            vec![moving("storage-4", 1024), moving("x", 5), moving("storage-4", 1024)];
        let listing = SiteList { sites: vec![site], transitions, held_back: None };
        let drain = Drain::of(&listing, "7").expect("there");
        assert_eq!((drain.missing_bytes, drain.drained), (2048, false));
        assert!(drain.text().contains("2 replicas left"), "{}", drain.text());
        assert!(Drain::of(&listing, "9").is_none());
    }
}
