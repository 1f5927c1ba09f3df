//! As much of an API server as helm's `lookup` needs: it shows what an earlier rendering would have made.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::manifests::{Manifests, name_of};

/// Kinds that the server knows, with the paths of their API and resource: helm refuses objects of others.
const KINDS: [(&str, &str, &str); 11] = [
    ("StatefulSet", "/apis/apps/v1", "statefulsets"),
    ("Deployment", "/apis/apps/v1", "deployments"),
    ("Secret", "/api/v1", "secrets"),
    ("ConfigMap", "/api/v1", "configmaps"),
    ("Pod", "/api/v1", "pods"),
    ("Service", "/api/v1", "services"),
    ("PersistentVolumeClaim", "/api/v1", "persistentvolumeclaims"),
    ("ServiceAccount", "/api/v1", "serviceaccounts"),
    ("Job", "/apis/batch/v1", "jobs"),
    ("PodDisruptionBudget", "/apis/policy/v1", "poddisruptionbudgets"),
    ("HorizontalPodAutoscaler", "/apis/autoscaling/v2", "horizontalpodautoscalers"),
];

/// A running release, to be looked up.
#[derive(Debug)]
pub struct Live {
    /// `http://host:port` for `--kube-apiserver`.
    pub url: String,
}

impl Live {
    /// Serves these objects until the test ends.
    pub fn serve(manifests: &Manifests) -> Live {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(answers(manifests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answers = answers.clone();
                // Who hangs up early is not our concern.
                thread::spawn(move || drop(answer(&stream, &answers)));
            }
        });
        Live { url }
    }
}

/// Answers by path: what kinds there are, and the objects, one by one and all of a kind.
fn answers(manifests: &Manifests) -> BTreeMap<String, Value> {
    let groups: Vec<Value> =
        ["apps/v1", "batch/v1", "policy/v1", "autoscaling/v2"].map(group).into();
    let mut answers = BTreeMap::from([
        ("/version".to_owned(), json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0"})),
        ("/api".to_owned(), json!({"kind": "APIVersions", "versions": ["v1"]})),
        ("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})),
    ]);
    for (kind, api, resource) in KINDS {
        let version = api.trim_start_matches("/apis/").trim_start_matches("/api/");
        let list = answers.entry(api.to_owned()).or_insert_with(|| {
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": []})
        });
        let known =
            json!({"name": resource, "namespaced": true, "kind": kind, "verbs": ["get", "list"]});
        list["resources"].as_array_mut().unwrap().push(known);
        let folder = format!("{api}/namespaces/default/{resource}");
        let objects: Vec<&Value> = manifests.of(kind).collect();
        let all = json!({"kind": format!("{kind}List"), "apiVersion": version, "metadata": {}, "items": objects});
        for object in objects {
            answers.insert(format!("{folder}/{}", name_of(object)), object.clone());
        }
        answers.insert(folder, all);
    }
    answers
}

fn group(of: &str) -> Value {
    let (name, version) = of.split_once('/').unwrap();
    let version = json!({"groupVersion": of, "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn answer(mut stream: &TcpStream, answers: &BTreeMap<String, Value>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
    let (status, body) = match answers.get(path) {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", &missing),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
