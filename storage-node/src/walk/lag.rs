//! Measures now and then how far the durable sessions of the shards that this site leads are behind: the
//! most that one of them has not read, and the oldest such message. It changes nothing.
//!
//! The heads of all shards are asked for first, and what came later is not counted: a session that is at
//! all heads costs nothing. What cannot be answered counts as read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_proto::ids::Position;
use holdfast_proto::shard::{ClientKey, SessionRow};
use holdfast_proto::storage::{MatchCount, MatchQuery};
use holdfast_shard::need::{oldest_in_flight, wants};
use tokio::task::spawn_blocking;

use super::batch::Ask;
use super::counting::Counting;
use super::read_on;
use crate::replica::Replica;
use crate::replica::cell::Lag;
use crate::site::Site;

/// Pause until the first measurement, at most.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Sessions a second at which one is never slower.
const PACE_MIN: f64 = 200.0;
/// Sessions of which one batch looks at most.
const SEEN_MAX: u64 = 10_000;

/// Measures until the site stops.
pub(crate) async fn run(site: Arc<Site>) {
    let interval = Duration::from_millis(site.config.retention.lag_interval_ms);
    if interval.is_zero() {
        return;
    }
    let mut pause = interval.min(FIRST_PAUSE);
    loop {
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            () = site.shutdown.wait() => return,
            () = measure_all(&site, interval) => {}
        }
        pause = interval;
    }
}

async fn measure_all(site: &Arc<Site>, interval: Duration) {
    let led: Vec<_> =
        site.replicas().into_iter().filter(|replica| replica.serving().is_ok()).collect();
    let sessions: u64 = led.iter().map(|one| one.cell.shard.lock().session_count()).sum();
    let most = f64::from(site.config.retention.walk_sessions_per_s);
    // Spread over half of the pause.
    let per_s = (2.0 * sessions as f64 / interval.as_secs_f64()).max(PACE_MIN).min(most);
    for replica in led {
        if let Some(lag) = measure(site, &replica, per_s).await {
            replica.cell.set_lag(lag);
        }
    }
}

/// One look at all sessions of a shard; `None` if leadership ended.
async fn measure(site: &Arc<Site>, replica: &Arc<Replica>, per_s: f64) -> Option<Lag> {
    let mut counting = Counting::new(site.clone());
    let heads = heads(&mut counting, site.shards()).await;
    let enough = site.config.retention.count_queries_max;
    let mut behind = Behind::default();
    let (mut after, mut is_first) = (None, true);
    while is_first || after.is_some() {
        is_first = false;
        replica.serving().ok()?;
        let started = Instant::now();
        let (mut batch, last) = gather(replica, &heads, enough, after).await?;
        after = last;
        let asks = std::mem::take(&mut batch.asks);
        let questions: Vec<(u16, MatchQuery)> =
            asks.iter().map(|ask| (ask.shard, ask.query.clone())).collect();
        let answers = counting.answer(asks).await;
        behind.take(&batch, &questions, &answers);
        let due = Duration::from_secs_f64(batch.seen as f64 / per_s);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
    }
    replica.serving().ok()?;
    let oldest_ms = behind.oldest_ms(&mut counting).await;
    Some(Lag { messages: behind.most, oldest_ms })
}

/// Reads on until there is enough to ask; `None` if the sessions cannot be read.
async fn gather(
    replica: &Arc<Replica>,
    heads: &[u64],
    enough: usize,
    mut after: Option<ClientKey>,
) -> Option<(Sessions, Option<ClientKey>)> {
    let (replica, heads) = (replica.clone(), heads.to_vec());
    let gathered = spawn_blocking(move || {
        let mut batch = Sessions::default();
        loop {
            after = read_on(&replica, after, |client, row| batch.note(&heads, &client, row))?;
            if after.is_none() || batch.asks.len() >= enough || batch.seen >= SEEN_MAX {
                return Some((batch, after));
            }
        }
    });
    gathered.await.ok().flatten()
}

/// Heads of all shards as their leaders have applied them; 0 where none answers.
async fn heads(counting: &mut Counting, shards: u16) -> Vec<u64> {
    // Nothing is counted: what comes back is where the count ended.
    let query = MatchQuery { from: u64::MAX, ..MatchQuery::default() };
    let ask = |shard| Ask { shard, below: 0, query: query.clone() };
    let answers = counting.answer((0..shards).map(ask).collect()).await;
    answers.into_iter().map(|answer| answer.map_or(0, |found| found.first)).collect()
}

/// Some sessions and what is asked about them.
#[derive(Default)]
struct Sessions {
    seen: u64,
    asks: Vec<Ask>,
    behind: Vec<Session>,
}

/// A session that may be behind.
struct Session {
    /// How many of the asks, after those of the session before, are about it.
    asks: usize,
    in_flight: u64,
    /// Its oldest message in flight in each shard, as a question about just that one.
    oldest: Vec<(u16, MatchQuery)>,
}

impl Sessions {
    fn note(&mut self, heads: &[u64], client: &ClientKey, row: &SessionRow) {
        self.seen += 1;
        if row.expiry_interval_s == 0 {
            return;
        }
        let asked = self.asks.len();
        let mut oldest = Vec::new();
        for (shard, head) in (0..).zip(heads) {
            let query = |filters, from: Position| MatchQuery {
                namespace: client.namespace,
                filters,
                from: from.0,
            };
            self.asks.extend(wants(row, shard, Position::FIRST, Position(*head)).into_iter().map(
                |want| Ask { shard, below: want.below.0, query: query(want.filters, want.from) },
            ));
            if let Some(position) = oldest_in_flight(row, shard, Position::FIRST) {
                let filters = row.subscriptions.iter().map(|one| one.filter.clone()).collect();
                oldest.push((shard, query(filters, position)));
            }
        }
        let asks = self.asks.len() - asked;
        let in_flight = row.in_flight.len() as u64;
        if asks > 0 || in_flight > 0 {
            self.behind.push(Session { asks, in_flight, oldest });
        }
    }
}

/// What was found so far.
#[derive(Default)]
struct Behind {
    most: u64,
    /// In each shard the oldest message that somebody has not read, as a question about just that one.
    oldest: BTreeMap<u16, MatchQuery>,
}

impl Behind {
    fn take(
        &mut self,
        batch: &Sessions,
        questions: &[(u16, MatchQuery)],
        answers: &[Option<MatchCount>],
    ) {
        let mut about = questions.iter().zip(answers);
        for session in &batch.behind {
            let mut messages = session.in_flight;
            for ((shard, query), answer) in about.by_ref().take(session.asks) {
                let Some(found) = answer.filter(|found| found.count > 0) else { continue };
                messages += found.count;
                self.unread(*shard, &MatchQuery { from: found.first, ..query.clone() });
            }
            for (shard, query) in &session.oldest {
                self.unread(*shard, query);
            }
            self.most = self.most.max(messages);
        }
    }

    fn unread(&mut self, shard: u16, query: &MatchQuery) {
        match self.oldest.entry(shard) {
            Entry::Vacant(entry) => drop(entry.insert(query.clone())),
            Entry::Occupied(mut known) if query.from < known.get().from => {
                known.insert(query.clone());
            }
            Entry::Occupied(_) => {}
        }
    }

    /// When the oldest of all was stored; 0 if there is none.
    async fn oldest_ms(&self, counting: &mut Counting) -> u64 {
        counting.ask_times();
        let asks = self.oldest.iter().map(|(shard, query)| Ask {
            shard: *shard,
            below: query.from + 1,
            query: query.clone(),
        });
        let answers = counting.answer(asks.collect()).await;
        let times = answers.iter().flatten().map(|found| found.first_time_ms);
        times.filter(|time_ms| *time_ms > 0).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::{InFlight, Subscription};

    use super::*;

    fn row(cursor: &[u64], in_flight: &[u64]) -> SessionRow {
        let subscription = Subscription { filter: "t/#".into(), ..Subscription::default() };
        let message = |position: &u64| InFlight { position: *position, ..InFlight::default() };
        SessionRow {
            cursor: cursor.to_vec(),
            subscriptions: vec![subscription],
            in_flight: in_flight.iter().map(message).collect(),
            expiry_interval_s: 60,
            ..SessionRow::default()
        }
    }

    fn noted(heads: &[u64], rows: &[SessionRow]) -> Sessions {
        let mut batch = Sessions::default();
        for row in rows {
            batch.note(heads, &ClientKey { namespace: 3, client_id: "a".into() }, row);
        }
        batch
    }

    fn found(count: u64, first: u64) -> Option<MatchCount> {
        Some(MatchCount { count, first, first_time_ms: 0 })
    }

    fn taken(batch: &Sessions, answers: &[Option<MatchCount>]) -> Behind {
        let question = |ask: &Ask| (ask.shard, ask.query.clone());
        let questions: Vec<_> = batch.asks.iter().map(question).collect();
        let mut behind = Behind::default();
        behind.take(batch, &questions, answers);
        behind
    }

    #[test]
    fn only_sessions_that_are_durable_and_below_a_head_are_asked_about() {
        let regular = SessionRow { expiry_interval_s: 0, ..row(&[1, 1], &[]) };
        let rows = [row(&[10, 7], &[]), regular, row(&[4, 8], &[]), row(&[10, 8], &[])];
        let batch = noted(&[10, 8], &rows);
        assert_eq!(batch.seen, 4);
        let asked: Vec<_> =
            batch.asks.iter().map(|ask| (ask.shard, ask.query.from, ask.below)).collect();
        assert_eq!(asked, [(1, 7, 8), (0, 4, 10)]);
        assert_eq!(batch.behind.len(), 2);
    }

    #[test]
    fn the_most_of_one_session_and_the_oldest_of_all_are_told() {
        let rows = [row(&[1, 1], &[]), row(&[1, 1], &[5, 9]), row(&[1, 8], &[])];
        let batch = noted(&[10, 8], &rows);
        let answers = [found(3, 6), found(4, 2), found(1, 7), found(2, 3), found(6, 6)];
        let behind = taken(&batch, &answers);
        assert_eq!(behind.most, 7, "of the first: shards together, sessions apart");
        let oldest: Vec<_> =
            behind.oldest.iter().map(|(shard, query)| (*shard, query.from)).collect();
        assert_eq!(oldest, [(0, 5), (1, 2)]);
        assert_eq!(behind.oldest[&0].filters, ["t/#"]);
        assert_eq!(behind.oldest[&0].namespace, 3);
        let unknown = [None, found(0, 8), None, None, None];
        assert_eq!(taken(&batch, &unknown).most, 2, "in flight only");
    }
}
