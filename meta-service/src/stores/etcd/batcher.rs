//! Transactions that wait at the same time go to etcd together, a few of those at once.
//!
//! A merged transaction whose conditions do not hold brings back what they look at: who failed is answered,
//! the others go on together. So a condition that fails costs its neighbours one round trip.
//!
//! Whether a try that was not answered was done is found out by the next one: either it succeeds, and doing it
//! twice is doing it once, or its writes are found at one revision, or the outcome stays unknown.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use bytes::Bytes;
use etcd_client::{Client, Error, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse};
use holdfast_node_kit::grpc::MESSAGE_BYTES_MAX;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared, identity,
    members::{Failed, Tries},
    merged::{self, Found, Merged},
};
use crate::{
    metrics,
    store::{Committed, LeaseId, OPS_MAX, Op, Revision, StoreError, Txn},
};

/// Transactions that wait.
pub(super) const QUEUE_MAX: usize = 4096;
/// Merged transactions that are on their way at once; more bring nothing but latency.
const IN_FLIGHT_MAX: usize = 8;
/// Transactions that are looked through for some that fit together.
const LOOK_AHEAD_MAX: usize = 512;

/// One that waits for its answer.
pub(super) struct Waiting {
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<Result<Committed, StoreError>>,
}

impl Waiting {
    fn answer(self, result: Result<Committed, StoreError>) {
        // The asker may have gone.
        let _ = self.answer.send(result);
    }
}

/// Runs until the store is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Waiting>) {
    let lanes = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(first) => waiting.push_back(first),
                None => return,
            }
        }
        // Whoever comes while all lanes are taken goes with the next one that is free.
        let Ok(lane) = lanes.clone().acquire_owned().await else { return };
        while waiting.len() < LOOK_AHEAD_MAX
            && let Ok(next) = queue.try_recv()
        {
            waiting.push_back(next);
        }
        let group = together(&mut waiting);
        let shared = shared.clone();
        tokio::spawn(async move {
            Flight::new(&shared, group).fly().await;
            drop(lane);
        });
    }
}

/// The first that waits, and all others that fit with it.
fn together(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut merged = Merged::default();
    let mut group = Vec::new();
    for next in std::mem::take(waiting) {
        if merged.take(&next.txn) {
            group.push(next);
        } else {
            waiting.push_back(next);
        }
    }
    group
}

/// Some transactions on their way as one.
struct Flight<'a> {
    shared: &'a Shared,
    group: Vec<Waiting>,
    tries: Tries,
    /// A try that was not answered may have been done.
    maybe: bool,
}

impl<'a> Flight<'a> {
    fn new(shared: &'a Shared, group: Vec<Waiting>) -> Flight<'a> {
        Flight { shared, group, tries: shared.members.tries(), maybe: false }
    }

    async fn fly(mut self) {
        let mark = match self.shared.members.identity.mark() {
            Ok(mark) => mark,
            Err(stopped) => return self.answer_all(&Err(stopped)),
        };
        while !self.group.is_empty() {
            let began = Instant::now();
            match self.try_once().await {
                Ok(Done { revision, refused: None }) => {
                    metrics::store_synced(began.elapsed());
                    return self.answer_all(&Ok(Committed::Yes(revision)));
                }
                Ok(Done { refused: Some(found), .. }) => {
                    if self.maybe
                        && let Ok(Some(revision)) = self.happened(mark).await
                    {
                        return self.answer_all(&Ok(Committed::Yes(revision)));
                    }
                    self.answer_refused(&found);
                }
                Err(Failed::Again { reason, maybe }) => {
                    self.maybe |= maybe;
                    if !self.tries.another().await {
                        self.shared.members.gave_up(&reason);
                        let reason = if self.maybe {
                            format!("outcome not known: {reason}")
                        } else {
                            reason
                        };
                        return self.answer_all(&Err(StoreError::Unavailable(reason)));
                    }
                }
                Err(failed) if self.group.len() == 1 => {
                    let lease = lease(&self.group[0].txn);
                    let error = match failed {
                        Failed::LeaseOver => StoreError::LeaseOver(lease),
                        failed => failed.into_store_error(),
                    };
                    return self.answer_all(&Err(error));
                }
                Err(_) => return self.each_alone().await,
            }
        }
    }

    async fn try_once(&self) -> Result<Done, Failed> {
        let mark = self.shared.members.identity.mark().map_err(Failed::Refused)?;
        let txns = self.group.iter().map(|waiting| &waiting.txn);
        let request = merged::request(txns, &self.shared.keys);
        let mut answer = self.shared.members.attempt(|client| txn(client, request)).await?;
        let header = answer.take_header();
        let revision = self.shared.members.identity.check(header.as_ref(), mark);
        let revision = revision.map_err(Failed::Refused)?;
        let refused = (!answer.succeeded()).then(|| self.found(answer.op_responses()));
        Ok(Done { revision, refused })
    }

    /// Whether an earlier try was done although it was not answered.
    async fn happened(&self, mark: Revision) -> Result<Option<Revision>, Failed> {
        let keys = &self.shared.keys;
        let ops = self.group.iter().flat_map(|waiting| &waiting.txn.ops);
        if !ops.clone().any(|op| matches!(op, Op::Put { .. })) {
            return Ok(None);
        }
        let gets: Vec<_> =
            ops.take(OPS_MAX).map(|op| TxnOp::get(keys.full(op.key()), None)).collect();
        let request = EtcdTxn::new().and_then(gets);
        let answer = self.shared.members.call(|client| txn(client, request.clone())).await?;
        let txns = self.group.iter().map(|waiting| &waiting.txn);
        Ok(merged::written_at(txns, &self.found(answer.op_responses()), mark))
    }

    fn found(&self, answers: Vec<TxnOpResponse>) -> Found {
        let mut found = Found::new();
        for answer in answers {
            let TxnOpResponse::Get(mut page) = answer else { continue };
            for entry in page.take_kvs() {
                let modified = identity::revision(entry.mod_revision());
                let (key, value) = entry.into_key_value();
                let Some(key) = self.shared.keys.own(key) else { continue };
                let known = found.entry(key).or_insert((modified, Bytes::new()));
                // The same key may be there twice, once without its value.
                if known.1.is_empty() {
                    known.1 = value.into();
                }
            }
        }
        found
    }

    /// Answers those whose own conditions do not hold; the others stay.
    fn answer_refused(&mut self, found: &Found) {
        let before = self.group.len();
        let (stay, refused): (Vec<_>, Vec<_>) = std::mem::take(&mut self.group)
            .into_iter()
            .partition(|waiting| merged::holds(&waiting.txn, found));
        self.group = stay;
        for waiting in refused {
            waiting.answer(if self.maybe {
                Err(StoreError::Unavailable("outcome not known".to_owned()))
            } else {
                Ok(Committed::Refused)
            });
        }
        if self.group.len() == before {
            let text = "it refused a transaction whose conditions hold".to_owned();
            self.answer_all(&Err(StoreError::Unavailable(text)));
        }
    }

    fn answer_all(&mut self, result: &Result<Committed, StoreError>) {
        for waiting in self.group.drain(..) {
            waiting.answer(result.clone());
        }
    }

    /// One of them has an error of its own, and which one is not said.
    fn each_alone(self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            for waiting in self.group {
                let mut alone = Flight::new(self.shared, vec![waiting]);
                alone.maybe = self.maybe;
                alone.fly().await;
            }
        })
    }
}

async fn txn(client: Client, request: EtcdTxn) -> Result<TxnResponse, Error> {
    client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX).txn(request).await
}

fn lease(txn: &Txn) -> LeaseId {
    let lease = |op: &Op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete(_) => None,
    };
    txn.ops.iter().find_map(lease).unwrap_or(LeaseId(0))
}

struct Done {
    revision: Revision,
    /// What is at the keys that the conditions look at, if one did not hold.
    refused: Option<Found>,
}
