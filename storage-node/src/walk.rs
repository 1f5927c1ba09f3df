//! The walk: looks, in the background, at every durable session of the shards that this site leads, and
//! finds out from where on each may still need the messages of every shard.
//!
//! Sessions without a client are moved on where nothing is stored for them, and past what is about to be
//! removed, with the count of what they lose by that. Of sessions with a client the gateway moves the
//! cursor; here it is only looked whether there is anything for them. What a complete walk has found is
//! reported to meta-service, which puts the walks of all shards together: see `replica::retention`.
//!
//! A walk that saw a session before it changed is not wrong: sessions only move forward, and what is
//! subscribed to later begins above everything that was sealed when the walk began.

mod batch;
mod counting;
pub(crate) mod lag;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_proto::ids::ShardId;
use holdfast_proto::shard::{ClientKey, SessionRow};

use crate::metrics;
use crate::replica::Replica;
use crate::site::Site;
use batch::Batch;
use counting::Counting;

/// Pause between two looks whether a walk is due.
const LOOK: Duration = Duration::from_millis(500);
/// Rows that are looked at while the shard's state is locked.
const ROWS_AT_ONCE: usize = 128;
/// A walk that has to be repeated takes at most this share of the time.
const PAUSE_PER_WALK: u32 = 10;

/// What is asked of sessions in one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Goal {
    wanted_below: u64,
    doomed_below: u64,
}

impl Goal {
    fn top(self) -> u64 {
        self.wanted_below.max(self.doomed_below)
    }
}

/// What is asked of sessions, per shard.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Goals(Vec<Goal>);

impl Goals {
    fn of(site: &Site) -> Goals {
        let mut goals = vec![Goal::default(); usize::from(site.shards())];
        for known in site.retention.all() {
            if let Some(goal) = goals.get_mut(known.shard as usize) {
                goal.wanted_below = known.wanted_below;
                goal.doomed_below = known.doomed_below;
            }
        }
        Goals(goals)
    }

    /// Whether any shard asks for more than is known.
    fn ask_above(&self, low_marks: &[u64]) -> bool {
        let known = |shard: usize| low_marks.get(shard).copied().unwrap_or(0);
        self.0.iter().enumerate().any(|(shard, goal)| goal.top() > known(shard))
    }

    /// What is known if no session needs anything.
    fn tops(&self) -> Vec<u64> {
        self.0.iter().map(|goal| goal.top()).collect()
    }
}

/// The last walk over a shard.
struct Walked {
    goals: Goals,
    again_at: Instant,
}

/// Walks until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let mut walked: BTreeMap<ShardId, Walked> = BTreeMap::new();
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for replica in site.replicas() {
            let goals = Goals::of(&site);
            if replica.serving().is_err()
                || !goals.ask_above(&replica.cell.retention.low_marks())
                || walked
                    .get(&replica.key.shard)
                    .is_some_and(|last| last.goals == goals && Instant::now() < last.again_at)
            {
                continue;
            }
            let started = Instant::now();
            let low_marks = tokio::select! {
                () = site.shutdown.wait() => return,
                low_marks = walk(&site, &replica, &goals) => low_marks,
            };
            if let Some(low_marks) = low_marks {
                replica.cell.retention.walked(low_marks);
            }
            let interval = Duration::from_millis(site.config.retention.walk_interval_ms);
            let pause = interval.max(started.elapsed() * PAUSE_PER_WALK);
            let again_at = Instant::now() + pause;
            walked.insert(replica.key.shard, Walked { goals, again_at });
        }
    }
}

/// One walk over all sessions of a shard; the low mark of each shard, unless leadership ended.
async fn walk(site: &Arc<Site>, replica: &Arc<Replica>, goals: &Goals) -> Option<Vec<u64>> {
    let mut low_marks = goals.tops();
    let mut lost: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    let mut counting = Counting::new(site.clone());
    let (mut after, mut is_first) = (None, true);
    while is_first || after.is_some() {
        is_first = false;
        replica.serving().ok()?;
        let started = Instant::now();
        let (mut batch, last) = gather(site, replica, goals, after).await?;
        after = last;
        let answers = counting.answer(batch.take_asks()).await;
        batch.settle(replica, &answers, &mut low_marks, &mut lost).await;
        metrics::walked(batch.seen());
        let per_s = f64::from(site.config.retention.walk_sessions_per_s);
        let due = Duration::from_secs_f64(batch.seen() as f64 / per_s);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    }
    replica.serving().ok()?;
    for (shard, (sessions, messages)) in lost {
        let home_shard = replica.key.shard.0;
        tracing::warn!(shard, home_shard, sessions, messages, "messages are removed unread");
    }
    Some(low_marks)
}

/// Visits some more sessions; the last one if there may be more, `None` if they cannot be read, which
/// ends the process.
fn read_on(
    replica: &Replica,
    after: Option<ClientKey>,
    visit: impl FnMut(ClientKey, &SessionRow),
) -> Option<Option<ClientKey>> {
    let read = replica.cell.shard.lock().walk(after.as_ref(), ROWS_AT_ONCE, visit);
    match read {
        Ok(last) => Some(last),
        Err(error) => {
            replica.fatal.stop("sessions", &error);
            None
        }
    }
}

/// Reads on until there is enough to ask; `None` if the sessions cannot be read.
async fn gather(
    site: &Arc<Site>,
    replica: &Arc<Replica>,
    goals: &Goals,
    mut after: Option<ClientKey>,
) -> Option<(Batch, Option<ClientKey>)> {
    let (replica, goals) = (replica.clone(), goals.clone());
    let enough = site.config.retention.count_queries_max;
    let gathered = tokio::task::spawn_blocking(move || {
        let mut batch = Batch::default();
        loop {
            after = read_on(&replica, after, |client, row| batch.note(&goals, client, row))?;
            if after.is_none() || batch.is_enough(enough) {
                return Some((batch, after));
            }
        }
    });
    gathered.await.ok().flatten()
}
