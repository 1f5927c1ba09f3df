//! A pod of a rendered StatefulSet or Deployment, as the control plane and the kubelet would make it.

use holdfast_deploy::manifests::{list, name_of, text};
use serde_json::{Value, json};

use super::network::Network;
use super::podman::IMAGE;

/// One pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: String,
    /// Its name in DNS, if it has one.
    pub(crate) host: Option<String>,
    /// Its labels.
    pub(crate) labels: Value,
    template: Value,
}

impl Pod {
    /// All pods of a set; the first has the number `from` in the network.
    pub(crate) fn of_set(set: &Value, from: usize) -> Vec<Pod> {
        let spec = &set["spec"];
        let count = usize::try_from(spec["replicas"].as_u64().unwrap()).unwrap();
        (0..count).map(|n| Pod::of(name_of(set), &spec["template"], spec, n, from + n)).collect()
    }

    /// A pod that stands alone.
    pub(crate) fn alone(pod: &Value, number: usize) -> Pod {
        Pod { name: name_of(pod).to_owned(), ..Pod::of(name_of(pod), pod, &Value::Null, 0, number) }
    }

    fn of(set: &str, template: &Value, spec: &Value, ordinal: usize, number: usize) -> Pod {
        let name = format!("{set}-{ordinal}");
        let mut template = template.clone();
        for claim in list(&spec["volumeClaimTemplates"]) {
            let source = json!({ "claimName": format!("{}-{name}", name_of(claim)) });
            let volume = json!({ "name": name_of(claim), "persistentVolumeClaim": source });
            template["spec"]["volumes"].as_array_mut().unwrap().push(volume);
        }
        let host = spec["serviceName"].as_str().map(|service| format!("{name}.{service}"));
        let labels = template["metadata"]["labels"].clone();
        Pod { name, address: Network::address(number), host, labels, template }
    }

    /// Its container in podman.
    pub(crate) fn container(&self) -> String {
        format!("{}-{}", self.name, text(&self.spec()["containers"][0]["name"]))
    }

    /// The container as in the manifest.
    pub(crate) fn spec(&self) -> &Value {
        &self.template["spec"]
    }

    /// URL of one of its probes.
    pub(crate) fn probe(&self, kind: &str) -> String {
        let container = &self.spec()["containers"][0];
        let get = &container[kind]["httpGet"];
        let ports = list(&container["ports"]);
        let port = ports.iter().find(|port| port["name"] == get["port"]).unwrap();
        format!("http://127.0.0.1:{}{}", port["containerPort"], text(&get["path"]))
    }

    /// As `podman play kube` takes it: with arguments and environment filled in, without what it does not
    /// know of, and with the image that was built.
    pub(crate) fn manifest(&self) -> Value {
        let mut spec = self.spec().clone();
        spec["restartPolicy"] = json!("Never");
        for volume in spec["volumes"].as_array_mut().into_iter().flatten() {
            // podman 4 falls over a secret that does not say it.
            if let Some(secret) = volume["secret"].as_object_mut() {
                secret.insert("optional".to_owned(), json!(false));
            }
        }
        for container in spec["containers"].as_array_mut().unwrap() {
            let environment = self.environment(container);
            for list in ["command", "args"] {
                for word in container[list].as_array_mut().into_iter().flatten() {
                    *word = json!(expand(text(word), &environment));
                }
            }
            let pairs =
                environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
            container["env"] = pairs.collect();
            container["image"] = json!(IMAGE);
            let container = container.as_object_mut().unwrap();
            // The test asks instead of them: podman leaves probes to systemd.
            for probe in ["startupProbe", "livenessProbe", "readinessProbe", "ports"] {
                container.remove(probe);
            }
        }
        let metadata = json!({ "name": self.name, "labels": self.labels });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    fn environment(&self, container: &Value) -> Vec<(String, String)> {
        let one = |variable: &Value| {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                None => variable["value"].as_str().unwrap_or_default().to_owned(),
                Some("metadata.name") => self.name.clone(),
                Some("status.podIP") => self.address.clone(),
                Some("spec.nodeName") => "node".to_owned(),
                // A label that is not there.
                Some(label) if label.starts_with("metadata.labels[") => String::new(),
                Some(other) => panic!("{other} is not known here"),
            };
            (text(&variable["name"]).to_owned(), value)
        };
        list(&container["env"]).iter().map(one).collect()
    }
}

/// `$(NAME)` as the kubelet replaces it.
fn expand(word: &str, environment: &[(String, String)]) -> String {
    environment
        .iter()
        .fold(word.to_owned(), |word, (name, value)| word.replace(&format!("$({name})"), value))
}
