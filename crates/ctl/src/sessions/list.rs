//! A look at sessions.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use holdfast_admin_api::{Lag, Session, SessionPage, SessionQuery, SessionSubscription};

use crate::amount::{ago, span};
use crate::api::{Api, ApiArgs, Page, PageArgs, Request, note_more, segment};
use crate::console::{self, Tone};
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};

/// Which ones.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only client ids that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only those with a connected client
    #[arg(long)]
    connected: bool,
    /// Only those without
    #[arg(long, conflicts_with = "connected")]
    disconnected: bool,
    /// Count what each has not acknowledged
    #[arg(long)]
    lag: bool,
    /// Only those with at least as many unacknowledged messages
    #[arg(long, value_name = "N")]
    lag_min: Option<u64>,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which one.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Client id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    client_id: String,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for Session {
    const TITLES: &'static [&'static str] =
        &["client", "state", ">subscriptions", ">behind", ">oldest", "ends", ">lost"];

    fn cells(&self) -> Vec<Cell> {
        let lost = if self.lost > 0 { Tone::Bad } else { Tone::Plain };
        vec![
            self.client_id.as_str().into(),
            state(self),
            self.subscription_count.into(),
            Cell::or_dash(self.lag.as_ref().map(|lag| lag.messages)),
            Cell::or_dash(
                self.lag.as_ref().filter(|lag| lag.messages > 0).map(|lag| span(lag.oldest_age_s)),
            ),
            ends(self).into(),
            Cell::toned(self.lost.to_string(), lost),
        ]
    }
}

fn state(session: &Session) -> Cell {
    match (&session.gateway, session.disconnected_ms) {
        (Some(gateway), _) if session.connected => Cell::toned(format!("on {gateway}"), Tone::Good),
        _ if session.connected => Cell::toned("connected", Tone::Good),
        (_, Some(at)) => format!("left {} ago", ago(at)).into(),
        _ => "not connected".into(),
    }
}

/// When the session ends, or how long it would last without its client.
fn ends(session: &Session) -> String {
    match (session.expires_ms, session.expiry_interval_s) {
        (Some(at), _) => ago(at),
        (None, None) => "never".to_owned(),
        (None, Some(0)) => "with its connection".to_owned(),
        (None, Some(after)) => format!("{} after it leaves", span(u64::from(after))),
    }
}

impl Row for SessionSubscription {
    const TITLES: &'static [&'static str] =
        &["filter", ">qos", "no local", "retain as published", ">retain handling", ">identifier"];

    fn cells(&self) -> Vec<Cell> {
        let yes_no = |is: bool| if is { "yes" } else { "no" }.into();
        vec![
            self.filter.as_str().into(),
            u32::from(self.qos).into(),
            yes_no(self.no_local),
            yes_no(self.retain_as_published),
            u32::from(self.retain_handling).into(),
            Cell::or_dash(self.identifier),
        ]
    }
}

pub(super) async fn list(args: &ListArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let connected = match (args.connected, args.disconnected) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let listed = args.page.collect(async |after, limit| {
        let query = SessionQuery {
            prefix: args.prefix.clone(),
            connected,
            lag_min: args.lag_min,
            lag: args.lag.then_some(true),
            after,
            limit: Some(limit),
        };
        let page: SessionPage = api.ask(Request::get("/sessions").query(&query).slow()).await?;
        Ok(Page { items: page.sessions, next: page.next })
    });
    let Page { items, next } = listed.await?;
    match args.api.json {
        true => console::json(&SessionPage { sessions: items, next }),
        false => {
            table::show(&items, "no sessions");
            note_more(next.as_deref());
        }
    }
    Ok(())
}

pub(super) async fn show(args: &ShowArgs) -> Outcome {
    let request = Request::get(format!("/sessions/{}", segment(&args.client_id)));
    let session: Session = Api::find(&args.api)?.ask(request).await?;
    if args.api.json {
        console::json(&session);
        return Ok(());
    }
    let state = match (&session.gateway, session.connected) {
        (Some(gateway), true) => format!("connected to {gateway}"),
        (None, true) => "connected".to_owned(),
        _ => session
            .disconnected_ms
            .map_or("not connected".to_owned(), |at| format!("left {} ago", ago(at))),
    };
    let protocol = if session.protocol_level >= 5 { "MQTT 5.0" } else { "MQTT 3.1.1" };
    console::facts(&[
        ("client", session.client_id.clone()),
        ("state", state),
        ("protocol", protocol.to_owned()),
        ("shard", session.shard.to_string()),
        ("epoch", session.epoch.to_string()),
        ("ends", ends(&session)),
        ("last used", format!("{} ago", ago(session.last_used_ms))),
        ("behind", session.lag.as_ref().map_or("not known now".to_owned(), lag_text)),
        ("lost unread", session.lost.to_string()),
    ]);
    if let Some(subscriptions) = session.subscriptions.filter(|all| !all.is_empty()) {
        console::line(format!("\n{}", table::render(&subscriptions)));
    }
    Ok(())
}

fn lag_text(lag: &Lag) -> String {
    match lag.messages {
        0 => "nothing".to_owned(),
        messages => format!(
            "{messages} messages ({} unread, {} in flight), the oldest {} old",
            lag.unread,
            lag.in_flight,
            span(lag.oldest_age_s)
        ),
    }
}
