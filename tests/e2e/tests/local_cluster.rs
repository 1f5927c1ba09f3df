//! `holdfast up`, `down` and `status`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_e2e::cluster::{Cluster, Shape, program};

fn small(restart: bool) -> Shape {
    Shape { gateways: 1, storage: 1, restart, ..Shape::default() }
}

#[tokio::test]
async fn a_dead_process_is_started_again_and_a_stopped_one_is_not() {
    let mut cluster = Cluster::with(small(true)).await;
    let first = cluster.pid("storage-1").await;
    cluster.signal("storage-1", libc::SIGKILL).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = cluster.pid("storage-1").await;
        if now.is_some() && now != first {
            break;
        }
        assert!(Instant::now() < deadline, "storage-1 is not started again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.await_ready().await;
    cluster.stop("gateway-1").await;
    let up_log = cluster.data().join("up.log");
    while !std::fs::read_to_string(&up_log).unwrap().contains("gateway-1 was stopped") {
        assert!(Instant::now() < deadline, "the stop is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.pid("gateway-1").await, None);
    assert!(!cluster.status().await.ready);
}

#[tokio::test]
async fn a_second_up_is_refused_and_one_after_a_killed_supervisor_takes_over() {
    let mut cluster = Cluster::with(small(false)).await;
    let second = Command::new(program("holdfast"))
        .args(["up", "--data"])
        .arg(cluster.data())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success());
    assert!(error.contains(&cluster.supervisor_pid().to_string()), "{error}");

    let addresses = cluster.mqtt_all();
    let left = cluster.pid("gateway-1").await;
    #[allow(unsafe_code, reason = "std sends no signal to a process that it does not own")]
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe {
        libc::kill(cluster.supervisor_pid(), libc::SIGKILL);
    }
    // What is left says that it is ready until the new supervisor has stopped it.
    cluster.up_again().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while cluster.pid("gateway-1").await == left || cluster.pid("gateway-1").await.is_none() {
        assert!(Instant::now() < deadline, "what is left is not stopped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.await_ready().await;
    assert_eq!(cluster.mqtt_all(), addresses);
    cluster.down().await;
    assert!(cluster.status().await.processes.iter().all(|process| !process.alive));
    let last = std::fs::read_to_string(cluster.data().join("up.log")).unwrap();
    assert!(!last.contains("killed"), "{last}");
}

#[tokio::test]
async fn a_process_that_is_stopped_by_name_stays_away_until_it_is_started() {
    let cluster = Cluster::with(Shape { storage: 3, ..small(true) }).await;
    cluster.try_holdfast(&["stop", "--kill", "storage-2"]).await.unwrap();
    // The supervisor, which starts again what dies, has seen it.
    let up_log = cluster.data().join("up.log");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(&up_log).unwrap().contains("storage-2 was stopped") {
        assert!(Instant::now() < deadline, "the stop is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.pid("storage-2").await, None);
    cluster.try_holdfast(&["start", "storage-2"]).await.unwrap();
    assert!(cluster.pid("storage-2").await.is_some());
    assert!(cluster.status().await.processes.iter().all(|process| process.ready));
    let refused = cluster.try_holdfast(&["stop", "storage-1", "storage-9"]).await.unwrap_err();
    assert!(refused.contains("no process is called storage-9: there are meta-1, "), "{refused}");
    assert!(cluster.pid("storage-1").await.is_some(), "nothing half done");
}
