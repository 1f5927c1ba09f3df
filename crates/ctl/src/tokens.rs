//! `holdfast tokens`: bearer tokens for programs.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use holdfast_admin_api::{NewToken, TokenCreated, TokenInfo, TokenList};

use crate::amount::{Span, ago};
use crate::api::{Api, ApiArgs, Request, segment};
use crate::console;
use crate::failure::Outcome;
use crate::table::{self, Cell, Row};
use crate::users::{RoleArg, role_name};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Show all tokens, without their secrets
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  holdfast tokens list"
    )]
    List(ListArgs),
    /// Make a token; it is shown this once
    #[command(after_help = "\
Examples:
  holdfast tokens create dashboard --role viewer
  export HOLDFAST_TOKEN=$(holdfast tokens create ci --role admin --expires 1h)

Only the token goes to stdout.")]
    Create(CreateArgs),
    /// Revoke a token
    #[command(
        visible_alias = "rm",
        visible_alias = "revoke",
        after_help = "\
Examples:
  holdfast tokens delete ci"
    )]
    Delete(DeleteArgs),
}

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

/// What the token shall be.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name of the token, for people
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// How long it lives, as 1h or 90d [default: for ever]
    #[arg(long, value_name = "TIME")]
    expires: Option<Span>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Which one.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Name of the token
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    api: ApiArgs,
}

impl Row for TokenInfo {
    const TITLES: &'static [&'static str] = &["name", "role", "made", "ends"];

    fn cells(&self) -> Vec<Cell> {
        vec![
            self.name.as_str().into(),
            role_name(self.role).into(),
            format!("{} ago", ago(self.created_ms)).into(),
            self.expires_ms.map_or("never".to_owned(), ago).into(),
        ]
    }
}

/// Does it.
pub(crate) async fn run(command: TokensCommand) -> Outcome {
    match command {
        TokensCommand::List(args) => list(&args).await,
        TokensCommand::Create(args) => create(&args).await,
        TokensCommand::Delete(args) => delete(&args).await,
    }
}

async fn list(args: &ListArgs) -> Outcome {
    let listing: TokenList = Api::find(&args.api)?.ask(Request::get("/tokens")).await?;
    match args.api.json {
        true => console::json(&listing),
        false => table::show(&listing.tokens, "no tokens"),
    }
    Ok(())
}

async fn create(args: &CreateArgs) -> Outcome {
    let expires_in_s = args.expires.map(|span| span.0);
    let new = NewToken { name: args.name.clone(), role: args.role.into(), expires_in_s };
    let request = Request::post("/tokens").body(&new).once();
    let created: TokenCreated = Api::find(&args.api)?.ask(request).await?;
    if args.api.json {
        console::json(&created);
        return Ok(());
    }
    console::line(&created.token);
    console::note("keep it: it is not shown again");
    Ok(())
}

async fn delete(args: &DeleteArgs) -> Outcome {
    let request = Request::delete(format!("/tokens/{}", segment(&args.name)));
    let () = Api::find(&args.api)?.ask(request).await?;
    match args.api.json {
        true => console::json(&serde_json::json!({ "name": args.name })),
        false => console::line(format!("{} is revoked", args.name)),
    }
    Ok(())
}
