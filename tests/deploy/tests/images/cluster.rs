//! All pods of a rendering, played by podman.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use holdfast_deploy::manifests::{Manifests, name_of, selects};
use holdfast_deploy::tools::said;
use serde_json::Value;

use super::network::Network;
use super::pod::Pod;
use super::podman::Podman;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Pods that run.
#[derive(Debug)]
pub(crate) struct Pods<'a> {
    podman: &'a Podman,
    pods: Vec<Pod>,
    network: Network,
}

impl<'a> Pods<'a> {
    /// Starts all pods of StatefulSets and Deployments; None where they cannot reach each other.
    pub(crate) fn play(podman: &'a Podman, manifests: &Manifests) -> Option<Pods<'a>> {
        let network = Network::start()?;
        let mut pods = Vec::new();
        for set in manifests.of("StatefulSet").chain(manifests.of("Deployment")) {
            let next = pods.len() + 1;
            pods.extend(Pod::of_set(set, next));
        }
        podman.write_hosts(&names_in_dns(manifests, &pods));
        let mut played = Pods { podman, pods: Vec::new(), network };
        let shared: Vec<&Value> = manifests.of("ConfigMap").collect();
        for secret in manifests.of("Secret") {
            played.apply("secret", std::slice::from_ref(secret));
        }
        for pod in pods {
            played.start(pod, &shared);
        }
        Some(played)
    }

    fn start(&mut self, pod: Pod, configs: &[&Value]) {
        let mut documents: Vec<Value> = configs.iter().map(|&config| config.clone()).collect();
        documents.push(pod.manifest());
        self.apply(&pod.name, &documents);
        let infra =
            self.podman.run(&["pod", "inspect", &pod.name, "--format", "{{.InfraContainerID}}"]);
        let pid = self.podman.run(&["inspect", &infra, "--format", "{{.State.Pid}}"]);
        self.pods.push(pod);
        if pid == "0" {
            self.show_logs();
            panic!("{:?} ended at once", self.names().last());
        }
        self.network.plug(self.pods.len(), &pid);
    }

    fn apply(&self, name: &str, documents: &[Value]) {
        let path = self.podman.path(&format!("{name}.yaml"));
        let texts: Vec<String> =
            documents.iter().map(|document| serde_yaml_ng::to_string(document).unwrap()).collect();
        fs::write(&path, texts.join("---\n")).unwrap();
        self.podman.run(&["play", "kube", "--network=none", path.to_str().unwrap()]);
    }

    /// Names of the pods.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.pods.iter().map(|pod| pod.name.as_str()).collect()
    }

    fn find(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap()
    }

    /// What podman knows of a pod's container.
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let told = self.podman.run(&["inspect", &self.find(name).container()]);
        let list: Vec<Value> = serde_json::from_str(&told).unwrap();
        list.into_iter().next().unwrap()
    }

    /// What the kernel says of a pod's first process.
    pub(crate) fn status_of_init(&self, name: &str) -> String {
        let pid = self.inspect(name)["State"]["Pid"].clone();
        fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
    }

    /// Asks the readiness probe of every pod until it succeeds.
    pub(crate) fn await_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        for pod in &self.pods {
            for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let probe = [
                    "exec",
                    &pod.container(),
                    "/usr/local/bin/holdfast",
                    "probe",
                    &pod.probe(kind),
                ];
                loop {
                    let output = self.podman.output(&probe);
                    if output.status.success() {
                        break;
                    }
                    if Instant::now() > deadline {
                        self.show_logs();
                        panic!("{} fails its {kind}: {}", pod.name, said(&output));
                    }
                    sleep(POLL_INTERVAL);
                }
            }
        }
    }

    /// Runs the pod of `helm test`, which publishes to a session that is away and reads it back.
    pub(crate) fn pass_the_charts_test(&mut self, manifests: &Manifests) {
        let test = manifests.of("Pod").next().expect("the chart has a test");
        let pod = Pod::alone(test, self.pods.len() + 1);
        let container = pod.container();
        self.start(pod, &[]);
        let code = self.podman.run(&["wait", &container]);
        let log = said(&self.podman.output(&["logs", &container]));
        self.pods.pop();
        if code != "0" {
            self.show_logs();
            panic!("the chart's test ended with {code}: {log}");
        }
    }

    /// Stops gateways first, then storage, then the rest; each must end by itself, and well.
    pub(crate) fn stop_each_in_its_grace_period(&self) {
        for pod in self.pods.iter().rev() {
            let grace = pod.spec()["terminationGracePeriodSeconds"].to_string();
            let container = pod.container();
            self.podman.run(&["stop", "--time", &grace, &container]);
            let code = self.inspect(&pod.name)["State"]["ExitCode"].clone();
            if code != 0 {
                self.show_logs();
                panic!("{} ended with {code} ({grace} s of grace)", pod.name);
            }
        }
    }

    fn show_logs(&self) {
        for pod in &self.pods {
            let log = said(&self.podman.output(&["logs", "--tail", "12", &pod.container()]));
            eprintln!("--- {}\n{log}", pod.name);
        }
    }
}

/// Lines for /etc/hosts: pods by their own names, services by an address each of those that they select.
fn names_in_dns(manifests: &Manifests, pods: &[Pod]) -> String {
    let mut lines = String::new();
    for service in manifests.of("Service") {
        let domain = format!("{}.{}.svc.cluster.local", name_of(service), namespace(service));
        for pod in pods.iter().filter(|pod| selects(&service["spec"]["selector"], &pod.labels)) {
            lines.push_str(&format!("{} {domain}\n", pod.address));
        }
    }
    for pod in pods {
        let Some(host) = &pod.host else { continue };
        let service = manifests.get("Service", host.split('.').nth(1).unwrap());
        let namespace = namespace(service);
        lines.push_str(&format!("{} {host}.{namespace}.svc.cluster.local\n", pod.address));
    }
    lines
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}
