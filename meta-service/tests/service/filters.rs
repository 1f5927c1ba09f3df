//! Durable filters: covered when every live gateway has them, kept over a restart, swept in two steps.

use holdfast_proto::meta::Liveness;
use meta_service::config::Limits;

use crate::{
    peers::{Gateway, Service, added, cover, three_sites},
    sessions::{feed_all, row},
};

#[tokio::test]
async fn a_cover_waits_for_every_live_gateway() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(directory.path()).await;
    let (mut a, mut b) = (Gateway::connect(&service, 1).await, Gateway::connect(&service, 2).await);
    for gateway in [&mut a, &mut b] {
        let first = gateway.update().await;
        let set = first.filters.expect("the first update has the set");
        assert!(set.complete && first.topology.is_some());
        gateway.acknowledge(set.version);
        // The first update may bring the echo already; no other has to follow then.
        if first.renewed == 0 {
            gateway.until(|update| update.renewed == 1).await;
        }
    }
    let asked = tokio::spawn(cover(service.client.clone(), &["a/+", "$share/g/b", "a/x"]));
    let told = a.until(|update| added(update, "a/+")).await.filters.unwrap();
    assert!(!told.complete && told.add.len() == 2);
    assert!(told.add.iter().any(|filter| filter.filter == "b"));
    b.until(|update| added(update, "a/+")).await;
    a.acknowledge(told.version);
    // A renewal after the acknowledgement, heard: it was taken in, and the other one still holds it up.
    a.report.send_modify(|report| report.renewal = 2);
    let heard = a.until(|update| update.renewed == 2).await;
    assert!(heard.covered_version < told.version);
    assert!(!asked.is_finished());
    b.acknowledge(told.version);
    assert_eq!(asked.await.unwrap().unwrap(), told.version);
    b.until(|update| update.covered_version == told.version).await;
    service.stop().await;
}

#[tokio::test]
async fn a_silent_gateway_holds_a_cover_up_for_its_lease_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let mut silent = Gateway::connect(&service, 1).await;
    silent.update().await;
    drop(silent);
    service.cover(&["a"]).await.unwrap();
    let topology = service.describe().await;
    assert_eq!(topology.gateways[0].liveness(), Liveness::Dead);
    // One that comes back is no longer dead, and gets the whole set first.
    let mut back = Gateway::connect(&service, 1).await;
    let update = back.update().await;
    assert!(added(&update, "a") && update.filters.unwrap().complete);
    assert_eq!(update.topology.unwrap().gateways[0].liveness(), Liveness::Up);
    back.report.send_modify(|report| report.leaving = true);
    service.cover(&["b"]).await.unwrap();
    assert_eq!(service.describe().await.gateways[0].liveness(), Liveness::Dead);
    service.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_filters_and_waits_for_known_gateways() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let before = service.cover(&["a", "b/#"]).await.unwrap();
    let mut gateway = Gateway::connect(&service, 1).await;
    let told = gateway.update().await.filters.unwrap().version;
    gateway.acknowledge(told);
    service.stop().await;

    let service = Service::start(directory.path()).await;
    let asked = tokio::spawn(cover(service.client.clone(), &["c"]));
    let mut gateway = Gateway::connect(&service, 1).await;
    let update = gateway.until(|update| added(update, "a") && added(update, "b/#")).await;
    assert!(update.filters.unwrap().version > before);
    assert!(!asked.is_finished());
    gateway.acknowledge(u64::MAX);
    assert!(asked.await.unwrap().unwrap() > before);
    service.stop().await;
}

#[tokio::test]
async fn malformed_filters_and_other_clusters_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path()).await;
    let status = service.cover(&["a/#/b"]).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    service.stop().await;
}

#[tokio::test]
async fn a_sweep_retires_and_then_removes_what_no_session_has() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { sweep_s: 1, retire_s: 1, ..Limits::default() };
    let mut service = Service::start_with(directory.path(), limits).await;
    let mut sites = three_sites(&service).await;
    sites[0].until(|topology| !topology.placement.is_empty()).await;
    service.cover(&["used", "unused"]).await.unwrap();
    let _feed = feed_all(&mut service, &[("c", row(&["used"]))]).await;
    let mut gateway = Gateway::connect(&service, 1).await;
    let mut retired = false;
    loop {
        let Some(set) = gateway.update().await.filters else { continue };
        gateway.acknowledge(set.version);
        retired |= set.retiring.iter().any(|filter| filter.filter == "unused");
        assert!(set.retiring.iter().all(|filter| filter.filter == "unused"));
        if let Some(removed) = set.remove.first() {
            assert_eq!((removed.filter.as_str(), set.remove.len()), ("unused", 1));
            assert!(retired);
            break;
        }
    }
    service.stop().await;
}
