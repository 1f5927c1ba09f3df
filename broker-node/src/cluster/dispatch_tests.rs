use bytes::BytesMut;
use holdfast_proto::ids::Epoch;
use holdfast_proto::record::{Record, RecordDraft};
use holdfast_proto::shard::ShardPosition;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const NS: Namespace = Namespace(0);
const CREDIT: u64 = 1_000;
const A: SiteId = SiteId(1);
const B: SiteId = SiteId(2);
const SHARD: ShardId = ShardId(0);
const FAR_MS: u64 = 1 << 40;

fn record(topic: &str, will: bool) -> Record {
    let mut out = BytesMut::new();
    RecordDraft {
        namespace: NS,
        topic,
        client_id: "c",
        epoch: Epoch(1),
        qos: 1,
        retain: false,
        will,
        packet_id: 0,
        expiry_interval_s: u32::MAX,
        properties: &[],
        payload: b"x",
    }
    .encode(&mut out);
    Record::split_from(&mut out.freeze()).unwrap()
}

fn placed(position: u64, topic: &str) -> Placed {
    Placed { position: Position(position), time_ms: 1, record: record(topic, false) }
}

fn block(shard: ShardId, from: u64, next: u64, records: Vec<Placed>) -> Block {
    Block {
        shard,
        from: Position(from),
        next: Position(next),
        bytes: 10 * records.len() as u64,
        records: records.into(),
    }
}

fn active(request_id: u64, positions: &[u64]) -> TailFiltersActive {
    let at = |(shard, position): (usize, &u64)| ShardPosition {
        shard: shard as u32,
        position: *position,
    };
    TailFiltersActive { request_id, active_from: positions.iter().enumerate().map(at).collect() }
}

fn events(inbox: &Inbox) -> Vec<Event> {
    let mut events = Vec::new();
    inbox.drain(&mut events);
    events
}

/// One shard, led by `A`, its tail running from 5 on.
fn running() -> Dispatch {
    let mut dispatch = Dispatch::new(1, CREDIT);
    let mut out = Vec::new();
    dispatch.link_up(A, &mut out);
    dispatch.lead(SHARD, Some(A), &mut out);
    dispatch.active(A, &active(1, &[4]), &mut out);
    dispatch.active(A, &active(dispatch.last_barrier, &[5]), &mut out);
    let starts: Vec<u64> = out
        .iter()
        .filter_map(|(_, frame)| match frame {
            Frame::TailStart(start) => Some(start.position),
            _ => None,
        })
        .collect();
    assert_eq!(
        starts,
        [0, 5],
        "the tail starts at the head, then at the position that it turned out to be"
    );
    dispatch
}

fn subscribe(dispatch: &mut Dispatch, slot: Slot, filter: &str, token: u64) {
    dispatch.add_filters(slot, NS, &[filter.to_owned()]);
    dispatch.wait_active(slot, token, FAR_MS);
}

#[test]
fn a_subscription_waits_until_the_leader_has_it() {
    let mut dispatch = running();
    let inbox = Inbox::new(1_000);
    let slot = dispatch.attach(inbox.clone());
    subscribe(&mut dispatch, slot, "a", 1);
    let mut out = Vec::new();
    dispatch.flush(&mut out);
    let [(A, Frame::TailFilters(change))] = &out[..] else { panic!("{out:?}") };
    assert_eq!(change.add.len(), 1);
    let request_id = change.request_id;
    dispatch.active(A, &active(1, &[6]), &mut Vec::new());
    assert!(events(&inbox).is_empty(), "an older change");
    dispatch.active(A, &active(request_id, &[9]), &mut Vec::new());
    let [Event::Attached { token: 1, result: Ok(from) }] = &events(&inbox)[..] else { panic!() };
    assert_eq!(from, &[Position(9)]);
    assert_eq!(dispatch.attach_shard(slot, SHARD), Position(9));
    // A second session with the same filter need not wait.
    let second = dispatch.attach(inbox.clone());
    subscribe(&mut dispatch, second, "a", 2);
    assert!(matches!(events(&inbox)[..], [Event::Attached { token: 2, .. }]));
}

#[test]
fn a_lost_leader_answers_by_being_replaced() {
    let mut dispatch = running();
    let inbox = Inbox::new(1_000);
    let slot = dispatch.attach(inbox.clone());
    subscribe(&mut dispatch, slot, "a", 1);
    dispatch.link_down(A);
    let [Event::Attached { result: Ok(from), .. }] = &events(&inbox)[..] else { panic!() };
    assert_eq!(from, &[Position(5)]);
    let mut out = Vec::new();
    dispatch.link_up(B, &mut out);
    dispatch.lead(SHARD, Some(B), &mut out);
    let [
        (B, Frame::TailFilters(all)),
        (B, Frame::TailFilters(barrier)),
        (B, Frame::TailStart(start)),
    ] = &out[..]
    else {
        panic!("{out:?}")
    };
    assert_eq!(
        (all.add.len(), start.position),
        (1, 5),
        "filters first, then from what is dispatched"
    );
    let barrier = barrier.request_id;
    let at = |from| block(SHARD, from, from + 1, vec![placed(from, "a")]);
    dispatch.block(B, &at(5), &mut Vec::new(), &mut Vec::new());
    assert!(events(&inbox).is_empty(), "a block of an earlier run");
    dispatch.active(B, &active(barrier, &[6]), &mut Vec::new());
    dispatch.block(B, &at(5), &mut Vec::new(), &mut Vec::new());
    assert!(matches!(events(&inbox)[..], [Event::Tail { .. }]));
}

#[test]
fn a_block_is_posted_once_a_session_and_gaps_and_repeats_are_found() {
    let mut dispatch = running();
    let inbox = Inbox::new(1_000);
    let slot = dispatch.attach(inbox.clone());
    dispatch.add_filters(slot, NS, &["a/+".to_owned(), "a/#".to_owned()]);
    let (mut out, mut wills) = (Vec::new(), Vec::new());
    let mut give = |dispatch: &mut Dispatch, block: Block| {
        dispatch.block(A, &block, &mut out, &mut wills);
        std::mem::take(&mut out)
    };
    let records = vec![placed(5, "a/b"), placed(6, "x"), placed(7, "a/c")];
    give(&mut dispatch, block(SHARD, 5, 8, records.clone()));
    let posted = events(&inbox);
    let Some(Event::Tail { indexes, next, .. }) = posted.last() else { panic!("{posted:?}") };
    assert_eq!((&indexes[..], *next), (&[0, 2][..], Position(8)));
    give(&mut dispatch, block(SHARD, 5, 8, records));
    assert!(events(&inbox).is_empty(), "a repeat");
    let restart = give(&mut dispatch, block(SHARD, 10, 11, vec![placed(10, "a/b")]));
    let [(A, Frame::TailStart(start))] = &restart[..] else { panic!("{restart:?}") };
    assert_eq!(start.position, 8);
    assert!(give(&mut dispatch, block(SHARD, 11, 12, vec![])).is_empty(), "one restart is enough");
    give(&mut dispatch, block(SHARD, 8, 12, vec![placed(10, "a/b")]));
    assert_eq!(events(&inbox).len(), 1);
    assert_eq!(dispatch.dispatched()[0].load(Ordering::Relaxed), 12);
    let mut will = placed(12, "w");
    will.record = record("w", true);
    give(&mut dispatch, block(SHARD, 12, 13, vec![will]));
    assert_eq!(wills.len(), 1);
}

#[test]
fn credit_goes_back_and_unused_filters_go_away() {
    let mut dispatch = running();
    let slot = dispatch.attach(Inbox::new(1));
    dispatch.add_filters(slot, NS, &["a".to_owned(), "b".to_owned()]);
    let (mut out, mut wills) = (Vec::new(), Vec::new());
    dispatch.flush(&mut out);
    out.clear();
    let records = (0..25).map(|n| placed(5 + n, "a")).collect();
    dispatch.block(A, &block(SHARD, 5, 30, records), &mut out, &mut wills);
    assert!(matches!(&out[..], [(A, Frame::TailCredit(credit))] if credit.bytes == 250), "{out:?}");
    out.clear();
    dispatch.remove_filters(slot, NS, &["a".to_owned(), "b".to_owned()], 0);
    dispatch.add_filters(slot, NS, &["b".to_owned()]);
    dispatch.tick(UNUSED_FILTER_KEPT_MS - 1, &mut out);
    assert!(out.is_empty());
    dispatch.tick(UNUSED_FILTER_KEPT_MS, &mut out);
    let [(A, Frame::TailFilters(change))] = &out[..] else { panic!("{out:?}") };
    assert_eq!(change.remove, [Filter { namespace: 0, filter: "a".to_owned() }]);
}

#[test]
fn a_subscription_that_waits_for_too_long_fails() {
    let mut dispatch = Dispatch::new(1, CREDIT);
    let inbox = Inbox::new(1);
    let slot = dispatch.attach(inbox.clone());
    dispatch.wait_active(slot, 4, 100);
    dispatch.tick(99, &mut Vec::new());
    assert!(events(&inbox).is_empty());
    dispatch.tick(100, &mut Vec::new());
    assert!(matches!(events(&inbox)[..], [Event::Attached { token: 4, result: Err(_) }]));
}

/// A session as the connection side keeps it: what it saw live, and what it read up to.
struct Subscriber {
    slot: Slot,
    inbox: Arc<Inbox>,
    /// Live delivery counts from here on; none until it is attached.
    from: Option<Position>,
    seen: Vec<u64>,
    behind: bool,
}

impl Subscriber {
    fn drain(&mut self) {
        for event in events(&self.inbox) {
            match event {
                Event::Attached { result, .. } => {
                    self.from = Some(result.unwrap()[0]);
                }
                Event::Behind { .. } => self.behind = true,
                Event::Tail { records, indexes, .. } => {
                    assert!(!self.behind, "nothing is posted behind");
                    let positions = indexes.iter().map(|at| records[*at as usize].position.0);
                    if let Some(from) = self.from {
                        self.seen.extend(positions.filter(|at| *at >= from.0));
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

#[test]
fn every_session_sees_everything_from_its_position_on() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut dispatch = Dispatch::new(1, CREDIT);
        // The shard's log: topics by position, from 1.
        let mut log: Vec<&str> = vec!["a"; 3];
        let (mut up, mut leader) = ([false; 2], 0);
        let sites = [A, B];
        // Frames on the wires, and what the sites know.
        let mut wires: [VecDeque<Frame>; 2] = Default::default();
        let mut answers: [VecDeque<Answer>; 2] = Default::default();
        let mut known: [BTreeSet<String>; 2] = Default::default();
        let mut tails: [Option<u64>; 2] = [None; 2];
        let mut subscribers: Vec<Subscriber> = Vec::new();
        let mut gaps = Vec::new();
        for step in 0..500 {
            let calm = step >= 420;
            let mut out = Vec::new();
            let at = random.random_range(0..2);
            match random.random_range(0..if calm { 70 } else { 100 }) {
                0..15 => log.push(["a", "b"][random.random_range(0..2)]),
                15..35 => {
                    if let Some(frame) = wires[at].pop_front() {
                        match frame {
                            Frame::TailFilters(change) => {
                                known[at].extend(change.add.into_iter().map(|f| f.filter));
                                let led = (at == leader).then_some(log.len() as u64 + 1);
                                let positions: Vec<u64> = led.into_iter().collect();
                                answers[at].push_back(Answer::Active(active(
                                    change.request_id,
                                    &positions,
                                )));
                            }
                            Frame::TailStart(start) if at == leader => {
                                let head = log.len() as u64 + 1;
                                let from = if start.position == 0 { head } else { start.position };
                                tails[at] = Some(from);
                            }
                            Frame::TailStart(_) => answers[at].push_back(Answer::Stopped),
                            _ => {}
                        }
                    }
                }
                35..50 => {
                    if let Some(from) = tails[at] {
                        let head = log.len() as u64 + 1;
                        if from < head {
                            let next = random.random_range(from + 1..=head);
                            let wanted = (from..next)
                                .filter(|p| known[at].contains(log[*p as usize - 1]))
                                .map(|p| placed(p, log[p as usize - 1]))
                                .collect();
                            answers[at].push_back(Answer::Block(block(SHARD, from, next, wanted)));
                            tails[at] = Some(next);
                        }
                    }
                }
                50..68 => {
                    let answer = answers[at].pop_front();
                    match answer {
                        Some(Answer::Active(active)) => {
                            dispatch.active(sites[at], &active, &mut out);
                        }
                        Some(Answer::Block(block)) => {
                            dispatch.block(sites[at], &block, &mut out, &mut Vec::new());
                        }
                        Some(Answer::Stopped) => {
                            dispatch.stopped(SHARD, sites[at]);
                            dispatch.lead(SHARD, Some(sites[leader]), &mut out);
                        }
                        None => {}
                    }
                }
                68..72 => dispatch.flush(&mut out),
                72..80 if subscribers.len() < 6 => {
                    let inbox = Inbox::new(150);
                    let slot = dispatch.attach(inbox.clone());
                    subscribe(&mut dispatch, slot, ["a", "b"][subscribers.len() % 2], 1);
                    subscribers.push(Subscriber {
                        slot,
                        inbox,
                        from: None,
                        seen: Vec::new(),
                        behind: false,
                    });
                }
                80..88 if !subscribers.is_empty() => {
                    let which = random.random_range(0..subscribers.len());
                    catch_up(which, &mut subscribers[which], &mut dispatch, &mut gaps);
                }
                88..93 => {
                    up[at] = !up[at];
                    wires[at].clear();
                    answers[at].clear();
                    known[at].clear();
                    tails[at] = None;
                    if up[at] {
                        dispatch.link_up(sites[at], &mut out);
                        dispatch.lead(SHARD, Some(sites[leader]), &mut out);
                    } else {
                        dispatch.link_down(sites[at]);
                    }
                }
                93..96 => {
                    if tails[leader].take().is_some() {
                        answers[leader].push_back(Answer::Stopped);
                    }
                    leader = at;
                    dispatch.lead(SHARD, Some(sites[at]), &mut out);
                }
                _ => {}
            }
            for (site, frame) in out {
                let at = usize::from(site == B);
                if up[at] {
                    wires[at].push_back(frame);
                }
            }
            for subscriber in &mut subscribers {
                if random.random_range(0..4) == 0 {
                    subscriber.drain();
                }
            }
        }
        let dispatched = dispatch.dispatched()[0].load(Ordering::Relaxed);
        for (which, subscriber) in subscribers.iter_mut().enumerate() {
            catch_up(which, subscriber, &mut dispatch, &mut gaps);
            let Some(from) = subscriber.from else { continue };
            let filter = ["a", "b"][which % 2];
            let wanted: Vec<u64> = (from.0..dispatched)
                .filter(|at| log[*at as usize - 1] == filter)
                .filter(|at| {
                    !gaps.iter().any(|(of, gap): &(usize, std::ops::Range<u64>)| {
                        *of == which && gap.contains(at) && !subscriber.seen.contains(at)
                    })
                })
                .collect();
            assert_eq!(subscriber.seen, wanted, "seed {seed}, session {which}, from {from}");
        }
    }
}

/// What a site sends.
enum Answer {
    Active(TailFiltersActive),
    Block(Block),
    Stopped,
}

/// Resumes live delivery of a session that fell behind; what lies between was read.
fn catch_up(
    which: usize,
    subscriber: &mut Subscriber,
    dispatch: &mut Dispatch,
    gaps: &mut Vec<(usize, std::ops::Range<u64>)>,
) {
    subscriber.drain();
    if subscriber.behind {
        let last = subscriber.seen.last().map_or(0, |last| last + 1);
        let from = dispatch.attach_shard(subscriber.slot, SHARD);
        subscriber.behind = false;
        gaps.push((which, last..from.0));
    }
}
