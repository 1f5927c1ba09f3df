//! Ends connections and sessions.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use crate::api::{Api, ApiArgs, Request, segment};
use crate::console;
use crate::failure::Outcome;

/// Whose connection.
#[derive(Debug, Args)]
pub(crate) struct KickArgs {
    /// Client id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    client_id: String,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which session.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Client id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    client_id: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Serialize)]
struct Ended<'a> {
    client_id: &'a str,
}

pub(super) async fn kick(args: &KickArgs) -> Outcome {
    let path = format!("/sessions/{}/kick", segment(&args.client_id));
    let () = Api::find(&args.api)?.ask(Request::post(path)).await?;
    tell(&args.client_id, args.api.json, "its connection is closed; its session stays");
    Ok(())
}

pub(super) async fn delete(args: &DeleteArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let path = format!("/sessions/{}", segment(&args.client_id));
    // An unknown one is told before anything is asked.
    let session: holdfast_admin_api::Session = api.ask(Request::get(&path)).await?;
    let behind = session.lag.map_or(0, |lag| lag.messages);
    console::confirm(
        &format!(
            "End the session of {:?}, with {behind} messages that it has not read?",
            args.client_id
        ),
        args.yes,
    )?;
    let () = api.ask(Request::delete(path)).await?;
    tell(&args.client_id, args.api.json, "its session is gone");
    Ok(())
}

fn tell(client_id: &str, json: bool, what: &str) {
    match json {
        true => console::json(&Ended { client_id }),
        false => console::line(format!("{client_id}: {what}")),
    }
}
