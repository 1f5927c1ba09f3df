//! Half of the processes speak the protocol before the newest one, as in a rolling upgrade; then the
//! upgrade is finished, one process after the other.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::load::{Load, LoadPlan};

const PROGRESS: usize = 40;
const PIN: &str = "protocol_version_max";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_processes_work_together_and_the_upgrade_disturbs_nobody() {
    let old = ["meta-1", "storage-1", "storage-2", "gateway-1"];
    let mut settings = vec!["meta.shards=8".to_owned(), "meta.election_ttl_s=2".to_owned()];
    settings.extend(old.iter().map(|name| format!("{name}.{PIN}=1")));
    let mut cluster = Cluster::with(Shape { meta: 2, etcd: 1, settings, ..Shape::default() }).await;
    let load = Load::start(&cluster.mqtt_all(), LoadPlan { qos: 2, ..LoadPlan::default() }).await;
    load.await_more(PROGRESS).await;
    // Leaders move between old and new, and so does the elected meta-service.
    cluster.kill("storage-3").await;
    load.await_more(PROGRESS).await;
    cluster.start_again("storage-3");
    cluster.await_process("storage-3", true).await;
    let elected = cluster.await_elected(None).await;
    cluster.restart(&elected).await;
    cluster.await_elected(None).await;
    load.await_more(PROGRESS).await;
    for name in old {
        cluster.edit_config(name, |text| {
            let lines = text.lines().filter(|line| !line.starts_with(PIN));
            lines.map(|line| format!("{line}\n")).collect()
        });
        load.ledger.restart_clock();
        cluster.restart(name).await;
        load.await_more(PROGRESS).await;
        println!("{name} upgraded: longest pause {:?}", load.ledger.longest_pause());
    }
    load.finish(true, false).await;
}
