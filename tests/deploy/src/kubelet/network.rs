//! Addresses, names and ports.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{backends, is_hook};
use crate::manifests::{Manifests, list, name_of, text};

/// A pod that is to be started.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) template: Value,
    /// Its name in DNS without the domain, if it has one of its own.
    hostname: Option<String>,
}

impl Planned {
    pub(super) fn component(&self) -> &str {
        text(&self.template["metadata"]["labels"]["app.kubernetes.io/component"])
    }

    pub(super) fn has_its_secrets(&self, manifests: &Manifests) -> bool {
        let secrets = list(&self.template["spec"]["volumes"]).iter();
        let mut names = secrets.filter_map(|volume| volume["secret"]["secretName"].as_str());
        names.all(|name| manifests.find("Secret", name).is_some())
    }
}

/// Pods of all Deployments and StatefulSets, with an address each.
pub(super) fn plan(manifests: &Manifests) -> Vec<Planned> {
    let mut pods = Vec::new();
    for object in manifests.of("StatefulSet").chain(manifests.of("Deployment")) {
        assert!(!is_hook(object));
        let spec = &object["spec"];
        // An autoscaler begins with one.
        for ordinal in 0..spec["replicas"].as_u64().unwrap_or(1) {
            let service = spec["serviceName"].as_str();
            let name = match service {
                Some(_) => format!("{}-{ordinal}", name_of(object)),
                None => format!("{}-5d4f8c7b9-x{ordinal}", name_of(object)),
            };
            let hostname = service.map(|service| format!("{name}.{service}"));
            let address = address(pods.len() + 1);
            pods.push(Planned { name, address, template: spec["template"].clone(), hostname });
        }
    }
    pods
}

/// Address of the n-th pod; of this process alone, because others run tests beside it.
pub fn address(number: usize) -> String {
    let pid = std::process::id() % 50_000;
    format!("127.{}.{}.{number}", 16 + pid / 250, 1 + pid % 250)
}

/// What a cluster's DNS knows.
#[derive(Debug)]
pub(super) struct Network {
    /// Names and addresses, longer names first: short ones are the ends of longer ones.
    names: Vec<(String, String)>,
    /// An address of no pod.
    pub(super) spare: String,
}

impl Network {
    pub(super) fn new(manifests: &Manifests, pods: &[Planned]) -> Network {
        let domain = "default.svc.cluster.local";
        let of_pods = pods.iter().filter_map(|pod| {
            pod.hostname
                .as_ref()
                .map(|hostname| (format!("{hostname}.{domain}"), pod.address.clone()))
        });
        let of_services = manifests.of("Service").filter_map(|service| {
            let name = format!("{}.{domain}", name_of(service));
            // A Service without pods has no address, and whoever asks for it gets none.
            Some((name, backends(service, pods).first()?.address.clone()))
        });
        let mut names: Vec<(String, String)> = of_pods.chain(of_services).collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Network { names, spare: address(250) }
    }

    /// A text with addresses in the place of names.
    pub(super) fn resolve(&self, text: &str) -> String {
        let resolved = self
            .names
            .iter()
            .fold(text.to_owned(), |text, (name, address)| text.replace(name, address));
        assert!(!resolved.contains(".default.svc."), "a name that DNS does not know: {resolved}");
        resolved
    }
}

/// Number of a container's port.
pub(super) fn port_of(container: &Value, name: &str) -> u64 {
    let port = list(&container["ports"]).iter().find(|port| text(&port["name"]) == name);
    port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_u64().unwrap()
}

/// Status of an HTTP answer; none while nobody answers.
pub(super) async fn http_status(address: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer);
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
