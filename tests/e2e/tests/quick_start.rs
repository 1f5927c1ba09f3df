//! The quick start of the field with the clients that people use: subscribe, leave, publish, kill
//! everything, start it again, come back.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use holdfast_e2e::cluster::Cluster;

const MESSAGES: usize = 20;

/// One client program in one version with one QoS.
#[derive(Debug, Clone)]
struct Case {
    program: &'static str,
    version: u8,
    qos: u8,
}

impl Case {
    fn all() -> Vec<Case> {
        let programs = ["mosquitto", "paho", "mqttjs"];
        let of_program = |program| {
            [4, 5].into_iter().flat_map(move |version| {
                [0, 1].into_iter().map(move |qos| Case { program, version, qos })
            })
        };
        programs.into_iter().flat_map(of_program).collect()
    }

    fn client_id(&self) -> String {
        format!("emqx_c-{}-{}-{}", self.program, self.version, self.qos)
    }

    fn topic(&self) -> String {
        format!("t/{}/{}/{}", self.program, self.version, self.qos)
    }

    fn run(&self, step: &str, address: &str) -> String {
        let client_id = match step {
            "publish" => format!("{}-publisher", self.client_id()),
            _ => self.client_id(),
        };
        match self.program {
            "mosquitto" => self.mosquitto(step, address, &client_id),
            program => self.script(program, step, address, &client_id),
        }
    }

    fn script(&self, program: &str, step: &str, address: &str, client_id: &str) -> String {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let mut command = match program {
            "paho" => {
                let mut command = Command::new(tool("HOLDFAST_PYTHON", "venv/bin/python"));
                command.arg(scripts.join("paho_client.py"));
                command
            }
            _ => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", tool("HOLDFAST_NODE_PATH", "node/node_modules"));
                command.arg(scripts.join("mqttjs_client.js"));
                command
            }
        };
        command.args([step, address, &self.version.to_string(), &self.qos.to_string()]);
        command.args([client_id, &self.topic(), &MESSAGES.to_string()]);
        self.output(step, command.output().unwrap())
    }

    fn mosquitto(&self, step: &str, address: &str, client_id: &str) -> String {
        let (host, port) = address.rsplit_once(':').unwrap();
        let base = |program: &str| {
            let mut command = Command::new(program);
            let version = if self.version == 5 { "mqttv5" } else { "mqttv311" };
            command.args(["-h", host, "-p", port, "-i", client_id, "-V", version]);
            command.args(["-t", &self.topic()]);
            command
        };
        if step == "publish" {
            let messages: Vec<String> = (0..MESSAGES).map(|number| format!("m{number}")).collect();
            for (payload, qos) in
                messages.iter().map(|m| (m.as_str(), self.qos)).chain([("end", 1)])
            {
                let mut command = base("mosquitto_pub");
                command.args(["-q", &qos.to_string(), "-m", payload]);
                self.output(step, command.output().unwrap());
            }
            return String::new();
        }
        let mut command = base("mosquitto_sub");
        command.args(["-c", "-q", &self.qos.to_string(), "-W", "60"]);
        if self.version == 5 {
            command.args(["-x", "3600"]);
        }
        match step {
            "subscribe" => command.arg("-E"),
            _ => command.args(["-C", &(MESSAGES + 1).to_string()]),
        };
        // mosquitto_sub does not tell whether the session was present: the messages do.
        let told = self.output(step, command.output().unwrap());
        if step == "resume" { format!("session_present=1\n{told}") } else { told }
    }

    fn output(&self, step: &str, output: Output) -> String {
        let error = String::from_utf8_lossy(&output.stderr);
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{self:?} {step}: {} {error} {told:?}", output.status);
        told
    }
}

/// A client that `make test` installs.
fn tool(variable: &str, below: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients").join(below)
    });
    assert!(path.exists(), "{} is missing: run `make tools` first", path.display());
    path
}

#[tokio::test]
async fn sessions_of_common_clients_survive_kill_9_of_everything() {
    let mut cluster = Cluster::start().await;
    let cases = Case::all();
    for case in &cases {
        case.run("subscribe", &cluster.mqtt(1));
        case.run("publish", &cluster.mqtt(2));
    }
    cluster.kill_all().await;
    cluster.up_again().await;
    let mut wanted = vec!["session_present=1".to_owned()];
    wanted.extend((0..MESSAGES).map(|number| format!("m{number}")));
    wanted.push("end".to_owned());
    for case in &cases {
        let told = case.run("resume", &cluster.mqtt(1));
        assert_eq!(told.lines().collect::<Vec<_>>(), wanted, "{case:?}");
    }
}
