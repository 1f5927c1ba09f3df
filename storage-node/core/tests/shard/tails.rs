use bytes::BytesMut;
use holdfast_proto::ids::{Namespace, Position};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::Record;
use holdfast_proto::topic;
use holdfast_shard::{LastPositions, TOPICS_MAX, Tail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

const NS: Namespace = Namespace(0);

fn placed(position: u64, topic: &str) -> Placed {
    let payload = position.to_string();
    let mut bytes = encoded(&draft(&Publish(topic, "c", 0, 0, &payload)));
    let record = Record::split_from(&mut bytes).unwrap();
    Placed { position: Position(position), time_ms: 1, record }
}

fn owned(filters: &[&str]) -> Vec<String> {
    filters.iter().map(|filter| filter.to_string()).collect()
}

/// Reads all pages and returns the positions.
fn read_all(tail: &Tail, filters: &[String], from: u64, bytes_max: usize) -> Vec<u64> {
    let mut found = Vec::new();
    let mut from = Position(from);
    while from < tail.end() {
        let mut out = BytesMut::new();
        let (next, count) = tail.read(NS, filters, from, bytes_max, &mut out);
        assert!(next > from, "a page moves on");
        let page = Placed::decode_all(out.freeze()).unwrap();
        assert_eq!(page.len(), count);
        assert!(page.iter().all(|placed| (from..next).contains(&placed.position)));
        found.extend(page.iter().map(|placed| placed.position.0));
        from = next;
    }
    found
}

#[test]
fn reads_find_exactly_what_matches_whatever_way_they_take() {
    let mut random = SmallRng::seed_from_u64(7);
    let filters = [
        owned(&["a"]),
        owned(&["a", "b/1", "a"]),
        owned(&["b/+"]),
        owned(&["#"]),
        owned(&["b/#", "a"]),
        owned(&["none"]),
        owned(&["n/+/x"]),
    ];
    for topics in [3, 400] {
        let mut tail = Tail::new(Position(1));
        let mut names = vec![String::new()];
        for position in 1..=300 {
            let name = match random.random_range(0..topics) {
                0 => "a".to_owned(),
                1 => "b/1".to_owned(),
                2 => "b/2".to_owned(),
                n => format!("n/{n}/x"),
            };
            tail.push(placed(position, &name));
            names.push(name);
        }
        for trimmed in [1, 2, 150] {
            tail.trim_below(Position(trimmed));
            assert_eq!((tail.first(), tail.end()), (Position(trimmed), Position(301)));
            for filters in &filters {
                let from = random.random_range(trimmed..=301);
                let expected: Vec<u64> = (from..=300)
                    .filter(|at| filters.iter().any(|f| topic::matches(f, &names[*at as usize])))
                    .collect();
                for bytes_max in [0, 200, 1 << 20] {
                    assert_eq!(read_all(&tail, filters, from, bytes_max), expected);
                }
            }
        }
        assert_eq!(tail.below(Position(160)).len(), 10);
        assert_eq!(tail.from(Position(299)).count(), 2);
        assert!(tail.at(Position(149)).is_none() && tail.at(Position(301)).is_none());
        tail.trim_below(Position(1000));
        assert_eq!((tail.bytes(), tail.first()), (0, Position(301)));
    }
}

#[test]
fn other_tenants_records_are_not_read() {
    let mut tail = Tail::new(Position(1));
    tail.push(placed(1, "a"));
    let mut out = BytesMut::new();
    for filter in ["a", "#"] {
        let read = tail.read(Namespace(1), &owned(&[filter]), Position(1), 99, &mut out);
        assert_eq!(read, (Position(2), 0));
    }
}

#[test]
fn no_news_is_certain() {
    let mut last = LastPositions::new(Position(10));
    assert!(last.may_have_news(NS, &owned(&["a"]), Position(9)), "not known");
    assert!(!last.may_have_news(NS, &owned(&["#"]), Position(10)));
    last.stored(NS, "a", Position(10));
    assert!(last.may_have_news(NS, &owned(&["b", "a"]), Position(10)));
    assert!(last.may_have_news(NS, &owned(&["b/+"]), Position(10)));
    assert!(!last.may_have_news(NS, &owned(&["b"]), Position(10)));
    assert!(!last.may_have_news(NS, &owned(&["a"]), Position(11)));
    // However many topics come after it, its record stays news for those who have not read it.
    for n in 0..2 * TOPICS_MAX as u64 {
        last.stored(NS, &format!("n{n}"), Position(11 + n));
    }
    assert!(last.may_have_news(NS, &owned(&["a"]), Position(10)));
    let end = Position(11 + 2 * TOPICS_MAX as u64);
    assert!(!last.may_have_news(NS, &owned(&["a"]), Position(end.0 - 9)));
    assert!(last.may_have_news(NS, &owned(&["n131071"]), Position(end.0 - 1)));
}
