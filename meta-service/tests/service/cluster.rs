//! Forming a cluster, who may be in it, and what a restart keeps.

use std::collections::BTreeSet;

use holdfast_proto::meta::{Damaged, Liveness, Topology};

use crate::peers::{Gateway, Service, Site, site_report, three_sites};

fn is_formed(topology: &Topology) -> bool {
    !topology.placement.is_empty()
}

fn replica_ids(topology: &Topology) -> BTreeSet<u64> {
    let shards = topology.placement.iter();
    shards.flat_map(|shard| shard.replicas.iter().map(|replica| replica.replica_id)).collect()
}

#[tokio::test]
async fn three_sites_form_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let mut first = Site::connect(&service, site_report(1)).await;
    let alone = first.until(|_| true).await;
    assert_eq!((alone.shards, alone.placement.len(), alone.cluster_id.len()), (0, 0, 32));
    let _second = Site::connect(&service, site_report(2)).await;
    let _third = Site::connect(&service, site_report(3)).await;
    let formed = first.until(is_formed).await;
    assert!(formed.version > alone.version);
    assert_eq!((formed.shards, formed.placement.len(), formed.sites.len()), (8, 8, 3));
    assert_eq!(replica_ids(&formed).len(), 24);
    service.stop().await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let mut site = Site::connect(&service, site_report(1)).await;
    let cluster_id = site.until(|_| true).await.cluster_id;

    let mut report = site_report(2);
    report.cluster_id = "0123456789abcdef0123456789abcdef".to_owned();
    let refused = Site::connect(&service, report).await.refusal().await;
    assert!(
        refused.contains("belongs to cluster 0123456789abcdef") && refused.contains(&cluster_id),
        "{refused}"
    );

    let mut report = site_report(2);
    report.protocol_version = 99;
    let refused = Site::connect(&service, report).await.refusal().await;
    assert!(refused.contains("protocol version 99"), "{refused}");

    let mut report = site_report(2);
    report.cluster_id.clone_from(&cluster_id);
    let refused = Site::connect(&service, report).await.refusal().await;
    assert!(refused.contains("does not know it"), "{refused}");

    let mut copy = site_report(1);
    copy.address = "127.0.0.1:1".to_owned();
    let refused = Site::connect(&service, copy.clone()).await.refusal().await;
    assert!(refused.contains("running at 127.0.0.1:9001"), "{refused}");

    // The first is gone: its data may have moved.
    drop(site);
    loop {
        let mut moved = Site::connect(&service, copy.clone()).await;
        let update = moved.updates.message().await.unwrap().unwrap();
        let topology = update.topology.unwrap();
        if topology.refused.is_empty() {
            assert_eq!(topology.sites[0].address, "127.0.0.1:1");
            break;
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_damaged_replica_gets_a_successor() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let mut sites = three_sites(&service).await;
    let formed = sites[0].until(is_formed).await;
    let lost = formed.placement[5]
        .replicas
        .iter()
        .find(|replica| replica.site_id == 1)
        .unwrap()
        .replica_id;
    let damaged = Damaged { shard: 5, replica_id: lost, reason: "torn".to_owned() };
    sites[0].report.send_modify(|report| report.damaged = vec![damaged]);
    let after = sites[0].until(|topology| !topology.placement[5].retired.is_empty()).await;
    assert_eq!(after.placement[5].retired, [lost]);
    let successor =
        after.placement[5].replicas.iter().find(|replica| replica.site_id == 1).unwrap().replica_id;
    assert!(!replica_ids(&formed).contains(&successor));
    // Reported again, by a later beat: one successor is enough.
    sites[0].report.send_modify(|report| {
        report.labels.insert("a".to_owned(), "b".to_owned()).map_or((), drop)
    });
    let later = sites[0].until(|topology| topology.sites[0].labels.contains_key("a")).await;
    assert_eq!(later.placement, after.placement);
    service.stop().await;
}

#[tokio::test]
async fn a_silent_site_is_down_and_one_that_leaves_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let mut sites = three_sites(&service).await;
    sites[0].until(is_formed).await;
    drop(sites.pop());
    sites[0].until(|topology| topology.sites[2].liveness() == Liveness::Down).await;
    sites[1].report.send_modify(|report| report.leaving = true);
    sites[0].until(|topology| topology.sites[1].liveness() == Liveness::Down).await;
    service.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_cluster_and_gives_fresh_leases() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let mut sites = three_sites(&service).await;
    let formed = sites[0].until(is_formed).await;
    let mut gateway = Gateway::connect(&service, 7).await;
    gateway.update().await;
    let version = service.describe().await.version;
    service.stop().await;

    let mut service = Service::start(directory.path()).await;
    let after = service.describe().await;
    assert!(after.version >= version);
    assert_eq!((&after.cluster_id, &after.placement), (&formed.cluster_id, &formed.placement));
    assert!(after.sites.iter().all(|site| site.liveness() == Liveness::Up), "leases are fresh");
    assert_eq!(after.gateways[0].liveness(), Liveness::Up, "leases are fresh");

    let mut report = site_report(1);
    report.cluster_id = formed.cluster_id.clone();
    let mut site = Site::connect(&service, report).await;
    site.until(|topology| {
        let down = |site: u64| {
            topology.sites.iter().any(|s| s.site_id == site && s.liveness() == Liveness::Down)
        };
        let dead = topology.gateways.iter().all(|gateway| gateway.liveness() == Liveness::Dead);
        !down(1) && down(2) && down(3) && dead
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_data_directory_is_for_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let mut site = Site::connect(&service, site_report(1)).await;
    site.until(|_| true).await;
    let config = format!(
        "name = \"x\"\ndata_dir = {:?}\ngrpc_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n",
        directory.path()
    );
    let path = directory.path().join("config");
    std::fs::write(&path, config).unwrap();
    let config = holdfast_node_kit::config::load(&path).unwrap();
    let listener = holdfast_node_kit::net::bind("127.0.0.1:0").await.unwrap();
    let (shutdown, health) =
        (holdfast_node_kit::shutdown::Shutdown::new(), holdfast_node_kit::health::Health::new());
    let error = meta_service::server::run(config, listener, shutdown, health).await.unwrap_err();
    assert!(error.to_string().contains("another process uses it"), "{error}");
    service.stop().await;
}
