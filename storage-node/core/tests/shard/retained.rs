use holdfast_proto::ids::Namespace;
use holdfast_proto::record::RecordDraft;
use holdfast_proto::shard::SetRetained;
use holdfast_proto::shard::Status;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_shard::{FORGET_AFTER_MS, Request};

use crate::support::*;

fn set(topic: &str, by: &str, place: (u64, u64), payload: &str) -> SetRetained {
    let message = Publish(topic, by, place.0, 0, payload);
    SetRetained {
        namespace: 0,
        topic: topic.into(),
        record: encoded(&RecordDraft { retain: true, ..draft(&message) }),
        client: Some(client(by)),
        epoch: place.0,
        home_shard: 0,
        home_position: place.1,
        time_ms: START_MS,
    }
}

fn put(leader: &mut Leader, set: SetRetained) {
    assert_eq!(leader.command(Kind::SetRetained(set)), Status::Ok);
}

fn find(leader: &Leader, filters: &[&str], limit: usize) -> Vec<String> {
    let filters: Vec<String> = filters.iter().map(|filter| filter.to_string()).collect();
    let rows = leader.shard.retained(Namespace(0), &filters, limit).unwrap();
    let mut found: Vec<String> = rows
        .into_iter()
        .map(|mut row| {
            let record = holdfast_proto::record::Record::split_from(&mut row.record).unwrap();
            String::from_utf8(record.payload().to_vec()).unwrap()
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn an_older_message_of_the_same_client_does_not_replace() {
    let mut leader = Leader::new();
    put(&mut leader, set("t", "a", (2, 5), "new"));
    for older in [(2, 4), (3, 4)] {
        put(&mut leader, set("t", "a", older, "old"));
        assert_eq!(find(&leader, &["t"], 9), ["new"]);
    }
    // A will is bound to no epoch: its place in the home shard alone tells that it is newer.
    put(&mut leader, set("t", "a", (0, 6), "will"));
    assert_eq!(find(&leader, &["t"], 9), ["will"]);
    put(&mut leader, set("t", "b", (1, 1), "other"));
    assert_eq!(find(&leader, &["t"], 9), ["other"]);
}

#[test]
fn a_cleared_message_is_not_shown_and_does_not_come_back() {
    let mut leader = Leader::new();
    put(&mut leader, set("t", "a", (1, 1), "x"));
    put(&mut leader, set("t", "a", (1, 3), ""));
    put(&mut leader, set("t", "a", (1, 2), "older"));
    assert!(find(&leader, &["t", "#"], 9).is_empty());
    leader.restart();
    put(&mut leader, set("t", "a", (1, 2), "older"));
    assert!(find(&leader, &["t", "#"], 9).is_empty());
    leader.now_ms += FORGET_AFTER_MS;
    leader.run(&[Request::Cut]);
    leader.restart();
    let rows = leader.base.0.lock().unwrap();
    assert!(!rows.keys().any(|key| key[0] == holdfast_shard::keys::RETAINED), "forgotten");
}

#[test]
fn an_expired_message_is_not_shown() {
    let mut leader = Leader::new();
    let message = Publish("t", "a", 1, 0, "x");
    let record = encoded(&RecordDraft { expiry_interval_s: 10, ..draft(&message) });
    put(&mut leader, SetRetained { record, ..set("t", "a", (1, 1), "") });
    leader.pass_s(9);
    leader.run(&[Request::Cut]);
    assert_eq!(find(&leader, &["t"], 9), ["x"]);
    leader.pass_s(1);
    leader.run(&[Request::Cut]);
    assert!(find(&leader, &["t", "+"], 9).is_empty());
}

#[test]
fn filters_find_what_is_in_memory_and_what_is_in_the_base_once() {
    let mut leader = Leader::new();
    for (n, topic) in ["a", "a/b", "a/b/c", "ab", "$s/x", "x/b"].into_iter().enumerate() {
        put(&mut leader, set(topic, "a", (1, 1), topic));
        if n == 2 {
            leader.restart();
        }
    }
    put(&mut leader, set("a/b", "a", (1, 2), "a/b new"));
    assert_eq!(find(&leader, &["a/#"], 9), ["a", "a/b new", "a/b/c"]);
    assert_eq!(find(&leader, &["+/b", "a/b", "a/+"], 9), ["a/b new", "x/b"]);
    assert_eq!(find(&leader, &["#"], 9).len(), 5);
    assert_eq!(find(&leader, &["#"], 2).len(), 2);
    assert_eq!(find(&leader, &["$s/#"], 9), ["$s/x"]);
    assert!(find(&leader, &["a/b/c/d/+"], 9).is_empty());
}

#[test]
fn a_record_of_another_topic_is_refused() {
    let mut leader = Leader::new();
    let wrong = SetRetained { topic: "u".into(), ..set("t", "a", (1, 1), "x") };
    assert_eq!(leader.command(Kind::SetRetained(wrong)), Status::Invalid);
}
