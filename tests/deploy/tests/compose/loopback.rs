//! The services of a compose file as processes, each on an address of its own of this machine's loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_deploy::manifests::{list, text};
use holdfast_deploy::tools::{run, said};
use holdfast_e2e::cluster::program;
use tempfile::TempDir;

use super::file::Service;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A running cluster. It ends with the value.
#[derive(Debug)]
pub(crate) struct Loopback {
    folder: TempDir,
    /// Names of services and where they are.
    addresses: BTreeMap<String, String>,
    services: Vec<Service>,
    running: BTreeMap<String, Child>,
}

impl Loopback {
    /// Starts etcd and all processes of Holdfast.
    pub(crate) fn start(services: &[Service]) -> Loopback {
        let of_cluster = |service: &&Service| service.program().is_some() || is_etcd(service);
        let started: Vec<Service> = services.iter().filter(of_cluster).cloned().collect();
        // Two runs at a time get along.
        let net =
            format!("127.{}.{}", 100 + std::process::id() % 100, std::process::id() / 100 % 250);
        let addresses = started.iter().enumerate().map(|(n, service)| {
            let address = format!("{net}.{}", n + 1);
            (service.name.clone(), address)
        });
        let mut addresses: BTreeMap<String, String> = addresses.collect();
        // An alias that both meta-services have.
        addresses.insert("meta".to_owned(), addresses["meta-2"].clone());
        let folder = TempDir::with_prefix("holdfast-compose-").unwrap();
        let (services, running) = (services.to_vec(), BTreeMap::new());
        let mut cluster = Loopback { folder, addresses, services, running };
        for service in &started {
            let child = cluster.launch(service);
            cluster.running.insert(service.name.clone(), child);
        }
        cluster
    }

    fn launch(&self, service: &Service) -> Child {
        let log = fs::File::create(self.log(&service.name)).unwrap();
        let mut command = match service.program() {
            Some(name) => Command::new(program(name)),
            None => {
                Command::new(std::env::var_os("HOLDFAST_ETCD").unwrap_or_else(|| "etcd".into()))
            }
        };
        for word in service.command() {
            command.arg(self.here(service, &word));
        }
        command.envs(self.environment(service));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("{}: {error}", service.name))
    }

    /// What has no value is taken from whoever starts it.
    fn environment(&self, service: &Service) -> Vec<(String, String)> {
        let variables = service.value["environment"].as_object().unwrap().iter();
        let set = variables.filter_map(|(name, value)| Some((name, value.as_str()?)));
        set.map(|(name, value)| (name.clone(), self.here(service, value))).collect()
    }

    /// A word of a service's command, file or environment with names and paths as they are here.
    fn here(&self, service: &Service, word: &str) -> String {
        if word.starts_with("/etc/holdfast/") {
            let config = fs::read_to_string(service.mounted(word)).unwrap();
            let path = self.folder.path().join(format!("{}.toml", service.name));
            let lines: Vec<String> = config.lines().map(|line| self.here(service, line)).collect();
            fs::write(&path, lines.join("\n")).unwrap();
            return path.to_string_lossy().into_owned();
        }
        let mut word = word.to_owned();
        for (volume, inside) in service.mounts() {
            let place = self.volume(&volume);
            word = word.replace(&inside, &place.to_string_lossy());
        }
        let own = self.addresses.get(&service.name).cloned().unwrap_or_default();
        self.at(&word
            .replace("0.0.0.0:", &format!("{own}:"))
            .replace("127.0.0.1:", &format!("{own}:")))
    }

    /// With addresses instead of names of services, which a port follows.
    pub(crate) fn at(&self, word: &str) -> String {
        self.addresses.iter().fold(word.to_owned(), |word, (name, address)| {
            word.replace(&format!("{name}:"), &format!("{address}:"))
        })
    }

    fn volume(&self, name: &str) -> PathBuf {
        let place = self
            .folder
            .path()
            .join("volumes")
            .join(name.trim_start_matches("./").replace('/', "-"));
        fs::create_dir_all(&place).unwrap();
        place
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn service(&self, name: &str) -> &Service {
        self.services.iter().find(|service| service.name == name).unwrap()
    }

    /// Runs the health check of each service until it succeeds.
    pub(crate) fn await_healthy(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for name in self.running.keys().cloned().collect::<Vec<String>>() {
            let service = self.service(&name).clone();
            if is_etcd(&service) {
                continue;
            }
            let check: Vec<String> = list(&service.value["healthcheck"]["test"])
                .iter()
                .map(|word| text(word).to_owned())
                .collect();
            assert_eq!(check[..2], ["CMD", "/usr/local/bin/holdfast"], "{name}");
            loop {
                let words = check[2..].iter().map(|word| self.here(&service, word));
                let output = run(Command::new(program("holdfast")).args(words));
                if output.status.success() {
                    break;
                }
                let ended = self.running.get_mut(&name).unwrap().try_wait().unwrap();
                if ended.is_some() || Instant::now() > deadline {
                    panic!(
                        "{name} does not become healthy ({ended:?}): {}\n{}",
                        said(&output),
                        self.logs()
                    );
                }
                sleep(POLL_INTERVAL);
            }
        }
    }

    /// What the service `holdfast` prints for a command.
    pub(crate) fn command(&self, args: &[&str]) -> String {
        let service = self.service("holdfast").clone();
        let mut holdfast = Command::new(program("holdfast"));
        holdfast.envs(self.environment(&service));
        let output = run(holdfast.args(args));
        assert!(output.status.success(), "holdfast {args:?}: {}\n{}", said(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// As `docker compose down`: all at the same time, etcd, too; each has its grace period and must end well.
    pub(crate) fn stop_all_at_once(&mut self) {
        for child in self.running.values() {
            assert!(run(Command::new("kill").arg(child.id().to_string())).status.success());
        }
        let begun = Instant::now();
        for name in self.running.keys().cloned().collect::<Vec<String>>() {
            let deadline = begun + Duration::from_secs(self.service(&name).grace_s());
            let code = loop {
                if let Some(code) = self.running.get_mut(&name).unwrap().try_wait().unwrap() {
                    break code;
                }
                if Instant::now() > deadline {
                    panic!("{name} does not stop in its grace period\n{}", self.logs());
                }
                sleep(POLL_INTERVAL);
            };
            let ended_well = code.success() || is_etcd(self.service(&name));
            assert!(ended_well, "{name} ended with {code}\n{}", self.logs());
        }
    }

    fn logs(&self) -> String {
        let tail = |name: &String| {
            let log = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        self.running.keys().map(tail).collect()
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_etcd(service: &Service) -> bool {
    service.value["entrypoint"][0].as_str().is_some_and(|entry| Path::new(entry).ends_with("etcd"))
}
