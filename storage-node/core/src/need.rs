//! What a session may still need of a shard's messages: nothing below it is ever read for it.

use holdfast_proto::ids::Position;
use holdfast_proto::shard::{DeliveryState, SessionRow};

/// Some records that a session may still want: those in `[from, below)` that match one of the filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// First position.
    pub from: Position,
    /// The position after the last; of the newest want the one that was asked for.
    pub below: Position,
    /// Filters of the subscriptions that cover these positions.
    pub filters: Vec<String>,
}

/// The first position, at or above `kept`, that any subscription of the session still covers.
#[must_use]
pub fn first_covered(row: &SessionRow, shard: u16, kept: Position) -> Option<Position> {
    let shard = usize::from(shard);
    let cursor = row.cursor.get(shard).copied().unwrap_or(0).max(kept.0);
    let since = |since: &Vec<u64>| since.get(shard).copied().unwrap_or(0);
    let covered = row.subscriptions.iter().map(|one| since(&one.since).max(cursor));
    covered.min().map(Position)
}

/// What the session may still want in `[kept, below)`, in order: a subscription begins to count where it
/// was made.
#[must_use]
pub fn wants(row: &SessionRow, shard: u16, kept: Position, below: Position) -> Vec<Want> {
    let at = usize::from(shard);
    let cursor = row.cursor.get(at).copied().unwrap_or(0).max(kept.0);
    let mut starts: Vec<(u64, &String)> = row
        .subscriptions
        .iter()
        .map(|one| (one.since.get(at).copied().unwrap_or(0).max(cursor), &one.filter))
        .filter(|(from, _)| *from < below.0)
        .collect();
    starts.sort_unstable_by_key(|(from, _)| *from);
    let mut wants: Vec<Want> = Vec::new();
    for (from, filter) in starts {
        let mut filters = Vec::new();
        if let Some(before) = wants.last_mut() {
            if before.from.0 == from {
                before.filters.push(filter.clone());
                continue;
            }
            before.below = Position(from);
            filters.clone_from(&before.filters);
        }
        filters.push(filter.clone());
        wants.push(Want { from: Position(from), below, filters });
    }
    wants
}

/// The oldest message at or above `kept` that was taken for the session and may have to be sent again.
#[must_use]
pub fn oldest_in_flight(row: &SessionRow, shard: u16, kept: Position) -> Option<Position> {
    let again = row.in_flight.iter().filter(|message| {
        message.shard == u32::from(shard)
            && message.position >= kept.0
            && message.state != i32::from(DeliveryState::DeliveryReleased)
    });
    again.map(|message| Position(message.position)).min()
}

#[cfg(test)]
mod tests {
    use holdfast_proto::shard::{InFlight, Subscription};

    use super::*;

    fn subscription(filter: &str, since: &[u64]) -> Subscription {
        Subscription { filter: filter.into(), since: since.to_vec(), ..Subscription::default() }
    }

    fn want(from: u64, below: u64, filters: &[&str]) -> Want {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        Want { from: Position(from), below: Position(below), filters }
    }

    #[test]
    fn a_session_without_subscriptions_needs_nothing() {
        let row = SessionRow { cursor: vec![3, 4], ..SessionRow::default() };
        assert_eq!(first_covered(&row, 0, Position::FIRST), None);
        assert_eq!(oldest_in_flight(&row, 0, Position::FIRST), None);
        assert!(wants(&row, 0, Position::FIRST, Position(9)).is_empty());
    }

    #[test]
    fn subscriptions_count_from_where_they_were_made() {
        let row = SessionRow {
            cursor: vec![5, 0],
            subscriptions: vec![
                subscription("new", &[20, 30]),
                subscription("old", &[]),
                subscription("too", &[20, 0]),
                subscription("far", &[90, 90]),
            ],
            ..SessionRow::default()
        };
        assert_eq!(first_covered(&row, 0, Position(1)), Some(Position(5)));
        assert_eq!(first_covered(&row, 1, Position(1)), Some(Position(1)));
        assert_eq!(first_covered(&row, 1, Position(7)), Some(Position(7)), "gone below");
        let below = Position(50);
        assert_eq!(
            wants(&row, 0, Position(1), below),
            [want(5, 20, &["old"]), want(20, 50, &["old", "new", "too"])]
        );
        assert_eq!(
            wants(&row, 1, Position(8), below),
            [want(8, 30, &["old", "too"]), want(30, 50, &["old", "too", "new"])]
        );
        assert!(wants(&row, 0, Position(50), below).is_empty());
    }

    #[test]
    fn what_was_received_is_not_sent_again() {
        let of = |position, state: DeliveryState, shard| InFlight {
            position,
            shard,
            state: state.into(),
            ..InFlight::default()
        };
        let row = SessionRow {
            in_flight: vec![
                of(9, DeliveryState::DeliveryPublished, 0),
                of(2, DeliveryState::DeliveryReleased, 0),
                of(3, DeliveryState::DeliveryPublished, 0),
                of(1, DeliveryState::DeliveryPublished, 1),
            ],
            ..SessionRow::default()
        };
        assert_eq!(oldest_in_flight(&row, 0, Position(1)), Some(Position(3)));
        assert_eq!(oldest_in_flight(&row, 0, Position(4)), Some(Position(9)));
        assert_eq!(oldest_in_flight(&row, 0, Position(10)), None);
    }
}
