//! The command line of every process.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::exit;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{EXIT_CONFIG, Override, Validate, load_with};
use crate::described;

/// What a program says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name of the binary.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Describes all metrics of the program to the recorder that is installed.
    pub describe: fn(),
}

/// Entry for `main`: loads `--config FILE` with every `--set FIELD=VALUE` over it. Prints what is
/// wrong and ends the process with [`EXIT_CONFIG`] otherwise; answers `--help`, `--version`, `--check`
/// and what is to be printed, and ends the process.
pub fn from_args<T: DeserializeOwned + Validate + JsonSchema>(program: Program) -> T {
    let matches = command(program).get_matches();
    if matches.get_flag("print-config-schema") {
        print_and_exit(&schema_for!(T));
    }
    if matches.get_flag("print-metrics") {
        print_and_exit(&described::metrics(program.describe));
    }
    let config = from_matches(&matches).unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(EXIT_CONFIG)
    });
    if matches.get_flag("check") {
        println!("config is valid");
        exit(0);
    }
    config
}

fn from_matches<T: DeserializeOwned + Validate + JsonSchema>(
    matches: &ArgMatches,
) -> Result<T, super::ConfigError> {
    let overrides: Result<Vec<Override>, _> =
        matches.get_many::<String>("set").into_iter().flatten().map(|text| text.parse()).collect();
    let Some(path) = matches.get_one::<PathBuf>("config") else { exit(EXIT_CONFIG) };
    load_with(path, &overrides?)
}

fn print_and_exit(value: &impl Serialize) -> ! {
    let mut out = io::stdout().lock();
    let printed = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    match printed.and_then(|()| writeln!(out)) {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!("cannot print: {error}");
            exit(1)
        }
    }
}

fn command(program: Program) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
    };
    let printing = ["print-config-schema", "print-metrics"];
    Command::new(program.name)
        .about(program.about)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage(format!("{} --config <FILE> [--set <FIELD=VALUE>]...", program.name))
        .after_help(examples(program.name))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("TOML file with the configuration of this process")
                .required_unless_present_any(printing)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("FIELD=VALUE")
                .help(
                    "Sets a field over the file's value; tables by dots. VALUE is TOML, or else \
                     the text itself; an empty one leaves the field unset. As often as needed",
                )
                .action(ArgAction::Append),
        )
        .arg(flag("check", "Loads and checks the configuration, says if it is valid, and ends"))
        .arg(flag(printing[0], "Prints the JSON schema of the configuration and ends"))
        .arg(flag(printing[1], "Prints all metrics as JSON and ends"))
}

fn examples(name: &str) -> String {
    format!(
        "Examples:\n  \
         {name} --config /etc/holdfast/{name}.toml\n  \
         {name} --config /etc/holdfast/{name}.toml --set name=\"$(hostname)\" --set http_listen=[::]:8081\n  \
         {name} --config /etc/holdfast/{name}.toml --set 'meta=[\"meta-0:7000\", \"meta-1:7000\"]' --check\n\n\
         A wrong configuration ends the process with code {EXIT_CONFIG} and says what is allowed.\n\
         The level of the log is taken from RUST_LOG (error, warn, info, debug, trace; info if unset)."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program { name: "some-node", about: "A node", describe: || {} };

    #[test]
    fn the_command_line_is_well_formed() {
        command(PROGRAM).debug_assert();
    }

    #[test]
    fn only_what_is_printed_needs_no_file() {
        let parsed = |args: &[&str]| {
            let args = ["some-node"].into_iter().chain(args.iter().copied());
            command(PROGRAM).try_get_matches_from(args).map_err(|error| error.exit_code())
        };
        assert!(parsed(&["--print-config-schema"]).is_ok());
        assert!(parsed(&["--print-metrics"]).is_ok());
        assert_eq!(parsed(&["--check"]).err(), Some(EXIT_CONFIG));
        assert_eq!(parsed(&["--set", "a=1"]).err(), Some(EXIT_CONFIG));
        assert!(parsed(&["--config", "f", "--set", "a=1", "--set", "b="]).is_ok());
    }
}
