//! One site: a disk that stays, and what runs on it while it is up.

use std::sync::Arc;

use holdfast_log::{Disk, LogCore, LogError, LogOptions, ReplicaKey, SimClock, SimDisk, SimRng};
use holdfast_proto::ids::{ReplicaId, ShardId};

use crate::model::Model;
use crate::replica::{Promised, RUNS_DIR, Replica};
use crate::requests::SHARDS;

const LOG_DIR: &str = "log";
const SEGMENT_BYTES: u32 = 16 << 10;
const LOG_BYTES_MAX: u64 = 512 << 10;
/// Small, so that something is still queued when a round is done.
const ROUND_BYTES_MAX: usize = 2 << 10;
/// Smaller than what is live, so that reads reach the disk.
const CACHE_BYTES_MAX: u64 = 8 << 10;

/// How a site ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Power is cut.
    Power,
    /// Power is cut while a round and a checkpoint are written, or after their sync failed.
    Sync,
    /// The process is killed, perhaps while it syncs a round; the machine stays.
    Kill,
    /// It stops well and a bit of its log flips.
    Flip,
}

/// What runs.
pub(crate) struct Life {
    pub(crate) log: LogCore,
    /// By shard.
    pub(crate) replicas: Vec<Replica>,
}

pub(crate) struct Site {
    pub(crate) disk: SimDisk,
    pub(crate) life: Option<Life>,
    /// Current replica ids, by shard.
    pub(crate) ids: Vec<ReplicaId>,
    promised: Vec<Promised>,
    /// A bit of the log was flipped since it was read last.
    pub(crate) flipped: bool,
    pub(crate) counts: SiteCounts,
    /// Steps at which it starts again, hears from others again, syncs swiftly
    /// again, has room again.
    pub(crate) down_until: u64,
    pub(crate) alone_until: u64,
    pub(crate) slow_until: u64,
    pub(crate) full_until: u64,
}

/// What happened to a site.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct SiteCounts {
    pub(crate) ends: u64,
    pub(crate) torn_tails: u64,
    pub(crate) damaged: u64,
    pub(crate) harmless_flips: u64,
    pub(crate) bytes_copied: u64,
    pub(crate) bytes_written: u64,
}

impl Site {
    pub(crate) fn new(number: u64) -> Site {
        let ids = (0..SHARDS).map(|_| ReplicaId(number + 1)).collect();
        Site {
            disk: SimDisk::new(),
            life: None,
            ids,
            promised: vec![Promised::default(); usize::from(SHARDS)],
            flipped: false,
            counts: SiteCounts::default(),
            down_until: 0,
            alone_until: 0,
            slow_until: 0,
            full_until: 0,
        }
    }

    /// Starts. Returns the shards whose replica here is damaged and was replaced by a new one; `None` if
    /// there is no room to start.
    pub(crate) fn start(
        &mut self,
        models: &[&Model],
        mut mint: impl FnMut() -> ReplicaId,
    ) -> Option<Vec<usize>> {
        let options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            bytes_max: LOG_BYTES_MAX,
            cache_bytes_max: CACHE_BYTES_MAX,
            round_bytes_max: ROUND_BYTES_MAX,
            log_id_if_new: self.ids[0].0,
            clock: Arc::new(SimClock::new(0)),
            observer: None,
        };
        let disk = Arc::new(self.disk.clone());
        let (log, found) = match LogCore::open(disk, LOG_DIR, options, Box::new(|_| ())) {
            Ok(opened) => opened,
            Err(LogError::Full) => return None,
            Err(error) => panic!("the log does not open: {error}"),
        };
        self.counts.torn_tails += u64::from(log.stats().tail_was_cut);
        let flipped = std::mem::take(&mut self.flipped);
        let mut damaged = Vec::new();
        let mut replicas = Vec::new();
        for (shard, model) in models.iter().enumerate() {
            let key = ReplicaKey { shard: ShardId(shard as u16), replica: self.ids[shard] };
            let own = found.iter().find(|replica| replica.key == key);
            let mut promised = std::mem::take(&mut self.promised[shard]);
            let is_damaged = own.is_some_and(|replica| replica.damaged.is_some());
            assert!(flipped || !is_damaged, "{own:?} without a flipped bit");
            if is_damaged {
                damaged.push(shard);
                self.ids[shard] = mint();
                promised = Promised::default();
                self.erase(key);
            }
            for old in found.iter().filter(|old| old.key.shard == key.shard) {
                if old.key.replica != self.ids[shard] {
                    log.remove_replica(old.key, Box::new(|_| ()));
                }
            }
            let key = ReplicaKey { replica: self.ids[shard], ..key };
            let own = own.filter(|_| !is_damaged);
            replicas.push(Replica::open(&self.disk, &log, key, own, &promised, model));
        }
        self.counts.damaged += damaged.len() as u64;
        self.counts.harmless_flips += u64::from(flipped && damaged.is_empty());
        self.life = Some(Life { log, replicas });
        Some(damaged)
    }

    /// Forgets the state and the runs of a replica.
    fn erase(&self, key: ReplicaKey) {
        let _ = self.disk.remove(&format!("state/{}-{}", key.shard.0, key.replica.0));
        let names = self.disk.list(RUNS_DIR).unwrap_or_default();
        let prefix = format!("{:05}-", key.shard.0);
        for name in names.iter().filter(|name| name.starts_with(&prefix)) {
            self.disk.remove(&format!("{RUNS_DIR}/{name}")).unwrap();
        }
    }

    /// Goes down. What was promised until then is checked at the next start.
    pub(crate) fn end(&mut self, end: End, rng: &mut SimRng, models: &mut [&mut Model]) {
        let Some(mut life) = self.life.take() else { return };
        match end {
            End::Sync => {
                self.disk.fail_syncs(true);
                if rng.one_in(3) {
                    self.disk.fail_writes(true);
                }
                life.log.commit();
                for (replica, model) in life.replicas.iter_mut().zip(models) {
                    replica.checkpoint(&life.log, model, false);
                }
                life.log.commit();
            }
            End::Kill => {
                self.disk.fail_syncs(true);
                life.log.commit();
            }
            End::Flip => life.log.finish(),
            End::Power => {}
        }
        let stats = life.log.stats();
        self.counts.ends += 1;
        self.counts.bytes_copied += stats.copied_bytes;
        self.counts.bytes_written += stats.bytes_written;
        self.promised = life.replicas.iter_mut().map(Replica::promised).collect();
        drop(life);
        match end {
            End::Kill => self.disk.kill(),
            _ => self.disk.crash(rng),
        }
        if end == End::Flip {
            self.flip(rng);
        }
    }

    fn flip(&mut self, rng: &mut SimRng) {
        let mut names = self.disk.list(LOG_DIR).unwrap();
        names.retain(|name| name.ends_with(".seg"));
        let path = format!("{LOG_DIR}/{}", names[rng.below(names.len() as u64) as usize]);
        let content = self.disk.content(&path).unwrap();
        // Mostly where something was written.
        let places: Vec<u64> = (0..20).map(|_| rng.below(content.len() as u64)).collect();
        let written = places
            .iter()
            .copied()
            .find(|at| content.get(*at as usize).is_some_and(|byte| *byte != 0));
        if let Some(at) = written {
            self.disk.flip_bit(&path, at, rng.below(8) as u8).unwrap();
            self.flipped = true;
        }
    }

    /// Fills the disk but for a little.
    pub(crate) fn fill(&mut self, rng: &mut SimRng) {
        self.disk.set_budget(None);
        let space = self.disk.space().unwrap();
        let used = space.total_bytes - space.free_bytes;
        self.disk.set_budget(Some(used + rng.below(40 << 10)));
    }
}
