//! A cluster of real processes in a folder of its own, started by `holdfast up`. It ends with the
//! value, also when the test panics.

mod steer;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use self::steer::Site;

/// Nothing in these tests takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Lines of each log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 12;

/// What `holdfast status --json` says.
#[derive(Debug, Deserialize)]
pub struct Status {
    /// A durable publish would be acknowledged now.
    pub ready: bool,
    /// All processes.
    pub processes: Vec<Process>,
}

/// One process in the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    /// gateway, storage, meta or etcd.
    pub role: String,
    /// Unique in the cluster.
    pub name: String,
    /// While it lives.
    pub pid: Option<i32>,
    /// Whether it lives.
    pub alive: bool,
    /// Whether it can do its job.
    pub ready: bool,
    /// `host:port` of a gateway.
    pub mqtt: Option<String>,
    /// `host:port`
    pub grpc: String,
    /// `host:port`
    pub metrics: String,
    /// Folder of its data.
    pub data: Option<String>,
    /// Whether a meta-service is the elected one.
    pub elected: Option<bool>,
    /// Site of a storage node, in hexadecimal.
    pub site: Option<String>,
    /// active, draining, drained or lost.
    pub site_state: Option<String>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Number of gateways.
    pub gateways: u16,
    /// Number of storage nodes.
    pub storage: u16,
    /// Number of meta-services.
    pub meta: u16,
    /// Number of etcd members; 0: metadata lies in the meta-service.
    pub etcd: u16,
    /// Zones over which storage nodes are spread.
    pub zones: u16,
    /// Replicas of a shard, if not the usual number.
    pub replication_factor: Option<u16>,
    /// Whether the supervisor starts dead processes again.
    pub restart: bool,
    /// `ROLE.FIELD=VALUE` for `--set`.
    pub settings: Vec<String>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            gateways: 2,
            storage: 3,
            meta: 1,
            etcd: 0,
            zones: 0,
            replication_factor: None,
            restart: false,
            settings: Vec::new(),
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: Option<TempDir>,
    data: PathBuf,
    shape: Shape,
    supervisor: Child,
    /// Started by the test after it had killed what the supervisor had started.
    restarted: Vec<Child>,
    /// As of the last start.
    processes: Vec<Process>,
}

impl Cluster {
    /// Three storage nodes, two gateways, one meta-service; ready.
    pub async fn start() -> Cluster {
        Cluster::with(Shape::default()).await
    }

    /// A cluster of the given shape; ready.
    pub async fn with(shape: Shape) -> Cluster {
        let folder = TempDir::with_prefix("holdfast-").unwrap();
        let data = folder.path().join("data");
        let supervisor = up(&data, &shape);
        let (restarted, processes) = (Vec::new(), Vec::new());
        let mut cluster =
            Cluster { folder: Some(folder), data, shape, supervisor, restarted, processes };
        cluster.await_ready().await;
        cluster
    }

    /// Waits until every process is ready.
    pub async fn await_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.ready && status.processes.iter().all(|process| process.ready) {
                self.processes = status.processes;
                return;
            }
            if let Ok(Some(code)) = self.supervisor.try_wait() {
                panic!("holdfast up ended: {code}");
            }
            assert!(Instant::now() < deadline, "the cluster does not become ready: {status:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until one process is, or is not, ready.
    pub async fn await_process(&self, name: &str, ready: bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.processes.iter().any(|process| process.name == name && process.ready == ready)
            {
                return;
            }
            assert!(Instant::now() < deadline, "{name} never ready={ready}: {status:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What `holdfast status` says now.
    pub async fn status(&self) -> Status {
        let data = self.data.clone();
        tokio::task::spawn_blocking(move || status_of(&data)).await.unwrap()
    }

    /// The processes with their addresses.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Names of all processes of a role.
    pub fn names(&self, role: &str) -> Vec<String> {
        let of_role = self.processes.iter().filter(|process| process.role == role);
        of_role.map(|process| process.name.clone()).collect()
    }

    /// Where the n-th gateway, from 1, listens for clients.
    pub fn mqtt(&self, gateway: usize) -> String {
        self.mqtt_all()[gateway - 1].clone()
    }

    /// Where all gateways listen for clients.
    pub fn mqtt_all(&self) -> Vec<String> {
        self.processes.iter().filter_map(|process| process.mqtt.clone()).collect()
    }

    /// The folder of the cluster.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.data.join("logs").join(format!("{name}.log")));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// Waits until the log of one of the processes holds a text.
    pub async fn await_log(&self, names: &[&str], text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !names.iter().any(|name| self.log(name).contains(text)) {
            assert!(Instant::now() < deadline, "none of {names:?} says {text:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// kill -9, and waits until it is gone.
    pub async fn kill(&mut self, name: &str) {
        self.end(name, libc::SIGKILL).await;
    }

    /// Asks a process to stop, and waits until it is gone.
    pub async fn stop(&mut self, name: &str) {
        self.end(name, libc::SIGTERM).await;
    }

    async fn end(&mut self, name: &str, signal: i32) {
        self.signal(name, signal).await;
        let deadline = Instant::now() + PATIENCE;
        while self.pid(name).await.is_some() {
            self.restarted.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            assert!(Instant::now() < deadline, "{name} does not end");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops the clock of a process: it answers nobody and dies not. Returns when all of its threads
    /// stand still: the signal alone does not wait for those that run on another core.
    pub async fn pause(&self, name: &str) {
        self.signal(name, libc::SIGSTOP).await;
        let pid = self.pid(name).await.unwrap_or_else(|| panic!("{name} does not run"));
        while !is_stopped(pid) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Lets a paused process go on.
    pub async fn resume(&self, name: &str) {
        self.signal(name, libc::SIGCONT).await;
    }

    /// Sends a signal to a process that lives.
    pub async fn signal(&self, name: &str, signal: i32) {
        let pid = self.pid(name).await.unwrap_or_else(|| panic!("{name} does not run"));
        send(pid, signal);
    }

    /// Pid of a process while it lives.
    pub async fn pid(&self, name: &str) -> Option<i32> {
        let status = self.status().await;
        status.processes.into_iter().find(|process| process.name == name)?.pid
    }

    /// Starts a process again that was killed or stopped. Does not wait until it is ready.
    pub fn start_again(&mut self, name: &str) {
        let process = self.processes.iter().find(|process| process.name == name).unwrap();
        let (binary, option) = match process.role.as_str() {
            "gateway" => (program("broker-node"), "--config"),
            "storage" => (program("storage-node"), "--config"),
            "meta" => (program("meta-service"), "--config"),
            _ => (etcd(), "--config-file"),
        };
        let log = self.data.join("logs").join(format!("{name}.log"));
        let log = OpenOptions::new().append(true).create(true).open(log).unwrap();
        let mut command = Command::new(binary);
        command.arg(option).arg(self.data.join("config").join(format!("{name}.toml")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        die_with_parent(&mut command, libc::SIGKILL);
        self.restarted.push(command.spawn().unwrap());
    }

    /// Asks a process to stop, starts it again and waits until it is ready.
    pub async fn restart(&mut self, name: &str) {
        self.stop(name).await;
        self.start_again(name);
        self.await_process(name, true).await;
    }

    /// Changes the config of a process; it reads it at its next start.
    pub fn edit_config(&self, name: &str, edit: impl Fn(&str) -> String) {
        let path = self.data.join("config").join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, edit(&text)).unwrap();
    }

    /// Removes the data of a process that does not run, as a new disk would.
    pub fn wipe(&self, name: &str) {
        fs::remove_dir_all(self.data.join(name)).unwrap();
    }

    /// kill -9 of everything, the supervisor, too.
    pub async fn kill_all(&mut self) {
        // The supervisor first: it must not start anything again.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        let pids = self.status().await.processes.into_iter().filter_map(|process| process.pid);
        pids.for_each(|pid| send(pid, libc::SIGKILL));
        let deadline = Instant::now() + PATIENCE;
        while self.status().await.processes.iter().any(|process| process.alive) {
            self.restarted.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            assert!(Instant::now() < deadline, "processes survive kill -9");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops everything in good order.
    pub async fn down(&mut self) {
        let status = Command::new(program("holdfast"))
            .args(["down", "--data"])
            .arg(&self.data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        let _ = self.supervisor.wait();
    }

    /// Starts everything again on the same data; ready.
    pub async fn up_again(&mut self) {
        self.supervisor = up(&self.data, &self.shape);
        self.await_ready().await;
    }

    /// As [`Cluster::up_again`], in another shape.
    pub async fn up_as(&mut self, shape: Shape) {
        self.shape = shape;
        self.up_again().await;
    }

    /// Pid of `holdfast up`.
    pub fn supervisor_pid(&self) -> i32 {
        i32::try_from(self.supervisor.id()).unwrap()
    }

    /// Metrics of a process: the sum of all series of each name.
    pub async fn metrics(&self, name: &str) -> BTreeMap<String, f64> {
        let process = self.processes.iter().find(|process| process.name == name).unwrap();
        let text = http_get(&process.metrics, "/metrics").await;
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let metric = series.split('{').next().unwrap_or(series).to_owned();
            *sums.entry(metric).or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
        }
        sums
    }

    /// Waits until a metric of a process fulfils a condition.
    pub async fn await_metric(&self, name: &str, metric: &str, is_met: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metrics(name).await.get(metric).copied();
            if value.is_some_and(&is_met) {
                return;
            }
            assert!(Instant::now() < deadline, "{metric} of {name} stays {value:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
        for pid in status_of(&self.data).processes.into_iter().filter_map(|process| process.pid) {
            send(pid, libc::SIGKILL);
        }
        for child in &mut self.restarted {
            let _ = child.wait();
        }
        if std::thread::panicking() {
            self.show_logs();
            if let Some(folder) = self.folder.take() {
                eprintln!("the folder of the cluster stays: {}", folder.keep().display());
            }
        }
    }
}

impl Cluster {
    fn show_logs(&self) {
        for process in &self.processes {
            let log = self.log(&process.name);
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} ({} lines)", process.name, lines.len());
            for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Whether every thread of a process is stopped by a signal.
fn is_stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.filter_map(Result::ok).all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// What `holdfast status` says of the cluster in a folder.
pub fn status_of(data: &Path) -> Status {
    let mut command = Command::new(program("holdfast"));
    let told = command.args(["status", "--json", "--data"]).arg(data).output().unwrap();
    serde_json::from_slice(&told.stdout).unwrap()
}

fn up(data: &Path, shape: &Shape) -> Child {
    let mut command = Command::new(program("holdfast"));
    command.arg("up").arg("--data").arg(data).args(["--mqtt-port", "0"]);
    command.args(["--gateways", &shape.gateways.to_string()]);
    command.args(["--storage", &shape.storage.to_string()]);
    command.args(["--meta", &shape.meta.to_string(), "--etcd", &shape.etcd.to_string()]);
    command.args(["--zones", &shape.zones.to_string()]);
    if let Some(replicas) = shape.replication_factor {
        command.args(["--replication-factor", &replicas.to_string()]);
    }
    command.args(shape.settings.iter().flat_map(|setting| ["--set", setting]));
    if !shape.restart {
        command.arg("--no-restart");
    }
    fs::create_dir_all(data).unwrap();
    let log = OpenOptions::new().append(true).create(true).open(data.join("up.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    // A test that is killed runs no Drop; the supervisor then stops the cluster.
    die_with_parent(&mut command, libc::SIGTERM);
    command.spawn().unwrap()
}

/// The thread that spawns must live as long as the test: it is the one of the test itself.
#[allow(unsafe_code, reason = "std has no way to set the parent-death signal")]
fn die_with_parent(command: &mut Command, signal: i32) {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal);
            Ok(())
        });
    }
}

#[allow(unsafe_code, reason = "std sends no signal but SIGKILL")]
fn send(pid: i32, signal: i32) {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// Path of a program of ours: beside the running test, or in `HOLDFAST_BIN_DIR`.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("HOLDFAST_BIN_DIR") {
        return PathBuf::from(folder).join(name);
    }
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --bins` first", path.display());
    path
}

/// Path of etcd, as `holdfast up` finds it.
fn etcd() -> PathBuf {
    std::env::var_os("HOLDFAST_ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from)
}

/// Body of an HTTP answer.
pub async fn http_get(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    // A process that dies while it answers gives a short answer or none.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
}
