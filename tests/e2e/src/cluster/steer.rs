//! What an operator does on the command line: look at sites, drain, scale.

use std::ffi::OsString;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde::Deserialize;

use super::{Cluster, PATIENCE, POLL_INTERVAL, program};

/// A site in `holdfast sites list --json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Site {
    /// In hexadecimal.
    pub site_id: String,
    /// Name of the storage node.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// active, draining, drained or lost.
    pub state: String,
    /// up, down or dead.
    pub liveness: String,
    /// Shards that it votes for.
    pub replicas: u32,
    /// Shards that it leads.
    pub leading: u32,
    /// Shards that it keeps only history of.
    pub holding: u32,
    /// Bytes of its data.
    pub used_bytes: u64,
    /// History that it lacks.
    pub missing_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Listing {
    sites: Vec<Site>,
    transitions: Vec<serde_json::Value>,
}

impl Cluster {
    /// Runs `holdfast ARGS --data FOLDER`.
    pub async fn holdfast(&self, args: &[&str]) -> Output {
        let mut command = self.holdfast_command(args);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Starts `holdfast ARGS --data FOLDER`, whose output nobody reads.
    pub fn spawn_holdfast(&self, args: &[&str]) -> Child {
        let mut command = self.holdfast_command(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn holdfast_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("holdfast"));
        let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
        all.extend(["--data".into(), self.data.clone().into_os_string()]);
        command.args(all);
        command
    }

    /// Runs it; what it says if it succeeds, what it complains of if not.
    pub async fn try_holdfast(&self, args: &[&str]) -> Result<String, String> {
        let output = self.holdfast(args).await;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Changes the number of storage nodes and gateways of the running cluster, and waits until all
    /// are ready.
    pub async fn scale(
        &mut self,
        storage: Option<u16>,
        gateways: Option<u16>,
    ) -> Result<(), String> {
        let (storage, gateways) = (storage.map(|n| n.to_string()), gateways.map(|n| n.to_string()));
        let mut args = vec!["scale"];
        args.extend(storage.iter().flat_map(|n| ["--storage", n.as_str()]));
        args.extend(gateways.iter().flat_map(|n| ["--gateways", n.as_str()]));
        self.try_holdfast(&args).await?;
        self.await_ready().await;
        Ok(())
    }

    /// All sites, as the elected meta-service tells.
    pub async fn sites(&self) -> Vec<Site> {
        self.listing().await.sites
    }

    async fn listing(&self) -> Listing {
        let told = self.try_holdfast(&["sites", "list", "--json"]).await;
        let told = told.unwrap_or_else(|error| panic!("sites list: {error}"));
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// Waits until the sites are as wanted and nothing is on its way; returns them.
    pub async fn await_sites(&self, what: &str, is_met: impl Fn(&[Site]) -> bool) -> Vec<Site> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listing = self.listing().await;
            if listing.transitions.is_empty() && is_met(&listing.sites) {
                return listing.sites;
            }
            assert!(Instant::now() < deadline, "{what} never: {listing:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Name of the elected meta-service, as soon as there is one that is not `but`.
    pub async fn await_elected(&self, but: Option<&str>) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            let elected = status.processes.iter().find(|process| process.elected == Some(true));
            if let Some(elected) = elected.filter(|process| Some(process.name.as_str()) != but) {
                return elected.name.clone();
            }
            assert!(Instant::now() < deadline, "nobody but {but:?} is elected: {status:#?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
