//! `holdfast clients` and `holdfast subscriptions`: who is connected, and who wants what.

use clap::Args;
use holdfast_admin_api::{
    ClientInfo, ClientPage, ClientQuery, SubscriptionInfo, SubscriptionPage, SubscriptionQuery,
};

use crate::amount::ago;
use crate::api::{Api, ApiArgs, Page, PageArgs, Request, note_more};
use crate::console;
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};

/// Which clients.
#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Only client ids that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only those of this gateway
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which subscriptions.
#[derive(Debug, Args)]
pub(crate) struct SubscriptionsArgs {
    /// Only client ids that begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Exactly this filter
    #[arg(long)]
    filter: Option<String>,
    /// Filters that match this topic: who would receive it?
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for ClientInfo {
    const TITLES: &'static [&'static str] = &[
        "client",
        "gateway",
        "-from",
        "-protocol",
        "->keep alive",
        "session",
        ">subscriptions",
        "->in flight",
        ">received",
        ">sent",
        ">connected",
    ];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.client_id.as_str().into(),
            self.gateway.as_str().into(),
            self.remote.as_str().into(),
            if self.protocol_level >= 5 { "5.0" } else { "3.1.1" }.into(),
            format!("{}s", self.keep_alive_s).into(),
            if self.durable { "durable" } else { "regular" }.into(),
            self.subscription_count.into(),
            self.in_flight.into(),
            self.received.into(),
            self.sent.into(),
            ago(self.connected_ms).into(),
        ]
    }
}

impl Row for SubscriptionInfo {
    const TITLES: &'static [&'static str] = &["client", "filter", ">qos", "session", "client is"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.client_id.as_str().into(),
            self.filter.as_str().into(),
            u32::from(self.qos).into(),
            if self.durable { "durable" } else { "regular" }.into(),
            if self.connected { "connected" } else { "away" }.into(),
        ]
    }
}

/// Gateways that did not answer, over all pages.
#[derive(Debug, Default)]
struct Unanswered(Vec<String>);

impl Unanswered {
    fn add(&mut self, names: Vec<String>) {
        let new: Vec<String> = names.into_iter().filter(|name| !self.0.contains(name)).collect();
        self.0.extend(new);
    }

    fn note(&self) {
        if !self.0.is_empty() {
            console::note(format!("clients of {} are missing: no answer", self.0.join(", ")));
        }
    }
}

/// Lists connected clients.
pub(crate) async fn clients(args: &ClientsArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let mut unanswered = Unanswered::default();
    let listed = args.page.collect(async |after, limit| {
        let (prefix, gateway) = (args.prefix.clone(), args.gateway.clone());
        let query = ClientQuery { prefix, gateway, after, limit: Some(limit) };
        let page: ClientPage = api.ask(Request::get("/clients").query(&query)).await?;
        unanswered.add(page.unanswered);
        Ok(Page { items: page.clients, next: page.next })
    });
    let Page { items, next } = listed.await?;
    if args.api.json {
        console::json(&ClientPage { clients: items, unanswered: unanswered.0, next });
        return Ok(());
    }
    table::show(&items, "no clients are connected");
    unanswered.note();
    note_more(next.as_deref());
    Ok(())
}

/// Lists subscriptions.
pub(crate) async fn subscriptions(args: &SubscriptionsArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let mut unanswered = Unanswered::default();
    let listed = args.page.collect(async |after, limit| {
        let query = SubscriptionQuery {
            prefix: args.prefix.clone(),
            filter: args.filter.clone(),
            topic: args.topic.clone(),
            after,
            limit: Some(limit),
        };
        let page: SubscriptionPage = api.ask(Request::get("/subscriptions").query(&query)).await?;
        unanswered.add(page.unanswered);
        Ok(Page { items: page.subscriptions, next: page.next })
    });
    let Page { items, next } = listed.await?;
    if args.api.json {
        console::json(&SubscriptionPage { subscriptions: items, unanswered: unanswered.0, next });
        return Ok(());
    }
    table::show(&items, "no subscriptions");
    unanswered.note();
    note_more(next.as_deref());
    Ok(())
}
