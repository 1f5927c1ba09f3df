//! Counts how much of a shard sessions still want, for the leader of their shard and for people. It looks
//! at topics and positions, and at a record only to tell when it was stored; what has expired is counted
//! too.

use std::collections::HashMap;
use std::ops::Range;

use holdfast_log::run::{Matches, RunError};
use holdfast_proto::ids::{Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::shard::Status;
use holdfast_proto::storage::{CountMatchesReply, CountMatchesRequest, MatchCount, MatchQuery};
use holdfast_proto::topic;

use crate::config::COUNT_QUERIES_MAX;
use crate::metrics::{self, Refused};
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
    if request.queries.len() > COUNT_QUERIES_MAX {
        return Err("too many queries");
    }
    check_filters(request.queries.iter().flat_map(|query| &query.filters))?;
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
            metrics::refused(Refused::RunUnreadable);
            return Ok(without(Status::Unavailable));
        }
    };
    // What was counted is what it leads only if it still does.
    match replica.serving() {
        Ok(_) => Ok(CountMatchesReply { status: Status::Ok.into(), counts }),
        Err(status) => Ok(without(status)),
    }
}

/// Refuses what is no filter of messages.
pub(super) fn check_filters<'a>(
    mut filters: impl Iterator<Item = &'a String>,
) -> Result<(), &'static str> {
    match filters.any(|filter| topic::check_filter(filter).is_err() || topic::is_shared(filter)) {
        true => Err("a filter is malformed"),
        false => Ok(()),
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
    let below = match request.below {
        0 => cell.shard.lock().next_position().0,
        below => below,
    };
    // Many sessions ask for the same.
    let mut known: HashMap<&MatchQueryKey, MatchCount> = HashMap::new();
    let mut times: HashMap<u64, u64> = HashMap::new();
    let keys: Vec<MatchQueryKey> = request.queries.iter().map(MatchQueryKey::of).collect();
    let mut counts = Vec::with_capacity(keys.len());
    for key in &keys {
        let count = match known.get(key) {
            Some(count) => *count,
            None => {
                let range = Position(key.from)..Position(below);
                let namespace = Namespace(key.namespace);
                let Some(found) = count_in(cell, namespace, &key.filters, range)? else {
                    return Ok(None);
                };
                let mut count = MatchCount { count: found.count, first: below, first_time_ms: 0 };
                if let Some(Position(first)) = found.first {
                    count.first = first;
                    if request.with_time {
                        count.first_time_ms = match times.get(&first) {
                            Some(time_ms) => *time_ms,
                            None => {
                                let Some(time_ms) = stored_at(cell, first)? else {
                                    return Ok(None);
                                };
                                times.insert(first, time_ms);
                                time_ms
                            }
                        };
                    }
                }
                known.insert(key, count);
                count
            }
        };
        counts.push(count);
    }
    Ok(Some(counts))
}

/// Shard time at which the record at a position was stored, 0 if it is not kept any more; `None` while
/// its run is not here.
fn stored_at(cell: &Cell, position: u64) -> Result<Option<u64>, RunError> {
    let page = cell.at(&[position])?;
    if page.status != Status::Ok {
        return Ok(None);
    }
    let placed = Placed::decode_all(page.records.freeze()).unwrap_or_default();
    Ok(Some(placed.first().map_or(0, |placed| placed.time_ms)))
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
        let counted = run.count(namespace, &filters, in_runs.clone());
        matches.add(counted.inspect_err(|error| cell.note_damage(&run, error))?);
    }
    Ok(Some(matches))
}

#[cfg(test)]
mod tests {
    use holdfast_log::SimRng;
    use holdfast_proto::shard::GenerationRow;
    use holdfast_shard::policy::{Class, Mode, Policy, Verdict};

    use super::*;
    use crate::replica::by_hand::Replica;
    use crate::replica::retention::classes_in;

    #[test]
    fn counts_are_exact_across_runs_and_tail() {
        for seed in 0..20 {
            let mut rng = SimRng::new(seed);
            let mut replica = Replica::new();
            for sequence in 1..=12 {
                replica.append(&mut rng, sequence);
                if rng.one_in(3) {
                    replica.cut(rng.one_in(3), false);
                }
            }
            let next = replica.cell.shard.lock().next_position().0;
            for _ in 0..60 {
                let all = ["#", "a/#", "+/3", "b/2", "$c/+", "a/1", "nothing/#"];
                let count = 1 + rng.below(3);
                let filters: Vec<String> =
                    (0..count).map(|_| all[rng.below(7) as usize].to_owned()).collect();
                let namespace = u32::from(rng.one_in(5));
                let range = Position(rng.below(next))..Position(1 + rng.below(next));
                let found = count_in(&replica.cell, Namespace(namespace), &filters, range.clone());
                let expected = replica.expected(namespace, &filters, &range);
                let text = format!("seed {seed} {filters:?} {range:?}");
                assert_eq!(found.unwrap(), Some(expected), "{text}");
            }
            let beyond = Position(1)..Position(next + 1);
            let found = count_in(&replica.cell, Namespace(0), &["#".to_owned()], beyond);
            assert_eq!(found.unwrap(), None, "not all there yet");
        }
    }

    #[test]
    fn nothing_is_counted_without_a_run_that_is_missing() {
        let mut rng = SimRng::new(3);
        let mut replica = Replica::new();
        replica.append(&mut rng, 1);
        replica.cut(false, true);
        let middle = replica.cell.shard.lock().next_position();
        replica.append(&mut rng, 2);
        let next = replica.cell.shard.lock().next_position();
        let count = |range| {
            count_in(&replica.cell, Namespace(0), &["#".to_owned()], range).unwrap().is_some()
        };
        assert!(!count(Position(1)..next) && !count(Position(1)..middle));
        assert!(count(middle..next));
        let request = |queries| CountMatchesRequest {
            below: next.0,
            queries: vec![
                MatchQuery { namespace: 0, filters: vec!["#".into()], from: middle.0 };
                queries
            ],
            ..CountMatchesRequest::default()
        };
        let counts = count_all(&replica.cell, &request(3)).unwrap().unwrap();
        assert_eq!(counts.len(), 3);
        assert!(counts.iter().all(|one| *one == counts[0]));
    }

    #[test]
    fn the_first_match_is_told_with_its_time_up_to_what_is_applied() {
        let mut replica = Replica::new();
        for (sequence, topic) in [(1, "a"), (2, "b"), (3, "c")] {
            replica.now_ms = 1_000 * sequence;
            replica.append_to(sequence, &[topic, topic]);
            if sequence == 2 {
                replica.cut(true, false);
            }
        }
        let asked = |topic: &str, from, below, with_time| {
            let queries = vec![MatchQuery { namespace: 0, filters: vec![topic.into()], from }];
            let request =
                CountMatchesRequest { below, queries, with_time, ..CountMatchesRequest::default() };
            let count = count_all(&replica.cell, &request).unwrap().unwrap()[0];
            (count.count, count.first, count.first_time_ms)
        };
        assert_eq!(asked("a", 1, 0, true), (2, 1, 1_000));
        assert_eq!(asked("b", 4, 0, true), (1, 4, 2_000), "in a run");
        assert_eq!(asked("c", 1, 0, true), (2, 5, 3_000), "in memory");
        assert_eq!(asked("c", 1, 6, true), (1, 5, 3_000));
        assert_eq!(asked("c", 1, 0, false), (2, 5, 0), "nobody asked");
        assert_eq!(asked("a", 3, 0, true), (0, 7, 0), "the head");
        assert_eq!(asked("a", u64::MAX, 0, false), (0, 7, 0));
    }

    #[test]
    fn the_topics_of_a_generation_say_which_overrides_hold() {
        let mut rng = SimRng::new(4);
        let mut replica = Replica::new();
        for sequence in 1..4 {
            replica.append(&mut rng, sequence);
            replica.cut(sequence == 3, false);
        }
        let class = |mode, age_ms| Class { mode, age_ms };
        let policy = |filter: &str| {
            let overrides = vec![(filter.to_owned(), class(Mode::TimeAndConsumed, 50))];
            Policy::new(class(Mode::Time, 10), overrides)
        };
        let row: GenerationRow = replica.cell.shard.lock().generations()[0].clone();
        let verdict = |policy: &Policy, now_ms| {
            let present = classes_in(&replica.cell, &row, policy).unwrap();
            policy.verdict(&row, &present, now_ms)
        };
        assert_eq!(verdict(&policy("a/#"), 1_010), Verdict::Keep);
        assert_eq!(verdict(&policy("a/#"), 1_050), Verdict::Wait);
        assert_eq!(verdict(&policy("elsewhere/#"), 1_010), Verdict::Doom);
    }
}
