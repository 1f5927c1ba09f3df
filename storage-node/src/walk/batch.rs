//! Some sessions of a walk: what is asked about them, and what follows from the answers.

use std::collections::BTreeMap;
use std::ops::Range;

use holdfast_proto::ids::Position;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    ClientKey, Command, MoveOn, Outcome, SessionRow, ShardPosition, Status,
};
use holdfast_proto::storage::{MatchCount, MatchQuery};
use holdfast_shard::Request;
use holdfast_shard::need::{Want, first_covered, oldest_in_flight, wants};
use tokio::sync::oneshot;

use super::Goals;
use crate::metrics;
use crate::replica::Replica;

/// Sessions of which one batch looks at most, asked about or not.
const SEEN_MAX: u64 = 10_000;

/// A query with where it goes.
pub(super) struct Ask {
    pub(super) shard: u16,
    /// 0: up to what is applied.
    pub(super) below: u64,
    pub(super) query: MatchQuery,
}

/// Some sessions.
#[derive(Default)]
pub(super) struct Batch {
    seen: u64,
    asks: Vec<Ask>,
    sessions: Vec<Session>,
    /// Messages in flight that may have to be sent again.
    in_flight: BTreeMap<u16, u64>,
}

/// A session that may need what is to be removed.
struct Session {
    client: ClientKey,
    epoch: u64,
    instance: u64,
    is_connected: bool,
    needs: Vec<Need>,
}

/// What it may need of one shard, `[first, top)`, and the asks about it.
struct Need {
    shard: u16,
    first: u64,
    top: u64,
    /// About what goes unread.
    doomed: Range<usize>,
    /// About the rest.
    wanted: Range<usize>,
}

/// What is known of one need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// The first message that is not lost; the top if there is none.
    next: u64,
    lost: u64,
}

impl Batch {
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn is_enough(&self, asks_max: usize) -> bool {
        self.asks.len() >= asks_max || self.seen >= SEEN_MAX
    }

    pub(super) fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Takes a session's row.
    pub(super) fn note(&mut self, goals: &Goals, client: ClientKey, row: &SessionRow) {
        self.seen += 1;
        let mut needs = Vec::new();
        for (shard, goal) in (0..).zip(&goals.0) {
            let doomed = Position(goal.doomed_below);
            if let Some(oldest) = oldest_in_flight(row, shard, doomed) {
                let known = self.in_flight.entry(shard).or_insert(u64::MAX);
                *known = oldest.0.min(*known);
            }
            let Some(first) = first_covered(row, shard, Position::FIRST) else { continue };
            if first.0 >= goal.top() {
                continue;
            }
            let doomed_asks = wants(row, shard, first, doomed);
            let wanted_asks = wants(row, shard, first.max(doomed), Position(goal.wanted_below));
            needs.push(Need {
                shard,
                first: first.0,
                top: goal.top(),
                doomed: self.ask(client.namespace, shard, doomed_asks),
                wanted: self.ask(client.namespace, shard, wanted_asks),
            });
        }
        if !needs.is_empty() {
            self.sessions.push(Session {
                client,
                epoch: row.epoch,
                instance: row.instance,
                is_connected: row.owner.is_some(),
                needs,
            });
        }
    }

    fn ask(&mut self, namespace: u32, shard: u16, wants: Vec<Want>) -> Range<usize> {
        let start = self.asks.len();
        self.asks.extend(wants.into_iter().map(|want| Ask {
            shard,
            below: want.below.0,
            query: MatchQuery { namespace, filters: want.filters, from: want.from.0 },
        }));
        start..self.asks.len()
    }

    /// Moves sessions on as the answers allow, and lowers the marks to what is needed still. `lost`
    /// counts sessions and messages by the messages' shard.
    pub(super) async fn settle(
        &self,
        replica: &Replica,
        answers: &[Option<MatchCount>],
        low_marks: &mut [u64],
        lost: &mut BTreeMap<u16, (u64, u64)>,
    ) {
        for (shard, oldest) in &self.in_flight {
            lower(low_marks, *shard, *oldest);
        }
        let mut moving = Vec::new();
        for session in &self.sessions {
            let found: Vec<Option<Found>> = session
                .needs
                .iter()
                .map(|need| need.found(answers, session.is_connected))
                .collect();
            let moved = session.move_on(&found).map(|command| propose(replica, command));
            moving.push((session, found, moved));
        }
        for (session, found, moved) in moving {
            let is_moved = match moved {
                None => true,
                Some(outcome) => outcome.await.is_ok_and(|done| done.status() == Status::Ok),
            };
            for (need, found) in session.needs.iter().zip(found) {
                match found {
                    Some(found) if is_moved || found.lost == 0 => {
                        lower(low_marks, need.shard, found.next);
                        if found.lost > 0 {
                            let (sessions, messages) = lost.entry(need.shard).or_default();
                            *sessions += 1;
                            *messages += found.lost;
                            metrics::lost_unread(found.lost);
                        }
                    }
                    // Not answered, or the session has changed meanwhile.
                    _ => lower(low_marks, need.shard, need.first),
                }
            }
        }
    }
}

fn lower(low_marks: &mut [u64], shard: u16, to: u64) {
    if let Some(mark) = low_marks.get_mut(usize::from(shard)) {
        *mark = to.min(*mark);
    }
}

fn propose(replica: &Replica, command: MoveOn) -> oneshot::Receiver<Outcome> {
    replica.ask(Request::Command(Command { command: Some(Kind::MoveOn(command)) }))
}

impl Need {
    fn found(&self, answers: &[Option<MatchCount>], is_connected: bool) -> Option<Found> {
        let doomed: Option<Vec<MatchCount>> =
            answers.get(self.doomed.clone())?.iter().copied().collect();
        let wanted: Option<Vec<MatchCount>> =
            answers.get(self.wanted.clone())?.iter().copied().collect();
        let (doomed, wanted) = (doomed?, wanted?);
        let first = |counts: &[MatchCount]| {
            counts.iter().filter(|count| count.count > 0).map(|count| count.first).min()
        };
        if is_connected {
            // Its gateway reads; nothing is lost before it is gone.
            let next = first(&doomed).or_else(|| first(&wanted)).unwrap_or(self.top);
            return Some(Found { next, lost: 0 });
        }
        let lost = doomed.iter().map(|count| count.count).sum();
        Some(Found { next: first(&wanted).unwrap_or(self.top), lost })
    }
}

impl Session {
    /// The command that moves it as far as possible; `None` if it stays where it is.
    fn move_on(&self, found: &[Option<Found>]) -> Option<MoveOn> {
        if self.is_connected {
            return None;
        }
        let moves = || {
            let known =
                self.needs.iter().zip(found).filter_map(|(need, found)| Some((need, (*found)?)));
            known.filter(|(need, found)| found.next > need.first)
        };
        let cursor: Vec<ShardPosition> = moves()
            .map(|(need, found)| ShardPosition {
                shard: u32::from(need.shard),
                position: found.next,
            })
            .collect();
        (!cursor.is_empty()).then(|| MoveOn {
            client: Some(self.client.clone()),
            epoch: self.epoch,
            instance: self.instance,
            cursor,
            lost: moves().map(|(_, found)| found.lost).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::{GatewayRef, InFlight, Subscription};

    use super::super::Goal;
    use super::*;

    fn goals(all: &[(u64, u64)]) -> Goals {
        let goal = |(wanted_below, doomed_below): &(u64, u64)| Goal {
            wanted_below: *wanted_below,
            doomed_below: *doomed_below,
        };
        Goals(all.iter().map(goal).collect())
    }

    fn row(cursor: &[u64]) -> SessionRow {
        let subscription = Subscription { filter: "t/#".into(), ..Subscription::default() };
        SessionRow {
            epoch: 3,
            instance: 2,
            cursor: cursor.to_vec(),
            subscriptions: vec![subscription],
            expiry_interval_s: 60,
            ..SessionRow::default()
        }
    }

    fn noted(goals: &Goals, row: &SessionRow) -> Batch {
        let mut batch = Batch::default();
        let client = ClientKey { namespace: 0, client_id: "a".into() };
        batch.note(goals, client, row);
        batch
    }

    fn asked(batch: &Batch) -> Vec<(u16, u64, u64)> {
        batch.asks.iter().map(|ask| (ask.shard, ask.query.from, ask.below)).collect()
    }

    fn count(count: u64, first: u64) -> Option<MatchCount> {
        Some(MatchCount { count, first, first_time_ms: 0 })
    }

    #[test]
    fn only_what_may_be_removed_is_asked_about() {
        let goals = goals(&[(50, 20), (0, 0), (9, 40)]);
        assert_eq!(asked(&noted(&goals, &row(&[0, 0, 0]))), [(0, 1, 20), (0, 20, 50), (2, 1, 40)]);
        assert_eq!(asked(&noted(&goals, &row(&[30, 5, 40]))), [(0, 30, 50)]);
        assert!(noted(&goals, &row(&[50, 1, 40])).sessions.is_empty());
        let nothing = SessionRow { subscriptions: Vec::new(), ..row(&[0, 0, 0]) };
        assert!(noted(&goals, &nothing).sessions.is_empty());
    }

    #[test]
    fn what_is_in_flight_is_needed_unless_it_is_doomed() {
        let of = |position| {
            let in_flight = vec![InFlight { position, ..InFlight::default() }];
            let row = SessionRow { in_flight, ..row(&[60]) };
            noted(&goals(&[(50, 20)]), &row).in_flight.get(&0).copied()
        };
        assert_eq!((of(19), of(20)), (None, Some(20)));
    }

    #[test]
    fn a_session_moves_to_what_it_still_wants_and_loses_what_is_doomed() {
        let batch = noted(&goals(&[(50, 20)]), &row(&[4]));
        let session = &batch.sessions[0];
        let move_on = |answers: &[Option<MatchCount>]| {
            let found: Vec<_> =
                session.needs.iter().map(|need| need.found(answers, false)).collect();
            let moved = session.move_on(&found)?;
            assert_eq!((moved.epoch, moved.instance), (3, 2));
            Some((moved.cursor[0].position, moved.lost))
        };
        assert_eq!(move_on(&[count(3, 7), count(2, 31)]), Some((31, 3)));
        assert_eq!(move_on(&[count(3, 7), count(0, 50)]), Some((50, 3)));
        assert_eq!(move_on(&[count(0, 20), count(1, 20)]), Some((20, 0)));
        assert_eq!(move_on(&[count(0, 20), None]), None, "not answered");
        let unread = noted(&goals(&[(50, 1)]), &row(&[4]));
        let found = [unread.sessions[0].needs[0].found(&[count(1, 4)], false)];
        assert_eq!(unread.sessions[0].move_on(&found), None, "it wants what is next");
    }

    #[test]
    fn a_connected_session_loses_nothing_and_is_not_moved() {
        let owner = Some(GatewayRef::default());
        let batch = noted(&goals(&[(50, 20)]), &SessionRow { owner, ..row(&[4]) });
        let need = &batch.sessions[0].needs[0];
        let found = |answers: &[Option<MatchCount>]| need.found(answers, true).unwrap();
        assert_eq!(found(&[count(3, 7), count(2, 31)]), Found { next: 7, lost: 0 });
        assert_eq!(found(&[count(0, 20), count(2, 31)]), Found { next: 31, lost: 0 });
        assert_eq!(found(&[count(0, 20), count(0, 50)]), Found { next: 50, lost: 0 });
        assert_eq!(batch.sessions[0].move_on(&[Some(found(&[count(0, 20), count(0, 50)]))]), None);
    }
}
