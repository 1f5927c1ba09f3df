//! A real Prometheus on a free port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_deploy::tools::{root, tool};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::rules;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// It ends with the value.
#[derive(Debug)]
pub(crate) struct Prometheus {
    process: Child,
    address: String,
    folder: TempDir,
}

impl Prometheus {
    /// Scrapes the targets of each job every second and evaluates the alerts.
    pub(crate) fn start(jobs: &[(&str, Vec<String>)]) -> Prometheus {
        let folder = TempDir::with_prefix("holdfast-prometheus-").unwrap();
        fs::copy(root().join(rules::ALERTS), folder.path().join("alerts.yaml")).unwrap();
        let jobs = jobs.iter().map(|(name, targets)| {
            json!({ "job_name": name, "static_configs": [{ "targets": targets }] })
        });
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["alerts.yaml"],
            "scrape_configs": jobs.collect::<Vec<Value>>(),
        });
        // JSON is YAML.
        fs::write(folder.path().join("prometheus.yaml"), config.to_string()).unwrap();
        let address = free_address();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(tool("prometheus/prometheus"))
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Prometheus { process, address, folder };
        prometheus.until("it is ready", || prometheus.get("/-/ready").is_some());
        prometheus
    }

    /// Result of a query now: an element for each series.
    pub(crate) fn query(&self, expression: &str) -> Vec<Value> {
        let told = self.get(&format!("/api/v1/query?query={}", encoded(expression)));
        let answer: Value = serde_json::from_str(&told.unwrap_or_default()).unwrap_or_default();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until a query has a result.
    pub(crate) fn until_any(&self, expression: &str) {
        self.until(expression, || !self.query(expression).is_empty());
    }

    /// All rules with their health, as Prometheus evaluated them.
    pub(crate) fn rules(&self) -> Vec<Value> {
        let told = self.get("/api/v1/rules").unwrap_or_default();
        let answer: Value = serde_json::from_str(&told).unwrap();
        let groups = answer["data"]["groups"].as_array().unwrap().clone();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "not in time: {what}\n{}", log());
            sleep(POLL_INTERVAL);
        }
    }

    /// HTTP/1.0, so that the answer is in one piece. None without an answer, or with another than 200.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        // What it says of a query that it does not understand is an answer, too.
        let is_answer = head.starts_with("HTTP/1.0 200") || body.starts_with('{');
        is_answer.then(|| body.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// It is taken at once; that somebody else gets it first is the price of a program that takes no port 0.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
