use std::collections::BTreeSet;

use holdfast_proto::ids::Incarnation;
use holdfast_proto::shard::command::Command as Kind;
use holdfast_proto::shard::{
    Abandon, Claim, DeliveryState, Disconnect, InFlight, MoveOn, SessionRow, ShardPosition, Status,
    Subscribe, Subscription, Unsubscribe,
};
use holdfast_shard::{FEATURE_LEVEL, FORGET_AFTER_MS, Request};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::support::*;

fn row(leader: &Leader) -> SessionRow {
    leader.shard.session(&client("a")).unwrap().unwrap()
}

fn in_flight(packet_id: u32, position: u64) -> InFlight {
    InFlight { packet_id, position, qos: 1, ..InFlight::default() }
}

#[test]
fn a_claim_fences_the_owner_before_single_owner() {
    let mut leader = Leader::new();
    let first = leader.claim(claim("a", 1));
    assert!(!first.session_present && first.previous_owner.is_none());
    let second = leader.claim(claim("a", 2));
    assert!(second.session_present);
    assert_eq!(second.previous_owner, Some(gateway(1)));
    let (old, new) = (first.row.unwrap(), second.row.unwrap());
    assert_eq!(second.previous_epoch, old.epoch);
    assert!(new.epoch > old.epoch && new.instance == old.instance);
    let late = commit("a", old.epoch, old.instance, 9);
    assert_eq!(leader.command(Kind::CommitCursor(late)), Status::Fenced);
    let late = disconnect("a", old.epoch, old.instance);
    assert_eq!(leader.command(Kind::Disconnect(late)), Status::Fenced);
    let refused = leader.append(&[Publish("t", "a", old.epoch, 0, "late")]);
    assert_eq!((&refused.refused[..], refused.repeats.len()), (&[1][..], 0));
    assert_eq!(row(&leader), new);
    assert_eq!(leader.shard.owners(), [Incarnation(2)]);
    assert_eq!((leader.shard.session_count(), leader.shard.connected_count()), (1, 1));
}

#[test]
fn epochs_never_repeat_even_after_the_row_is_forgotten_single_owner() {
    let mut leader = Leader::new();
    let regular = Claim { expiry_interval_s: 0, ..claim("a", 1) };
    let first = leader.claim(regular.clone()).row.unwrap();
    leader.command(Kind::Disconnect(disconnect("a", first.epoch, first.instance)));
    leader.now_ms += FORGET_AFTER_MS;
    leader.append(&[]);
    let refused = leader.append(&[Publish("t", "a", first.epoch, 0, "late")]);
    assert_eq!(&refused.refused[..], [1], "forgotten");
    leader.restart();
    let second = leader.claim(regular).row.unwrap();
    assert!(second.epoch > first.epoch);
}

#[test]
fn a_claim_that_is_asked_for_again_is_applied_once() {
    let mut leader = Leader::new();
    leader.run(&[Request::SetFeatureLevel(FEATURE_LEVEL)]);
    let once = Claim { attempt: 7, will: will("w", 0), ..claim("a", 1) };
    let first = leader.claim(once.clone());
    let again = leader.claim(once.clone());
    assert_eq!((&again.row, again.session_present), (&first.row, false));
    assert!(leader.stored().is_empty(), "its own will is not that of a connection before");
    leader.restart();
    assert_eq!(leader.claim(once.clone()).row, first.row);

    // Both in one entry.
    let next = command(Kind::Claim(Claim { attempt: 8, ..once.clone() }));
    let answers: Vec<_> = leader.run(&[next.clone(), next]).into_iter().map(claimed).collect();
    assert_eq!(answers[0].row, answers[1].row);
    assert!(answers[0].row.as_ref().unwrap().epoch > first.row.unwrap().epoch);
    // Late, of an older connection: a claim like any other.
    assert!(leader.claim(once).row.unwrap().epoch > answers[0].row.as_ref().unwrap().epoch);
}

#[test]
fn a_regular_session_ends_with_its_connection() {
    let mut leader = Leader::new();
    let regular = Claim { expiry_interval_s: 0, ..claim("a", 1) };
    let first = leader.claim(regular.clone()).row.unwrap();
    leader.command(Kind::Disconnect(disconnect("a", first.epoch, first.instance)));
    assert_eq!(leader.shard.session(&client("a")).unwrap(), None);
    assert_eq!(leader.shard.session_count(), 0);
    // What its gateway still had under way is stored.
    let late = leader.append(&[Publish("t", "a", first.epoch, 0, "under way")]);
    assert!(late.refused.is_empty());
    let late = commit("a", first.epoch, first.instance, 9);
    assert_eq!(leader.command(Kind::CommitCursor(late)), Status::NoSession);
    let second = leader.claim(regular.clone());
    assert!(!second.session_present);
    // Taken over: the connection that it hung on is closed, so it ends too.
    let third = leader.claim(regular);
    assert!(!third.session_present && third.previous_owner.is_some());
}

#[test]
fn a_clean_start_makes_a_new_instance() {
    let mut leader = Leader::new();
    let first = leader.claim(claim("a", 1)).row.unwrap();
    let filter = Subscription { filter: "t".into(), ..Subscription::default() };
    subscribe(&mut leader, &first, filter);
    leader.append(&[Publish("t", "a", first.epoch, 7, "x")]);
    let clean = leader.claim(Claim { clean_start: true, ..claim("a", 1) });
    assert!(!clean.session_present);
    let row = clean.row.unwrap();
    assert_eq!(row.instance, row.epoch);
    assert!(row.subscriptions.is_empty() && row.received.is_empty());
    let other = commit("a", row.epoch, first.instance, 9);
    assert_eq!(leader.command(Kind::CommitCursor(other)), Status::Fenced);
}

#[test]
fn a_session_expires_once_and_is_absent_from_then_on() {
    let mut leader = Leader::new();
    let first = leader.claim(Claim { expiry_interval_s: 10, ..claim("a", 1) }).row.unwrap();
    leader.command(Kind::Disconnect(disconnect("a", first.epoch, first.instance)));
    leader.pass_s(9);
    assert!(leader.shard.due(leader.now_ms, 10).unwrap().is_empty());
    assert_eq!(leader.shard.next_deadline_ms(), Some(START_MS + 10_000));
    leader.pass_s(1);
    // Nobody asked for its end yet, but it is over.
    let mut other = Leader { base: leader.base.clone(), ..Leader::new() };
    let frozen = leader.shard.freeze();
    other.base.write(&frozen);
    other.shard = open(&other.base);
    other.now_ms = leader.now_ms;
    assert!(!other.claim(claim("a", 2)).session_present);

    leader.run_due();
    assert_eq!(leader.shard.session(&client("a")).unwrap(), None);
    assert!(leader.shard.due(leader.now_ms, 10).unwrap().is_empty());
    assert!(!leader.claim(claim("a", 2)).session_present);
}

#[test]
fn a_session_without_limit_does_not_expire() {
    let mut leader = Leader::new();
    let first = leader.claim(Claim { expiry_interval_s: NEVER, ..claim("a", 1) }).row.unwrap();
    leader.command(Kind::Disconnect(disconnect("a", first.epoch, first.instance)));
    leader.pass_s(u64::from(u32::MAX));
    assert!(leader.run_due().is_empty());
    assert!(leader.claim(claim("a", 2)).session_present);
}

#[test]
fn disconnect_sets_the_expiry_but_cannot_prolong_a_regular_session() {
    let mut leader = Leader::new();
    let first = leader.claim(claim("a", 1)).row.unwrap();
    let leave = Disconnect {
        expiry_interval_s: Some(5),
        commit: Some(commit("a", first.epoch, first.instance, 3)),
        ..disconnect("a", first.epoch, first.instance)
    };
    assert_eq!(leader.command(Kind::Disconnect(leave.clone())), Status::Ok);
    assert_eq!((row(&leader).expiry_interval_s, row(&leader).cursor[0]), (5, 3));
    assert_eq!(leader.command(Kind::Disconnect(leave)), Status::Ok, "again");
    let second = leader.claim(Claim { expiry_interval_s: 0, ..claim("a", 1) }).row.unwrap();
    let leave = disconnect("a", second.epoch, second.instance);
    let leave = Disconnect { expiry_interval_s: Some(5), ..leave };
    leader.command(Kind::Disconnect(leave));
    assert_eq!(leader.shard.session(&client("a")).unwrap(), None);
}

#[test]
fn sessions_of_a_dead_gateway_are_abandoned_once() {
    let mut leader = Leader::new();
    for id in ["a", "b", "c"] {
        leader.claim(claim(id, if id == "c" { 2 } else { 1 }));
    }
    leader.restart();
    let abandoned = leader.shard.owned_by(Incarnation(1), 10).unwrap();
    assert_eq!(abandoned.len(), 2);
    assert_eq!(leader.shard.owned_by(Incarnation(1), 1).unwrap().len(), 1);
    let requests: Vec<_> = abandoned.into_iter().map(holdfast_shard::Request::Command).collect();
    leader.run(&requests);
    assert_eq!(leader.applied.as_ref().unwrap().changed, [client("a"), client("b")]);
    assert_eq!(leader.shard.owners(), [Incarnation(2)]);
    assert_eq!(row(&leader).disconnected_at_ms, START_MS);
    leader.pass_s(1);
    leader.run(&requests);
    assert_eq!(row(&leader).disconnected_at_ms, START_MS, "once");
    // The new owner is not abandoned by what was meant for the old one.
    leader.claim(claim("a", 3));
    leader.run(&requests);
    assert!(row(&leader).owner.is_some());
    let none = Abandon { client: Some(client("z")), epoch: 1 };
    assert_eq!(leader.command(Kind::Abandon(none)), Status::NoSession);
}

#[test]
fn the_cursor_never_moves_back_no_early_cursor() {
    let mut leader = Leader::new();
    let owner = leader.claim(claim("a", 1)).row.unwrap();
    for (to, expected) in [(5, 5), (3, 5), (5, 5), (8, 8)] {
        let commit = commit("a", owner.epoch, owner.instance, to);
        assert_eq!(leader.command(Kind::CommitCursor(commit)), Status::Ok);
        assert_eq!(row(&leader).cursor, [expected]);
    }
    let mut wrong = commit("a", owner.epoch, owner.instance, 20);
    wrong.cursor[0].shard = 1;
    assert_eq!(leader.command(Kind::CommitCursor(wrong)), Status::Invalid);
    assert_eq!(row(&leader).cursor, [8]);
}

#[test]
fn messages_in_flight_keep_their_order_and_ids_are_freed_first() {
    let mut leader = Leader::new();
    let owner = leader.claim(claim("a", 1)).row.unwrap();
    let mut one = commit("a", owner.epoch, owner.instance, 4);
    one.in_flight = vec![in_flight(1, 1), in_flight(2, 2), in_flight(3, 3)];
    leader.command(Kind::CommitCursor(one));
    let mut two = commit("a", owner.epoch, owner.instance, 6);
    two.completed = vec![1];
    let released = InFlight { state: DeliveryState::DeliveryReleased.into(), ..in_flight(2, 2) };
    two.in_flight = vec![in_flight(1, 5), released.clone()];
    leader.command(Kind::CommitCursor(two));
    let expected = [released, in_flight(3, 3), in_flight(1, 5)];
    assert_eq!(row(&leader).in_flight, expected);
    // Many at once take another way to the same.
    let mut many = commit("a", owner.epoch, owner.instance, 6);
    many.completed = (2..30).collect();
    many.in_flight = (1..30).map(|id| in_flight(id, u64::from(id) + 40)).collect();
    leader.command(Kind::CommitCursor(many.clone()));
    assert_eq!(row(&leader).in_flight, many.in_flight);
}

fn subscribe(leader: &mut Leader, owner: &SessionRow, subscription: Subscription) {
    let subscribe = Subscribe {
        client: Some(client("a")),
        epoch: owner.epoch,
        instance: owner.instance,
        subscriptions: vec![subscription],
    };
    assert_eq!(leader.command(Kind::Subscribe(subscribe)), Status::Ok);
}

#[test]
fn a_replaced_subscription_keeps_its_since_until_the_cursor_is_past_it() {
    let mut leader = Leader::new();
    let owner = leader.claim(claim("a", 1)).row.unwrap();
    let wanted = |options, since| Subscription {
        filter: "t/#".into(),
        options,
        identifier: options,
        since: vec![since],
    };
    subscribe(&mut leader, &owner, wanted(1, 10));
    subscribe(&mut leader, &owner, wanted(2, 20));
    assert_eq!(row(&leader).subscriptions, [wanted(2, 10)]);
    for (to, since) in [(9, vec![10]), (10, vec![])] {
        let commit = commit("a", owner.epoch, owner.instance, to);
        leader.command(Kind::CommitCursor(commit));
        assert_eq!(row(&leader).subscriptions[0].since, since);
    }
    leader.restart();
    assert_eq!(row(&leader).subscriptions.len(), 1);
    let unsubscribe = Unsubscribe {
        client: Some(client("a")),
        epoch: owner.epoch,
        instance: owner.instance,
        filters: vec!["t/#".into(), "u".into()],
    };
    assert_eq!(leader.command(Kind::Unsubscribe(unsubscribe)), Status::Ok);
    assert!(row(&leader).subscriptions.is_empty());
}

#[test]
fn every_session_is_visited_once_whether_in_memory_or_not() {
    let mut leader = Leader::new();
    for n in 0..6 {
        let owner = leader.claim(claim(&format!("c{n}"), 1)).row.unwrap();
        if n % 2 == 0 {
            let leave = disconnect(&format!("c{n}"), owner.epoch, owner.instance);
            leader.command(Kind::Disconnect(leave));
        }
        if n == 3 {
            leader.restart();
        }
    }
    let mut seen = Vec::new();
    leader
        .shard
        .for_each_session(|client, _| {
            seen.push(client.client_id);
            true
        })
        .unwrap();
    seen.sort_unstable();
    assert_eq!(seen, ["c0", "c1", "c2", "c3", "c4", "c5"]);
    assert_eq!((leader.shard.session_count(), leader.shard.connected_count()), (6, 3));
}

fn move_on(of: &SessionRow, to: u64, lost: u64) -> Kind {
    Kind::MoveOn(MoveOn {
        client: Some(client("a")),
        epoch: of.epoch,
        instance: of.instance,
        cursor: vec![ShardPosition { shard: 0, position: to }],
        lost,
    })
}

#[test]
fn a_session_without_a_client_is_moved_on_and_its_losses_add_up() {
    let mut leader = Leader::new();
    let owner = leader.claim(claim("a", 1)).row.unwrap();
    let wanted = |filter: &str, since| Subscription {
        filter: filter.into(),
        since,
        ..Subscription::default()
    };
    subscribe(&mut leader, &owner, wanted("t/#", vec![10]));
    subscribe(&mut leader, &owner, wanted("u", vec![20]));
    leader.command(Kind::Disconnect(disconnect("a", owner.epoch, owner.instance)));
    assert_eq!(leader.command(move_on(&owner, 12, 3)), Status::Unavailable, "level 1");
    leader.run(&[Request::SetFeatureLevel(FEATURE_LEVEL)]);
    for (to, lost, cursor, expected) in
        [(12, 3, 12, 3), (12, 3, 12, 3), (9, 5, 12, 3), (15, 0, 15, 3), (18, 4, 18, 7)]
    {
        assert_eq!(leader.command(move_on(&owner, to, lost)), Status::Ok);
        assert_eq!((row(&leader).cursor[0], row(&leader).lost), (cursor, expected), "{to}");
        let listed = leader.applied.as_ref().unwrap().changed.len();
        assert_eq!(listed, usize::from(lost > 0), "listed when something is lost");
    }
    assert_eq!(row(&leader).subscriptions, [wanted("t/#", vec![]), wanted("u", vec![20])]);
    leader.restart();
    assert_eq!(row(&leader).lost, 7);
    let resumed = leader.claim(claim("a", 2)).row.unwrap();
    assert_eq!((resumed.cursor[0], resumed.lost), (18, 7));
}

#[test]
fn a_session_that_somebody_owns_is_not_moved_on_single_owner() {
    let mut leader = Leader::new();
    leader.run(&[Request::SetFeatureLevel(FEATURE_LEVEL)]);
    let first = leader.claim(claim("a", 1)).row.unwrap();
    assert_eq!(leader.command(move_on(&first, 5, 1)), Status::Fenced, "owned");
    leader.command(Kind::Disconnect(disconnect("a", first.epoch, first.instance)));
    let second = leader.claim(claim("a", 2)).row.unwrap();
    leader.command(Kind::Disconnect(disconnect("a", second.epoch, second.instance)));
    assert_eq!(leader.command(move_on(&first, 5, 1)), Status::Fenced, "another epoch");
    let other = SessionRow { instance: first.instance + 9, ..second.clone() };
    assert_eq!(leader.command(move_on(&other, 5, 1)), Status::Fenced, "another instance");
    let mut wrong = move_on(&second, 5, 1);
    if let Kind::MoveOn(wrong) = &mut wrong {
        wrong.cursor[0].shard = 1;
    }
    assert_eq!(leader.command(wrong), Status::Invalid);
    assert_eq!((row(&leader).cursor[0], row(&leader).lost), (0, 0));
    assert_eq!(leader.command(move_on(&second, 5, 1)), Status::Ok);
    // A claim that is decided in the same entry comes first.
    let claims = command(Kind::Claim(claim("a", 3)));
    let late = command(move_on(&second, 9, 1));
    let outcomes = leader.run(&[claims, late]);
    assert_eq!(outcomes[1].status(), Status::Fenced);
    assert_eq!((row(&leader).cursor[0], row(&leader).lost), (5, 1));
}

#[test]
fn a_walk_visits_every_session_once_in_order() {
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut leader = Leader::new();
        let (mut durable, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..60 {
            let id = format!("c{}", rng.random_range(0..80));
            let expiry_interval_s = if rng.random_bool(0.2) { 0 } else { 3600 };
            let owner = leader.claim(Claim { expiry_interval_s, ..claim(&id, 1) }).row.unwrap();
            let leaves = rng.random_bool(0.6);
            if leaves {
                leader.command(Kind::Disconnect(disconnect(&id, owner.epoch, owner.instance)));
            }
            let is_ended = leaves && expiry_interval_s == 0;
            if is_ended { &mut ended } else { &mut durable }.insert(id.clone());
            if is_ended { &mut durable } else { &mut ended }.remove(&id);
            match rng.random_range(0..12) {
                0 => leader.restart(),
                1 => {
                    let frozen = leader.shard.freeze();
                    leader.base.write(&frozen);
                    leader.shard.thaw();
                }
                _ => {}
            }
        }
        let (mut seen, mut after) = (Vec::new(), None);
        let limit = rng.random_range(1..30);
        loop {
            let before = seen.len();
            after = leader
                .shard
                .walk(after.as_ref(), limit, |client, row| {
                    assert!(row.expiry_interval_s != 0 || row.owner.is_some());
                    seen.push(client.client_id);
                })
                .unwrap();
            assert!(seen.len() - before <= limit);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, Vec::from_iter(durable), "seed {seed}");
    }
}

#[test]
fn malformed_commands_are_refused_before_the_log() {
    let mut leader = Leader::new();
    for kind in [
        Kind::Claim(Claim { client: None, ..claim("a", 1) }),
        Kind::Claim(Claim { gateway: None, ..claim("a", 1) }),
        Kind::Claim(Claim {
            will: Some(holdfast_proto::shard::Will { record: vec![1; 50].into(), delay_s: 0 }),
            ..claim("a", 1)
        }),
        Kind::Abandon(Abandon { client: None, epoch: 1 }),
        Kind::Subscribe(Subscribe {
            client: Some(client("a")),
            subscriptions: vec![Subscription { filter: "a#".into(), ..Subscription::default() }],
            ..Subscribe::default()
        }),
    ] {
        assert_eq!(leader.command(kind), Status::Invalid);
        assert!(leader.applied.is_none());
    }
}
