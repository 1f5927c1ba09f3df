//! Values that make no sense are refused in words that say what to do.

#![allow(clippy::unwrap_used, missing_docs)]

use holdfast_deploy::chart::{Helm, Rendering};

/// Values, and what both helms must say.
const REFUSED: [(&str, &[&str], &[&str]); 50] = [
    // By the schema: helm 3 and 4 say it in words of their own.
    (
        "",
        &["gateway.updateStrategy.type=OnDelete"],
        &["gateway", "updateStrategy", "RollingUpdate"],
    ),
    ("", &["storage.updateStrategy.type=Recreate"], &["storage", "updateStrategy", "OnDelete"]),
    ("", &["gateway.replica=3"], &["gateway", "replica"]),
    ("", &["gatewy.replicas=3"], &["gatewy"]),
    ("", &["storage.replicas=three"], &["storage", "replicas", "integer", "string"]),
    ("", &["storage.replicas=-1"], &["storage", "replicas", "0"]),
    ("", &["cluster.shards=0"], &["cluster", "shards", "1"]),
    ("", &["meta.store=redis"], &["meta", "store", "etcd", "sled"]),
    ("", &["gateway.service.type=LB"], &["gateway", "service", "type", "LoadBalancer"]),
    ("", &["gateway.service.port=70000"], &["gateway", "service", "port"]),
    ("", &["gateway.service.loadBalancerSourceRanges={everybody}"], &["loadBalancerSourceRanges"]),
    ("", &["storage.persistence.size=lots"], &["storage", "persistence", "size"]),
    (
        "",
        &["storage.persistence.retentionPolicy.whenScaled=Keep"],
        &["whenScaled", "Retain", "Delete"],
    ),
    ("", &["gateway.topologySpread.zone=Always"], &["topologySpread", "zone", "DoNotSchedule"]),
    ("", &["image.pullPolicy=Sometimes"], &["image", "pullPolicy", "IfNotPresent"]),
    ("", &["image.digest=latest"], &["image", "digest"]),
    ("", &["etcd.enabled=false", "etcd.endpoints={etcd:2379}"], &["etcd", "endpoints"]),
    ("", &["clusterDomain=Not_DNS"], &["clusterDomain"]),
    ("", &["admin.password=short"], &["admin", "password"]),
    ("", &["ipFamily=IPv5"], &["ipFamily", "IPv6"]),
    // By the chart: what values say of each other.
    ("", &["storage.replicas=2"], &["storage.replicas: 2 storage nodes cannot hold 3 replicas"]),
    (
        "examples/three-zones.yaml",
        &["storage.replicas=0"],
        &["0 storage nodes cannot hold 3", "in all zones"],
    ),
    (
        "",
        &["cluster.replicationFactor=2"],
        &["cluster.replicationFactor: 2 is not possible: 1, 3 or 5"],
    ),
    (
        "examples/laptop.yaml",
        &["meta.replicas=2"],
        &["meta.replicas: 2 meta-services cannot share a sled store"],
    ),
    ("", &["etcd.replicas=4"], &["etcd.replicas: 4 members are not possible: 1, 3 or 5"]),
    ("", &["etcd.endpoints={http://e:2379}"], &["etcd.endpoints: are those of an etcd of yours"]),
    ("", &["etcd.enabled=false"], &["etcd.endpoints: meta.store is etcd, so say where it is"]),
    ("", &["etcd.tls.enabled=true"], &["etcd.tls: needs etcd.tls.existingSecret or"]),
    (
        "examples/external-etcd.yaml",
        &["etcd.tls.enabled=false"],
        &["needs etcd.tls.enabled and a Secret"],
    ),
    (
        "examples/external-etcd.yaml",
        &["etcd.tls.existingSecret="],
        &["etcd.tls: needs etcd.tls.existingSecret"],
    ),
    (
        "examples/external-etcd.yaml",
        &["etcd.tls.keyKey="],
        &["etcd.tls: certKey and keyKey go together"],
    ),
    (
        "examples/external-etcd.yaml",
        &["etcd.auth.existingSecret="],
        &["is needed for the password of user holdfast"],
    ),
    (
        "ci/cert-manager-values.yaml",
        &["etcd.tls.certManager.issuerRef.name="],
        &["issuerRef.name: is needed"],
    ),
    (
        "ci/cert-manager-values.yaml",
        &["admin.password=long-enough-for-it"],
        &["admin.password: is not used with admin.existingSecret"],
    ),
    (
        "",
        &["gateway.terminationGracePeriodSeconds=20"],
        &["gateway.terminationGracePeriodSeconds: 20 s", "at least 35"],
    ),
    (
        "",
        &["storage.terminationGracePeriodSeconds=20", "storage.config.drain_timeout_ms=60000"],
        &["at least 80"],
    ),
    (
        "",
        &["meta.terminationGracePeriodSeconds=20"],
        &["meta.terminationGracePeriodSeconds: 20 s", "at least 25"],
    ),
    (
        "ci/everything-on-values.yaml",
        &["gateway.autoscaling.minReplicas=13"],
        &["minReplicas: 13 is more than maxReplicas, 12"],
    ),
    (
        "ci/everything-on-values.yaml",
        &["gateway.resources.requests.cpu=null"],
        &["gateway.resources.requests.cpu: is needed"],
    ),
    (
        "ci/everything-on-values.yaml",
        &["metrics.podMonitor.enabled=true"],
        &["would both scrape every process"],
    ),
    (
        "",
        &["gateway.service.loadBalancerSourceRanges={10.0.0.0/8}"],
        &["protects only a Service of type LoadBalancer"],
    ),
    (
        "",
        &["gateway.service.nodePort=31000"],
        &["gateway.service.nodePort: a Service of type ClusterIP has none"],
    ),
    (
        "",
        &["gateway.mqttAdvertise=example.com"],
        &["gateway.mqttAdvertise: example.com is not host:port"],
    ),
    (
        "",
        &["etcd.tls.enabled=true", "etcd.tls.existingSecret=x"],
        &["etcd.tls.server.existingSecret: the chart's own etcd needs a certificate, too"],
    ),
    (
        "examples/external-etcd.yaml",
        &["networkPolicy.enabled=true", "networkPolicy.egress=true"],
        &["networkPolicy.extraEgress: meta-services could not reach your etcd"],
    ),
    (
        "",
        &["storage.pdb.maxUnavailable=2"],
        &["storage.pdb.maxUnavailable: with 2 storage nodes away"],
    ),
    (
        "",
        &["gateway.pdb.maxUnavailable=0"],
        &["gateway.pdb.maxUnavailable: with 0 no node can ever be drained"],
    ),
    (
        "",
        &["storage.zones[0].name=a.1", "storage.zones[1].name=A-1"],
        &["storage.zones: A-1 and another zone would both be rel-holdfast-storage-a-1"],
    ),
    ("", &["storage.config.grpc_listen=x"], &["storage.config.grpc_listen: is set by the chart"]),
    (
        "",
        &["meta.config.shards=3", "meta.config.etcd.prefix=/x/"],
        &["use cluster.shards", "use etcd.prefix"],
    ),
];

#[test]
fn nonsense_is_refused_in_words() {
    for (file, sets, wanted) in REFUSED {
        let rendering = if file.is_empty() { Rendering::defaults() } else { Rendering::of(file) };
        let rendering = rendering.set(sets);
        for helm in Helm::ALL {
            let told = match rendering.template(helm) {
                Err(told) => told,
                Ok(_) => panic!("{file} {sets:?}: {helm:?} renders it"),
            };
            let lacking: Vec<_> = wanted.iter().filter(|text| !told.contains(**text)).collect();
            assert!(lacking.is_empty(), "{file} {sets:?} {helm:?}: no {lacking:?} in: {told}");
        }
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let sets = ["storage.replicas=1", "etcd.replicas=2", "gateway.terminationGracePeriodSeconds=1"];
    let told = Rendering::defaults().set(&sets).template(Helm::Three).unwrap_err();
    assert_eq!(told.matches("\n  * ").count(), 3, "{told}");
}
