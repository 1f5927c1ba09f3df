//! Runs the lines of the matrix one after the other.

use std::fs;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use crate::cluster::Cluster;
use crate::fault::{Damage, Fault, Target};
use crate::ground;
use crate::load::{Load, Outcome};
use crate::member::{Role, Shape};
use crate::network::Network;
use crate::report::{Line, Verdict};
use crate::roles::Placement;
use crate::trouble::Trouble;
use crate::victims::is_concerned;

const WARM_UP: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(2);
const LEADERSHIP_PATIENCE: Duration = Duration::from_secs(60);
/// Beyond what the fault lasts, with a new cluster before it: more than all waits in it together need
/// unless several of them are in vain.
const LINE_PATIENCE: Duration = Duration::from_secs(360);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Messages of each publisher that must be acknowledged after the fault.
const PROGRESS: usize = 20;

/// A cluster that is started anew whenever a line broke it.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) shape: Shape,
    pub(crate) loopback: bool,
    /// Publishes a second in all.
    pub(crate) rate: u32,
    /// Begins with this: names of clients, and so their shards, follow from it.
    pub(crate) seed: u32,
    cluster: Option<Cluster>,
}

impl Matrix {
    pub(crate) fn new(shape: Shape, loopback: bool, rate: u32, seed: u32) -> Matrix {
        Matrix { shape, loopback, rate, seed, cluster: None }
    }

    /// Runs a line. What goes wrong around the cluster is a broken line, too: it did not recover.
    pub(crate) async fn run(&mut self, fault: &Fault, number: u32) -> Line {
        let mut line = Line::left_out(fault.name, String::new());
        let limit = LINE_PATIENCE + fault.lasts;
        let ran = timeout(limit, self.try_run(fault, number, &mut line)).await;
        let what = "the line ends".to_owned();
        let ran = ran.unwrap_or(Err(Trouble::Late { what, seconds: limit.as_secs() }));
        if let Err(trouble) = ran {
            if let Trouble::Impossible(why) = trouble {
                return Line::left_out(fault.name, why);
            }
            line.verdict = Verdict::Broken;
            line.outcome.errors.push(trouble.to_string());
        }
        if line.is_broken() {
            self.give_up(fault.name).await;
        }
        line
    }

    async fn try_run(
        &mut self,
        fault: &Fault,
        number: u32,
        line: &mut Line,
    ) -> Result<(), Trouble> {
        let (rate, seed) = (self.rate, self.seed);
        let cluster = self.cluster().await?;
        let is_in_namespaces = cluster.network == Network::Namespaces;
        if let Some(why) = fault.lacks(cluster.shape.etcd > 0, is_in_namespaces) {
            return Err(Trouble::Impossible(why.to_owned()));
        }
        cluster.set_up(fault.set_up(role_of(fault.target))).await?;
        let (placement, victims) = placed(cluster, fault.target).await?;
        let others = match fault.damage {
            Damage::Cut { from, .. } => {
                let others = cluster.resolve(from, &placement).await?;
                others.into_iter().filter(|other| !victims.contains(other)).collect()
            }
            _ => Vec::new(),
        };
        line.victims.clone_from(&victims);
        let addresses: Vec<String> =
            cluster.of(Role::Gateway).into_iter().map(|gateway| gateway.mqtt).collect();
        let wanted = |at: usize, shard: &_| is_concerned(fault.target, &victims, at, shard);
        let names = (seed % 100) * 100 + number;
        let load = Load::start(&addresses, &placement, names, rate, &wanted).await?;
        sleep(WARM_UP).await;
        load.restart_clock();
        let began = Instant::now();
        fault.inject(cluster, &victims, &others).await?;
        let until = Instant::now() + fault.lasts;
        let seen = fault.await_seen(cluster, &victims).await;
        sleep_until(until.into()).await;
        fault.mend(cluster, &victims, &others)?;
        seen?;
        let mended = Instant::now();
        let recovered = async {
            fault.await_gone(cluster, &victims).await?;
            cluster.await_ready().await?;
            cluster.elected_meta().await?;
            line.recovery = mended.elapsed();
            load.await_progress(PROGRESS).await
        };
        let recovered = recovered.await;
        sleep(SETTLE).await;
        line.outcome = load.finish(began).await;
        let dead = cluster.dead();
        line.outcome.errors.extend(dead.iter().map(|name| format!("{name} ended by itself")));
        line.verdict = judge(&line.outcome);
        recovered
    }

    async fn cluster(&mut self) -> Result<&mut Cluster, Trouble> {
        if self.cluster.is_none() {
            let (network, why_not) = Network::open(self.loopback);
            if let Some(why) = why_not {
                println!("all processes on loopback, nothing of the network is cut: {why}");
            }
            self.cluster = Some(Cluster::start(network, self.shape).await?);
        }
        self.cluster.as_mut().ok_or_else(|| Trouble::Impossible("no cluster".to_owned()))
    }

    /// The next line finds a new cluster; what this one said is kept.
    async fn give_up(&mut self, name: &str) {
        if let Some(mut cluster) = self.cluster.take() {
            cluster.end().await;
        }
        let kept = ground::base().join("failed").join(name);
        // The logs of an earlier failure of the same line give way.
        let _ = fs::remove_dir_all(&kept);
        let moved = fs::create_dir_all(ground::base().join("failed"))
            .and_then(|()| fs::rename(ground::run_folder().join("logs"), &kept));
        if moved.is_ok() {
            println!("    logs: {}", kept.display());
        }
        ground::sweep(false);
    }
}

/// Who is meant, as soon as shards are led as the fault needs it: leadership comes back only some
/// time after a process.
async fn placed(cluster: &Cluster, target: Target) -> Result<(Placement, Vec<String>), Trouble> {
    let deadline = Instant::now() + LEADERSHIP_PATIENCE;
    loop {
        let placement = cluster.placement().await?;
        let victims = cluster.resolve(target, &placement).await?;
        let is_concerned =
            |at| placement.shards.iter().any(|it| is_concerned(target, &victims, at, it));
        if is_concerned(0) && is_concerned(1) {
            return Ok((placement, victims));
        }
        if Instant::now() > deadline {
            let what = format!("shards that concern {}", victims.join(" "));
            return Err(Trouble::Late { what, seconds: LEADERSHIP_PATIENCE.as_secs() });
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn role_of(target: Target) -> Role {
    match target {
        Target::Gateway => Role::Gateway,
        Target::MetaElected | Target::MetaStandby | Target::AllMeta => Role::Meta,
        Target::EtcdLeader | Target::AllEtcd | Target::MetasAndEtcdLeader => Role::Etcd,
        _ => Role::Storage,
    }
}

fn judge(outcome: &Outcome) -> Verdict {
    let broken = outcome.lost
        + outcome.repeated_exactly_once
        + outcome.repeated_late
        + outcome.disordered
        + outcome.errors.len();
    if broken == 0 { Verdict::Kept } else { Verdict::Broken }
}
