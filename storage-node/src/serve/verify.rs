//! Verifies the runs of a replica: reads every file whole, at a bounded rate, and checks all that is in it.
//! Nothing is locked meanwhile. A file that is not what was written is fetched again from another holder.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_log::run::{Run, RunError, RunId};
use holdfast_log::{Disk, DiskFile, OpenOptions};
use holdfast_proto::ids::ShardId;
use holdfast_proto::shard::RunRow;
use holdfast_proto::storage::{VerifiedReplica, VerifiedRun, VerifyShardReply, VerifyShardRequest};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tonic::Status;
use xxhash_rust::xxh3::Xxh3;

use crate::metrics;
use crate::replica::Replica;
use crate::replica::cell::{RUNS_DIR, run_id};
use crate::site::Site;

/// Replicas that are verified at once; others wait.
pub(crate) const VERIFYING_MAX: usize = 2;
/// Bytes of one read.
const BLOCK_BYTES: u64 = 1 << 20;
/// It is told how far it is at least this often, in bytes read ...
const TOLD_EVERY_BYTES: u64 = 8 << 20;
/// ... and in time.
const TOLD_EVERY: Duration = Duration::from_millis(500);

type Replies = mpsc::Sender<Result<VerifyShardReply, Status>>;

/// Begins to verify; ends early if nobody listens any more.
pub(super) fn start(
    site: &Arc<Site>,
    request: &VerifyShardRequest,
) -> Result<mpsc::Receiver<Result<VerifyShardReply, Status>>, Status> {
    let shard = u16::try_from(request.shard).map(ShardId);
    let replica = shard.ok().and_then(|shard| site.replica(shard));
    let replica = replica.ok_or_else(|| Status::not_found("this site has no replica of it"))?;
    let (replies, receiver) = mpsc::channel(4);
    let round = Round {
        site: site.clone(),
        replica,
        bytes_per_s: request.bytes_per_s,
        replies,
        begun: Instant::now(),
        done: 0,
        total: 0,
        told: (0, Instant::now()),
    };
    tokio::spawn(round.run());
    Ok(receiver)
}

/// One replica's turn.
struct Round {
    site: Arc<Site>,
    replica: Arc<Replica>,
    bytes_per_s: u64,
    replies: Replies,
    begun: Instant,
    done: u64,
    total: u64,
    /// What was told last, and when.
    told: (u64, Instant),
}

/// Nobody listens any more, or the site stops.
struct Unwanted;

impl Round {
    async fn run(mut self) {
        let replies = self.replies.clone();
        let shutdown = self.site.shutdown.clone();
        tokio::select! {
            () = replies.closed() => {}
            () = shutdown.wait() => {}
            // Its error says the same as the two above.
            _ = self.verify() => {}
        }
    }

    async fn verify(&mut self) -> Result<(), Unwanted> {
        let permit = loop {
            let permit = self.site.verifying.clone().acquire_owned();
            match tokio::time::timeout(TOLD_EVERY, permit).await {
                Ok(permit) => break permit,
                Err(_) => self.tell().await?,
            }
        };
        self.begun = Instant::now();
        let applied = self.replica.raft.data_metrics().borrow().last_applied;
        let rows: Vec<RunRow> = self.replica.cell.runs().into_iter().map(|(row, _)| row).collect();
        self.total = rows.iter().map(|row| row.bytes).sum();
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            runs.extend(self.run_of(row).await?);
        }
        drop(permit);
        let bad = runs.iter().filter(|run| !run.problem.is_empty()).count();
        let (shard, bytes, total) = (self.replica.key.shard.0, self.done, runs.len());
        tracing::info!(shard, runs = total, bytes, bad, "runs verified");
        let applied_index = applied.map_or(0, |id| id.index);
        let done = Some(VerifiedReplica { applied_index, runs });
        let last = VerifyShardReply { bytes_done: self.done, bytes_total: self.total, done };
        self.replies.send(Ok(last)).await.map_err(|_| Unwanted)
    }

    /// Verifies one run; `None` if its generation was dropped meanwhile.
    async fn run_of(&mut self, row: RunRow) -> Result<Option<VerifiedRun>, Unwanted> {
        let id = run_id(self.replica.key.shard, &row);
        let read = self.read(id).await?;
        let found = match read {
            Ok((file_hash, length)) => (file_hash, self.check(id, row, length).await),
            Err(error) => (0, Some(Problem::of(error))),
        };
        let cell = &self.replica.cell;
        if !cell.has_run(&row) {
            return Ok(None);
        }
        let (file_hash, problem) = found;
        let problem = match problem {
            None => String::new(),
            Some(Problem(what)) => {
                cell.run_damaged(&row, &what);
                format!("{what}; {}", self.cure())
            }
        };
        Ok(Some(VerifiedRun { run: Some(row), file_hash, problem }))
    }

    /// What is done about damage.
    fn cure(&self) -> &'static str {
        let placed = self.site.placement(self.replica.key.shard);
        let holders =
            placed.iter().flat_map(|placed| placed.replicas.iter().chain(&placed.holders));
        match holders.filter(|holder| holder.site_id != self.site.site_id.0).count() {
            0 => "no other site has it",
            _ => "fetched again from another site",
        }
    }

    /// Reads the whole file: its hash and its length.
    async fn read(&mut self, id: RunId) -> Result<io::Result<(u64, u64)>, Unwanted> {
        let disk = self.replica.cell.disk.clone();
        let opened = blocking(move || open(disk.as_ref(), id)).await;
        let (file, length) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let mut hash = Xxh3::new();
        let mut at = 0;
        while at < length {
            let (file, size) = (file.clone(), BLOCK_BYTES.min(length - at) as usize);
            let block = blocking(move || {
                let mut block = vec![0; size];
                file.read_exact_at(&mut block, at).map(|()| block)
            });
            let block = match block.await {
                Ok(block) => block,
                Err(error) => return Ok(Err(error)),
            };
            hash.update(&block);
            at += size as u64;
            self.done += size as u64;
            metrics::verified(size as u64);
            self.pace().await?;
        }
        Ok(Ok((hash.digest(), length)))
    }

    /// Checks every checksum within the file.
    async fn check(&self, id: RunId, row: RunRow, length: u64) -> Option<Problem> {
        if length != row.bytes {
            return Some(Problem(format!("its length is {length}, not {}", row.bytes)));
        }
        let disk = self.replica.cell.disk.clone();
        let checked = spawn_blocking(move || {
            let run = Run::open(disk.as_ref(), RUNS_DIR, id)?;
            run.verify().map(|()| run.info().checksum)
        });
        match checked.await {
            Ok(Ok(checksum)) if checksum == row.checksum => None,
            Ok(Ok(checksum)) => {
                Some(Problem(format!("its checksum is {checksum:08x}, not {:08x}", row.checksum)))
            }
            Ok(Err(RunError::Disk { source, .. })) => Some(Problem::of(source)),
            Ok(Err(error)) => Some(Problem(error.to_string())),
            Err(error) => Some(Problem(format!("unreadable: {error}"))),
        }
    }

    /// Waits until so much may have been read, and tells how far it is.
    async fn pace(&mut self) -> Result<(), Unwanted> {
        loop {
            let (bytes, at) = self.told;
            if self.done - bytes >= TOLD_EVERY_BYTES || at.elapsed() >= TOLD_EVERY {
                self.tell().await?;
            }
            let due = match self.bytes_per_s {
                0 => Duration::ZERO,
                per_s => Duration::from_secs_f64(self.done as f64 / per_s as f64),
            };
            let rest = due.saturating_sub(self.begun.elapsed());
            if rest.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(rest.min(TOLD_EVERY)).await;
        }
    }

    async fn tell(&mut self) -> Result<(), Unwanted> {
        self.told = (self.done, Instant::now());
        let progress =
            VerifyShardReply { bytes_done: self.done, bytes_total: self.total, done: None };
        self.replies.send(Ok(progress)).await.map_err(|_| Unwanted)
    }
}

/// What is wrong with a run, in words.
struct Problem(String);

impl Problem {
    fn of(error: io::Error) -> Problem {
        match error.kind() {
            io::ErrorKind::NotFound => Problem("its file is missing".into()),
            _ => Problem(format!("unreadable: {error}")),
        }
    }
}

fn open(disk: &dyn Disk, id: RunId) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let file = disk.open(&id.path(RUNS_DIR), OpenOptions::READ)?;
    let length = file.length()?;
    Ok((file, length))
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(read).await.map_err(io::Error::other)?
}
