//! Counts how much of a shard the sessions of another shard still want, for the leader of that one. It
//! looks at topics and positions, never at a record; what has expired is counted too.

use std::collections::HashMap;
use std::ops::Range;

use holdfast_log::run::{Matches, RunError};
use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::shard::Status;
use holdfast_proto::storage::{CountMatchesReply, CountMatchesRequest, MatchCount, MatchQuery};
use holdfast_proto::topic;

use crate::config::COUNT_QUERIES_MAX;
use crate::metrics;
use crate::replica::cell::Cell;
use crate::site::Site;

/// Calls that are worked on at once; others wait.
pub(crate) const COUNTING_MAX: usize = 2;

/// Answers all queries, or says why it cannot.
///
/// # Errors
/// What is asked is malformed or too much.
pub(crate) async fn count(
    site: &Site,
    request: CountMatchesRequest,
) -> Result<CountMatchesReply, &'static str> {
    let filters = || request.queries.iter().flat_map(|query| &query.filters);
    if request.queries.len() > COUNT_QUERIES_MAX {
        return Err("too many queries");
    }
    if filters().any(|filter| topic::check_filter(filter).is_err() || topic::is_shared(filter)) {
        return Err("a filter is malformed");
    }
    let replica = u16::try_from(request.shard).ok().and_then(|shard| site.replica(ShardId(shard)));
    let Some(replica) = replica else { return Ok(without(Status::NotLeader)) };
    if let Err(status) = replica.serving() {
        return Ok(without(status));
    }
    let Ok(_permit) = site.counting.acquire().await else {
        return Ok(without(Status::Unavailable));
    };
    let cell = replica.cell.clone();
    let counted = tokio::task::spawn_blocking(move || count_all(&cell, &request)).await;
    let counts = match counted {
        Ok(Ok(Some(counts))) => counts,
        Ok(Ok(None)) | Err(_) => return Ok(without(Status::Unavailable)),
        Ok(Err(error)) => {
            tracing::error!(shard = replica.key.shard.0, %error, "run cannot be read");
            metrics::refused("run_unreadable");
            return Ok(without(Status::Unavailable));
        }
    };
    // What was counted is what it leads only if it still does.
    match replica.serving() {
        Ok(_) => Ok(CountMatchesReply { status: Status::Ok.into(), counts }),
        Err(status) => Ok(without(status)),
    }
}

fn without(status: Status) -> CountMatchesReply {
    CountMatchesReply { status: status.into(), counts: Vec::new() }
}

/// One count a query; `None` while a run that is needed is not here.
fn count_all(
    cell: &Cell,
    request: &CountMatchesRequest,
) -> Result<Option<Vec<MatchCount>>, RunError> {
    // Many sessions ask for the same.
    let mut known: HashMap<&MatchQueryKey, MatchCount> = HashMap::new();
    let keys: Vec<MatchQueryKey> = request.queries.iter().map(MatchQueryKey::of).collect();
    let mut counts = Vec::with_capacity(keys.len());
    for key in &keys {
        let count = match known.get(key) {
            Some(count) => *count,
            None => {
                let range = Position(key.from)..Position(request.below);
                let namespace = Namespace(key.namespace);
                let Some(found) = count_in(cell, namespace, &key.filters, range)? else {
                    return Ok(None);
                };
                let first = found.first.map_or(request.below, |first| first.0);
                let count = MatchCount { count: found.count, first };
                known.insert(key, count);
                count
            }
        };
        counts.push(count);
    }
    Ok(Some(counts))
}

#[derive(PartialEq, Eq, Hash)]
struct MatchQueryKey {
    namespace: u32,
    filters: Vec<String>,
    from: u64,
}

impl MatchQueryKey {
    fn of(query: &MatchQuery) -> MatchQueryKey {
        let mut filters = query.filters.clone();
        filters.sort_unstable();
        filters.dedup();
        MatchQueryKey { namespace: query.namespace, filters, from: query.from }
    }
}

/// The records of a range that match one of the filters, as far as they are kept; `None` while a run
/// that is needed is not here, or the range is not all applied.
pub(crate) fn count_in(
    cell: &Cell,
    namespace: Namespace,
    filters: &[String],
    range: Range<Position>,
) -> Result<Option<Matches>, RunError> {
    let mut matches = Matches::default();
    let tail_first = {
        let shard = cell.shard.lock();
        if range.end > shard.next_position() {
            return Ok(None);
        }
        if range.is_empty()
            || !shard.last_positions().may_have_news(namespace, filters, range.start)
        {
            return Ok(Some(matches));
        }
        let tail_first = shard.tail().first();
        if range.end > tail_first {
            let in_tail = range.start.max(tail_first)..range.end;
            let (count, first) = shard.tail().count(namespace, filters, in_tail);
            matches.add(Matches { count, first });
        }
        tail_first
    };
    let in_runs = range.start..range.end.min(tail_first);
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    for run in cell.runs_in(in_runs.clone()) {
        let Some(run) = run else { return Ok(None) };
        matches.add(run.count(namespace, &filters, in_runs.clone())?);
    }
    Ok(Some(matches))
}
