//! The process of a container.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::POLL_INTERVAL;
use super::files::{Mounts, mount};
use super::network::Network;
use crate::manifests::{Manifests, list, text};

/// Where a pod is, and what is around it.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) address: &'a str,
    pub(super) template: &'a Value,
    pub(super) manifests: &'a Manifests,
    pub(super) network: &'a Network,
    pub(super) folder: &'a Path,
}

impl Place<'_> {
    /// A text as it is meant inside of the pod.
    pub(super) fn localized(&self, text: &str, mounts: &Mounts) -> String {
        let text = self
            .network
            .resolve(text)
            .replace("0.0.0.0", self.address)
            .replace("[::]", self.address);
        mounts.iter().fold(text, |text, (path, folder)| {
            text.replace(&format!("{path}/"), &format!("{folder}/"))
        })
    }

    /// Names and values of the environment, in their order.
    fn environment(&self, mounts: &Mounts) -> Vec<(String, String)> {
        let container = &list(&self.template["spec"]["containers"])[0];
        let value = |variable: &Value| match variable["value"].as_str() {
            Some(value) => self.localized(value, mounts),
            None => self.field(text(&variable["valueFrom"]["fieldRef"]["fieldPath"])),
        };
        let all = list(&container["env"]).iter();
        all.map(|variable| (text(&variable["name"]).to_owned(), value(variable))).collect()
    }

    /// The downward API. A label that the pod does not have is empty.
    fn field(&self, path: &str) -> String {
        match path {
            "metadata.name" => self.name.to_owned(),
            // Loopback has one address of version 6: such pods hear on ours, and nobody reaches them by theirs.
            "status.podIP" if self.template.to_string().contains("[$(POD_IP)]") => {
                "fd00::1".to_owned()
            }
            "status.podIP" => self.address.to_owned(),
            "spec.nodeName" => "node-1".to_owned(),
            _ => {
                let label =
                    path.strip_prefix("metadata.labels['").and_then(|path| path.strip_suffix("']"));
                let label = label.unwrap_or_else(|| panic!("{path}"));
                self.template["metadata"]["labels"][label].as_str().unwrap_or_default().to_owned()
            }
        }
    }
}

/// A process, and what it says.
#[derive(Debug)]
pub(super) struct Container {
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Container {
    /// Starts a pod's container.
    pub(super) fn start(place: &Place<'_>) -> Container {
        let container = &list(&place.template["spec"]["containers"])[0];
        let words = list(&container["command"]).iter().chain(list(&container["args"]));
        Container::exec(place, &words.map(text).collect::<Vec<_>>())
    }

    /// Starts another process in a pod's container.
    pub(super) fn exec(place: &Place<'_>, words: &[&str]) -> Container {
        let mounts = mount(place);
        let environment = place.environment(&mounts);
        // Kubernetes puts in what it knows of `$(NAME)`, and leaves the rest as it is.
        let expanded = |word: &&str| {
            let values = environment.iter();
            let word = values.fold((*word).to_owned(), |word, (name, value)| {
                word.replace(&format!("$({name})"), value)
            });
            assert!(!word.contains("$("), "{}: {word}", place.name);
            word
        };
        // Names in DNS may hold names of pods: first the variables.
        let words: Vec<String> =
            words.iter().map(|word| place.localized(&expanded(word), &mounts)).collect();
        let log = place.folder.join(format!("{}.log", place.name));
        let out = File::options().append(true).create(true).open(&log).unwrap();
        let empty = place.folder.join("empty");
        fs::create_dir_all(&empty).unwrap();
        let mut command = Command::new(program(&words[0]));
        command.args(&words[1..]).env_clear().envs(environment).current_dir(empty);
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        die_with_parent(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Container { child, ended: None, log }
    }

    /// Asks it to end.
    #[allow(unsafe_code, reason = "std sends no signal but SIGKILL")]
    pub(super) fn terminate(&mut self) {
        if self.ended().is_none() {
            let pid = i32::try_from(self.child.id()).unwrap();
            // SAFETY: kill takes two numbers and touches no memory of ours. The child was not waited for.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits until it has ended; its exit code if it ended by itself.
    pub(super) fn wait(&mut self, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        while self.ended().is_none() && Instant::now() < deadline {
            sleep(POLL_INTERVAL);
        }
        let status = self.ended()?;
        assert!(status.signal().is_none_or(|signal| signal == libc::SIGTERM), "{status}");
        status.code()
    }

    /// What it said.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The program that an image would have at this path.
fn program(path: &str) -> PathBuf {
    match path.strip_prefix("/usr/local/bin/") {
        Some(name) => holdfast_e2e::cluster::program(name),
        None => {
            assert_eq!(path, "etcd");
            std::env::var_os("HOLDFAST_ETCD")
                .map_or_else(|| PathBuf::from("/usr/bin/etcd"), PathBuf::from)
        }
    }
}

/// A test that is killed runs no Drop.
#[allow(unsafe_code, reason = "std has no way to set the parent-death signal")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
