//! Two processes on one etcd: whichever is asked, the elected one answers.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use hyper::Method;
use serde_json::json;

use crate::{
    etcd::{Cluster, free_ports},
    rest::{Rest, basic},
};

const PASSWORD: &str = "one for both of them";

/// A process of the real program.
struct Process {
    admin: String,
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// With this in its section `[admin]`; none: it has no admin API.
    fn start(directory: &Path, etcd: &Cluster, name: &str, admin: Option<&str>) -> Process {
        let ports: Vec<String> =
            free_ports(3).into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let section = admin.map_or(String::new(), |more| {
            format!("[admin]\nlisten = \"{}\"\npassword_file = {more:?}\n", ports[2])
        });
        let text = format!(
            "name = \"{name}\"\nstore = \"etcd\"\ngrpc_listen = \"{}\"\nhttp_listen = \"{}\"\n\
             election_ttl_s = 2\n[etcd]\nendpoints = {:?}\n{section}",
            ports[0],
            ports[1],
            etcd.endpoints()
        );
        let path = directory.join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_meta-service"))
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process { admin: ports[2].clone(), child }
    }

    fn rest(&self) -> Rest {
        Rest::new(&self.admin, basic("admin", PASSWORD))
    }

    /// Waits until it knows who is elected.
    async fn elected(&self) -> String {
        self.rest().get("/status").await.ok()["elected"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_standby_hands_requests_on_until_it_is_elected_itself() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Cluster::start(1).await;
    let file = directory.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let file = file.to_str();
    let first = Process::start(directory.path(), &etcd, "first", file);
    assert_eq!(first.elected().await, "first");
    let second = Process::start(directory.path(), &etcd, "second", file);
    assert_eq!(second.elected().await, "first");

    let rest = second.rest();
    let body = json!({"name": "of/second", "role": "viewer"});
    let odd = rest.call(Method::POST, "/tokens", Some(body)).await;
    assert_eq!((odd.status, odd.problem()), (400, "malformed-name"), "problems come through");
    let body = json!({"name": "t", "role": "viewer"});
    let made = rest.call(Method::POST, "/tokens", Some(body)).await;
    assert_eq!(made.status, 201);
    let token = format!("Bearer {}", made.body["token"].as_str().unwrap());
    assert_eq!(rest.with(Some(token.clone())).get("/whoami").await.ok()["name"], "t");
    let wrong = rest.with(None).get("/sites").await;
    assert_eq!((wrong.status, wrong.headers.contains_key("www-authenticate")), (401, true));
    let unknown = rest.get("/sessions/a%2Fb%25%C3%BC").await;
    assert!(unknown.detail().contains("not formed"), "{unknown:?}");
    let large = format!("{{\"name\": \"{}\"", "x".repeat(70_000));
    let large = rest.raw(Method::POST, "/tokens", Some((large, "application/json"))).await;
    assert_eq!((large.status, large.problem()), (413, "body-too-large"));
    rest.with(None).get("/openapi.json").await.ok();

    drop(first);
    assert_eq!(second.elected().await, "second");
    assert_eq!(rest.with(Some(token)).get("/whoami").await.ok()["name"], "t");
}

#[tokio::test]
async fn a_standby_says_that_the_elected_one_has_no_admin_api() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = Cluster::start(1).await;
    let _first = Process::start(directory.path(), &etcd, "first", None);
    etcd.until_elected("first").await;
    let file = directory.path().join("password");
    let second = Process::start(directory.path(), &etcd, "second", file.to_str());
    let answer = loop {
        match second.rest().once(Method::GET, "/status", None).await {
            Some(answer) if answer.detail().contains("first") => break answer,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!((answer.status, answer.problem()), (503, "nobody-elected"));
    assert!(answer.detail().contains("no admin API"), "{answer:?}");
    assert!(!file.exists(), "only an elected one makes a password");
}
