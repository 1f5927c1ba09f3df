//! What a live cluster shows.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_deploy::tools::{said, tool};
use holdfast_e2e::client::Client;
use holdfast_e2e::cluster::{Cluster, Process, Shape, http_get};
use holdfast_e2e::load::{Load, LoadPlan};
use holdfast_e2e::packet::{Connect, Version};

use super::dashboard::{dashboards, metrics_in, panels};
use super::described;
use super::prometheus::Prometheus;
use super::rules::alerts;

/// Panels that are empty while all is well.
const EMPTY_WHEN_WELL: [&str; 3] = ["Alerts that fire", "Time to the high mark", "Clients refused"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_cluster_shows_what_dashboards_and_alerts_ask_for() {
    let settings = ["meta.lease_ms=2000", "storage.shard.run_bytes_max=65536"];
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    let mut cluster = Cluster::with(Shape { meta: 2, etcd: 3, settings, ..Shape::default() }).await;
    let ours = cluster.processes().iter().filter(|process| process.role != "etcd");
    let ours: Vec<Process> = ours.cloned().collect();
    let prometheus = Prometheus::start(&["meta", "storage", "gateway"].map(|role| {
        let of_role = ours.iter().filter(|process| process.role == role);
        let name = match role {
            "meta" => "holdfast-meta",
            "storage" => "holdfast-storage",
            _ => "holdfast-gateway",
        };
        (name, of_role.map(|process| process.metrics.clone()).collect())
    }));
    let load = LoadPlan { publish_interval: Duration::from_millis(20), ..LoadPlan::default() };
    let load = Load::start(&cluster.mqtt_all(), load).await;
    visit(&cluster).await;
    load.await_more(100).await;

    let mut live = BTreeSet::from(["up".to_owned(), "ALERTS".to_owned()]);
    for process in &ours {
        let scrape = http_get(&process.metrics, "/metrics").await;
        check_metrics(&process.name, &scrape);
        live.extend(names(&scrape));
    }
    let on_events: BTreeSet<String> = ["broker-node", "meta-service", "storage-node"]
        .iter()
        .flat_map(|name| described(name))
        .collect();
    let is_known = |metric: &str| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| metric.strip_suffix(end));
        live.contains(metric)
            || on_events.contains(metric)
            || base.is_some_and(|base| on_events.contains(base))
    };
    let count = ours.len();
    prometheus.until_any(&format!("count(count_over_time(up[1m]) > 3) == {count}"));
    for alert in alerts() {
        for metric in metrics_in(&alert.expression) {
            assert!(is_known(&metric), "{} asks for {metric}", alert.name);
        }
        prometheus.query(&alert.expression);
    }
    let mut empty = Vec::new();
    for (name, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for expression in &panel.expressions {
                for metric in metrics_in(expression) {
                    assert!(is_known(&metric), "{name}, {}: {metric}", panel.title);
                }
                if prometheus.query(expression).is_empty()
                    && !EMPTY_WHEN_WELL.contains(&&*panel.title)
                {
                    empty.push(format!("{name}, {}: {expression}", panel.title));
                }
            }
        }
    }
    assert!(empty.is_empty(), "nothing to see:\n{}", empty.join("\n"));
    for rule in prometheus.rules() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    assert!(firing.is_empty(), "nothing is wrong, but: {firing:?}");

    cluster.kill("storage-2").await;
    prometheus.until_any("up{job=\"holdfast-storage\"} == 0");
    for alert in ["HoldfastSiteDown", "HoldfastTargetDown", "HoldfastUnderReplicated"] {
        prometheus.until_any(&format!("ALERTS{{alertname=\"{alert}\"}}"));
    }
    cluster.start_again("storage-2");
    cluster.await_process("storage-2", true).await;
    prometheus.until_any("sum(holdfast_meta_sites_down and holdfast_meta_elected == 1) == 0");
    load.finish(false, true).await;
}

/// A client of each kind comes, is taken over, goes and comes back.
async fn visit(cluster: &Cluster) {
    let mut connects = Connect::durable(Version::V5, "visitor");
    let mut first = Client::connect(&cluster.mqtt(1), &connects).await;
    first.subscribe(&[("visit/#", 2)]).await;
    let mut second = Client::connect(&cluster.mqtt(2), &connects).await;
    first.ended().await;
    for qos in 0..=2 {
        second.publish(&format!("visit/{qos}"), "hello", qos).await;
    }
    second.collect(3).await;
    second.disconnect().await;
    connects.clean = true;
    connects.client_id = "regular".to_owned();
    connects.expiry_s = None;
    let mut regular = Client::connect(&cluster.mqtt(1), &connects).await;
    regular.subscribe(&[("news/#", 0)]).await;
    connects.client_id = "publisher".to_owned();
    let mut publisher = Client::connect(&cluster.mqtt(2), &connects).await;
    publisher.publish("news/1", "hello", 1).await;
    // The visitor has something to catch up with.
    publisher.publish("visit/4", "hello", 1).await;
    regular.collect(1).await;
    let mut third =
        Client::connect(&cluster.mqtt(1), &Connect::durable(Version::V5, "visitor")).await;
    third.collect(1).await;
    third.disconnect().await;
    regular.disconnect().await;
    publisher.disconnect().await;
}

/// `promtool check metrics` finds nothing, not even what is only unusual.
fn check_metrics(process: &str, scrape: &str) {
    assert!(scrape.contains("# HELP"), "{process} shows no metrics");
    let mut promtool = Command::new(tool("prometheus/promtool"));
    promtool.args(["check", "metrics"]);
    promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let findings = said(&output);
    assert!(output.status.success() && findings.trim().is_empty(), "{process}: {findings}");
}

/// Names of the series of a scrape.
fn names(scrape: &str) -> BTreeSet<String> {
    let samples = scrape.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}
