//! An etcd cluster on loopback, for tests.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use etcd_client::Client;
use tempfile::TempDir;

/// Some members; their processes end with it.
pub(crate) struct Cluster {
    directory: TempDir,
    members: Vec<Member>,
    token: String,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    data: PathBuf,
    process: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Member {
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ports that nobody listens on.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Cluster {
    /// A cluster of this many members that answers.
    pub(crate) async fn start(count: usize) -> Cluster {
        let ports = free_ports(2 * count);
        let mut cluster = Cluster::prepare(&ports, "first");
        cluster.start_all();
        cluster.until_it_answers().await;
        cluster
    }

    #[allow(dead_code, reason = "not every test needs it")]
    /// Another cluster behind the same addresses, not started.
    pub(crate) fn stranger(&self) -> Cluster {
        let ports: Vec<u16> =
            self.members.iter().flat_map(|member| [member.client_port, member.peer_port]).collect();
        Cluster::prepare(&ports, "stranger")
    }

    fn prepare(ports: &[u16], token: &str) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let member = |(n, ports): (usize, &[u16])| Member {
            client_port: ports[0],
            peer_port: ports[1],
            data: directory.path().join(format!("m{n}")),
            process: None,
        };
        let members = ports.chunks(2).enumerate().map(member).collect();
        Cluster { directory, members, token: token.to_owned() }
    }

    pub(crate) fn start_all(&mut self) {
        (0..self.members.len()).for_each(|n| self.start_member(n));
    }

    pub(crate) fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    pub(crate) fn kill(&mut self, n: usize) {
        self.members[n].kill();
    }

    pub(crate) fn start_member(&mut self, n: usize) {
        let peer =
            |(n, member): (usize, &Member)| format!("m{n}=http://127.0.0.1:{}", member.peer_port);
        let all: Vec<_> = self.members.iter().enumerate().map(peer).collect();
        let member = &mut self.members[n];
        let client = format!("http://127.0.0.1:{}", member.client_port);
        let own = format!("http://127.0.0.1:{}", member.peer_port);
        let log = std::fs::File::create(self.directory.path().join(format!("m{n}.log"))).unwrap();
        let started = Command::new("etcd")
            .args(["--name", &format!("m{n}"), "--data-dir"])
            .arg(&member.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &own, "--initial-advertise-peer-urls", &own])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-token", &self.token])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .stderr(log)
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(process) => member.process = Some(process),
            Err(error) => panic!("cannot start etcd ({error}): apt-get install etcd-server"),
        }
    }

    pub(crate) async fn until_it_answers(&self) {
        for n in 0..self.members.len() {
            loop {
                let answer = match self.client(n).await {
                    Ok(mut client) => client.get("any", None).await.map(drop),
                    Err(error) => Err(error),
                };
                if answer.is_ok() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    pub(crate) async fn client(&self, n: usize) -> Result<Client, etcd_client::Error> {
        let url = format!("127.0.0.1:{}", self.members[n].client_port);
        Client::connect([url], None).await
    }

    /// Which member leads, as a member that lives says.
    pub(crate) async fn leader(&self) -> usize {
        for n in 0..self.members.len() {
            let Ok(mut client) = self.client(n).await else { continue };
            let Ok(status) = client.status().await else { continue };
            if status.header().unwrap().member_id() == status.leader() {
                return n;
            }
        }
        panic!("no member leads");
    }

    #[allow(dead_code, reason = "not every test needs it")]
    /// Waits until the election's row has this name in it.
    pub(crate) async fn until_elected(&self, name: &str) {
        let mut client = self.client(0).await.unwrap();
        loop {
            let found = client.get("/holdfast/election", None).await.unwrap();
            let named =
                |value: &[u8]| value.windows(name.len()).any(|part| part == name.as_bytes());
            if found.kvs().iter().any(|row| named(row.value())) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let url = |member: &Member| format!("http://127.0.0.1:{}", member.client_port);
        self.members.iter().map(url).collect()
    }

    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }
}
