//! Every process is stopped in good order and started again, in turn, under load: nothing is lost and
//! nothing comes twice.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_e2e::cluster::{Cluster, Shape};
use holdfast_e2e::load::{Load, LoadPlan};

const PROGRESS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_everything_loses_and_repeats_nothing() {
    let settings = ["meta.shards=8".to_owned(), "meta.election_ttl_s=2".to_owned()];
    let mut cluster =
        Cluster::with(Shape { meta: 2, etcd: 3, settings: settings.to_vec(), ..Shape::default() })
            .await;
    let once = LoadPlan { name: "once", publishers: 4, ..LoadPlan::default() };
    let twice =
        LoadPlan { name: "twice", first_publisher: 100, publishers: 4, qos: 2, ..once.clone() };
    let once = Load::start(&cluster.mqtt_all(), once).await;
    let twice = Load::start(&cluster.mqtt_all(), twice).await;
    once.await_more(PROGRESS).await;
    twice.await_more(PROGRESS).await;
    let names = ["gateway", "storage", "meta", "etcd"].map(|role| cluster.names(role)).concat();
    for name in names {
        once.ledger.restart_clock();
        twice.ledger.restart_clock();
        cluster.restart(&name).await;
        once.await_more(PROGRESS).await;
        twice.await_more(PROGRESS).await;
        println!(
            "{name} restarted: longest pause of a publisher {:?} at QoS 1, {:?} at QoS 2",
            once.ledger.longest_pause(),
            twice.ledger.longest_pause()
        );
    }
    once.finish(true, false).await;
    twice.finish(true, false).await;
}
