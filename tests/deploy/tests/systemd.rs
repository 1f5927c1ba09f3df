//! deploy/systemd: the units are right, confine what they start, and start it with configs that it takes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_deploy::tools::{root, run, said};
use holdfast_e2e::cluster::program;

const PROGRAMS: [&str; 3] = ["broker-node", "meta-service", "storage-node"];
/// Of `systemd-analyze security`, in tenths: 0 is confined, 100 is not at all.
const EXPOSURE_MAX: &str = "--threshold=15";
/// The longest of the drain times that the programs have by default.
const DRAIN_S: u64 = 10;

fn unit(name: &str) -> String {
    fs::read_to_string(root().join(format!("deploy/systemd/holdfast-{name}.service"))).unwrap()
}

/// Values of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).collect()
}

#[test]
fn a_unit_restarts_all_but_a_wrong_config_and_waits_for_the_drain() {
    for name in PROGRAMS {
        let unit = unit(name);
        let one = |key: &str| {
            let found = values(&unit, key);
            assert_eq!(found.len(), 1, "{name}: {key}");
            found[0].to_owned()
        };
        assert_eq!(one("Restart"), "on-failure", "{name}");
        assert_eq!(one("RestartPreventExitStatus"), "2", "{name}");
        assert_eq!(one("StartLimitIntervalSec"), "0", "{name}");
        assert!(one("TimeoutStopSec").parse::<u64>().unwrap() >= DRAIN_S + 20, "{name}");
        assert!(one("LimitNOFILE").parse::<u64>().unwrap() >= 65_536, "{name}");
        assert_eq!((one("User"), one("Group")), ("holdfast".to_owned(), "holdfast".to_owned()));
        assert!(one("ExecStart").starts_with(&format!("/usr/local/bin/{name} ")), "{name}");
    }
    let sysusers = fs::read_to_string(root().join("deploy/systemd/holdfast.sysusers")).unwrap();
    assert!(sysusers.lines().any(|line| line.starts_with("u holdfast ")), "{sysusers}");
}

#[test]
fn systemd_takes_the_units_and_finds_them_confined() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no systemd-analyze here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in PROGRAMS {
        // It looks whether the program is there.
        let installed = format!("/usr/local/bin/{name}");
        let text = unit(name).replace(&installed, program(name).to_str().unwrap());
        let path = folder.path().join(format!("holdfast-{name}.service"));
        fs::write(&path, text).unwrap();
        let verified = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path));
        let about_us: Vec<String> = said(&verified)
            .lines()
            .filter(|line| line.contains("holdfast"))
            .map(str::to_owned)
            .collect();
        assert!(verified.status.success() && about_us.is_empty(), "{name}: {}", said(&verified));
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager", EXPOSURE_MAX]).arg(&path);
        let rated = run(&mut security);
        assert!(rated.status.success(), "{name}: {}", said(&rated));
    }
}

#[test]
fn the_example_configs_are_taken_as_the_units_give_them() {
    for name in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let unit = unit(name);
        let mut words = values(&unit, "ExecStart")[0].split_whitespace();
        assert_eq!(Path::new(words.next().unwrap()).file_name().unwrap(), name);
        let mut command = Command::new(program(name));
        for word in words {
            // The host's name, short and whole.
            let word = word.replace("%l", "machine-1").replace("%H", "machine-1.example");
            command.arg(example(&word).unwrap_or_else(|| word.clone().into()));
        }
        let mut here =
            vec!["grpc_listen=127.0.0.1:0".to_owned(), "http_listen=127.0.0.1:0".to_owned()];
        match name {
            "broker-node" => here.push("mqtt_listen=127.0.0.1:0".to_owned()),
            "meta-service" => here.push("admin.listen=127.0.0.1:0".to_owned()),
            _ => here.push(format!("data_dir={}", folder.path().display())),
        }
        command.args(here.iter().flat_map(|setting| ["--set", setting]));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // It says so when it has taken its config, and waits for others then.
        let lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut told = String::new();
        let is_started = lines.into_iter().any(|line| {
            told.push_str(&line);
            line.contains("starting") && line.contains("machine-1")
        });
        let _ = process.kill();
        let _ = process.wait();
        assert!(is_started, "{name} says: {told}");
    }
}

/// The example of a config file that is to be in /etc/holdfast.
fn example(word: &str) -> Option<PathBuf> {
    let name = word.strip_prefix("/etc/holdfast/")?;
    let path = root().join("deploy/systemd").join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    Some(path)
}
