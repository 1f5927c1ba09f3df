use holdfast_proto::batch::set_bit;
use holdfast_proto::ids::{Epoch, Namespace};
use holdfast_proto::shard::Repeat;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const A: SiteId = SiteId(1);
const B: SiteId = SiteId(2);
const LIMITS: AppendLimits = AppendLimits {
    batch_bytes_max: 400,
    in_flight_max: 4,
    queue_bytes_max: 4_000,
    deadline_ms: 30_000,
    retry_ms: 100,
};

fn queue() -> ShardQueue {
    ShardQueue::new(ShardId(3), Incarnation(7), LIMITS)
}

fn draft(payload: &[u8], retain: bool) -> RecordDraft<'_> {
    RecordDraft {
        namespace: Namespace(0),
        topic: "t",
        client_id: "c",
        epoch: Epoch(1),
        qos: 1,
        retain,
        will: false,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload,
    }
}

fn push(queue: &mut ShardQueue, token: u64, inbox: &Arc<Inbox>) {
    queue.push(&draft(&token.to_le_bytes(), false), token, inbox, 1_000, 1_000);
}

fn pump(queue: &mut ShardQueue, now_ms: u64) -> Vec<(SiteId, Batch)> {
    let mut sent = Vec::new();
    queue.pump(now_ms, now_ms, &mut |site, frame| {
        sent.push((site, Batch::check(frame.batch).unwrap()));
        true
    });
    sent
}

fn done(status: Status, outcome: AppendOutcome) -> AppendDone {
    AppendDone { shard: 3, status: status.into(), outcome: Some(outcome), leader_site: 0 }
}

fn stored(sequence: u64, base_position: u64) -> AppendDone {
    done(Status::Ok, AppendOutcome { sequence, base_position, ..AppendOutcome::default() })
}

fn refused(status: Status, sequence: u64, expected_sequence: u64) -> AppendDone {
    done(status, AppendOutcome { sequence, expected_sequence, ..AppendOutcome::default() })
}

fn results(inbox: &Inbox) -> Vec<(u64, PublishResult)> {
    let mut events = Vec::new();
    inbox.drain(&mut events);
    let of = |event| match event {
        Event::Published { results } => results,
        other => panic!("unexpected {other:?}"),
    };
    events.into_iter().flat_map(of).collect()
}

fn sequences(sent: &[(SiteId, Batch)]) -> Vec<u64> {
    sent.iter().map(|(_, batch)| batch.header().sequence).collect()
}

#[test]
fn batches_go_out_at_once_until_the_window_is_full() {
    let (mut queue, inbox) = (queue(), Inbox::new(1));
    queue.set_leader(Some(A));
    for token in 0..10 {
        push(&mut queue, token, &inbox);
        let sent = pump(&mut queue, 1_000);
        assert_eq!(sent.len(), usize::from(token < 4));
    }
    queue.answer(A, stored(1, 1), 1_001);
    let sent = pump(&mut queue, 1_001);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].1.header().sequence, sent[0].1.header().count), (5, 6));
    assert_eq!(results(&inbox), [(0, PublishResult::Stored)]);
}

#[test]
fn a_new_leader_gets_everything_unanswered_in_order_and_unchanged() {
    let (mut queue, inbox) = (queue(), Inbox::new(1));
    queue.set_leader(Some(A));
    let mut before = Vec::new();
    for token in 0..3 {
        push(&mut queue, token, &inbox);
        before.extend(pump(&mut queue, 1_000));
    }
    queue.set_leader(Some(B));
    let after = pump(&mut queue, 1_000);
    assert_eq!(after.len(), 3);
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.0, new.0), (A, B));
        assert_eq!(old.1.as_bytes(), new.1.as_bytes());
    }
    queue.answer(A, refused(Status::NotLeader, 1, 0), 1_000);
    assert!(pump(&mut queue, 1_000).is_empty(), "the old leader's refusals say nothing now");
    queue.answer(A, stored(2, 9), 1_000);
    assert!(results(&inbox).is_empty(), "in order");
    queue.answer(B, stored(1, 8), 1_000);
    assert_eq!(results(&inbox).len(), 2);
}

#[test]
fn what_the_shard_never_took_is_numbered_anew() {
    let (mut queue, inbox) = (queue(), Inbox::new(1));
    queue.set_leader(Some(A));
    for token in 0..3 {
        push(&mut queue, token, &inbox);
        pump(&mut queue, 1_000);
    }
    queue.answer(A, stored(1, 1), 1_000);
    queue.answer(A, refused(Status::Expired, 2, 0), 1_000);
    assert_eq!(results(&inbox)[1], (1, PublishResult::Failed(UNSPECIFIED)));
    queue.answer(A, refused(Status::Gap, 3, 2), 1_000);
    let sent = pump(&mut queue, 1_000);
    assert_eq!(sequences(&sent), [2]);
    queue.answer(A, stored(2, 2), 1_000);
    assert_eq!(results(&inbox), [(2, PublishResult::Stored)]);
    push(&mut queue, 3, &inbox);
    assert_eq!(sequences(&pump(&mut queue, 1_000)), [3]);
    // A gap below what the shard has taken is stale: numbering anew would lose the batch as a repeat.
    queue.answer(A, refused(Status::Gap, 3, 2), 1_000);
    assert_eq!(sequences(&pump(&mut queue, 1_100)), [3]);
    // Long after, the shard has forgotten this producer.
    queue.answer(A, refused(Status::Gap, 3, 1), 1_000 + FORGOTTEN_AFTER_MS);
    assert_eq!(sequences(&pump(&mut queue, 1_000 + FORGOTTEN_AFTER_MS)), [1]);
}

#[test]
fn refusals_pause_and_links_do_not() {
    let (mut queue, inbox) = (queue(), Inbox::new(1));
    queue.set_leader(Some(A));
    push(&mut queue, 0, &inbox);
    pump(&mut queue, 1_000);
    queue.answer(A, refused(Status::Unavailable, 1, 0), 1_000);
    assert!(pump(&mut queue, 1_099).is_empty());
    assert_eq!(pump(&mut queue, 1_100).len(), 1);
    queue.link_lost(A);
    assert_eq!(pump(&mut queue, 1_100).len(), 1);
    let hint = AppendDone { leader_site: B.0, ..refused(Status::NotLeader, 1, 0) };
    assert_eq!(queue.answer(A, hint, 1_100).not_leader, Some(Some(B)));
}

#[test]
fn records_are_decided_one_by_one() {
    let (mut queue, inbox, other) = (queue(), Inbox::new(1), Inbox::new(1));
    queue.set_leader(Some(A));
    for token in 0..4 {
        push(&mut queue, token, if token < 3 { &inbox } else { &other });
    }
    pump(&mut queue, 1_000);
    let mut refused = Vec::new();
    set_bit(&mut refused, 0);
    set_bit(&mut refused, 1);
    let outcome = AppendOutcome {
        sequence: 1,
        base_position: 20,
        refused: refused.into(),
        repeats: vec![Repeat { index: 1, position: 4 }],
        ..AppendOutcome::default()
    };
    let answered = queue.answer(A, done(Status::Ok, outcome), 1_000);
    let refused = BTreeMap::from([(RefusedWhy::Fenced, 1)]);
    assert_eq!((answered.stored, answered.refused), (3, refused));
    let expected = [PublishResult::Fenced, PublishResult::Repeated, PublishResult::Stored];
    assert_eq!(results(&inbox), (0..).zip(expected).collect::<Vec<_>>());
    assert_eq!(results(&other), [(3, PublishResult::Stored)]);
}

#[test]
fn a_retained_message_holds_back_its_client_alone() {
    let (mut queue, inbox, other) = (queue(), Inbox::new(1), Inbox::new(1));
    queue.set_leader(Some(A));
    push(&mut queue, 0, &inbox);
    queue.push(&draft(b"kept", true), 1, &inbox, 1_000, 1_000);
    push(&mut queue, 2, &inbox);
    push(&mut queue, 3, &other);
    pump(&mut queue, 1_000);
    let mut answered = queue.answer(A, stored(1, 5), 1_000);
    assert_eq!(results(&other), [(3, PublishResult::Stored)]);
    assert_eq!(results(&inbox), [(0, PublishResult::Stored)]);
    let step = answered.steps.pop().unwrap();
    assert_eq!(
        (&step.message.record.payload()[..], step.message.position),
        (&b"kept"[..], Position(6))
    );
    push(&mut queue, 4, &inbox);
    pump(&mut queue, 1_000);
    queue.answer(A, stored(2, 9), 1_000);
    assert!(results(&inbox).is_empty());
    queue.step_done(step.ticket, None);
    let tokens: Vec<u64> = results(&inbox).into_iter().map(|(token, _)| token).collect();
    assert_eq!(tokens, [1, 2, 4]);
    assert!(queue.held.is_empty());
}

#[test]
fn publishers_hear_of_a_shard_without_leader_and_are_held_back() {
    let (mut queue, inbox) = (queue(), Inbox::new(1));
    let mut pushed = 0;
    while !queue.is_congested() {
        push(&mut queue, pushed, &inbox);
        pushed += 1;
    }
    assert_eq!(queue.expire(30_000, 30_000), 0);
    let failed = queue.expire(31_001, 31_001) + queue.expire(36_001, 36_001);
    assert_eq!(u64::from(failed), pushed);
    assert_eq!(results(&inbox).len() as u64, pushed);
    queue.set_leader(Some(A));
    assert_eq!(sequences(&pump(&mut queue, 40_000)), [1, 2, 3, 4]);
}

/// A shard as the appender sees it: one log, sequences contiguous, repeats answered as before.
#[derive(Default)]
struct Log {
    answers: Vec<AppendOutcome>,
    tokens: Vec<u64>,
}

impl Log {
    fn take(&mut self, batch: &Batch) -> AppendDone {
        let sequence = batch.header().sequence;
        let expected_sequence = self.answers.len() as u64 + 1;
        if sequence > expected_sequence {
            return refused(Status::Gap, sequence, expected_sequence);
        }
        if sequence == expected_sequence {
            let base_position = self.tokens.len() as u64 + 1;
            let token =
                |record: Record| u64::from_le_bytes(record.payload()[..].try_into().unwrap());
            self.tokens.extend(batch.records().map(token));
            let outcome = AppendOutcome { sequence, base_position, ..AppendOutcome::default() };
            self.answers.push(outcome);
        }
        done(Status::Ok, self.answers[sequence as usize - 1].clone())
    }
}

#[test]
fn any_failures_keep_publisher_order_and_lose_no_answer() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut queue, mut log) = (queue(), Log::default());
        let inboxes = [Inbox::new(1), Inbox::new(1)];
        let mut wires: [VecDeque<Batch>; 2] = Default::default();
        let mut answers: [VecDeque<AppendDone>; 2] = Default::default();
        let (mut leader, mut next, mut now_ms) = (0, 0, 1_000);
        let sites = [A, B];
        for step in 0..600 {
            let calm = step > 450;
            match if calm { random.random_range(0..60) } else { random.random_range(0..70) } {
                0..25 if step < 450 => {
                    let inbox = &inboxes[next as usize % 2];
                    push(&mut queue, next, inbox);
                    next += 1;
                }
                25..40 => {
                    let at = random.random_range(0..2);
                    if let Some(batch) = wires[at].pop_front() {
                        let sequence = batch.header().sequence;
                        let done = match random.random_range(0..10) {
                            0 if !calm => refused(Status::Unavailable, sequence, 0),
                            _ if at != leader => refused(Status::NotLeader, sequence, 0),
                            _ => log.take(&batch),
                        };
                        answers[at].push_back(done);
                    }
                }
                40..55 => {
                    let at = random.random_range(0..2);
                    if let Some(done) = answers[at].pop_front() {
                        let answered = queue.answer(sites[at], done, now_ms);
                        if answered.not_leader.is_some() {
                            queue.set_leader(Some(sites[leader]));
                        }
                    }
                }
                60..63 => leader = random.random_range(0..2),
                63..66 => queue.set_leader(Some(sites[random.random_range(0..2)])),
                66..68 => {
                    let at = random.random_range(0..2);
                    wires[at].clear();
                    answers[at].clear();
                    queue.link_lost(sites[at]);
                }
                _ => now_ms += 50,
            }
            queue.pump(now_ms, now_ms, &mut |site, frame| {
                wires[usize::from(site == B)].push_back(Batch::check(frame.batch).unwrap());
                true
            });
        }
        // Everything works from here on.
        queue.set_leader(Some(sites[leader]));
        queue.link_lost(sites[leader]);
        answers.iter_mut().for_each(VecDeque::clear);
        wires.iter_mut().for_each(VecDeque::clear);
        while !queue.is_idle() {
            now_ms += 100;
            for (site, batch) in pump(&mut queue, now_ms) {
                let done = log.take(&batch);
                queue.answer(site, done, now_ms);
            }
        }
        assert_eq!(log.tokens, (0..next).collect::<Vec<_>>(), "seed {seed}");
        for (of, inbox) in inboxes.iter().enumerate() {
            let expected: Vec<_> = (0..next)
                .filter(|token| *token as usize % 2 == of)
                .map(|token| (token, PublishResult::Stored))
                .collect();
            assert_eq!(results(inbox), expected, "seed {seed}");
        }
    }
}
