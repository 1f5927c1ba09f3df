//! The `holdfast` command, as an operator uses it: what each command shows on a real cluster, and what it
//! says and how it exits when it is asked for something wrong.

#![allow(clippy::unwrap_used, missing_docs)]

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Shape, program};
use holdfast_e2e::packet::{Connect, Version};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const CREDENTIALS: i32 = 4;
const NO_ANSWER: i32 = 5;

async fn small() -> Cluster {
    Cluster::with(Shape { storage: 1, ..Shape::default() }).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command prints when it succeeds.
async fn done(cluster: &Cluster, args: &[&str]) -> String {
    let told = cluster.try_holdfast(args).await;
    told.unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// The same with `--json`, read; and once more for people, which must not be JSON.
async fn shown(cluster: &Cluster, args: &[&str]) -> Value {
    let people = done(cluster, args).await;
    assert!(!people.starts_with('{'), "{args:?}: {people}");
    json(cluster, args).await
}

async fn json(cluster: &Cluster, args: &[&str]) -> Value {
    let told = done(cluster, &[args, &["--json"]].concat()).await;
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{args:?}: {error}: {told}"))
}

/// One line that says what is wrong, and the exit code.
fn assert_refused(output: &Output, code: i32, what: &str) {
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    assert!(complaint.contains(what), "{what:?} is not in {complaint}");
    let is_ours = |line: &str| line.starts_with("holdfast: ");
    let is_claps = complaint.starts_with("error: ");
    assert!(is_claps || complaint.lines().filter(|line| is_ours(line)).count() == 1, "{complaint}");
}

async fn refused(cluster: &Cluster, args: &[&str], code: i32, what: &str) {
    assert_refused(&cluster.holdfast(args).await, code, what);
}

/// Without a cluster.
fn alone(args: &[&str]) -> Output {
    let mut command = Command::new(program("holdfast"));
    command.args(args).env_remove("HOLDFAST_API").stdin(Stdio::null()).output().unwrap()
}

async fn eventually<F: Future<Output = bool>>(what: &str, is_met: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_met().await {
        assert!(Instant::now() < deadline, "{what}: never");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().unwrap().iter();
    items.map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_operator_looks_at_a_cluster_and_steers_it() {
    let cluster = Cluster::with(Shape { storage: 4, gateways: 1, ..Shape::default() }).await;
    let is_whole = |sites: &[_]| sites.len() == 4;
    cluster.await_sites("four sites", is_whole).await;

    let status = json(&cluster, &["status"]).await;
    assert_eq!((&status["ready"], &status["healthy"]), (&true.into(), &true.into()), "{status}");
    assert_eq!(status["cluster"]["elected"], "meta-1");
    assert!(done(&cluster, &["status"]).await.contains("4 of 4 sites"));
    let listing = shown(&cluster, &["sites", "list"]).await;
    let sites = ["storage-1", "storage-2", "storage-3", "storage-4"];
    assert_eq!(names(&listing["sites"], "name"), sites);
    assert_eq!(shown(&cluster, &["sites", "show", "storage-2"]).await["name"], "storage-2");
    let gateways = shown(&cluster, &["gateways"]).await;
    assert_eq!(gateways["gateways"][0]["mqtt_address"], cluster.mqtt(1));
    assert_eq!(shown(&cluster, &["shards", "list"]).await["shards"].as_array().unwrap().len(), 16);

    let shard = shown(&cluster, &["shards", "show", "3"]).await;
    let replicas = names(&shard["replicas"], "site");
    let leader = shard["leader"].as_str().unwrap().to_owned();
    let follower = replicas.iter().find(|site| **site != leader).unwrap();
    let other = sites.iter().find(|site| !replicas.contains(&(**site).to_owned())).unwrap();
    let told = done(&cluster, &["shards", "move-leader", "3", follower]).await;
    assert!(told.contains(&format!("{follower} leads shard 3")), "{told}");
    let moved = json(&cluster, &["shards", "move-replica", "3", &leader, other]).await;
    let now = names(&moved["replicas"], "site");
    assert!(now.contains(&(*other).to_owned()) && !now.contains(&leader), "{moved}");
    assert_eq!(moved["pinned"], true);
    let released = json(&cluster, &["shards", "release", "3"]).await;
    assert_eq!(released["pinned"], false);

    let totals = shown(&cluster, &["storage", "info"]).await;
    assert_eq!((&totals["sites"], &totals["shards"]), (&4.into(), &16.into()));
    assert!(json(&cluster, &["storage", "transitions"]).await["transitions"].is_array());
    assert_eq!(json(&cluster, &["storage", "roll", "--shard", "3"]).await[0]["shard"], 3);
    assert_eq!(json(&cluster, &["storage", "roll"]).await.as_array().unwrap().len(), 16);
    let verified = json(&cluster, &["storage", "verify", "--bytes-per-s", "100MB"]).await;
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(verified["shards"].as_array().unwrap().len(), 16);
    let verified = json(&cluster, &["storage", "verify", "--site", "storage-2"]).await;
    assert!(verified["shards"][0]["sites"].as_array().unwrap().len() == 1, "{verified}");

    refused(&cluster, &["sites", "show", "nowhere"], NOT_FOUND, "nowhere").await;
    refused(&cluster, &["sites", "drain", "nowhere"], NOT_FOUND, "nowhere").await;
    refused(&cluster, &["sites", "forget", "storage-1"], FAILED, "is up").await;
    refused(&cluster, &["sites", "replace", "storage-1"], FAILED, "is up").await;
    refused(&cluster, &["shards", "show", "99"], NOT_FOUND, "99").await;
    refused(&cluster, &["stop", "nobody"], NOT_FOUND, "there are").await;
    refused(&cluster, &["shards", "show", "x"], USAGE, "invalid value").await;
    refused(&cluster, &["shards", "move-leader", "3", "nowhere"], NOT_FOUND, "nowhere").await;
    refused(&cluster, &["storage", "verify", "--shard", "99"], NOT_FOUND, "99").await;

    let shrink = ["sites", "shrink", "--prefix", "storage-", "--to"];
    assert_eq!(
        json(&cluster, &[&shrink[..], &["9"]].concat()).await["sites"],
        Value::Array(vec![])
    );
    // Two of four cannot go: neither does.
    refused(&cluster, &[&shrink[..], &["3"]].concat(), FAILED, "replication factor").await;
    assert!(cluster.sites().await.iter().all(|site| site.state == "active"));
    let told = done(&cluster, &[&shrink[..], &["4"]].concat()).await;
    assert!(told.contains("drained: storage-4"), "{told}");
    let told = done(&cluster, &["sites", "drain", "storage-4", "--cancel"]).await;
    assert!(told.contains("called off"), "{told}");
}

#[tokio::test]
async fn sessions_and_clients_are_shown_kicked_and_deleted() {
    let cluster = small().await;
    let address = cluster.mqtt(1);
    let mut away = Client::connect(&address, &Connect::durable(Version::V5, "a/way #1")).await;
    assert_eq!(away.subscribe(&[("t/#", 1)]).await, [1]);
    away.disconnect().await;
    let mut here = Client::connect(&address, &Connect::durable(Version::V5, "here")).await;
    assert_eq!(here.subscribe(&[("u/+", 0)]).await, [0]);
    let published = json(&cluster, &["publish", "t/1", "-m", "message {i}", "--count", "3"]).await;
    assert_eq!(published["acknowledged"], 3);

    let clients = shown(&cluster, &["clients", "--prefix", "here"]).await;
    assert_eq!(names(&clients["clients"], "client_id"), ["here"]);
    assert_eq!(clients["clients"][0]["gateway"], "gateway-1");
    eventually("both sessions are listed", || async {
        let listed = json(&cluster, &["sessions", "list", "--lag"]).await;
        names(&listed["sessions"], "client_id") == ["a/way #1", "here"]
    })
    .await;
    let behind = shown(&cluster, &["sessions", "list", "--lag-min", "3", "--disconnected"]).await;
    assert_eq!(behind["sessions"][0]["lag"]["messages"], 3, "{behind}");
    let session = shown(&cluster, &["sessions", "show", "a/way #1"]).await;
    assert_eq!(session["subscriptions"][0]["filter"], "t/#", "{session}");
    let page = json(&cluster, &["sessions", "backlog", "a/way #1", "--limit", "2"]).await;
    let next = page["next"].as_str().unwrap();
    let rest = json(&cluster, &["sessions", "backlog", "a/way #1", "--after", next]).await;
    assert_eq!(page["messages"][1]["payload"], "message 2", "{page}");
    assert_eq!(rest["messages"][0]["payload"], "message 3", "{rest}");
    let all = json(&cluster, &["sessions", "list", "--limit", "4000000000"]).await;
    assert_eq!(all["sessions"].as_array().unwrap().len(), 2);
    let receivers = shown(&cluster, &["subscriptions", "--topic", "u/x"]).await;
    assert_eq!(names(&receivers["subscriptions"], "client_id"), ["here"]);

    assert!(done(&cluster, &["sessions", "kick", "here"]).await.contains("is closed"));
    assert_eq!(here.ended().await, Some(0x98));
    refused(&cluster, &["sessions", "delete", "a/way #1"], USAGE, "Nobody is here").await;
    done(&cluster, &["sessions", "delete", "a/way #1", "--yes"]).await;
    refused(&cluster, &["sessions", "show", "a/way #1"], NOT_FOUND, "a/way #1").await;
    let again = Client::connect(&address, &Connect::durable(Version::V5, "a/way #1")).await;
    assert!(!again.session_present);
    for command in [["sessions", "kick"], ["sessions", "backlog"], ["sessions", "show"]] {
        refused(&cluster, &[&command[..], &["nobody"]].concat(), NOT_FOUND, "nobody").await;
    }
    refused(&cluster, &["sessions", "list", "--after", "no-cursor"], USAGE, "page before").await;
    refused(&cluster, &["sessions", "list", "--limit", "0"], USAGE, "limit").await;
    refused(&cluster, &["publish", "t/#", "-m", "x"], USAGE, "no topic").await;
    refused(&cluster, &["subscribe", "a/#/b"], USAGE, "topic filter").await;
    let late = ["subscribe", "u/#", "--count", "1", "--timeout", "1"];
    refused(&cluster, &late, FAILED, "0 of 1").await;
}

#[tokio::test]
async fn who_asks_must_be_known_and_may_not_do_more_than_the_role() {
    let cluster = small().await;
    // A process that has just become ready may lose a leader once more.
    eventually("healthy", || async { cluster.try_holdfast(&["status"]).await.is_ok() }).await;
    let status = json(&cluster, &["status"]).await;
    let api = format!("http://{}", status["processes"][0]["admin"].as_str().unwrap());
    let token =
        done(&cluster, &["tokens", "create", "look", "--role", "viewer", "--expires", "1h"]);
    let token = token.await.trim().to_owned();
    let listed = shown(&cluster, &["tokens", "list"]).await;
    assert_eq!(names(&listed["tokens"], "name"), ["look"]);
    // As from another machine: neither folder nor password.
    let elsewhere = |args: &[&str]| {
        let nowhere = ["--api", api.as_str(), "--data", "/nowhere"];
        alone(&[args, &nowhere[..]].concat())
    };
    let seen = elsewhere(&["status", "--token", &token]);
    assert!(seen.status.success() && text(&seen.stdout).contains("healthy"), "{seen:?}");
    let early = ["--api", &api, "--token", &token, "--data", "/nowhere", "sites", "--json", "list"];
    let listed: Value = serde_json::from_slice(&alone(&early).stdout).unwrap();
    assert_eq!(listed["sites"].as_array().unwrap().len(), 1, "options may stand first");
    assert_refused(&elsewhere(&["status"]), CREDENTIALS, "credentials");
    assert_refused(&elsewhere(&["status", "--token", "hfa_wrong"]), CREDENTIALS, "credentials");
    let roll = elsewhere(&["storage", "roll", "--shard", "0", "--token", &token]);
    assert_refused(&roll, CREDENTIALS, "admin");
    let backlog = elsewhere(&["sessions", "backlog", "x", "--token", &token]);
    assert_refused(&backlog, CREDENTIALS, "admin");

    let passwords = tempfile::tempdir().unwrap();
    let file = |name: &str, password: &str| {
        let path = passwords.path().join(name);
        std::fs::write(&path, password).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong, short) =
        (file("right", "a-long-password\n"), file("wrong", "another-password"), file("short", "x"));
    let set = ["users", "set", "eve", "--role", "viewer", "--new-password-file"];
    refused(&cluster, &[&set[..], &[&short]].concat(), USAGE, "12 to 256").await;
    refused(&cluster, &["users", "set", "eve", "--role", "viewer"], USAGE, "password").await;
    done(&cluster, &[&set[..], &[&right]].concat()).await;
    assert_eq!(
        names(&shown(&cluster, &["users", "list"]).await["users"], "name"),
        ["admin", "eve"]
    );
    let eve = ["sites", "list", "--user", "eve", "--password-file"];
    assert!(elsewhere(&[&eve[..], &[&right]].concat()).status.success());
    assert_refused(&elsewhere(&[&eve[..], &[&wrong]].concat()), CREDENTIALS, "not right");
    assert_refused(&elsewhere(&eve[..4]), USAGE, "--password-file");
    done(&cluster, &["users", "delete", "eve", "--yes"]).await;
    refused(&cluster, &["users", "delete", "eve", "--yes"], NOT_FOUND, "eve").await;
    refused(&cluster, &["tokens", "create", "look", "--role", "admin"], FAILED, "look").await;
    done(&cluster, &["tokens", "delete", "look"]).await;
    refused(&cluster, &["tokens", "delete", "look"], NOT_FOUND, "look").await;
    assert_refused(&elsewhere(&["status", "--token", &token]), CREDENTIALS, "credentials");

    let metrics = status["processes"][0]["metrics"].as_str().unwrap();
    assert!(alone(&["probe", &format!("http://{metrics}/health/ready")]).status.success());
    assert_refused(&alone(&["probe", &format!("http://{metrics}/nowhere")]), FAILED, "404");
}

#[tokio::test]
async fn a_session_survives_the_kill_of_its_gateway_in_a_check() {
    let mut cluster = small().await;
    let report = json(&cluster, &["check", "--messages", "20"]).await;
    assert_eq!((&report["ok"], &report["received"]), (&true.into(), &20.into()), "{report}");
    let (first, other) = (cluster.mqtt(1), cluster.mqtt(2));
    let mut command = Command::new(program("holdfast"));
    command.args(["check", "--mqtt", &first, "--other", &other, "--messages", "500"]);
    let mut check = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(check.stdout.take().unwrap()).lines();
    let is_published = |line: &String| line.starts_with("published 500 messages");
    let mut read = tokio::task::spawn_blocking(move || {
        lines.by_ref().map(Result::unwrap).find(is_published).unwrap();
        lines
    })
    .await
    .unwrap();
    cluster.kill("gateway-1").await;
    let (told, code) = tokio::task::spawn_blocking(move || {
        let told: Vec<String> = read.by_ref().map(Result::unwrap).collect();
        (told.join("\n"), check.wait().unwrap())
    })
    .await
    .unwrap();
    assert!(code.success() && told.contains("in order and once"), "{told}");
    assert!(told.contains(&other) && told.contains("ended the session"), "{told}");
    let gone = ["check", "--mqtt", &first, "--other", &other, "--timeout", "1"];
    refused(&cluster, &gone, NO_ANSWER, &first).await;
}

#[tokio::test]
async fn verify_finds_a_damaged_file_and_says_where() {
    let cluster = small().await;
    let mut away = Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "away")).await;
    away.subscribe(&[("t/#", 1)]).await;
    away.disconnect().await;
    done(&cluster, &["publish", "t/1", "-m", "a message of some length", "--count", "200"]).await;
    done(&cluster, &["storage", "roll"]).await;
    eventually("the messages are in a run", || async {
        json(&cluster, &["storage", "info"]).await["runs"].as_u64().unwrap() > 0
    })
    .await;
    assert_eq!(json(&cluster, &["storage", "verify"]).await["ok"], true);
    let runs = std::fs::read_dir(cluster.data().join("storage-1/runs")).unwrap();
    let largest = runs.map(Result::unwrap).max_by_key(|run| run.metadata().unwrap().len());
    let path = largest.unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let output = cluster.holdfast(&["storage", "verify", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false, "{report}");
    assert_refused(&output, FAILED, "1 of 16 shards are not whole");
    assert!(text(&output.stderr).contains("storage-1: generation"), "{output:?}");
}

#[tokio::test]
async fn a_bench_loses_nothing_and_leaves_nothing_behind() {
    let cluster = small().await;
    let bench = ["bench", "--seconds", "1", "--sessions-offline", "3", "--subscribers", "2"];
    for qos in ["1", "2"] {
        let report = json(&cluster, &[&bench[..], &["--rate", "500", "--qos", qos]].concat()).await;
        let counts = ["lost", "repeated", "out_of_order", "refused"].map(|field| &report[field]);
        assert_eq!(counts, [&Value::from(0); 4], "{report}");
        assert!(report["delivered"]["p99_us"].as_u64().is_some(), "{report}");
        assert_eq!(report["published"]["count"], report["delivered"]["count"], "{report}");
    }
    eventually("the sessions of the runs are gone", || async {
        json(&cluster, &["sessions", "list"]).await["sessions"].as_array().unwrap().is_empty()
    })
    .await;
    refused(&cluster, &["bench", "--size", "5"], USAGE, "--size").await;
    refused(&cluster, &["bench", "--rate", "0"], USAGE, "--rate").await;
    refused(&cluster, &["bench", "--topic-prefix", "a/#"], USAGE, "no topic").await;
}

#[test]
fn without_a_cluster_every_command_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    for command in
        ["sites list", "shards list", "storage info", "sessions list", "clients", "check", "bench"]
    {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.extend(["--data", data]);
        let output = alone(&args);
        assert_refused(&output, NO_ANSWER, "no cluster");
        assert!(text(&output.stderr).contains("hint: `holdfast up`"), "{output:?}");
    }
    let status = alone(&["status", "--json", "--data", data]);
    let told: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &told["ready"]), (Some(FAILED), &Value::Bool(false)));
    assert_refused(&alone(&["sites", "list", "--api", "https://x:1"]), USAGE, "TLS");
    assert_refused(&alone(&["sites", "list", "--api", "http://x:y"]), USAGE, "no URL");
    assert_refused(
        &alone(&["publish", "t", "-m", "x", "--mqtt", "127.0.0.1:1"]),
        NO_ANSWER,
        "refused",
    );
    assert_refused(&alone(&["probe", "http://127.0.0.1:1/"]), NO_ANSWER, "refused");
    assert_refused(&alone(&["probe", "ftp://x"]), USAGE, "http://");
    assert_refused(&alone(&["wait", "soon"]), USAGE, "soon");
    assert!(alone(&["wait", "0"]).status.success());
    assert_refused(&alone(&["capacity", "--rate", "fast"]), USAGE, "fast");
    assert_refused(
        &alone(&["capacity", "--rate", "1", "--replication-factor", "2"]),
        USAGE,
        "1, 3 or 5",
    );
    let capacity = alone(&["capacity", "--rate", "1k", "--sessions", "100k", "--explain"]);
    assert!(text(&capacity.stdout).contains("storage nodes") && capacity.status.success());
}

#[test]
fn a_hook_goes_on_where_no_cluster_runs_if_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = ["--data", folder.path().to_str().unwrap()];
    let shrink = ["sites", "shrink", "--prefix", "s-", "--to", "3", "--if-reachable"];
    let output = alone(&[&shrink[..], &nobody].concat());
    assert!(
        output.status.success() && text(&output.stderr).contains("nothing is drained"),
        "{output:?}"
    );
    assert_refused(&alone(&[&shrink[..6], &nobody].concat()), NO_ANSWER, "no cluster");
}

#[test]
fn help_and_completion_come_without_a_cluster() {
    let overview = text(&alone(&["--help"]).stdout);
    assert!(overview.contains("Exit codes") && overview.contains("sessions"), "{overview}");
    for command in ["up", "sites drain", "sessions list", "storage verify", "bench", "check"] {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        assert!(text(&alone(&args).stdout).contains(&format!("  holdfast {command}")), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = text(&alone(&["completion", shell]).stdout);
        assert!(script.contains("move-replica"), "{shell}");
    }
    assert_refused(&alone(&["completion", "cmd"]), USAGE, "cmd");
    let wrong = alone(&["sessoins"]);
    assert!(wrong.status.code() == Some(USAGE) && text(&wrong.stderr).contains("sessions"));
}
