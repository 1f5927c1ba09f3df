//! Does damage to a cluster, and mends it.

use std::time::Duration;

use crate::cluster::{Cluster, SetUp};
use crate::disk::Disk;
use crate::fault::{Damage, Fault};
use crate::member::Role;
use crate::network::Host;
use crate::trouble::Trouble;
use crate::wall_clock;

/// What a storage node tells.
const DISK_IS_FULL: &str = "holdfast_storage_disk_full 1";
const DISK_IS_STALLED: &str = "the disk does not answer";

impl Fault {
    /// How processes must have been started for this fault.
    pub(crate) fn set_up(&self, role: Role) -> SetUp {
        match self.damage {
            Damage::Delay(_) => SetUp::Forwarded,
            Damage::Jump(_) => SetUp::OwnClocks(role),
            _ => SetUp::Plain,
        }
    }

    /// Does it. `others`: from whom the victims are cut.
    pub(crate) async fn inject(
        &self,
        cluster: &mut Cluster,
        victims: &[String],
        others: &[String],
    ) -> Result<(), Trouble> {
        match self.damage {
            Damage::Kill => cluster.kill(victims).await,
            Damage::Pause => {
                cluster.signal(victims, libc::SIGSTOP);
                Ok(())
            }
            Damage::Cut { one_way, .. } => cut(cluster, victims, others, one_way),
            Damage::Unplug => hosts(cluster, victims)?.iter().try_for_each(|host| host.plug(false)),
            Damage::Delay(delay) => {
                set_delay(cluster, delay);
                Ok(())
            }
            Damage::FullDisk => disk(cluster)?.fill(),
            Damage::StalledDisk => disk(cluster)?.freeze(true),
            Damage::Jump(seconds) => jump(cluster, victims, seconds),
        }
    }

    /// Waits until the victims themselves tell of it, where they do: a clock that did not jump or a disk
    /// that has room proves nothing.
    pub(crate) async fn await_seen(
        &self,
        cluster: &Cluster,
        victims: &[String],
    ) -> Result<(), Trouble> {
        match self.damage {
            Damage::Jump(seconds) => await_clocks(cluster, victims, seconds).await,
            Damage::FullDisk => {
                let is_full = |told: &str| told.lines().any(|line| line == DISK_IS_FULL);
                cluster.await_told(victims, "/metrics", "a full disk", is_full).await
            }
            Damage::StalledDisk => {
                let is_stalled = |told: &str| told.contains(DISK_IS_STALLED);
                cluster.await_told(victims, "/health/ready", "a stalled disk", is_stalled).await
            }
            _ => Ok(()),
        }
    }

    /// Waits until clocks that jumped are back.
    pub(crate) async fn await_gone(
        &self,
        cluster: &Cluster,
        victims: &[String],
    ) -> Result<(), Trouble> {
        match self.damage {
            Damage::Jump(_) => await_clocks(cluster, victims, 0).await,
            _ => Ok(()),
        }
    }

    /// Mends it.
    pub(crate) fn mend(
        &self,
        cluster: &mut Cluster,
        victims: &[String],
        others: &[String],
    ) -> Result<(), Trouble> {
        match self.damage {
            Damage::Kill => victims.iter().try_for_each(|name| cluster.launch(name)),
            Damage::Pause => {
                cluster.signal(victims, libc::SIGCONT);
                Ok(())
            }
            Damage::Cut { .. } => {
                let (victims, others) = (hosts(cluster, victims)?, hosts(cluster, others)?);
                victims.iter().chain(&others).try_for_each(Host::hear_all)
            }
            Damage::Unplug => hosts(cluster, victims)?.iter().try_for_each(|host| host.plug(true)),
            Damage::Delay(_) => {
                set_delay(cluster, Duration::ZERO);
                Ok(())
            }
            Damage::FullDisk => disk(cluster)?.free(),
            Damage::StalledDisk => disk(cluster)?.freeze(false),
            Damage::Jump(_) => jump(cluster, victims, 0),
        }
    }
}

fn hosts(cluster: &Cluster, names: &[String]) -> Result<Vec<Host>, Trouble> {
    names.iter().map(|name| cluster.member(name).map(|member| member.host.clone())).collect()
}

fn cut(
    cluster: &Cluster,
    victims: &[String],
    others: &[String],
    one_way: bool,
) -> Result<(), Trouble> {
    let (victims, others) = (hosts(cluster, victims)?, hosts(cluster, others)?);
    for victim in &victims {
        for other in &others {
            other.refuse_from(victim)?;
            if !one_way {
                victim.refuse_from(other)?;
            }
        }
    }
    Ok(())
}

fn set_delay(cluster: &Cluster, delay: Duration) {
    cluster.forwarders.values().for_each(|forwarder| forwarder.set_delay(delay));
}

fn disk(cluster: &Cluster) -> Result<&Disk, Trouble> {
    cluster.disk.as_ref().map_err(|why| Trouble::Impossible(why.clone()))
}

async fn await_clocks(cluster: &Cluster, victims: &[String], seconds: i64) -> Result<(), Trouble> {
    let what = format!("a clock {seconds} s off");
    let is_off = |told: &str| wall_clock::is_off_by(told, seconds);
    cluster.await_told(victims, "/metrics", &what, is_off).await
}

fn jump(cluster: &Cluster, victims: &[String], seconds: i64) -> Result<(), Trouble> {
    let clocks = victims.iter().filter_map(|name| cluster.clocks.get(name));
    clocks.into_iter().try_for_each(|clock| clock.set(seconds))
}
