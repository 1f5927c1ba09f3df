//! Single cases of the whole core.

use bytes::BytesMut;
use holdfast_proto::ids::{Epoch, Namespace, Position, ShardId};
use holdfast_proto::placed::Placed;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{self, InFlight, RetainedRow, SessionRow, Status};

use super::world::record;
use crate::{
    AckKind, Counter, Delivery, Effect, Leave, Limits, Opening, Page, Protocol, Session,
    SubscribeFilter, SubscribePacket, Turn, reason,
};

const LIMITS: Limits = Limits {
    receive_maximum: 10,
    topic_alias_maximum: 4,
    window: 2,
    client_packet_bytes_max: 100,
    buffer_bytes_max: 10_000,
    buffer_records_max: 3,
    page_bytes: 500,
    operations_max: 2,
    commit_interval_ms: 1000,
    retry_ms: 50,
};

struct Bench {
    session: Session,
    effects: Vec<Effect>,
    now_ms: u64,
}

impl Bench {
    fn open(durable: bool, protocol: Protocol, row: &SessionRow) -> Bench {
        let mut effects = Vec::new();
        let session = Session::open(
            &Opening {
                namespace: Namespace(0),
                client_id: "client",
                protocol,
                durable,
                shards: 2,
                limits: LIMITS,
                row,
            },
            &mut effects,
        );
        Bench { session, effects, now_ms: 100_000 }
    }

    /// A session that is attached from position 5 on.
    fn attached(durable: bool, row: &SessionRow) -> Bench {
        let mut bench = Bench::open(durable, Protocol::V5, row);
        let effects = bench.turn();
        let Some(Effect::Attach { token, .. }) =
            effects.into_iter().find(|effect| matches!(effect, Effect::Attach { .. }))
        else {
            panic!("no attach")
        };
        let from: &[Position] = if durable { &[Position(5), Position(5)] } else { &[] };
        bench.session.attached(token, Some(from), bench.now_ms, &mut bench.effects);
        bench
    }

    fn turn(&mut self) -> Vec<Effect> {
        let now_ms = self.now_ms;
        let mut turn = Turn { now_ms, shard_time_ms: &|_| now_ms, room_bytes: 10_000 };
        self.session.turn(&mut turn, &mut self.effects).unwrap();
        std::mem::take(&mut self.effects)
    }

    fn subscribe(&mut self, filter: &str, options: u8) {
        let filters = vec![SubscribeFilter { filter: filter.into(), options }];
        let packet = SubscribePacket { packet_id: 7, identifier: 3, filters };
        self.session.subscribe(packet).unwrap();
    }

    /// Subscribes all the way; returns the effects with the SUBACK.
    fn subscribed(&mut self, filter: &str, options: u8) -> Vec<Effect> {
        self.subscribe(filter, options);
        let token = match &self.turn()[..] {
            [Effect::Subscribe { token, .. }] => *token,
            other => panic!("{other:?}"),
        };
        let since: &[Position] =
            if self.session.is_durable() { &[Position(5), Position(5)] } else { &[] };
        self.session.attached(token, Some(since), self.now_ms, &mut self.effects);
        if self.session.is_durable() {
            let effects = self.turn();
            let [Effect::Propose { token, command }] = &effects[..] else { panic!("{effects:?}") };
            assert!(matches!(command.command, Some(Kind::Subscribe(_))));
            self.ok(*token);
        }
        self.turn()
    }

    fn ok(&mut self, token: u64) {
        self.session.outcome(token, Some(Status::Ok), self.now_ms, &mut self.effects).unwrap();
    }

    fn tail(&mut self, position: u64, record: Record) {
        let placed = Placed { position: Position(position), time_ms: self.now_ms, record };
        self.session.tail(ShardId(0), &[placed], &[0], Position(position + 1));
    }
}

fn deliveries(effects: &[Effect]) -> Vec<&Delivery> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Deliver(delivery) => Some(delivery),
            _ => None,
        })
        .collect()
}

fn expiring(topic: &str, expiry_interval_s: u32, payload: &[u8]) -> Record {
    let mut out = BytesMut::new();
    RecordDraft {
        namespace: Namespace(0),
        topic,
        client_id: "p",
        epoch: Epoch(1),
        qos: 1,
        retain: true,
        will: false,
        packet_id: 0,
        expiry_interval_s,
        properties: &[],
        payload,
    }
    .encode(&mut out);
    Record::split_from(&mut out.freeze()).unwrap()
}

#[test]
fn suback_waits_for_the_commit_and_nothing_is_missed_before_it() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribe("a", 0x21);
    let effects = bench.turn();
    let [Effect::Subscribe { token, filters }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(filters, &["a"]);
    // Comes while the cluster still works on the subscription.
    bench.tail(5, record("a", b"x"));
    assert_eq!(deliveries(&bench.turn()).len(), 1);
    bench.session.attached(
        *token,
        Some(&[Position(6), Position(5)]),
        bench.now_ms,
        &mut bench.effects,
    );
    let effects = bench.turn();
    let [Effect::Propose { token, command }] = &effects[..] else { panic!("{effects:?}") };
    let Some(Kind::Subscribe(subscribe)) = &command.command else { panic!() };
    assert_eq!(subscribe.subscriptions[0].since, [6, 5]);
    bench.ok(*token);
    let effects = bench.turn();
    let [Effect::Suback { packet_id: 7, codes }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(codes, &[1]);
}

#[test]
fn a_refused_subscription_is_answered_and_taken_back() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribe("a", 1);
    let effects = bench.turn();
    let [Effect::Subscribe { token, .. }] = &effects[..] else { panic!("{effects:?}") };
    bench.session.attached(*token, None, bench.now_ms, &mut bench.effects);
    let effects = bench.turn();
    assert!(matches!(&effects[0], Effect::Unsubscribe { filters } if filters == &["a"]));
    assert!(matches!(&effects[1], Effect::Suback { codes, .. } if codes == &[0x80]));
    bench.tail(5, record("a", b"x"));
    assert!(deliveries(&bench.turn()).is_empty());
}

#[test]
fn bad_and_shared_filters_get_their_codes() {
    let mut bench = Bench::attached(false, &SessionRow::default());
    let filters = ["a/#/b", "$share/g/a"]
        .map(|filter| SubscribeFilter { filter: filter.into(), options: 0 })
        .to_vec();
    let packet = SubscribePacket { packet_id: 9, identifier: 0, filters };
    bench.session.subscribe(packet).unwrap();
    let effects = bench.turn();
    let [Effect::Suback { codes, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(codes, &[reason::FILTER_INVALID, reason::SHARED_UNSUPPORTED]);
    bench.session.unsubscribe(4, vec!["nothing".into()]).unwrap();
    let effects = bench.turn();
    assert!(matches!(&effects[0], Effect::Unsuback { codes, .. } if codes == &[0x11]));
}

#[test]
fn retained_messages_follow_the_suback_as_the_subscription_asks() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    let effects = bench.subscribed("a/+", 1);
    let [Effect::Suback { .. }, Effect::Retained { token, filters }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(filters, &["a/+"]);
    let row = RetainedRow {
        record: expiring("a/b", 60, b"r").as_bytes().clone(),
        time_ms: 1_000,
        home_shard: 1,
        home_position: 3,
        ..RetainedRow::default()
    };
    let now_ms = bench.now_ms;
    let turn = Turn { now_ms, shard_time_ms: &|_| now_ms, room_bytes: 0 };
    bench.session.retained(*token, Some(&[(row, 21_000)]), &turn);
    let effects = bench.turn();
    let sent = deliveries(&effects);
    assert_eq!(sent.len(), 1);
    assert!(sent[0].retain && sent[0].qos == 1);
    assert_eq!((sent[0].expiry_left_s, &sent[0].subscription_ids[..]), (Some(40), &[3][..]));
    // It is in flight with its place in the log.
    bench.now_ms += 1000;
    let effects = bench.turn();
    let [Effect::Propose { command, .. }] = &effects[..] else { panic!("{effects:?}") };
    let Some(Kind::CommitCursor(commit)) = &command.command else { panic!() };
    let entry = &commit.in_flight[0];
    assert_eq!((entry.shard, entry.position, entry.retain), (1, 3, true));
    // Retain handling 1: not again for a known subscription.
    bench.subscribe("a/+", 0x11);
    let effects = bench.turn();
    let token = match &effects[..] {
        [Effect::Propose { token, .. }] => *token,
        other => panic!("{other:?}"),
    };
    bench.ok(token);
    assert!(matches!(&bench.turn()[..], [Effect::Suback { .. }]));
}

#[test]
fn expired_and_too_large_messages_are_counted_and_consumed() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribed("a", 0x21);
    bench.tail(5, expiring("a", 0, b"old"));
    bench.tail(6, record("a", &[0; 200]));
    let effects = bench.turn();
    let counted: Vec<Counter> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Count(counter, 1) => Some(*counter),
            _ => None,
        })
        .collect();
    assert_eq!(counted, [Counter::Expired, Counter::TooLarge]);
    bench.now_ms += 1000;
    let effects = bench.turn();
    let [Effect::Propose { command, .. }] = &effects[..] else { panic!("{effects:?}") };
    let Some(Kind::CommitCursor(commit)) = &command.command else { panic!() };
    assert!(commit.cursor.iter().any(|moved| (moved.shard, moved.position) == (0, 7)));
}

fn row_with(in_flight: &[(u32, u64, u32, shard::DeliveryState)]) -> SessionRow {
    let entries = in_flight.iter().map(|(packet_id, position, qos, state)| InFlight {
        packet_id: *packet_id,
        position: *position,
        qos: *qos,
        state: (*state).into(),
        ..InFlight::default()
    });
    SessionRow { cursor: vec![5, 5], in_flight: entries.collect(), ..SessionRow::default() }
}

#[test]
fn a_resumed_session_resends_in_order_and_finishes_what_is_gone() {
    use shard::DeliveryState::{DeliveryPublished as Published, DeliveryReleased as Released};
    let row = row_with(&[(9, 2, 1, Published), (4, 1, 2, Published), (5, 3, 2, Released)]);
    let mut bench = Bench::open(true, Protocol::V5, &row);
    let effects = bench.turn();
    let [pubrel, Effect::Attach { .. }, Effect::Read { items, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let released = Effect::Ack { kind: AckKind::Pubrel, packet_id: 5, reason: 0 };
    assert_eq!(format!("{pubrel:?}"), format!("{released:?}"));
    assert_eq!(items[0].positions, [1, 2]);
    bench.session.acknowledged(AckKind::Pubcomp, 5, 0, &mut bench.effects).unwrap();
    let records = [Placed { position: Position(2), time_ms: 1, record: record("a", b"2") }];
    let page = Page {
        shard: ShardId(0),
        records: &records,
        next: Position(9),
        head: false,
        dropped_below: Position(0),
    };
    bench.session.page(&page, bench.now_ms, &mut bench.effects);
    let effects = bench.turn();
    let sent = deliveries(&effects);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].packet_id, sent[0].dup), (9, true));
    // The QoS 2 message is gone, and its handshake is finished all the same.
    let [.., Effect::Propose { token, .. }] = &effects[..] else { panic!("{effects:?}") };
    bench.ok(*token);
    let effects = bench.turn();
    assert!(matches!(&effects[0], Effect::Ack { kind: AckKind::Pubrel, packet_id: 4, .. }));
}

#[test]
fn a_regular_session_is_served_from_its_queue_and_closed_when_too_slow() {
    let mut bench = Bench::attached(false, &SessionRow::default());
    bench.subscribed("q0", 0x20);
    bench.subscribed("q1", 0x21);
    let mut overflow = Ok(());
    for _ in 0..5 {
        overflow = bench.session.regular(record("q1", b"x"), bench.now_ms, &mut bench.effects);
        let effects = bench.turn();
        assert!(deliveries(&effects).len() <= 1);
    }
    // Two in flight, three wait.
    assert_eq!(overflow, Ok(()));
    bench.session.regular(record("q0", b"x"), bench.now_ms, &mut bench.effects).unwrap();
    assert!(matches!(bench.effects.pop(), Some(Effect::Count(Counter::QueueFull, 1))));
    bench.session.acknowledged(AckKind::Puback, 1, 0, &mut bench.effects).unwrap();
    let effects = bench.turn();
    assert_eq!(deliveries(&effects)[0].packet_id, 3);
    bench.session.regular(record("q1", b"x"), bench.now_ms, &mut bench.effects).unwrap();
    let closed = bench.session.regular(record("q1", b"x"), bench.now_ms, &mut bench.effects);
    assert_eq!(closed.unwrap_err().reason, reason::QUOTA);
    assert!(bench.session.uncommitted().is_none());
}

#[test]
fn a_client_that_breaks_the_rules_is_closed() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribed("a", 0x21);
    bench.tail(5, record("a", b"x"));
    bench.turn();
    let out = &mut bench.effects;
    let wrong = bench.session.acknowledged(AckKind::Pubrec, 1, 0, out);
    assert_eq!(wrong.unwrap_err().reason, reason::PROTOCOL_ERROR);
    let raised = bench.session.disconnect(0, Some(10), false, out);
    assert_eq!(raised.unwrap_err().reason, reason::PROTOCOL_ERROR);
    for _ in 0..2 {
        bench.session.unsubscribe(4, vec!["nothing".into()]).unwrap();
    }
    let full = bench.session.unsubscribe(4, vec!["nothing".into()]);
    assert_eq!(full.unwrap_err().reason, reason::QUOTA);
    let fenced = bench.session.outcome(99, Some(Status::Fenced), bench.now_ms, out);
    assert_eq!(fenced.unwrap_err().reason, reason::TAKEN_OVER);
}

#[test]
fn the_last_commit_carries_what_idle_shards_have_seen() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribed("a", 0x21);
    bench.session.heads(&[Position(50), Position(60)]);
    let leave = Leave { will_grace_s: 0, discard_will: true, expiry_interval_s: Some(3) };
    let command = bench.session.leave(leave);
    let Some(Kind::Disconnect(last)) = command.command else { panic!() };
    let moved: Vec<(u32, u64)> =
        last.commit.unwrap().cursor.iter().map(|to| (to.shard, to.position)).collect();
    assert_eq!(moved, [(0, 50), (1, 60)]);
    assert_eq!((last.discard_will, last.expiry_interval_s), (true, Some(3)));
}

/// What the next commit says of shard 0.
fn committed_cursor(bench: &mut Bench) -> Option<u64> {
    bench.now_ms += LIMITS.commit_interval_ms;
    let effects = bench.turn();
    let effect = effects.iter().find_map(|effect| match effect {
        Effect::Propose { token, command } => Some((*token, command)),
        _ => None,
    });
    let (token, command) = effect?;
    let Some(Kind::CommitCursor(commit)) = &command.command else { panic!("{command:?}") };
    let cursor = commit.cursor.iter().find(|to| to.shard == 0).map(|to| to.position);
    bench.ok(token);
    cursor
}

#[test]
fn qos_0_is_consumed_when_it_is_written() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribed("a", 0x20);
    committed_cursor(&mut bench);
    bench.tail(5, record("a", b"x"));
    assert_eq!(deliveries(&bench.turn()).len(), 1);
    assert_eq!(committed_cursor(&mut bench), Some(5));
    assert!(bench.session.flushed());
    bench.turn();
    assert_eq!(committed_cursor(&mut bench), Some(6));
}

#[test]
fn a_shard_that_fell_behind_is_read_until_its_head() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    bench.subscribed("a", 0x21);
    bench.session.behind(ShardId(0));
    bench.tail(5, record("a", b"ignored"));
    let effects = bench.turn();
    let [Effect::Read { items, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((items[0].shard, items[0].from), (0, 5));
    let records = [Placed { position: Position(5), time_ms: 1, record: record("a", b"x") }];
    let page = Page {
        shard: ShardId(0),
        records: &records,
        next: Position(8),
        head: true,
        dropped_below: Position(0),
    };
    bench.session.page(&page, bench.now_ms, &mut bench.effects);
    let effects = bench.turn();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::AttachShard(ShardId(0)))));
    assert_eq!(deliveries(&effects).len(), 1);
    bench.session.shard_attached(ShardId(0), Position(8));
    bench.tail(8, record("a", b"y"));
    assert_eq!(deliveries(&bench.turn()).len(), 1);
}

/// A session with `a/0`, `a/1` and `a/2` subscribed to at QoS 0, 1 and 2.
fn mixed() -> Bench {
    let mut bench = Bench::attached(true, &SessionRow::default());
    for (filter, qos) in [("a/0", 0x20), ("a/1", 0x21), ("a/2", 0x22)] {
        bench.subscribed(filter, qos);
    }
    committed_cursor(&mut bench);
    bench
}

fn sent_payloads(effects: &[Effect]) -> Vec<Vec<u8>> {
    deliveries(effects).iter().map(|delivery| delivery.record.payload().to_vec()).collect()
}

fn proposed_commit(effects: &[Effect]) -> (u64, shard::CommitCursor) {
    for effect in effects {
        if let Effect::Propose { token, command } = effect
            && let Some(Kind::CommitCursor(commit)) = &command.command
        {
            return (*token, commit.clone());
        }
    }
    panic!("no commit in {effects:?}")
}

#[test]
fn messages_behind_an_uncommitted_qos_2_message_wait_and_go_with_one_commit() {
    let mut bench = mixed();
    for (position, topic) in [(5, "a/2"), (6, "a/0"), (7, "a/2")] {
        bench.tail(position, record(topic, &[position as u8]));
    }
    let effects = bench.turn();
    assert!(deliveries(&effects).is_empty());
    bench.tail(8, record("a/0", &[8]));
    // Another shard does not wait.
    let other = Placed { position: Position(5), time_ms: 1, record: record("a/0", b"other") };
    bench.session.tail(ShardId(1), &[other], &[0], Position(6));
    assert_eq!(sent_payloads(&bench.turn()), [b"other"]);
    let (token, commit) = proposed_commit(&effects);
    let places: Vec<u64> = commit.in_flight.iter().map(|entry| entry.position).collect();
    assert_eq!(places, [5, 7], "both in one commit");
    // The waiting QoS 0 message is not passed.
    assert_eq!(commit.cursor.iter().find(|to| to.shard == 0).map(|to| to.position), Some(6));
    bench.ok(token);
    assert_eq!(sent_payloads(&bench.turn()), [[5], [6], [7], [8]]);
}

#[test]
fn a_message_in_flight_above_the_cursor_comes_when_the_log_reaches_it() {
    let mut row = SessionRow { cursor: vec![6, 5], ..SessionRow::default() };
    let mut bench = mixed();
    for (position, topic) in [(5, "a/2"), (6, "a/0"), (7, "a/2")] {
        bench.tail(position, record(topic, &[position as u8]));
    }
    row.in_flight = proposed_commit(&bench.turn()).1.in_flight;
    row.subscriptions = ["a/0", "a/1", "a/2"]
        .iter()
        .zip(0..)
        .map(|(filter, options)| shard::Subscription {
            filter: (*filter).into(),
            options,
            ..Default::default()
        })
        .collect();
    let mut bench = Bench::attached(true, &row);
    let all: Vec<Placed> = [(5, "a/2"), (6, "a/0"), (7, "a/2")]
        .map(|(position, topic)| Placed {
            position: Position(position),
            time_ms: 1,
            record: record(topic, &[position as u8]),
        })
        .to_vec();
    let resent = Page {
        shard: ShardId(0),
        records: &all[..1],
        next: Position(8),
        head: true,
        dropped_below: Position(0),
    };
    bench.session.page(&resent, bench.now_ms, &mut bench.effects);
    let effects = bench.turn();
    let again = deliveries(&effects);
    assert_eq!((again.len(), again[0].dup, again[0].packet_id), (1, true, 1));
    // Acknowledged too early: it is acknowledged again when it was sent again.
    bench.session.acknowledged(AckKind::Pubrec, 2, 0, &mut bench.effects).unwrap();
    bench.session.tail(ShardId(0), &all[1..], &[0, 1], Position(8));
    let effects = bench.turn();
    assert_eq!(sent_payloads(&effects), [[6], [7]]);
    let last = deliveries(&effects)[1];
    assert_eq!((last.qos, last.packet_id, last.dup), (2, 2, true));
}

#[test]
fn answers_to_subscriptions_that_end_with_the_connection_are_counted() {
    let mut bench = Bench::attached(true, &SessionRow::default());
    let effects = bench.subscribed("a/+", 1);
    let [Effect::Suback { .. }, Effect::Retained { token, .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(bench.session.unsent(), 1);
    let row = |topic| {
        let record = expiring(topic, 60, b"r").as_bytes().clone();
        (RetainedRow { record, time_ms: 1_000, ..RetainedRow::default() }, 1_000)
    };
    let turn = Turn { now_ms: bench.now_ms, shard_time_ms: &|_| 1, room_bytes: 0 };
    let rows = ["a/1", "a/2", "a/3"].map(row);
    bench.session.retained(*token, Some(&rows), &turn);
    assert_eq!(bench.session.unsent(), 3);
    bench.turn();
    assert_eq!(bench.session.unsent(), 1, "the window takes two");
}
