//! What the admin API answers to requests, right and wrong, and what its document says of them.

use std::collections::BTreeSet;

use hyper::{Method, header};
use serde_json::{Value, json};

use crate::{
    admin_access::{Served, serve, serve_in},
    peers::{Gateway, Site, site_report, three_sites},
    rest::Rest,
};

/// All operations that there are.
const OPERATIONS: [(&str, &str); 32] = [
    ("GET", "/openapi.json"),
    ("GET", "/status"),
    ("GET", "/sites"),
    ("GET", "/sites/{site}"),
    ("DELETE", "/sites/{site}"),
    ("POST", "/sites/{site}/drain"),
    ("DELETE", "/sites/{site}/drain"),
    ("POST", "/sites/{site}/replace"),
    ("GET", "/transitions"),
    ("GET", "/storage"),
    ("GET", "/shards"),
    ("GET", "/shards/{shard}"),
    ("PUT", "/shards/{shard}/leader"),
    ("POST", "/shards/{shard}/replicas"),
    ("DELETE", "/shards/{shard}/pin"),
    ("POST", "/shards/{shard}/roll"),
    ("POST", "/shards/{shard}/verify"),
    ("GET", "/gateways"),
    ("GET", "/sessions"),
    ("GET", "/sessions/{client_id}"),
    ("DELETE", "/sessions/{client_id}"),
    ("POST", "/sessions/{client_id}/kick"),
    ("GET", "/sessions/{client_id}/backlog"),
    ("GET", "/clients"),
    ("GET", "/subscriptions"),
    ("GET", "/whoami"),
    ("GET", "/users"),
    ("PUT", "/users/{name}"),
    ("DELETE", "/users/{name}"),
    ("GET", "/tokens"),
    ("POST", "/tokens"),
    ("DELETE", "/tokens/{name}"),
];

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(place) => document.pointer(place.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

#[tokio::test]
async fn the_document_names_every_operation_with_its_problems() {
    let served = serve().await;
    let document = served.rest.with(None).get("/openapi.json").await.ok();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        for (method, operation) in item.as_object().unwrap() {
            found.insert((method.to_uppercase(), path.to_owned()));
            assert!(operation["summary"].is_string() || operation["description"].is_string());
            if path == "/openapi.json" {
                continue;
            }
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert_eq!(problem["schema"]["$ref"], "#/components/schemas/Problem", "{path}");
            for response in operation["responses"].as_object().unwrap().values() {
                for content in response["content"].as_object().into_iter().flatten() {
                    let schema = resolve(&document, &content.1["schema"]);
                    assert!(schema["properties"].is_object(), "{path}: {content:?}");
                }
            }
        }
    }
    let known: BTreeSet<_> = OPERATIONS
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(found, known);
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes["token"]["scheme"], "bearer");
    assert_eq!(schemes["password"]["scheme"], "basic");
    served.service.stop().await;
}

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{site}", "nowhere")
        .replace("{shard}", "7777")
        .replace("{client_id}", "nobody")
        .replace("{name}", "no-name")
}

fn methods() -> [Method; 5] {
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH]
}

#[tokio::test]
async fn no_operation_is_served_that_the_document_does_not_name() {
    let served = serve().await;
    let paths: BTreeSet<&str> = OPERATIONS.iter().map(|(_, path)| *path).collect();
    for path in paths {
        for method in methods() {
            let there = OPERATIONS.contains(&(method.as_str(), path));
            let answer = served.rest.call(method.clone(), &filled(path), None).await;
            assert_eq!(answer.status == 405, !there, "{method} {path}: {answer:?}");
            if !there {
                assert_eq!(answer.problem(), "wrong-method");
            }
        }
    }
    for path in ["/", "/nothing", "/sites/a/b/c", "/sessions/a/b"] {
        let answer = served.rest.get(path).await;
        assert_eq!((answer.status, answer.problem()), (404, "unknown-path"), "{path}");
    }
    served.service.stop().await;
}

#[tokio::test]
async fn queries_and_bodies_that_do_not_fit_are_refused_in_words() {
    let served = serve().await;
    let rest = &served.rest;
    let long = format!("/sessions?prefix={}", "x".repeat(65_000));
    assert_eq!(rest.get(&long).await.status, 200, "client ids may be long");
    let refused = [
        ("/status?x=1", "unknown-query-field", "takes no query"),
        ("/sessions?lim=5", "unknown-query-field", "lim"),
        ("/sessions?limit=0", "limit-out-of-range", "1 to 1000"),
        ("/sessions?limit=1001", "limit-out-of-range", "1 to 1000"),
        ("/sessions?limit=4294967296", "malformed-request", "limit"),
        ("/sessions?limit=many", "malformed-request", "limit"),
        ("/sessions?limit=1&limit=2", "malformed-request", "limit"),
        ("/sessions?connected=perhaps", "malformed-request", "connected"),
        ("/sessions?after=", "malformed-cursor", "begin without"),
        ("/sessions?after=!!!", "malformed-cursor", "begin without"),
        ("/clients?limit=0", "limit-out-of-range", "1 to 1000"),
        ("/clients?gateway=none", "unknown-gateway", "none"),
        ("/subscriptions?filter=a/%23/b", "malformed-request", "wildcard"),
        ("/subscriptions?topic=a/%2B", "malformed-request", "wildcard"),
        ("/sessions/a/backlog?limit=5000", "limit-out-of-range", "1 to 1000"),
        ("/sessions/%ff", "malformed-request", "percent-encode"),
        ("/sites/nowhere", "unknown-site", "there are none"),
        ("/shards/0", "unknown-shard", "not formed"),
        ("/shards/-1", "unknown-shard", "numbered"),
        ("/shards/x", "unknown-shard", "numbered"),
    ];
    for (path, problem, words) in refused {
        let answer = rest.get(path).await;
        assert_eq!(answer.problem(), problem, "{path}: {answer:?}");
        assert!(answer.detail().contains(words), "{path}: {answer:?}");
    }
    let large = format!("{{\"name\": \"{}\"", "x".repeat(70_000));
    let bodies = [
        ("{", "application/json", 400, "malformed-request"),
        ("[]", "application/json", 400, "malformed-request"),
        ("{\"name\": 7, \"role\": \"viewer\"}", "application/json", 400, "malformed-request"),
        ("{\"name\": \"a\", \"role\": \"viewer\"}", "text/plain", 415, "media-type"),
        (&large, "application/json", 413, "body-too-large"),
    ];
    for (body, media_type, status, problem) in bodies {
        let answer = rest.raw(Method::POST, "/tokens", Some((body.to_owned(), media_type))).await;
        assert_eq!((answer.status, answer.problem()), (status, problem), "{answer:?}");
    }
    assert_eq!(rest.get("/tokens").await.ok()["tokens"], json!([]), "nothing is half done");
    served.service.stop().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_or_is_one_too_many_is_told_to_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let more = "[admin.limits]\nrequests_max = 1\nrequest_timeout_ms = 2000\n";
    let served = serve_in(directory, more).await;
    let mut sites = three_sites(&served.service).await;
    sites[0].until(|topology| !topology.placement.is_empty()).await;
    // Nobody listens at the addresses of these sites.
    let slow = || served.rest.once(Method::GET, "/sessions/nobody", None);
    let (one, other) = tokio::join!(slow(), slow());
    let mut problems = BTreeSet::new();
    for answer in [one.unwrap(), other.unwrap()] {
        assert_eq!(
            (answer.status, &answer.headers[header::RETRY_AFTER]),
            (503, &"1".parse().unwrap())
        );
        problems.insert(answer.problem().to_owned());
    }
    assert!(problems.contains("timeout") || problems.contains("unavailable"), "{problems:?}");
    assert!(problems.contains("too-many-requests"), "{problems:?}");
    served.service.stop().await;
}

async fn formed(served: &Served) -> Vec<Site> {
    let mut sites = three_sites(&served.service).await;
    sites[0].until(|topology| !topology.placement.is_empty()).await;
    sites
}

#[tokio::test]
async fn an_empty_cluster_says_what_it_waits_for_and_a_formed_one_what_it_is() {
    let served = serve().await;
    let empty = served.rest.get("/status").await.ok();
    assert_eq!((&empty["healthy"], &empty["store"]), (&json!(false), &json!("sled")));
    assert!(empty["problems"][0].as_str().unwrap().contains("0 of 3 storage nodes"), "{empty}");
    let _sites = formed(&served).await;
    let mut gateway = Gateway::connect(&served.service, 7).await;
    gateway.update().await;
    let status = served.rest.get("/status").await.ok();
    assert_eq!((&status["shards"], &status["replication_factor"]), (&json!(8), &json!(3)));
    assert_eq!(status["sites"].as_array().unwrap().len(), 3);
    assert_eq!(status["gateways"][0]["liveness"], "up");
    assert_eq!(status["gateways"][0]["incarnation"], "0000000000000007");
    // These sites lead nothing.
    assert_eq!(status["shards_without_leader"].as_array().unwrap().len(), 8);
    let site = served.rest.get("/sites/site-2").await.ok();
    assert_eq!(site["site_id"], "0000000000000002");
    assert_eq!(site, served.rest.get("/sites/0000000000000002").await.ok());
    assert_eq!(site["replicas"], 8);
    let shard = served.rest.get("/shards/7").await.ok();
    assert_eq!(shard["replicas"].as_array().unwrap().len(), 3);
    assert!(shard["leader"].is_null() && shard["generations"].is_null());
    served.service.stop().await;
}

#[tokio::test]
async fn sites_are_steered_and_refusals_say_why() {
    let served = serve().await;
    let mut sites = formed(&served).await;
    let rest: &Rest = &served.rest;
    let post = async |path: &str| rest.call(Method::POST, path, None).await;
    let few = post("/sites/site-1/drain").await;
    assert_eq!((few.status, few.problem()), (409, "too-few-sites"));
    assert_eq!(post("/sites/site-1/replace").await.problem(), "site-up");
    assert_eq!(rest.delete("/sites/site-1").await.problem(), "site-up");
    let fourth = Site::connect(&served.service, site_report(4)).await;
    sites[0].until(|topology| topology.sites.len() == 4).await;
    let drained = post("/sites/site-1/drain").await.ok();
    assert_eq!(drained, json!({"site_id": "0000000000000001", "name": "site-1"}));
    assert_eq!(post("/sites/site-1/drain").await.ok(), drained, "again changes nothing");
    assert_eq!(rest.get("/sites/site-1").await.ok()["state"], "draining");
    assert_eq!(rest.delete("/sites/site-1/drain").await.ok(), drained);
    assert_eq!(rest.get("/sites/site-1").await.ok()["state"], "active");
    let moved = json!({"site": "site-9"});
    let moved = rest.call(Method::PUT, "/shards/0/leader", Some(moved)).await;
    assert_eq!((moved.status, moved.problem()), (404, "unknown-site"));
    let moved = json!({"site": "site-4"});
    let moved = rest.call(Method::PUT, "/shards/0/leader", Some(moved)).await;
    assert_eq!((moved.status, moved.problem()), (409, "replica"), "{moved:?}");
    let moved = rest.call(Method::PUT, "/shards/99/leader", Some(json!({"site": "site-2"}))).await;
    assert_eq!((moved.status, moved.problem()), (404, "unknown-shard"));
    let moved = rest.call(Method::PUT, "/shards/0/leader", Some(json!({"site": "site-3"}))).await;
    let moved = moved.ok();
    assert_eq!((&moved["preferred_leader"], &moved["pinned"]), (&json!("site-3"), &json!(true)));
    assert_eq!(rest.delete("/shards/0/pin").await.ok()["pinned"], false);
    drop(fourth);
    served.service.stop().await;
}
