//! A kubelet, a scheduler and a cluster's DNS, all as small as can be: it starts the real programs with exactly
//! the arguments, environment, files and ports that rendered manifests give to containers, and asks their probes.
//!
//! Pods of a Kubernetes cluster have an address each, and so they have here: one of 127.0.0.0/8. All use the ports
//! that the manifests name. Three things are put in the place of others, because pods here share a network, a
//! file system and a resolver with each other:
//! * `0.0.0.0` or `[::]`, all addresses of a pod, is the pod's one address;
//! * a name of a Service, or of a pod of a StatefulSet, is the address that DNS would give;
//! * a path below a mount is one below the folder that is mounted there.

mod container;
mod files;
mod network;

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use self::container::Container;
use self::network::Network;
pub use self::network::address;

use crate::manifests::{Manifests, list, name_of, selects, text};

/// Nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// One pod of a Deployment or StatefulSet, with the process of its container.
#[derive(Debug)]
pub struct Pod {
    /// As Kubernetes would name it.
    pub name: String,
    /// Its own address.
    pub address: String,
    /// Component label.
    pub component: String,
    template: Value,
    container: Container,
    is_stopping: bool,
}

impl Pod {
    fn grace(&self) -> Duration {
        Duration::from_secs(
            self.template["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap(),
        )
    }

    /// Sends SIGTERM, once the preStop hook has ended, if there is one.
    fn stop_after(&mut self, hook: &mut Option<Container>) {
        if hook.as_mut().is_some_and(|hook| hook.ended().is_none()) || self.is_stopping {
            return;
        }
        if let Some(hook) = hook {
            assert_eq!(
                hook.wait(Duration::ZERO),
                Some(0),
                "preStop of {}: {}",
                self.name,
                hook.log()
            );
        }
        self.container.terminate();
        self.is_stopping = true;
    }
}

/// All pods of a release.
#[derive(Debug)]
pub struct Node {
    manifests: Manifests,
    network: Network,
    pods: Vec<Pod>,
    folder: TempDir,
}

impl Node {
    /// Starts all pods of all Deployments and StatefulSets at once, as Kubernetes does.
    pub fn start(manifests: Manifests) -> Node {
        let planned = network::plan(&manifests);
        let network = Network::new(&manifests, &planned);
        Node::start_planned(manifests, network, planned)
    }

    /// Starts one pod of each component of ours whose Secrets are among the manifests.
    pub fn start_one_of_each(manifests: Manifests) -> Node {
        let mut planned = network::plan(&manifests);
        let network = Network::new(&manifests, &planned);
        planned.retain(|pod| pod.component() != "etcd" && pod.has_its_secrets(&manifests));
        planned.sort_by(|one, other| one.component().cmp(other.component()));
        planned.dedup_by(|one, other| one.component() == other.component());
        Node::start_planned(manifests, network, planned)
    }

    fn start_planned(
        manifests: Manifests,
        network: Network,
        planned: Vec<network::Planned>,
    ) -> Node {
        let folder = TempDir::with_prefix("holdfast-pods-").unwrap();
        let mut node = Node { manifests, network, pods: Vec::new(), folder };
        for one in planned {
            let container = Container::start(&node.place(&one.name, &one.address, &one.template));
            let component =
                text(&one.template["metadata"]["labels"]["app.kubernetes.io/component"]);
            node.pods.push(Pod {
                component: component.to_owned(),
                name: one.name,
                address: one.address,
                template: one.template,
                container,
                is_stopping: false,
            });
        }
        node
    }

    fn place<'a>(
        &'a self,
        name: &'a str,
        address: &'a str,
        template: &'a Value,
    ) -> container::Place<'a> {
        let (manifests, network) = (&self.manifests, &self.network);
        container::Place { name, address, template, manifests, network, folder: self.folder.path() }
    }

    /// Pods with this component label.
    pub fn of(&self, component: &str) -> Vec<&Pod> {
        self.pods.iter().filter(|pod| pod.component == component).collect()
    }

    /// Waits until all pods live.
    pub async fn await_live(&mut self) {
        for index in 0..self.pods.len() {
            self.await_probe(index, "startupProbe").await;
        }
    }

    /// Waits until the probes of all pods succeed. The startup probe has no more time than its own figures say:
    /// after that the kubelet would end the container.
    pub async fn await_ready(&mut self) {
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
            for index in 0..self.pods.len() {
                self.await_probe(index, kind).await;
            }
        }
    }

    async fn await_probe(&mut self, index: usize, kind: &str) {
        let container = &list(&self.pods[index].template["spec"]["containers"])[0];
        let probe = &container[kind];
        assert!(probe.is_object(), "{} has no {kind}", self.pods[index].name);
        let path = text(&probe["httpGet"]["path"]).to_owned();
        let port = network::port_of(container, text(&probe["httpGet"]["port"]));
        let address = format!("{}:{port}", self.pods[index].address);
        let seconds = |field: &str| probe[field].as_u64().unwrap();
        let patience = match kind {
            "startupProbe" => {
                Duration::from_secs(seconds("periodSeconds") * seconds("failureThreshold"))
            }
            _ => PATIENCE,
        };
        let deadline = Instant::now() + patience;
        loop {
            let status = network::http_status(&address, &path).await;
            if status == Some(200) {
                return;
            }
            let pod = &mut self.pods[index];
            let ended = pod.container.ended();
            if ended.is_some() || Instant::now() > deadline {
                let name = pod.name.clone();
                self.show_logs();
                panic!("{kind} of {name}: {path} at {address} says {status:?}, process: {ended:?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Runs the pod of a hook, or of a Job, to its end; what it said if it succeeded.
    pub fn run(&self, kind: &str, name: &str) -> String {
        self.run_of(&self.manifests, kind, name)
    }

    /// Runs one of other manifests, as an upgrade does before it changes anything.
    pub fn run_of(&self, manifests: &Manifests, kind: &str, name: &str) -> String {
        let object = manifests.get(kind, name);
        let template = if kind == "Pod" { object } else { &object["spec"]["template"] };
        let mut container = Container::start(&self.place(name, &self.network.spare, template));
        let code = container.wait(PATIENCE);
        let said = container.log();
        assert_eq!(code, Some(0), "{kind} {name}: {said}");
        said
    }

    /// Ends one pod for good, as a StatefulSet does that gets smaller; its exit code.
    pub fn scale_in(&mut self, name: &str) -> Option<i32> {
        let index = self.pods.iter().position(|pod| pod.name == name).expect("a pod");
        let mut pod = self.pods.remove(index);
        pod.container.terminate();
        pod.container.wait(pod.grace())
    }

    /// Ends all pods as Kubernetes does when a release is removed: preStop, then SIGTERM, and for no pod longer
    /// than its grace period. Exit codes by pod; none of who was ended by the signal itself.
    pub fn stop(mut self) -> Vec<(String, Option<i32>)> {
        let begun = Instant::now();
        let mut hooks: Vec<Option<Container>> =
            self.pods.iter().map(|pod| self.pre_stop(pod)).collect();
        while self.pods.iter_mut().any(|pod| pod.container.ended().is_none()) {
            for (pod, hook) in self.pods.iter_mut().zip(&mut hooks) {
                pod.stop_after(hook);
            }
            let late =
                |pod: &mut Pod| begun.elapsed() > pod.grace() && pod.container.ended().is_none();
            if let Some(late) = self.pods.iter_mut().position(late) {
                self.show_logs();
                panic!(
                    "{} does not end within its {:?}",
                    self.pods[late].name,
                    self.pods[late].grace()
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let code = |pod: &mut Pod| (pod.name.clone(), pod.container.wait(Duration::ZERO));
        self.pods.iter_mut().map(code).collect()
    }

    fn pre_stop(&self, pod: &Pod) -> Option<Container> {
        let container = &list(&pod.template["spec"]["containers"])[0];
        let command = list(&container["lifecycle"]["preStop"]["exec"]["command"]);
        let words: Vec<&str> = command.iter().map(text).collect();
        let place = self.place(&pod.name, &pod.address, &pod.template);
        (!words.is_empty()).then(|| Container::exec(&place, &words))
    }

    fn show_logs(&self) {
        for pod in &self.pods {
            let log = pod.container.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {} at {} ({} lines)", pod.name, pod.address, lines.len());
            lines[lines.len().saturating_sub(12)..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Addresses of a Service: those of the pods that it selects.
fn backends<'a>(service: &Value, pods: &'a [network::Planned]) -> Vec<&'a network::Planned> {
    let selector = &service["spec"]["selector"];
    pods.iter().filter(|pod| selects(selector, &pod.template["metadata"]["labels"])).collect()
}

/// Whether an object is made by a hook, and not with the release.
fn is_hook(object: &Value) -> bool {
    object["metadata"]["annotations"]["helm.sh/hook"].is_string() || name_of(object).is_empty()
}
