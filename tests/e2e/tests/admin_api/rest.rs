//! A client of the admin API that writes and reads HTTP/1.1 by hand.

use std::fs;
use std::time::{Duration, Instant};

use holdfast_e2e::cluster::Cluster;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing here takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub struct Rest {
    address: String,
    authorization: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    pub fn problem(&self) -> &str {
        self.body["type"].as_str().unwrap().strip_prefix("urn:holdfast:").unwrap()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, at: u32| char::from(DIGITS[(group >> (18 - 6 * at) & 63) as usize]);
    let of_part = |part: &[u8]| {
        let group = (0..3).fold(0, |group, at| group << 8 | u32::from(*part.get(at).unwrap_or(&0)));
        let known = part.len() as u32;
        (0..4).map(|at| if at <= known { digit(group, at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(of_part).collect()
}

/// A client id as a part of a path.
pub fn encoded(text: &str) -> String {
    let part = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.as_bytes().iter().map(part).collect()
}

impl Rest {
    /// At this meta-service, as the user admin.
    pub fn of(cluster: &Cluster, meta: &str) -> Rest {
        let text = fs::read_to_string(cluster.data().join(format!("config/{meta}.toml"))).unwrap();
        let line = text.lines().find(|line| line.starts_with("admin.listen"));
        let line = line.expect("it has an admin API");
        let address = line.split('"').nth(1).unwrap().to_owned();
        let password = fs::read_to_string(cluster.data().join("admin-password")).unwrap();
        let credentials = format!("admin:{}", password.trim());
        let authorization = format!("Basic {}", base64(credentials.as_bytes()));
        Rest { address, authorization }
    }

    pub fn with_token(&self, token: &str) -> Rest {
        Rest { address: self.address.clone(), authorization: format!("Bearer {token}") }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn post(&self, path: &str) -> Answer {
        self.call("POST", path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None).await
    }

    /// Asks until the answer is as it should be.
    pub async fn until(&self, path: &str, is_met: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 && is_met(&answer.body) {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "{path} stays {answer:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.address,
            self.authorization,
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
        Answer { status, body }
    }
}
