//! Drains, replaces and forgets one site.

use clap::Args;
use holdfast_admin_api::{SiteList, Steered};

use super::SiteArg;
use super::follow::{Drain, follow};
use crate::api::{Api, ApiArgs, Request, segment};
use crate::console;
use crate::failure::{Exit, Failure, Outcome};

/// What to drain, and how.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    site: SiteArg,
    /// Call the drain off: the site gets its share again
    #[arg(long)]
    cancel: bool,
    /// Return when the drain has begun
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which site.
#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    #[command(flatten)]
    site: SiteArg,
    #[command(flatten)]
    api: ApiArgs,
}

fn path(site: &str) -> String {
    format!("/sites/{}", segment(site))
}

/// Begins the drain of a site.
pub(super) async fn begin(api: &Api, site: &str) -> Outcome<Steered> {
    Ok(api.ask(Request::post(path(site) + "/drain")).await?)
}

/// Calls it off.
pub(super) async fn call_off(api: &Api, site: &str) -> Outcome<Steered> {
    Ok(api.ask(Request::delete(path(site) + "/drain")).await?)
}

pub(super) async fn drain(args: &DrainArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let steered = match args.cancel {
        true => call_off(&api, &args.site.site).await?,
        false => begin(&api, &args.site.site).await?,
    };
    if args.cancel || args.no_wait {
        let listing: SiteList = api.ask(Request::get("/sites")).await?;
        let gone = || Failure::new(Exit::NotFound, format!("site {} is gone", steered.name));
        let drain = Drain::of(&listing, &steered.site_id).ok_or_else(gone)?;
        match (args.api.json, args.cancel) {
            (true, _) => console::json(&drain),
            (false, true) => console::line(format!("the drain of {} is called off", steered.name)),
            (false, false) => console::line(drain.text()),
        }
        return Ok(());
    }
    follow(&api, &[steered.site_id], args.api.json).await?;
    if !args.api.json {
        console::line(format!("{} is drained: its process may be stopped", steered.name));
    }
    Ok(())
}

pub(super) async fn replace(args: &SteerArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let steered: Steered = api.ask(Request::post(path(&args.site.site) + "/replace")).await?;
    match args.api.json {
        true => console::json(&steered),
        false => console::line(format!(
            "{} ({}) is given up: others take its place (`holdfast storage transitions`)",
            steered.name, steered.site_id
        )),
    }
    Ok(())
}

pub(super) async fn forget(args: &SteerArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    // Its id, which nobody can tell any more afterwards.
    let site: holdfast_admin_api::Site = api.ask(Request::get(path(&args.site.site))).await?;
    let () = api.ask(Request::delete(path(&args.site.site))).await?;
    let forgotten = Steered { site_id: site.site_id, name: site.name };
    match args.api.json {
        true => console::json(&forgotten),
        false => {
            console::line(format!("{} ({}) is forgotten", forgotten.name, forgotten.site_id));
        }
    }
    Ok(())
}
