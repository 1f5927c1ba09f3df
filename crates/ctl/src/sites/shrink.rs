//! `holdfast sites shrink`: empties the sites that a tier will lose when it is scaled in.

use clap::Args;
use holdfast_admin_api::{Site, SiteList, SiteState};
use serde::Serialize;

use super::follow::follow;
use super::steer::{begin, call_off};
use crate::api::{Api, ApiArgs, Request};
use crate::console;
use crate::failure::{Exit, Outcome};

/// Which sites go.
#[derive(Debug, Args)]
pub(crate) struct ShrinkArgs {
    /// What the names of the tier begin with; their numbers follow, from 0 on in a StatefulSet
    #[arg(long, value_name = "TEXT")]
    prefix: String,
    /// Sites with this number and above go
    #[arg(long, value_name = "N")]
    to: u32,
    /// Return when the drains have begun
    #[arg(long)]
    no_wait: bool,
    /// End when they are drained (the default)
    #[arg(long, conflicts_with = "no_wait", hide = true)]
    wait: bool,
    /// Do nothing, and exit with 0, if nobody answers: a cluster that does not run needs no drain
    #[arg(long)]
    if_reachable: bool,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Serialize)]
struct Shrunk {
    /// Names of the sites that hold nothing any more, or that are being emptied.
    sites: Vec<String>,
    waited: bool,
}

/// Drains them all at once.
pub(super) async fn run(args: &ShrinkArgs) -> Outcome {
    let api = match Api::find(&args.api) {
        Err(failure) if args.if_reachable && failure.exit == Exit::NoAnswer => {
            return nothing_there(&failure.message);
        }
        api => api?,
    };
    let listing: SiteList = match api.ask(Request::get("/sites")).await {
        // One that only waits for an election has data that must not be lost.
        Err(error) if args.if_reachable && error.is_nobody() => {
            return nothing_there(&error.to_string());
        }
        listing => listing?,
    };
    let leaving = leaving(&listing.sites, &args.prefix, args.to);
    let names: Vec<String> = leaving.iter().map(|site| site.name.clone()).collect();
    if leaving.is_empty() {
        console::note(format!(
            "no site named {}N with N of {} or above holds anything",
            args.prefix, args.to
        ));
    } else {
        console::note(format!("to be drained: {}", names.join(", ")));
        let ids = begin_all(&api, &leaving).await?;
        if !args.no_wait {
            follow(&api, &ids, args.api.json).await?;
        }
    }
    let waited = !args.no_wait;
    match args.api.json {
        true => console::json(&Shrunk { sites: names, waited }),
        false if !names.is_empty() && waited => {
            console::line(format!("drained: {}; their processes may be stopped", names.join(", ")));
        }
        false => {}
    }
    Ok(())
}

fn nothing_there(why: &str) -> Outcome {
    console::note(format!("{why}: nothing is drained"));
    Ok(())
}

/// All or none: a drain that is refused calls off those that began here.
async fn begin_all(api: &Api, leaving: &[&Site]) -> Outcome<Vec<String>> {
    let mut ids = Vec::new();
    for site in leaving {
        match begin(api, &site.site_id).await {
            Ok(steered) => ids.push(steered.site_id),
            Err(failure) => {
                let begun = leaving.iter().filter(|it| it.state == SiteState::Active);
                for site in begun.filter(|it| ids.contains(&it.site_id)) {
                    call_off(api, &site.site_id).await?;
                    console::note(format!("the drain of {} is called off", site.name));
                }
                return Err(failure);
            }
        }
    }
    Ok(ids)
}

/// Sites of the tier with high numbers that hold or may be given something, the highest first.
fn leaving<'a>(sites: &'a [Site], prefix: &str, to: u32) -> Vec<&'a Site> {
    let number = |site: &Site| -> Option<u32> {
        let digits = site.name.strip_prefix(prefix)?;
        let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_plain)
    };
    let mut leaving: Vec<(u32, &Site)> = sites
        .iter()
        .filter(|site| matches!(site.state, SiteState::Active | SiteState::Draining))
        .filter_map(|site| Some((number(site)?, site)))
        .filter(|(number, _)| *number >= to)
        .collect();
    leaving.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    leaving.into_iter().map(|(_, site)| site).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_admin_api::Liveness;

    use super::*;

    fn site(name: &str, state: SiteState) -> Site {
        Site {
            site_id: format!("id of {name}"),
            name: name.to_owned(),
            address: String::new(),
            zone: String::new(),
            labels: Default::default(),
            state,
            liveness: Liveness::Up,
            replicas: 1,
            leading: 0,
            holding: 0,
            used_bytes: 0,
            capacity_bytes: 0,
            missing_bytes: 0,
        }
    }

    #[test]
    fn the_highest_numbers_of_the_tier_leave() {
        let sites = [
            site("s-0", SiteState::Active),
            site("s-2", SiteState::Active),
            site("s-10", SiteState::Draining),
            site("s-3", SiteState::Drained),
            site("s-4", SiteState::Lost),
            site("s-x", SiteState::Active),
            site("s-+7", SiteState::Active),
            site("other-9", SiteState::Active),
        ];
        let names = |to| -> Vec<&str> {
            leaving(&sites, "s-", to).into_iter().map(|site| site.name.as_str()).collect()
        };
        assert_eq!(names(2), ["s-10", "s-2"]);
        assert_eq!(names(0), ["s-10", "s-2", "s-0"]);
        assert!(names(11).is_empty());
    }
}
