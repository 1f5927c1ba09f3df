//! `holdfast users`: people who may use the API.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use holdfast_admin_api::{PutUser, Role, UserInfo, UserList};
use serde::de::IgnoredAny;

use crate::api::{self, Api, ApiArgs, Request, segment};
use crate::console;
use crate::failure::{Failure, Outcome};
use crate::table::{self, Cell, Row};

/// What to do with users.
#[derive(Debug, Subcommand)]
pub(crate) enum UsersCommand {
    /// Show all users with their roles
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  holdfast users list"
    )]
    List(ListArgs),
    /// Make a user, or change role or password of one
    #[command(after_help = "\
Examples:
  holdfast users set eve --role viewer --new-password-file eve.txt
  pwgen -s 20 1 | holdfast users set eve --role viewer --new-password-file -
  holdfast users set eve --role admin               # the password stays

A password has 12 to 256 bytes. Viewers see everything but messages; admins may do everything.")]
    Set(SetArgs),
    /// Remove a user
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  holdfast users delete eve
  holdfast users delete eve --yes                   # in scripts"
    )]
    Delete(DeleteArgs),
}

/// How to list them.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

/// What the user shall be.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the user
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What the user may do
    #[arg(long, value_enum)]
    role: RoleArg,
    /// File with the password; - reads it from stdin. Needed for a new user
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Whom to remove.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Name of the user
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Look at everything but messages
    Viewer,
    /// Everything
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Viewer => Role::Viewer,
            RoleArg::Admin => Role::Admin,
        }
    }
}

/// As people write it.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Admin => "admin",
    }
}

impl Row for UserInfo {
    const TITLES: &'static [&'static str] = &["name", "role"];

    fn cells(&self) -> Vec<Cell> {
        vec![self.name.as_str().into(), role_name(self.role).into()]
    }
}

/// Does it.
pub(crate) async fn run(command: UsersCommand) -> Outcome {
    match command {
        UsersCommand::List(args) => list(&args).await,
        UsersCommand::Set(args) => set(&args).await,
        UsersCommand::Delete(args) => delete(&args).await,
    }
}

async fn list(args: &ListArgs) -> Outcome {
    let listing: UserList = Api::find(&args.api)?.ask(Request::get("/users")).await?;
    match args.api.json {
        true => console::json(&listing),
        false => table::show(&listing.users, "no users"),
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/users/{}", segment(name))
}

async fn set(args: &SetArgs) -> Outcome {
    let password = args.new_password_file.as_deref().map(read_password).transpose()?;
    let user = UserInfo { name: args.name.clone(), role: args.role.into() };
    let request = Request::put(path(&user.name)).body(&PutUser { role: user.role, password });
    let _: IgnoredAny = Api::find(&args.api)?.ask(request).await?;
    match args.api.json {
        true => console::json(&user),
        false => console::line(format!("{} is {} now", user.name, role_name(user.role))),
    }
    Ok(())
}

fn read_password(file: &Path) -> Outcome<String> {
    if file != Path::new("-") {
        return api::password(file);
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("stdin: {error}")))?;
    match text.trim() {
        "" => Err(Failure::usage("stdin has no password")),
        text => Ok(text.to_owned()),
    }
}

async fn delete(args: &DeleteArgs) -> Outcome {
    let api = Api::find(&args.api)?;
    console::confirm(&format!("Remove the user {:?}?", args.name), args.yes)?;
    let () = api.ask(Request::delete(path(&args.name))).await?;
    match args.api.json {
        true => console::json(&serde_json::json!({ "name": args.name })),
        false => console::line(format!("{} is removed", args.name)),
    }
    Ok(())
}
