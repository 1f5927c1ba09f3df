//! Plans, first and later ones.

use std::net::TcpListener;

use super::*;
use crate::local::sites::Sites;

fn folder() -> (tempfile::TempDir, DataDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = DataDir::create(folder.path()).expect("created");
    (folder, dir)
}

fn free_ports() -> Wish {
    Wish { mqtt_port: Some(0), ..Wish::default() }
}

#[test]
fn a_second_start_finds_the_same_processes_and_ports() {
    let (_folder, dir) = folder();
    let first = Plan::lay_out(None, &free_ports(), &Sites::default(), &dir).expect("laid out");
    first.save(&dir).expect("saved");
    let loaded = Plan::load(&dir).expect("loaded").expect("there");
    assert_eq!(
        Plan::lay_out(Some(&loaded), &Wish::default(), &Sites::default(), &dir).expect("laid out"),
        first
    );
    let names: Vec<String> = first.members().into_iter().map(|member| member.name).collect();
    assert_eq!(names, ["meta-1", "storage-1", "storage-2", "storage-3", "gateway-1", "gateway-2"]);
}

#[test]
fn a_remembered_port_that_is_taken_is_replaced() {
    let (_folder, dir) = folder();
    let first = Plan::lay_out(None, &free_ports(), &Sites::default(), &dir).expect("laid out");
    let _held = TcpListener::bind(&first.members()[0].grpc).expect("free");
    let second =
        Plan::lay_out(Some(&first), &Wish::default(), &Sites::default(), &dir).expect("laid out");
    assert_ne!(first.members()[0].grpc, second.members()[0].grpc);
    assert_eq!(first.members()[1..], second.members()[1..]);
}

#[test]
fn a_taken_mqtt_port_is_named() {
    let (_folder, dir) = folder();
    let held = TcpListener::bind("127.0.0.1:0").expect("free");
    let port = held.local_addr().expect("bound").port();
    let wish = Wish { mqtt_port: Some(port), ..Wish::default() };
    let error = Plan::lay_out(None, &wish, &Sites::default(), &dir).expect_err("taken");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

fn lay_out(old: Option<&Plan>, wish: &Wish, dir: &DataDir) -> Result<Plan, String> {
    Plan::lay_out(old, wish, &Sites::default(), dir).map_err(|error| error.to_string())
}

fn names(plan: &Plan, role: Role) -> Vec<String> {
    plan.of_role(role).into_iter().map(|member| member.name).collect()
}

fn drained(names: &[&str]) -> Sites {
    let known = |name: &&str| {
        let site = serde_json::json!({ "site_id": "1", "state": "drained" });
        ((*name).to_owned(), site)
    };
    let sites: serde_json::Map<String, serde_json::Value> = names.iter().map(known).collect();
    serde_json::from_value(sites.into()).expect("sites")
}

#[test]
fn only_drained_storage_nodes_are_left_away_and_their_numbers_stay_free() {
    let (_folder, dir) = folder();
    let wish = Wish { storage: Some(4), ..free_ports() };
    let first = lay_out(None, &wish, &dir).expect("laid out");
    let three = Wish { storage: Some(3), ..Wish::default() };
    let error = lay_out(Some(&first), &three, &dir).expect_err("refused");
    assert!(error.contains("holdfast sites drain"), "{error}");
    let sites = drained(&["storage-2", "storage-9"]);
    let less = Plan::lay_out(Some(&first), &three, &sites, &dir).expect("laid out");
    assert_eq!(names(&less, Role::Storage), ["storage-1", "storage-3", "storage-4"]);
    let more = lay_out(Some(&less), &Wish { storage: Some(4), ..Wish::default() }, &dir);
    let more = more.expect("laid out");
    assert_eq!(names(&more, Role::Storage), ["storage-1", "storage-3", "storage-4", "storage-5"]);
    assert!(more.names_ever().contains(&"storage-2".to_owned()));
}

#[test]
fn a_running_cluster_keeps_its_ports_when_it_is_scaled() {
    let (_folder, dir) = folder();
    let first = lay_out(None, &free_ports(), &dir).expect("laid out");
    let running: Vec<TcpListener> = first
        .members()
        .iter()
        .map(|member| TcpListener::bind(&member.grpc).expect("free"))
        .collect();
    let wish = Wish { storage: Some(4), gateways: Some(1), ..Wish::default() };
    let next = first.scaled(&wish, &Sites::default(), &dir).expect("laid out");
    assert_eq!(next.members()[..4], first.members()[..4]);
    assert_eq!(names(&next, Role::Gateway), ["gateway-1"]);
    assert_eq!(next.members().len(), running.len());
    let back = next.scaled(&Wish { gateways: Some(2), ..Wish::default() }, &Sites::default(), &dir);
    assert_eq!(names(&back.expect("laid out"), Role::Gateway), ["gateway-1", "gateway-2"]);
}

#[test]
fn the_replication_factor_stays_as_it_was_formed() {
    let (_folder, dir) = folder();
    let wish = |storage, replication_factor| Wish { storage, replication_factor, ..free_ports() };
    let two = lay_out(None, &wish(Some(2), None), &dir).expect("laid out");
    assert_eq!(two.replication_factor(), 1);
    let grown = lay_out(Some(&two), &wish(Some(3), None), &dir).expect("laid out");
    assert_eq!(grown.replication_factor(), 1);
    let error = lay_out(Some(&two), &wish(Some(3), Some(3)), &dir).expect_err("refused");
    assert!(error.contains("--fresh"), "{error}");
    let five = lay_out(None, &wish(None, Some(5)), &dir).expect("laid out");
    assert_eq!((five.replication_factor(), names(&five, Role::Storage).len()), (5, 5));
    assert!(lay_out(None, &wish(Some(4), Some(5)), &dir).is_err());
    assert!(lay_out(None, &wish(Some(4), Some(2)), &dir).is_err());
}

#[test]
fn the_store_is_chosen_once() {
    let (_folder, dir) = folder();
    let wish = |meta, etcd| Wish { meta: Some(meta), etcd, ..free_ports() };
    let error = lay_out(None, &wish(2, None), &dir).expect_err("refused");
    assert!(error.contains("--etcd"), "{error}");
    let error = lay_out(None, &wish(2, Some(2)), &dir).expect_err("refused");
    assert!(error.contains("even"), "{error}");
    let etcd = lay_out(None, &wish(2, Some(3)), &dir).expect("laid out");
    assert_eq!(names(&etcd, Role::Etcd), ["etcd-1", "etcd-2", "etcd-3"]);
    assert!(etcd.members()[0].peer.is_some());
    let more = lay_out(Some(&etcd), &wish(3, None), &dir).expect("laid out");
    assert_eq!((names(&more, Role::Meta).len(), names(&more, Role::Etcd).len()), (3, 3));
    let error = lay_out(Some(&etcd), &wish(1, Some(0)), &dir).expect_err("refused");
    assert!(error.contains("etcd") && error.contains("--fresh"), "{error}");
    let sled = lay_out(None, &wish(1, None), &dir).expect("laid out");
    let error = lay_out(Some(&sled), &wish(1, Some(3)), &dir).expect_err("refused");
    assert!(error.contains("sled") && error.contains("--fresh"), "{error}");
}

#[test]
fn zones_go_round() {
    let (_folder, dir) = folder();
    let wish = Wish { zones: Some(2), ..free_ports() };
    let plan = lay_out(None, &wish, &dir).expect("laid out");
    let zones: Vec<_> = plan.of_role(Role::Storage).into_iter().map(|m| m.zone).collect();
    assert_eq!(zones, ["zone-1", "zone-2", "zone-1"].map(|zone| Some(zone.to_owned())));
}

#[test]
fn a_folder_of_an_older_version_gets_a_port_for_the_admin_api() {
    let (_folder, dir) = folder();
    let first = lay_out(None, &free_ports(), &dir).expect("laid out");
    let mut older = serde_json::to_value(&first).expect("json");
    older["ports"]["meta-1"].as_object_mut().expect("ports").remove("admin");
    let older: Plan = serde_json::from_value(older).expect("read");
    assert_eq!(older.of_role(Role::Meta)[0].admin, None);
    let next = lay_out(Some(&older), &Wish::default(), &dir).expect("laid out");
    assert!(next.of_role(Role::Meta)[0].admin.is_some());
    assert!(next.of_role(Role::Storage)[0].admin.is_none());
    assert_eq!(next.of_role(Role::Gateway), first.of_role(Role::Gateway));
}
