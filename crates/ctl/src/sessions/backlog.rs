//! `holdfast sessions backlog`: what waits for a session.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use holdfast_admin_api::{Backlog, BacklogMessage, BacklogQuery};

use crate::amount::{ago, size};
use crate::api::{Api, ApiArgs, Page, PageArgs, Request, note_more, segment};
use crate::console::{self, Tone};
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};

/// Characters of a payload in a table.
const PREVIEW: usize = 60;

/// Whose messages, and how many.
#[derive(Debug, Args)]
pub(crate) struct BacklogArgs {
    /// Client id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    client_id: String,
    #[command(flatten)]
    page: PageArgs,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for BacklogMessage {
    const TITLES: &'static [&'static str] = &[
        "topic",
        ">qos",
        ">age",
        "state",
        "->shard",
        "->position",
        "-publisher",
        ">size",
        "payload",
    ];

    fn cells(&self) -> Vec<Cell> {
        let state = match (self.packet_id, self.expired) {
            (_, true) => Cell::toned("expired", Tone::Warn),
            (Some(id), _) => format!("in flight ({id})").into(),
            (None, _) => "unread".into(),
        };
        let payload = match (&self.payload, &self.payload_base64) {
            (Some(text), _) => text.trim_end().chars().take(PREVIEW).collect(),
            (None, Some(_)) => "(binary: --json has it)".to_owned(),
            (None, None) => "(above 64 KiB)".to_owned(),
        };
        vec![
            self.topic.as_str().into(),
            u32::from(self.qos).into(),
            ago(self.time_ms).into(),
            state,
            self.shard.into(),
            self.position.into(),
            self.publisher.as_str().into(),
            size(self.payload_bytes).into(),
            payload.into(),
        ]
    }
}

pub(super) async fn run(args: &BacklogArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    let path = format!("/sessions/{}/backlog", segment(&args.client_id));
    let listed = args.page.collect(async |after, limit| {
        let query = BacklogQuery { after, limit: Some(limit) };
        let page: Backlog = api.ask(Request::get(&path).query(&query)).await?;
        Ok(Page { items: page.messages, next: page.next })
    });
    let Page { items, next } = listed.await?;
    match args.api.json {
        true => console::json(&Backlog { messages: items, next }),
        false => {
            table::show(&items, "nothing waits for it");
            note_more(next.as_deref());
        }
    }
    Ok(())
}
