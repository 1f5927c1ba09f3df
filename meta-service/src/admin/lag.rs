//! What sessions have not read: their rows and counts, from the leaders of shards.
//!
//! A subscription may begin at a later position than the session's cursor. Where subscriptions of a session begin at
//! different positions, the counts of all that begin up to one and of all up to the one before are taken
//! from each other, so that a message that several match counts once.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use holdfast_admin_api::Lag;
use holdfast_node_kit::clock;
use holdfast_proto::{
    ids::{Namespace, home_shard},
    shard::{ClientKey, SessionRow, Subscription},
    storage::{CountMatchesRequest, GetSessionsRequest, MatchCount, MatchQuery},
    topic,
};
use prost::Message;

use super::{
    asking::{AT_ONCE, Asking, CALL},
    problem::Refused,
};

/// Positions at which subscriptions of one session begin that are told apart; the later ones count from the
/// first of them.
const BEGINNINGS_MAX: usize = 4;
/// Queries of one call.
const QUERIES_MAX: usize = 1_000;
/// Their bytes.
const QUERY_BYTES_MAX: usize = 1 << 20;

/// Where a session's home is.
pub(crate) fn home(client: &ClientKey, shards: u16) -> u32 {
    home_shard(Namespace(client.namespace), &client.client_id, shards).0.into()
}

/// First position of a shard that the session may still want by this subscription.
pub(crate) fn wanted_from(row: &SessionRow, subscription: &Subscription, shard: u32) -> u64 {
    let at = |positions: &[u64]| positions.get(shard as usize).copied().unwrap_or(0);
    at(&row.cursor).max(at(&subscription.since)).max(1)
}

/// The row of one session in its home shard, which is what counts.
pub(crate) async fn row(
    asking: &Asking<'_>,
    client: &ClientKey,
) -> Result<Option<SessionRow>, Refused> {
    let mut rows = rows_of(asking, home(client, asking.shards()), vec![client.clone()]).await?;
    Ok(rows.pop().flatten())
}

/// Rows of sessions of one home shard.
async fn rows_of(
    asking: &Asking<'_>,
    shard: u32,
    clients: Vec<ClientKey>,
) -> Result<Vec<Option<SessionRow>>, Refused> {
    let request = GetSessionsRequest { cluster_id: asking.cluster_id(), shard, clients };
    let reply = asking
        .leader(shard, CALL, |mut client| {
            let request = request.clone();
            async move { client.get_sessions(request).await }
        })
        .await?;
    Ok(reply.sessions.into_iter().map(|found| found.row).collect())
}

/// What a home shard says of a session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AtHome {
    /// The shard does not answer now.
    Unknown,
    /// It has ended; the registry is told a moment later.
    Gone,
    Row(Box<SessionRow>),
}

/// Many sessions in their home shards.
pub(crate) async fn rows(asking: &Asking<'_>, clients: &[ClientKey]) -> Vec<AtHome> {
    let mut by_shard: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, client) in clients.iter().enumerate() {
        by_shard.entry(home(client, asking.shards())).or_default().push(at);
    }
    let calls: Vec<_> = by_shard
        .into_iter()
        .map(|(shard, at)| async move {
            let asked = at.iter().map(|at| clients[*at].clone()).collect();
            (at, rows_of(asking, shard, asked).await.unwrap_or_default())
        })
        .collect();
    let mut rows = vec![AtHome::Unknown; clients.len()];
    let mut answers = stream::iter(calls).buffer_unordered(AT_ONCE);
    while let Some((at, found)) = answers.next().await {
        for (at, row) in at.into_iter().zip(found) {
            rows[at] = row.map_or(AtHome::Gone, |row| AtHome::Row(Box::new(row)));
        }
    }
    rows
}

/// The lag of each session, in their order; nothing where a shard does not answer. Positions of what is in flight
/// are not looked at.
pub(crate) async fn count(
    asking: &Asking<'_>,
    sessions: &[(&ClientKey, &SessionRow)],
) -> Vec<Option<Lag>> {
    let calls: Vec<_> = (0..u32::from(asking.shards()))
        .flat_map(|shard| {
            parts(queries(sessions, shard)).into_iter().map(move |part| (shard, part))
        })
        .map(|(shard, part)| async move {
            let counted = count_in(asking, shard, &part).await;
            (part, counted.ok())
        })
        .collect();
    let mut sums: Vec<Option<Sum>> = vec![Some(Sum::default()); sessions.len()];
    let mut answers = stream::iter(calls).buffer_unordered(AT_ONCE);
    while let Some((part, counts)) = answers.next().await {
        for (at, question) in part.iter().enumerate() {
            let count = counts.as_ref().and_then(|counts| counts.get(at));
            let sum = &mut sums[question.session];
            *sum = sum.take().zip(count).map(|(sum, count)| sum.and(question, count));
        }
    }
    let now_ms = clock::now_ms();
    let lag = |(sum, (_, row)): (Option<Sum>, &(&ClientKey, &SessionRow))| {
        sum.map(|sum| sum.lag(row.in_flight.len() as u64, now_ms))
    };
    sums.into_iter().zip(sessions).map(lag).collect()
}

async fn count_in(
    asking: &Asking<'_>,
    shard: u32,
    part: &[Question],
) -> Result<Vec<MatchCount>, Refused> {
    let request = CountMatchesRequest {
        cluster_id: asking.cluster_id(),
        shard,
        below: 0,
        queries: part.iter().map(|question| question.query.clone()).collect(),
        with_time: true,
    };
    let call = |mut client: holdfast_proto::storage::storage_client::StorageClient<_>| {
        let request = request.clone();
        async move { client.count_matches(request).await }
    };
    Ok(asking.leader(shard, CALL, call).await?.counts)
}

/// A count that is added to a session's, or taken from it.
struct Question {
    session: usize,
    adds: bool,
    query: MatchQuery,
}

#[derive(Clone, Default)]
struct Sum {
    added: u64,
    taken: u64,
    oldest_ms: Option<u64>,
}

impl Sum {
    fn and(mut self, question: &Question, count: &MatchCount) -> Sum {
        if question.adds {
            self.added += count.count;
            if count.count > 0 && count.first_time_ms > 0 {
                let oldest_ms = self.oldest_ms.unwrap_or(u64::MAX);
                self.oldest_ms = Some(oldest_ms.min(count.first_time_ms));
            }
        } else {
            self.taken += count.count;
        }
        self
    }

    fn lag(self, in_flight: u64, now_ms: u64) -> Lag {
        // Messages that came between two counts are in one of them only.
        let unread = self.added.saturating_sub(self.taken);
        with_oldest(
            Lag {
                unread,
                in_flight,
                messages: unread + in_flight,
                oldest_ms: None,
                oldest_age_s: 0,
            },
            self.oldest_ms,
            now_ms,
        )
    }
}

/// The same, with an older oldest.
pub(crate) fn with_oldest(mut lag: Lag, oldest_ms: Option<u64>, now_ms: u64) -> Lag {
    lag.oldest_ms = match (lag.oldest_ms, oldest_ms) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    lag.oldest_age_s =
        lag.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms) / 1_000);
    lag
}

fn queries(sessions: &[(&ClientKey, &SessionRow)], shard: u32) -> Vec<Question> {
    let mut questions = Vec::new();
    for (session, (client, row)) in sessions.iter().enumerate() {
        let beginnings = beginnings(row, shard);
        let mut before: Option<Vec<String>> = None;
        for from in beginnings {
            let begun = |other: &&Subscription| wanted_from(row, other, shard) <= from.last;
            let filters: Vec<String> =
                messages(row).filter(begun).map(|other| other.filter.clone()).collect();
            let query =
                |filters| MatchQuery { namespace: client.namespace, filters, from: from.first };
            if let Some(before) = before.replace(filters.clone()) {
                questions.push(Question { session, adds: false, query: query(before) });
            }
            questions.push(Question { session, adds: true, query: query(filters) });
        }
    }
    questions
}

/// Subscriptions that messages of the log belong to.
fn messages(row: &SessionRow) -> impl Iterator<Item = &Subscription> {
    let durable = row.expiry_interval_s > 0;
    row.subscriptions.iter().filter(move |one| durable && !topic::is_shared(&one.filter))
}

/// Subscriptions that begin from `first` to `last` count from `first` on.
struct Beginning {
    first: u64,
    last: u64,
}

fn beginnings(row: &SessionRow, shard: u32) -> Vec<Beginning> {
    let all: BTreeSet<u64> = messages(row).map(|one| wanted_from(row, one, shard)).collect();
    let mut beginnings: Vec<Beginning> =
        all.iter().take(BEGINNINGS_MAX).map(|at| Beginning { first: *at, last: *at }).collect();
    if let Some((beginning, last)) = beginnings.last_mut().zip(all.last()) {
        beginning.last = *last;
    }
    beginnings
}

fn parts(questions: Vec<Question>) -> Vec<Vec<Question>> {
    let mut parts: Vec<Vec<Question>> = Vec::new();
    let mut bytes = 0;
    for question in questions {
        let size = question.query.encoded_len();
        match parts.last_mut() {
            Some(part) if part.len() < QUERIES_MAX && bytes + size <= QUERY_BYTES_MAX => {
                bytes += size;
                part.push(question);
            }
            _ => {
                bytes = size;
                parts.push(vec![question]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(filter: &str, since: u64) -> Subscription {
        Subscription { filter: filter.to_owned(), since: vec![since], ..Subscription::default() }
    }

    fn row(subscriptions: Vec<Subscription>) -> SessionRow {
        SessionRow {
            cursor: vec![10],
            subscriptions,
            expiry_interval_s: 60,
            ..SessionRow::default()
        }
    }

    fn asked(row: &SessionRow) -> Vec<(bool, u64, Vec<String>)> {
        let client = ClientKey::default();
        let told =
            |question: Question| (question.adds, question.query.from, question.query.filters);
        queries(&[(&client, row)], 0).into_iter().map(told).collect()
    }

    #[test]
    fn subscriptions_that_begin_together_are_one_question() {
        let row = row(vec![subscription("a", 0), subscription("b", 7)]);
        assert_eq!(asked(&row), [(true, 10, vec!["a".to_owned(), "b".to_owned()])]);
    }

    #[test]
    fn a_later_subscription_counts_from_where_it_begins_and_nothing_twice() {
        let row = row(vec![subscription("a", 0), subscription("#", 15)]);
        let (a, both) = (vec!["a".to_owned()], vec!["a".to_owned(), "#".to_owned()]);
        assert_eq!(asked(&row), [(true, 10, a.clone()), (false, 15, a), (true, 15, both)]);
    }

    #[test]
    fn very_many_beginnings_are_few_questions() {
        let subscriptions = (0..50).map(|n| subscription(&n.to_string(), 20 + n)).collect();
        let questions = asked(&row(subscriptions));
        assert_eq!(questions.len(), 2 * BEGINNINGS_MAX - 1);
        assert_eq!(
            questions.last().map(|(_, from, filters)| (*from, filters.len())),
            Some((23, 50))
        );
    }

    #[test]
    fn sessions_that_keep_nothing_ask_nothing() {
        let regular = SessionRow { expiry_interval_s: 0, ..row(vec![subscription("a", 0)]) };
        assert!(asked(&regular).is_empty());
        assert!(asked(&row(vec![subscription("$share/g/a", 0)])).is_empty());
    }
}
