//! What the controller makes of sites that report, fall silent, return, or come with another past, and of
//! what operators ask for.

#![allow(clippy::unwrap_used, reason = "a test's own surroundings either work or end it")]

use holdfast_control::{
    control::{Control, Effect, Event, Limits, Now, SteerId, StreamId, Turn},
    membership::{self, Membership, Refusal, Saved},
    routes::{self, Routes},
    steering::{Steer, SteerRefusal},
};
use holdfast_proto::{
    PROTOCOL_VERSION,
    ids::SiteId,
    meta::{Liveness, ReplicaReport, ShardInfo, ShardRetention, SiteReport, SiteState, Topology},
    version::Versions,
};

const LEASE_MS: u64 = 1000;
const REPLACE_AFTER_MS: u64 = 5_000;
const SHARDS: u32 = 4;

struct Cluster {
    control: Control,
    saved: Saved,
    shown: Topology,
    now_ms: u64,
    /// Sites that report with every tick.
    sites: Vec<SiteReport>,
}

fn control(saved: Saved, now_ms: u64) -> Control {
    let limits = membership::Limits {
        sites_max: 10,
        gateways_max: 10,
        dead_gateways_max: 2,
        dead_gateway_ms: 60_000,
        versions: Versions::default(),
    };
    let membership = Membership::new(limits, saved, []);
    let limits = routes::Limits {
        values_max: 10,
        filters_max: 100,
        filter_bytes_max: 10_000,
        retire_ms: 100,
    };
    let limits_of_control = Limits {
        duplicate_ms: 300,
        covers_max: 2,
        replace_after_ms: REPLACE_AFTER_MS,
        transitions_max: 4,
    };
    Control::new(limits_of_control, membership, Routes::new(limits, 1, []), now(now_ms))
}

fn now(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ms: 1_000_000 + mono_ms }
}

fn report(site_id: u64) -> SiteReport {
    SiteReport {
        protocol_version: PROTOCOL_VERSION,
        protocol_version_min: 1,
        site_id,
        name: format!("s{site_id}"),
        address: format!("host-{site_id}:1"),
        ..SiteReport::default()
    }
}

impl Cluster {
    fn new(sites: u64) -> Cluster {
        let topology = Topology {
            cluster_id: "c".to_owned(),
            shards: SHARDS,
            replication_factor: 3,
            lease_ms: LEASE_MS as u32,
            ..Topology::default()
        };
        let saved = Saved { topology: topology.clone(), next_replica_id: 1, set_back_from: 0 };
        let mut cluster = Cluster {
            control: control(saved.clone(), 0),
            saved,
            shown: topology,
            now_ms: 0,
            sites: (1..=sites).map(report).collect(),
        };
        cluster.tick(1);
        cluster
    }

    fn turn(&mut self, events: Vec<Event>) -> Turn {
        let now = now(self.now_ms);
        self.control.begin(now);
        events.into_iter().for_each(|event| self.control.handle(event, now));
        let turn = self.control.finish(now);
        self.saved = turn.saved.clone().unwrap_or(self.saved.clone());
        self.shown = turn.topology.clone().unwrap_or(self.shown.clone());
        turn
    }

    /// Time goes on; the sites that are there report.
    fn tick(&mut self, count: usize) {
        for _ in 0..count {
            self.now_ms += 200;
            let event = |report: &SiteReport| Event::Site {
                stream: StreamId(report.site_id),
                report: report.clone(),
            };
            let events = self.sites.iter().map(event).collect();
            self.turn(events);
        }
    }

    fn site(&mut self, report: SiteReport) -> Turn {
        self.turn(vec![Event::Site { stream: StreamId(report.site_id), report }])
    }

    fn silence(&mut self, site: u64) -> SiteReport {
        let at = self.sites.iter().position(|report| report.site_id == site).unwrap();
        self.turn(vec![Event::Closed { stream: StreamId(site) }]);
        self.sites.remove(at)
    }

    fn steer(&mut self, steer: Steer) -> Result<SiteId, SteerRefusal> {
        let turn = self.turn(vec![Event::Steer { request: SteerId(9), steer }]);
        let result = |effect: &Effect| match effect {
            Effect::Steered { request: SteerId(9), result } => Some(result.clone()),
            _ => None,
        };
        turn.effects.iter().find_map(result).unwrap()
    }

    fn lead(&mut self, shard: u32, site: &str) -> Result<SiteId, SteerRefusal> {
        self.steer(Steer::MoveLeader { shard, site: site.to_owned() })
    }

    fn move_replica(&mut self, shard: u32, from: &str, to: &str) -> Result<SiteId, SteerRefusal> {
        self.steer(Steer::MoveReplica { shard, from: from.to_owned(), to: to.to_owned() })
    }

    fn shard(&self, shard: u32) -> &ShardInfo {
        &self.shown.placement[shard as usize]
    }

    /// Site ids of a shard's replicas, preferred leader first.
    fn sites_of(&self, shard: u32) -> Vec<u64> {
        self.shard(shard).replicas.iter().map(|replica| replica.site_id).collect()
    }

    fn pin(&self, shard: u32) -> (u64, Vec<u64>) {
        let pin = self.shard(shard).pin.clone().unwrap_or_default();
        (pin.leader, pin.sites)
    }

    /// Replicas go where they are to be.
    fn come_to_rest(&mut self) {
        for _ in 0..20 {
            self.report_groups();
        }
        assert_eq!(self.holders(), 0);
    }

    fn drain(&mut self, site: &str) -> Result<SiteId, SteerRefusal> {
        self.steer(Steer::Drain { site: site.to_owned(), cancel: false })
    }

    fn state(&self, site: u64) -> (SiteState, Liveness) {
        let info = self.shown.sites.iter().find(|info| info.site_id == site).unwrap();
        (info.state(), info.liveness())
    }

    fn held_back(&self) -> String {
        self.control.describe(now(self.now_ms)).held_back.unwrap_or_default()
    }

    fn holders(&self) -> usize {
        self.shown.placement.iter().map(|shard| shard.holders.len()).sum()
    }

    /// Sites report of their replicas as of a group that is settled.
    fn report_groups(&mut self) {
        let (shown, version) = (self.shown.clone(), self.shown.version);
        for report in &mut self.sites {
            report.topology_version = version;
            report.replicas.clear();
            for shard in &shown.placement {
                let ids: Vec<u64> = shard.replicas.iter().map(|r| r.replica_id).collect();
                let mine = shard.replicas.iter().enumerate();
                for (at, replica) in mine.filter(|(_, r)| r.site_id == report.site_id) {
                    let leads = at == 0;
                    report.replicas.push(ReplicaReport {
                        shard: shard.shard,
                        replica_id: replica.replica_id,
                        leading_term: u64::from(leads),
                        voters: if leads { ids.clone() } else { Vec::new() },
                        caught_up: if leads { ids.clone() } else { Vec::new() },
                        next_position: if leads { 7 } else { 0 },
                        run_bytes: 100,
                        ..ReplicaReport::default()
                    });
                }
            }
        }
        self.tick(1);
    }
}

#[test]
fn a_silent_site_is_given_up_after_its_time_while_enough_are_left() {
    let mut cluster = Cluster::new(4);
    cluster.silence(4);
    cluster.tick(10);
    assert_eq!(cluster.state(4), (SiteState::Active, Liveness::Down));
    cluster.tick(30);
    assert_eq!(cluster.state(4), (SiteState::Lost, Liveness::Down));
    cluster.sites.push(report(4));
    cluster.tick(1);
    assert_eq!(cluster.state(4), (SiteState::Active, Liveness::Up));
}

#[test]
fn one_that_holds_nothing_is_given_up_though_too_few_are_left_and_can_be_forgotten() {
    let mut cluster = Cluster::new(3);
    cluster.sites.push(report(4));
    cluster.tick(1);
    cluster.silence(3);
    cluster.silence(4);
    cluster.tick(100);
    assert_eq!(cluster.state(3), (SiteState::Active, Liveness::Down), "nobody can take its place");
    assert_eq!(cluster.state(4), (SiteState::Lost, Liveness::Down), "nobody has to");
    cluster.steer(Steer::Forget { site: "s4".to_owned() }).unwrap();
    assert!(cluster.shown.sites.iter().all(|info| info.site_id != 4));
}

#[test]
fn one_that_holds_nothing_can_be_replaced_though_too_few_are_left() {
    let mut cluster = Cluster::new(3);
    cluster.sites.push(report(4));
    cluster.tick(1);
    cluster.silence(3);
    cluster.silence(4);
    cluster.tick(10);
    let replace = |site: &str| Steer::Replace { site: site.to_owned() };
    assert!(matches!(cluster.steer(replace("s3")), Err(SteerRefusal::TooFewSites { .. })));
    assert_eq!(cluster.steer(replace("s4")), Ok(SiteId(4)));
    assert_eq!(cluster.state(4).0, SiteState::Lost);
}

#[test]
fn with_too_few_left_it_is_not_and_operators_are_told() {
    let mut cluster = Cluster::new(3);
    cluster.silence(3);
    cluster.tick(100);
    assert_eq!(cluster.state(3), (SiteState::Active, Liveness::Down));
    assert!(cluster.held_back().contains("s3 is down and not replaced"), "{}", cluster.held_back());
    cluster.sites.push(report(4));
    cluster.tick(1);
    assert_eq!(cluster.state(3).0, SiteState::Lost);
}

#[test]
fn a_new_controller_and_one_that_stood_still_wait_the_whole_time_again() {
    let mut cluster = Cluster::new(4);
    cluster.silence(4);
    cluster.tick(25);
    cluster.control = control(cluster.saved.clone(), cluster.now_ms);
    cluster.tick(15);
    assert_eq!(cluster.state(4).0, SiteState::Active, "a start");
    cluster.now_ms += 60_000;
    cluster.tick(15);
    assert_eq!(cluster.state(4).0, SiteState::Active, "a stall");
    cluster.tick(20);
    assert_eq!(cluster.state(4).0, SiteState::Lost);
}

#[test]
fn a_new_site_at_a_silent_ones_address_is_its_wiped_disk() {
    let mut cluster = Cluster::new(4);
    cluster.silence(4);
    let wiped = SiteReport { address: "host-4:1".to_owned(), ..report(5) };
    cluster.site(wiped.clone());
    assert_eq!(cluster.state(4), (SiteState::Lost, Liveness::Down), "at once");
    // While the first is heard of, it is not given up.
    let twin = SiteReport { address: "host-1:1".to_owned(), ..report(6) };
    cluster.site(twin);
    assert_eq!(cluster.state(1), (SiteState::Active, Liveness::Up));
}

#[test]
fn draining_is_refused_where_too_few_would_be_left() {
    let mut cluster = Cluster::new(3);
    let refusal = cluster.drain("s1").unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "3 of 3 active sites are needed for replication factor 3: add a storage node first"
    );
    cluster.sites.push(report(4));
    cluster.tick(1);
    assert_eq!(cluster.drain("s1"), Ok(SiteId(1)));
    assert_eq!(cluster.drain("s1"), Ok(SiteId(1)), "again");
    assert!(matches!(cluster.drain("s2"), Err(SteerRefusal::TooFewSites { .. })));
}

#[test]
fn sites_are_named_by_id_or_by_a_name_of_their_own() {
    let mut cluster = Cluster::new(4);
    cluster.sites[0].site_id = 0xab;
    cluster.sites[1].name = "s3".to_owned();
    cluster.tick(1);
    let unknown = cluster.drain("nowhere").unwrap_err().to_string();
    assert!(unknown.contains("\"nowhere\"") && unknown.contains("s4"), "{unknown}");
    let ambiguous = cluster.drain("s3").unwrap_err().to_string();
    assert!(ambiguous.contains("0000000000000002"), "{ambiguous}");
    assert_eq!(cluster.drain("00000000000000ab"), Ok(SiteId(0xab)));
}

#[test]
fn a_drained_site_is_active_again_only_if_it_was_away() {
    let mut cluster = Cluster::new(3);
    // A site that came after the cluster had formed has nothing yet.
    cluster.sites.push(report(4));
    cluster.tick(1);
    cluster.drain("s4").unwrap();
    cluster.tick(5);
    assert_eq!(cluster.state(4), (SiteState::Drained, Liveness::Up));
    let away = cluster.silence(4);
    cluster.tick(10);
    assert_eq!(cluster.state(4), (SiteState::Drained, Liveness::Down));
    cluster.sites.push(away);
    cluster.tick(1);
    assert_eq!(cluster.state(4), (SiteState::Active, Liveness::Up));
}

#[test]
fn a_drain_begins_with_leaders_known_and_can_be_called_off() {
    let mut cluster = Cluster::new(4);
    cluster.drain("s1").unwrap();
    cluster.tick(3);
    assert_eq!(cluster.holders(), 0, "no leader has reported");
    cluster.report_groups();
    let before = cluster.holders();
    assert!(before > 0);
    cluster.steer(Steer::Drain { site: "s1".to_owned(), cancel: true }).unwrap();
    cluster.tick(10);
    assert_eq!(cluster.state(1).0, SiteState::Active);
    assert_eq!(cluster.holders(), before, "what is under way waits for reports");
}

#[test]
fn only_what_is_down_and_empty_is_forgotten() {
    let mut cluster = Cluster::new(3);
    let forget = |site: &str| Steer::Forget { site: site.to_owned() };
    assert!(matches!(cluster.steer(forget("s3")), Err(SteerRefusal::Up { .. })));
    cluster.silence(3);
    cluster.tick(10);
    let holds = cluster.steer(forget("s3")).unwrap_err();
    assert_eq!(holds, SteerRefusal::Holds { name: "s3".to_owned(), replicas: 4, holding: 0 });
    cluster.sites.push(report(4));
    cluster.tick(1);
    cluster.silence(4);
    cluster.tick(10);
    assert_eq!(cluster.steer(forget("s4")), Ok(SiteId(4)));
    assert!(cluster.shown.sites.iter().all(|info| info.site_id != 4));
    let back = SiteReport { cluster_id: "c".to_owned(), ..report(4) };
    let turn = cluster.site(back);
    let refused = Refusal::UnknownSite { site: SiteId(4) };
    assert!(
        turn.effects.iter().any(|effect| {
            matches!(effect, Effect::Refuse { refusal, .. } if *refusal == refused)
        })
    );
}

#[test]
fn replacing_is_for_sites_that_are_down() {
    let mut cluster = Cluster::new(4);
    let replace = || Steer::Replace { site: "s2".to_owned() };
    assert!(matches!(cluster.steer(replace()), Err(SteerRefusal::Up { .. })));
    cluster.silence(2);
    cluster.tick(10);
    assert_eq!(cluster.steer(replace()), Ok(SiteId(2)));
    assert_eq!(cluster.state(2).0, SiteState::Lost);
    assert!(matches!(cluster.drain("s2"), Err(SteerRefusal::Lost { .. })));
}

#[test]
fn a_store_that_was_set_back_changes_no_placement_ever_after() {
    let mut cluster = Cluster::new(4);
    cluster.report_groups();
    let placement = cluster.shown.placement.clone();
    let seen = cluster.shown.version + 50;
    cluster.sites[2].topology_version = seen;
    cluster.tick(1);
    cluster.sites[2].topology_version = 0;
    assert_eq!(cluster.drain("s1"), Err(SteerRefusal::SetBack));
    cluster.silence(4);
    cluster.sites.push(report(5));
    cluster.tick(100);
    assert_eq!(cluster.state(4), (SiteState::Active, Liveness::Down), "nobody is given up");
    assert_eq!(cluster.shown.placement, placement);
    assert!(cluster.held_back().contains("set back"), "{}", cluster.held_back());
    cluster.control = control(cluster.saved.clone(), cluster.now_ms);
    let turn = cluster.turn(Vec::new());
    assert_eq!(turn.set_back_from, Some(seen), "a new controller knows it too");
}

#[test]
fn nothing_begins_while_a_site_does_not_know_holders() {
    let mut cluster = Cluster::new(4);
    cluster.sites[3].protocol_version = 1;
    cluster.report_groups();
    cluster.drain("s1").unwrap();
    cluster.tick(10);
    assert_eq!(cluster.holders(), 0);
    assert!(
        cluster.held_back().contains("s4 speaks only protocol version 1"),
        "{}",
        cluster.held_back()
    );
    cluster.sites[3].protocol_version = PROTOCOL_VERSION;
    cluster.tick(2);
    assert!(cluster.holders() > 0 && cluster.held_back().is_empty());
}

#[test]
fn peers_need_a_version_in_common() {
    let mut cluster = Cluster::new(3);
    let ahead = SiteReport { protocol_version: 99, protocol_version_min: 1, ..report(4) };
    cluster.site(ahead);
    assert_eq!(cluster.state(4).1, Liveness::Up);
    let turn =
        cluster.site(SiteReport { protocol_version: 99, protocol_version_min: 98, ..report(5) });
    assert!(matches!(
        turn.effects.as_slice(),
        [Effect::Refuse { refusal: Refusal::Protocol(_), .. }]
    ));
}

#[test]
fn retention_is_told_when_it_changes_and_once_a_second() {
    let mut cluster = Cluster::new(3);
    cluster.report_groups();
    for report in &mut cluster.sites {
        for replica in report.replicas.iter_mut().filter(|replica| replica.leading_term > 0) {
            replica.low_marks = vec![5; SHARDS as usize];
            replica.retention =
                Some(ShardRetention { wanted_below: 9, ..ShardRetention::default() });
        }
    }
    cluster.now_ms += 400;
    let told = |cluster: &mut Cluster| {
        let events = cluster
            .sites
            .iter()
            .map(|report| Event::Site { stream: StreamId(report.site_id), report: report.clone() });
        let events = events.collect();
        cluster.now_ms += 200;
        cluster.turn(events).retention
    };
    let all: Vec<_> = (0..12).filter_map(|_| told(&mut cluster)).collect();
    assert_eq!(all.len(), 1);
    let wanted =
        |shard| ShardRetention { shard, wanted_below: 9, doomed_below: 0, consumed_below: 5 };
    assert_eq!(all[0], (0..SHARDS).map(wanted).collect::<Vec<_>>());
}

#[test]
fn a_leader_that_is_moved_stays_until_it_is_released() {
    let mut cluster = Cluster::new(3);
    cluster.report_groups();
    let other = cluster.sites_of(0)[1];
    let name = format!("s{other}");
    assert_eq!(cluster.lead(0, &name), Ok(SiteId(other)));
    assert_eq!(cluster.sites_of(0)[0], other, "at once");
    cluster.come_to_rest();
    assert_eq!((cluster.sites_of(0)[0], cluster.pin(0)), (other, (other, vec![])));
    let version = cluster.shown.version;
    assert_eq!(cluster.lead(0, &name), Ok(SiteId(other)));
    assert_eq!(cluster.shown.version, version, "repeated");
    cluster.control = control(cluster.saved.clone(), cluster.now_ms);
    cluster.come_to_rest();
    assert_eq!(cluster.sites_of(0)[0], other, "a new controller knows it too");
    assert_eq!(cluster.steer(Steer::Release { shard: 0 }), Ok(SiteId(other)));
    assert!(cluster.shard(0).pin.is_none());
    assert_eq!(cluster.steer(Steer::Release { shard: 0 }), Ok(SiteId(other)), "again");
    cluster.come_to_rest();
    let led = |site: u64| (0..SHARDS).filter(|shard| cluster.sites_of(*shard)[0] == site).count();
    assert!((1..=3).all(|site| led(site) >= 1), "even again");
}

#[test]
fn a_replica_that_is_moved_stays_and_the_others_make_room() {
    let mut cluster = Cluster::new(4);
    cluster.come_to_rest();
    let without = (1..=4).find(|site| !cluster.sites_of(0).contains(site)).unwrap();
    let from = cluster.sites_of(0)[0];
    let ask = |cluster: &mut Cluster| {
        cluster.move_replica(0, &format!("s{from}"), &format!("s{without}"))
    };
    let loads = |cluster: &Cluster| {
        let all: Vec<u64> = (0..SHARDS).flat_map(|shard| cluster.sites_of(shard)).collect();
        (1..=4).map(|site| all.iter().filter(|held| **held == site).count()).collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut cluster), Ok(SiteId(without)));
    assert_eq!(ask(&mut cluster), Ok(SiteId(without)), "again, under way");
    let turn_back = cluster.move_replica(0, &format!("s{without}"), &format!("s{from}"));
    assert_eq!(turn_back, Err(SteerRefusal::UnderWay { shard: 0 }));
    cluster.come_to_rest();
    let held = cluster.sites_of(0);
    assert!(held.contains(&without) && !held.contains(&from), "{held:?}");
    assert_eq!(loads(&cluster), [3, 3, 3, 3], "another replica went the other way");
    let version = cluster.shown.version;
    assert_eq!(ask(&mut cluster), Ok(SiteId(without)));
    assert_eq!(cluster.shown.version, version, "again, done");
}

#[test]
fn a_pinned_leader_follows_no_replica_that_is_moved_away() {
    let mut cluster = Cluster::new(4);
    cluster.come_to_rest();
    let to = (1..=4).find(|site| !cluster.sites_of(0).contains(site)).unwrap();
    let leader = cluster.sites_of(0)[1];
    cluster.lead(0, &format!("s{leader}")).unwrap();
    cluster.move_replica(0, &format!("s{leader}"), &format!("s{to}")).unwrap();
    assert_eq!(cluster.pin(0).0, 0);
    assert!(cluster.pin(0).1.contains(&to));
}

#[test]
fn what_a_pin_names_ends_with_its_site() {
    let mut cluster = Cluster::new(5);
    cluster.come_to_rest();
    let held = cluster.sites_of(0);
    let to = (1..=5).find(|site| !held.contains(site)).unwrap();
    cluster.move_replica(0, &format!("s{}", held[0]), &format!("s{to}")).unwrap();
    cluster.come_to_rest();
    cluster.lead(0, &format!("s{to}")).unwrap();
    cluster.drain(&format!("s{}", held[1])).unwrap();
    assert_eq!(cluster.pin(0), (to, vec![]), "the leader is another site's");
    cluster.come_to_rest();
    assert_eq!((cluster.sites_of(0)[0], cluster.pin(0).0), (to, to));
    cluster.silence(to);
    cluster.tick(10);
    assert_eq!(cluster.pin(0).0, to, "down is not gone");
    cluster.tick(40);
    assert_eq!(cluster.state(to).0, SiteState::Lost);
    assert!(cluster.shard(0).pin.is_none());
}

#[test]
fn what_cannot_be_pinned_is_refused_in_words() {
    let mut cluster = Cluster::new(5);
    cluster.come_to_rest();
    let held = cluster.sites_of(0);
    let free: Vec<u64> = (1..=5).filter(|site| !held.contains(site)).collect();
    let name = |site: u64| format!("s{site}");
    let words = |result: Result<SiteId, SteerRefusal>| result.unwrap_err().to_string();
    let unknown = words(cluster.lead(SHARDS, "s1"));
    assert_eq!(unknown, "there is no shard 4: they are 0 to 3");
    assert_eq!(
        words(cluster.steer(Steer::Release { shard: 9 })),
        "there is no shard 9: they are 0 to 3"
    );
    assert!(matches!(cluster.lead(0, "s9"), Err(SteerRefusal::Unknown { .. })));
    let none = words(cluster.lead(0, &name(free[0])));
    assert!(none.contains("has no replica of shard 0") && none.contains(&name(held[0])), "{none}");
    let none = cluster.move_replica(0, &name(free[0]), &name(free[1]));
    assert!(matches!(none, Err(SteerRefusal::NoReplica { .. })));
    let has = cluster.move_replica(0, &name(held[0]), &name(held[1]));
    assert_eq!(has, Err(SteerRefusal::HasReplica { name: name(held[1]), shard: 0 }));
    let itself = cluster.move_replica(0, &name(held[0]), &name(held[0]));
    assert!(matches!(itself, Err(SteerRefusal::HasReplica { .. })));

    cluster.silence(free[0]);
    cluster.tick(10);
    let down = cluster.move_replica(0, &name(held[0]), &name(free[0]));
    assert_eq!(down, Err(SteerRefusal::Unusable { name: name(free[0]), state: "down" }));
    cluster.drain(&name(held[2])).unwrap();
    let draining = cluster.lead(0, &name(held[2]));
    assert_eq!(draining, Err(SteerRefusal::Unusable { name: name(held[2]), state: "draining" }));
    assert!((0..SHARDS).all(|shard| cluster.shard(shard).pin.is_none()), "nothing is half done");
}

#[test]
fn a_shard_is_not_pinned_to_a_site_that_is_about_to_leave() {
    let mut cluster = Cluster::new(5);
    let held = cluster.sites_of(0);
    let to = (1..=5).find(|site| !held.contains(site)).unwrap();
    // No leader has reported: nothing has begun yet.
    cluster.drain(&format!("s{}", held[2])).unwrap();
    assert_eq!(cluster.holders(), 0);
    let (name, to) = (format!("s{}", held[2]), format!("s{to}"));
    let leaving = cluster.move_replica(0, &format!("s{}", held[0]), &to);
    assert_eq!(
        leaving,
        Err(SteerRefusal::Leaving { name: name.clone(), shard: 0, state: "draining" })
    );
    assert!(cluster.move_replica(0, &name, &to).is_ok(), "it may be said where its replica goes");
}

#[test]
fn a_shard_is_brought_into_fewer_zones_only_where_nothing_better_can_be_had() {
    let mut cluster = Cluster::new(0);
    let zoned = |site: u64, zone: &str| SiteReport {
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        ..report(site)
    };
    cluster.sites = vec![zoned(1, "a"), zoned(2, "b"), zoned(3, "c"), zoned(4, "c")];
    cluster.tick(1);
    cluster.come_to_rest();
    let c = cluster.sites_of(0).into_iter().find(|site| *site > 2).unwrap();
    let (c, free) = (format!("s{c}"), format!("s{}", 7 - c));
    let refusal = cluster.move_replica(0, "s1", &free).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        format!(
            "site {free} is in zone \"c\", as site {c}, which has a replica of shard 0 too: choose a site of another zone"
        )
    );
    assert_eq!(cluster.move_replica(0, &c, &free).map(|_| ()), Ok(()), "within its zone");
    cluster.steer(Steer::Release { shard: 0 }).unwrap();
    cluster.come_to_rest();
    cluster.silence(1);
    cluster.tick(10);
    let free = (3..=4).find(|site| !cluster.sites_of(0).contains(site)).unwrap();
    let moved = cluster.move_replica(0, "s1", &format!("s{free}"));
    assert_eq!(moved, Ok(SiteId(free)), "zone a is down");
}

#[test]
fn the_view_shows_who_leads_who_is_behind_and_what_is_missing() {
    let mut cluster = Cluster::new(4);
    cluster.come_to_rest();
    let view = |cluster: &Cluster| cluster.control.describe(now(cluster.now_ms));
    let whole = view(&cluster);
    assert!(whole.shards_without_leader.is_empty() && whole.shards_under_replicated.is_empty());
    assert_eq!((whole.shard_count, whole.replication_factor, whole.sites.len()), (SHARDS, 3, 4));
    let first = &whole.shards[0];
    let preferred = SiteId(cluster.sites_of(0)[0]);
    assert_eq!((first.leader, first.preferred, first.term), (Some(preferred), preferred, 1));
    assert_eq!((first.next_position, first.run_bytes), (7, 100));
    assert!(first.replicas.iter().all(|replica| {
        replica.member && replica.votes && replica.caught_up && replica.reported
    }));
    assert_eq!(whole.sites.iter().map(|site| site.leading).sum::<u32>(), SHARDS);
    assert_eq!(whole.site_name(preferred), format!("s{}", preferred.0));

    let silent = cluster.sites_of(0)[1];
    let report = cluster.sites.iter_mut().find(|report| report.site_id == preferred.0).unwrap();
    let leading = report.replicas.iter_mut().find(|replica| replica.shard == 0).unwrap();
    leading.caught_up.retain(|id| *id == leading.replica_id);
    cluster.tick(1);
    assert_eq!(view(&cluster).shards_under_replicated, [0], "by its leader's word");
    cluster.silence(silent);
    cluster.tick(10);
    let without = view(&cluster);
    let held: Vec<u32> =
        (0..SHARDS).filter(|shard| cluster.sites_of(*shard).contains(&silent)).collect();
    let led: Vec<u32> = (0..SHARDS).filter(|shard| cluster.sites_of(*shard)[0] == silent).collect();
    assert_eq!((without.shards_under_replicated, without.shards_without_leader), (held, led));
}
