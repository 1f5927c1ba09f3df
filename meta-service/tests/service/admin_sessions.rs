//! Pages of sessions, with storage nodes that do not answer.

use holdfast_proto::shard::{GatewayRef, SessionRow};
use serde_json::{Value, json};

use crate::{
    admin_access::serve,
    peers::{Gateway, three_sites},
    rest::Rest,
    sessions::{feed_all, row},
};

fn ids(page: &Value, of: &str) -> Vec<String> {
    let all = page[of].as_array().unwrap().iter();
    all.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect()
}

async fn pages(rest: &Rest, path: &str, of: &str) -> (Vec<String>, usize) {
    let (mut found, mut count, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = rest.get(&format!("{path}{after}")).await.ok();
        found.extend(ids(&page, of));
        count += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (found, count),
        }
    }
}

fn connected(row: SessionRow) -> SessionRow {
    let owner = GatewayRef { incarnation: 7, name: "g".into(), address: "127.0.0.1:1".into() };
    SessionRow { owner: Some(owner), ..row }
}

#[tokio::test]
async fn pages_are_in_order_and_filters_leave_out() {
    let mut served = serve().await;
    let ids: Vec<String> = (0..25).map(|n| format!("s{n:02}")).collect();
    let mut rows: Vec<(&str, SessionRow)> = ids.iter().map(|id| (&**id, row(&["a/+"]))).collect();
    rows[3].1 = connected(rows[3].1.clone());
    rows.push(("t/ü", SessionRow { expiry_interval_s: u32::MAX, ..row(&["x", "#"]) }));
    rows.push(("regular", connected(SessionRow { expiry_interval_s: 0, ..row(&[]) })));
    let _feed = feed_all(&mut served.service, &rows).await;
    let rest = &served.rest;

    let (found, count) = pages(rest, "/sessions?prefix=s&limit=10", "sessions").await;
    assert_eq!((found.as_slice(), count), (ids.as_slice(), 3));
    // A filter looks at more sessions than a page has.
    let connected = vec!["regular".to_owned(), "s03".to_owned()];
    let (found, count) = pages(rest, "/sessions?connected=true&limit=10", "sessions").await;
    assert_eq!((&found, count), (&connected, 1));
    let (found, count) = pages(rest, "/sessions?connected=true&limit=1", "sessions").await;
    assert_eq!((&found, count), (&connected, 2));
    let odd = rest.get("/sessions?prefix=t%2F%C3%BC").await.ok();
    let odd = &odd["sessions"][0];
    assert_eq!((&odd["client_id"], &odd["subscription_count"]), (&json!("t/ü"), &json!(2)));
    assert_eq!((&odd["expiry_interval_s"], &odd["expires_ms"]), (&Value::Null, &Value::Null));
    assert_eq!(odd["lag"], Value::Null);

    let (found, _) = pages(rest, "/subscriptions?limit=7&filter=a/%2B", "subscriptions").await;
    assert_eq!(found, ids);
    let (found, _) = pages(rest, "/subscriptions?limit=7&topic=x", "subscriptions").await;
    assert_eq!(found, ["t/ü", "t/ü"]);
    served.service.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_is_named_or_left_open() {
    let mut served = serve().await;
    let mut sites = three_sites(&served.service).await;
    sites[0].until(|topology| !topology.placement.is_empty()).await;
    let mut gateway = Gateway::connect(&served.service, 7).await;
    gateway.update().await;
    let _feed = feed_all(&mut served.service, &[("s", row(&["a"]))]).await;
    let rest = &served.rest;
    // Nobody listens where these sites and this gateway say that they are.
    let (page, clients, subscriptions, totals, deleted) = tokio::join!(
        rest.get("/sessions?lag_min=5"),
        rest.get("/clients"),
        rest.get("/subscriptions"),
        rest.get("/storage"),
        rest.delete("/sessions/s"),
    );
    let page = page.ok();
    assert_eq!(
        (ids(&page, "sessions"), &page["sessions"][0]["lag"]),
        (vec!["s".to_owned()], &Value::Null)
    );
    assert_eq!(clients.ok()["unanswered"], json!(["gateway-7"]));
    let subscriptions = subscriptions.ok();
    assert_eq!(subscriptions["unanswered"], json!(["gateway-7"]));
    assert_eq!(ids(&subscriptions, "subscriptions"), ["s"]);
    let totals = totals.ok();
    assert_eq!((&totals["sites"], &totals["sites_asked"]), (&json!(3), &json!(0)));
    assert_eq!((deleted.status, deleted.problem()), (503, "unavailable"));
    assert!(deleted.detail().contains("has no leader that answers"), "{deleted:?}");
    let verified = rest.call(hyper::Method::POST, "/shards/0/verify", None).await.ok();
    assert_eq!(verified["ok"], false);
    assert!(verified["sites"][2]["error"].is_string(), "{verified}");
    served.service.stop().await;
}
