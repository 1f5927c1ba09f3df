//! Options that tell which cluster may stand before the command, too: `holdfast --api URL sites list`.
//!
//! They are moved behind the command before anything is read, so that a command which does not know
//! an option still refuses it.

use std::ffi::OsString;

use clap::{Args, Command};

use crate::api::ApiArgs;

/// The arguments, program name first, with early options moved behind the command.
pub(crate) fn moved(args: impl IntoIterator<Item = OsString>, root: &Command) -> Vec<OsString> {
    let options = ApiArgs::augment_args(Command::new("options"));
    let mut args = args.into_iter().peekable();
    let mut moved: Vec<OsString> = args.next().into_iter().collect();
    let (mut early, mut at) = (Vec::new(), root);
    while let Some(arg) = args.peek().and_then(|arg| arg.to_str()) {
        if let Some(wants_value) = option(arg, &options) {
            early.extend(args.next());
            early.extend(args.next_if(|_| wants_value));
        } else if let Some(command) = at.find_subcommand(arg) {
            at = command;
            moved.extend(args.next());
        } else {
            break;
        }
    }
    // Without a command they say nothing; what is missing is said without them.
    if moved.len() > 1 {
        moved.append(&mut early);
    }
    moved.extend(args);
    moved
}

/// Whether it is one of the options, and whether its value is the next argument.
fn option(arg: &str, options: &Command) -> Option<bool> {
    let (name, value) = match arg.strip_prefix("--")?.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (arg.strip_prefix("--")?, None),
    };
    let known = options.get_arguments().find(|option| option.get_long() == Some(name))?;
    Some(known.get_action().takes_values() && value.is_none())
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::cli::{self, Cli};

    fn line(text: &str) -> String {
        let args = text.split(' ').map(OsString::from);
        let moved = moved(args, &cli::command());
        moved.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn options_before_the_command_count_as_those_behind_it() {
        for (written, read) in [
            ("holdfast sites list --json", "holdfast sites list --json"),
            ("holdfast --api a:1 sites list --json", "holdfast sites list --api a:1 --json"),
            (
                "holdfast --json --data=x sites --user u list",
                "holdfast sites list --json --data=x --user u",
            ),
            (
                "holdfast --token t session show -- --api",
                "holdfast session show --token t -- --api",
            ),
            ("holdfast --data status status", "holdfast status --data status"),
            ("holdfast publish --json t -m sites", "holdfast publish --json t -m sites"),
            ("holdfast --api a:1 stauts", "holdfast stauts"),
            ("holdfast --api a:1 --help", "holdfast --help"),
            ("holdfast --api", "holdfast"),
        ] {
            assert_eq!(line(written), read, "{written}");
        }
    }

    #[test]
    fn a_command_without_the_option_refuses_it() {
        let parse = |text: &str| {
            let args = moved(text.split(' ').map(OsString::from), &cli::command());
            let matches = cli::command().try_get_matches_from(args)?;
            Cli::from_arg_matches(&matches).map(|_| ())
        };
        assert!(parse("holdfast --data /x up").is_ok());
        let refused = parse("holdfast --api a:1 up").expect_err("up asks no API");
        assert_eq!(refused.kind(), clap::error::ErrorKind::UnknownArgument);
    }
}
