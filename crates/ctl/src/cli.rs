//! What can be written after `holdfast`.

pub(crate) mod early;

use clap::builder::StyledStr;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::bench::BenchArgs;
use crate::capacity::CapacityArgs;
use crate::clients::{ClientsArgs, SubscriptionsArgs};
use crate::gateways::GatewaysArgs;
use crate::local::data_dir::DataArgs;
use crate::local::halt::{StartArgs, StopArgs};
use crate::local::scale::ScaleArgs;
use crate::local::up::UpArgs;
use crate::mqtt::check::CheckArgs;
use crate::mqtt::publish::PublishArgs;
use crate::mqtt::subscribe::SubscribeArgs;
use crate::probe::{ProbeArgs, WaitArgs};
use crate::sessions::SessionsCommand;
use crate::shards::ShardsCommand;
use crate::sites::SitesCommand;
use crate::status::StatusArgs;
use crate::storage::StorageCommand;
use crate::tokens::TokensCommand;
use crate::users::UsersCommand;

/// Runs a Holdfast cluster on this machine, and shows and steers any cluster.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order of the overview.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine, follow its health, stop it on Ctrl-C
    #[command(after_help = "\
Examples:
  holdfast up                                            # 1 meta-service, 3 storage nodes, 2 gateways
  holdfast up --meta 2 --etcd 3 --storage 5 --zones 3    # without a single point of failure
  holdfast up --fresh --mqtt-port 0                      # forget everything, pick free ports
  holdfast up --set gateway.mqtt.keep_alive_max_s=60 --set storage-1.protocol_version_max=1")]
    Up(UpArgs),
    /// Stop the cluster on this machine
    #[command(after_help = "\
Examples:
  holdfast down
  holdfast down --data /var/tmp/cluster-2")]
    Down(DataArgs),
    /// Stop single processes of the cluster on this machine, or kill them
    #[command(after_help = "\
Examples:
  holdfast stop --kill storage-2                         # as a crash; it stays away
  holdfast stop gateway-1                                # planned: its clients go elsewhere
  holdfast start storage-2 gateway-1")]
    Stop(StopArgs),
    /// Start processes that were stopped
    #[command(after_help = "\
Examples:
  holdfast start storage-2")]
    Start(StartArgs),
    /// Change the number of storage nodes or gateways of the cluster on this machine
    #[command(after_help = "\
Examples:
  holdfast scale --gateways 4
  holdfast scale --storage 5
  holdfast sites drain storage-5 && holdfast scale --storage 4")]
    Scale(ScaleArgs),
    /// Tell whether the cluster is healthy, and which processes run
    #[command(after_help = "\
Examples:
  holdfast status                                        # the cluster in .holdfast
  holdfast status --api http://meta.example:8080 --watch
  holdfast status --json | jq -r '.cluster.problems[]'

Exit code 0: healthy, 1: not healthy, 5: nobody answers.")]
    Status(StatusArgs),
    /// Show, drain, replace and forget storage nodes' sites
    #[command(
        subcommand,
        visible_alias = "site",
        after_help = "\
Examples:
  holdfast sites list
  holdfast sites drain storage-2"
    )]
    Sites(SitesCommand),
    /// Show shards of the log; move leaders and replicas
    #[command(
        subcommand,
        visible_alias = "shard",
        after_help = "\
Examples:
  holdfast shards list
  holdfast shards move-leader 3 storage-2"
    )]
    Shards(ShardsCommand),
    /// Show what storage holds; roll generations; verify checksums and replicas
    #[command(
        subcommand,
        after_help = "\
Examples:
  holdfast storage info
  holdfast storage verify --bytes-per-s 50MB"
    )]
    Storage(StorageCommand),
    /// Show the gateways
    #[command(
        visible_alias = "gateway",
        after_help = "\
Examples:
  holdfast gateways
  holdfast gateways --json | jq -r '.gateways[].mqtt_address'"
    )]
    Gateways(GatewaysArgs),
    /// Show sessions, how far they are behind and what waits for them; kick and delete
    #[command(
        subcommand,
        visible_alias = "session",
        after_help = "\
Examples:
  holdfast sessions list --lag --disconnected
  holdfast sessions backlog sensor-17 --limit 5"
    )]
    Sessions(SessionsCommand),
    /// Show connected clients
    #[command(
        visible_alias = "client",
        after_help = "\
Examples:
  holdfast clients
  holdfast clients --gateway gateway-1 --prefix sensor- --all"
    )]
    Clients(ClientsArgs),
    /// Show subscriptions, or who would receive a topic
    #[command(
        visible_alias = "subscription",
        after_help = "\
Examples:
  holdfast subscriptions --prefix sensor-
  holdfast subscriptions --topic factory/1/temperature   # who would receive it"
    )]
    Subscriptions(SubscriptionsArgs),
    /// Publish messages and say what became of them
    #[command(
        visible_alias = "pub",
        after_help = "\
Examples:
  holdfast publish t/1 -m hello
  holdfast publish t/1 --file photo.jpg --qos 2 --retain
  date | holdfast publish t/1
  holdfast publish t/1 -m 'tick {i}' --count 100 --rate 10"
    )]
    Publish(PublishArgs),
    /// Subscribe and show what arrives
    #[command(
        visible_alias = "sub",
        after_help = "\
Examples:
  holdfast subscribe 't/#'
  holdfast subscribe 't/#' 'alarms/+' --count 10 --timeout 30 --json
  holdfast subscribe 't/#' --client-id me --session-expiry 3600   # what comes meanwhile waits for me"
    )]
    Subscribe(SubscribeArgs),
    /// Check that a session survives: leave, publish, come back elsewhere, receive everything once
    #[command(after_help = "\
Examples:
  holdfast check
  holdfast check --mqtt gateway-1:1883 --other gateway-2:1883 --messages 1000

Exit code 0 if every message came, in order and once.")]
    Check(CheckArgs),
    /// Put load on a running cluster and measure rates and latency
    #[command(after_help = "\
Examples:
  holdfast bench                                         # 10 s, as fast as it goes
  holdfast bench --rate 1000 --publishers 16 --seconds 60
  holdfast bench --sessions-offline 1000 --size 256B --json

It shares this machine's cores with whatever runs here: beyond a point it measures itself.")]
    Bench(BenchArgs),
    /// Compute disk, memory, cores and nodes for a load
    #[command(after_help = "\
Examples:
  holdfast capacity --rate 10k --size 256B --retention 7d --sessions 1M
  holdfast capacity --rate 500 --size 4kB --retention 30d --sessions 20k --explain")]
    Capacity(CapacityArgs),
    /// Show and change people who may use the API
    #[command(
        subcommand,
        visible_alias = "user",
        after_help = "\
Examples:
  holdfast users list
  holdfast users set eve --role viewer --new-password-file eve.txt"
    )]
    Users(UsersCommand),
    /// Show, make and revoke tokens for programs
    #[command(
        subcommand,
        visible_alias = "token",
        after_help = "\
Examples:
  holdfast tokens create ci --role admin --expires 1h
  holdfast tokens list"
    )]
    Tokens(TokensCommand),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  holdfast completion bash > /etc/bash_completion.d/holdfast
  holdfast completion zsh > \"${fpath[1]}/_holdfast\"
  holdfast completion fish > ~/.config/fish/completions/holdfast.fish
  holdfast completion powershell >> $PROFILE")]
    Completion(CompletionArgs),
    /// Ask an http:// URL; exit with 0 if the answer is a 2xx
    #[command(after_help = "\
Examples:
  holdfast probe http://127.0.0.1:8081/health/ready      # health check of a container
  holdfast probe http://127.0.0.1:8081/health/live --timeout 1")]
    Probe(ProbeArgs),
    /// Wait, where there is no shell and no sleep
    #[command(after_help = "\
Examples:
  holdfast wait 5                                        # preStop of a container")]
    Wait(WaitArgs),
}

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Titles of the overview with the commands below them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("A cluster on this machine", &["up", "status", "scale", "stop", "start", "down"]),
    (
        "Look at a cluster and steer it",
        &["sites", "shards", "storage", "gateways", "sessions", "clients", "subscriptions"],
    ),
    ("Send, receive and measure", &["publish", "subscribe", "check", "bench", "capacity"]),
    ("Access", &["users", "tokens"]),
    ("For shells and containers", &["completion", "probe", "wait"]),
];

/// Below the overview.
const NOTES: &str = "\
Which cluster: --api URL or HOLDFAST_API; else the one in --data (.holdfast).
Who asks: --token or HOLDFAST_TOKEN; --user with --password-file; else admin of the local cluster.
These options and --json stand before or after the command.
Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 not found, 4 credentials, 5 nobody answers.

`holdfast COMMAND --help` shows examples.";

/// The command line with its overview in groups.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let template = overview(&command);
    command.help_template(template)
}

fn overview(command: &clap::Command) -> StyledStr {
    let mut text = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<14} {about}\n"));
        }
    }
    text.push_str(&format!("\n{NOTES}\n\nOptions:\n{{options}}"));
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &clap::Command, path: &str, visit: &mut impl FnMut(&clap::Command, &str)) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            visit(sub, &path);
            each(sub, &path, visit);
        }
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        each(&command(), "holdfast", &mut |command, path| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_own = path != "holdfast sites" && help.contains("Examples:\n");
            assert!(is_own || help.contains("Examples:\n"), "{path} has no examples");
            let last = path.rsplit(' ').next().unwrap_or_default();
            assert!(help.contains(last), "{path}: the examples are of another command");
            assert!(command.get_about().is_some(), "{path} says not what it does");
        });
    }

    #[test]
    fn the_overview_names_every_command_once() {
        let grouped: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = command();
        let mut names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        names.retain(|name| *name != "help");
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(sorted(grouped), names);
    }

    #[test]
    fn completion_scripts_are_made_for_all_shells() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "holdfast", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("move-replica") && script.contains("backlog"), "{shell}");
        }
    }
}
