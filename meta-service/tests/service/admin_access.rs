//! Who may use the admin API.

use std::path::PathBuf;

use hyper::{Method, header};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    etcd::free_ports,
    peers::Service,
    rest::{Rest, basic},
};

/// A service with an admin API, in this process.
pub(crate) struct Served {
    pub(crate) service: Service,
    pub(crate) rest: Rest,
    pub(crate) password_file: PathBuf,
    pub(crate) directory: TempDir,
}

pub(crate) async fn serve() -> Served {
    serve_in(tempfile::tempdir().unwrap(), "").await
}

pub(crate) async fn serve_in(directory: TempDir, more: &str) -> Served {
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let section = format!("[admin]\nlisten = \"{address}\"\n{more}");
    let service = Service::start_configured(directory.path(), &section).await;
    let password_file = directory.path().join("admin-password");
    let rest = Rest::admin(&address, &password_file).await;
    Served { service, rest, password_file, directory }
}

#[tokio::test]
async fn a_password_is_made_at_the_first_start_and_kept() {
    let served = serve().await;
    assert_eq!(served.rest.get("/whoami").await.ok(), json!({"name": "admin", "role": "admin"}));
    let made = std::fs::read_to_string(&served.password_file).unwrap();
    assert_eq!(made.trim().len(), 32);
    served.service.stop().await;
    let served = serve_in(served.directory, "").await;
    served.rest.get("/whoami").await.ok();
    assert_eq!(std::fs::read_to_string(&served.password_file).unwrap(), made);
    served.service.stop().await;
}

#[tokio::test]
async fn who_has_no_credentials_or_wrong_ones_is_told_what_is_needed() {
    let served = serve().await;
    let wrong = [
        None,
        basic("admin", "wrong password"),
        basic("nobody", "wrong password"),
        Some("Basic %%%".to_owned()),
        Some("Bearer hfa_AAAA".to_owned()),
        Some("Bearer nothing".to_owned()),
        Some("Digest x".to_owned()),
    ];
    for authorization in wrong {
        let answer = served.rest.with(authorization.clone()).get("/sites").await;
        assert_eq!((answer.status, answer.problem()), (401, "credentials"), "{authorization:?}");
        let ways: Vec<_> = answer.headers.get_all(header::WWW_AUTHENTICATE).iter().collect();
        assert_eq!(ways.len(), 2, "{ways:?}");
    }
    served.service.stop().await;
}

#[tokio::test]
async fn the_password_in_the_file_holds_from_its_first_use() {
    let served = serve().await;
    served.rest.get("/whoami").await.ok();
    std::fs::write(&served.password_file, "a password of mine\n").unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3);
    std::fs::File::options()
        .write(true)
        .open(&served.password_file)
        .and_then(|file| file.set_modified(later))
        .unwrap();
    let mine = served.rest.with(basic("admin", "a password of mine"));
    mine.get("/whoami").await.ok();
    assert_eq!(served.rest.get("/whoami").await.status, 401, "the old one has ended");
    // Too short: what was before stays.
    served.service.stop().await;
    std::fs::write(&served.password_file, "short\n").unwrap();
    let served = serve_in(served.directory, "").await;
    assert_eq!(served.rest.get("/whoami").await.status, 401);
    served.rest.with(basic("admin", "a password of mine")).get("/whoami").await.ok();
    served.service.stop().await;
}

#[tokio::test]
async fn viewers_look_and_admins_change() {
    let served = serve().await;
    let admin = &served.rest;
    let body = json!({"role": "viewer", "password": "look but never touch"});
    let put = admin.call(Method::PUT, "/users/eve", Some(body)).await.ok();
    assert_eq!(put, json!({"name": "eve", "role": "viewer"}));
    let eve = admin.with(basic("eve", "look but never touch"));
    assert_eq!(eve.get("/whoami").await.ok(), json!({"name": "eve", "role": "viewer"}));
    for path in ["/status", "/sites", "/shards", "/gateways", "/sessions", "/users", "/tokens"] {
        eve.get(path).await.ok();
    }
    let refused = [
        (Method::POST, "/sites/a/drain"),
        (Method::DELETE, "/sites/a"),
        (Method::DELETE, "/users/eve"),
        (Method::POST, "/tokens"),
        (Method::DELETE, "/shards/0/pin"),
    ];
    for (method, path) in refused {
        let answer = eve.call(method, path, None).await;
        assert_eq!((answer.status, answer.problem()), (403, "role"), "{path}");
        assert!(answer.detail().contains("needs the role admin"), "{answer:?}");
    }
    // A new role without a new password, at once.
    admin.call(Method::PUT, "/users/eve", Some(json!({"role": "admin"}))).await.ok();
    assert_eq!(eve.get("/whoami").await.ok()["role"], "admin");
    let listed = admin.get("/users").await.ok();
    let both = json!([{"name": "admin", "role": "admin"}, {"name": "eve", "role": "admin"}]);
    assert_eq!(listed["users"], both);
    assert_eq!(admin.delete("/users/eve").await.status, 204);
    assert_eq!(eve.get("/whoami").await.status, 401, "credentials end at once");
    assert_eq!(admin.delete("/users/eve").await.problem(), "unknown-user");
    served.service.stop().await;
}

#[tokio::test]
async fn the_user_admin_stays_as_it_is() {
    let served = serve().await;
    let body = json!({"role": "viewer", "password": "a password of mine"});
    let put = served.rest.call(Method::PUT, "/users/admin", Some(body)).await;
    assert_eq!((put.status, put.problem()), (409, "admin-user"));
    assert!(put.detail().contains("admin-password"), "{put:?}");
    assert_eq!(served.rest.delete("/users/admin").await.problem(), "admin-user");
    served.rest.get("/whoami").await.ok();
    served.service.stop().await;
}

#[tokio::test]
async fn users_need_names_and_passwords_that_fit() {
    let served = serve().await;
    let put = async |name: &str, body| {
        served.rest.call(Method::PUT, &format!("/users/{name}"), Some(body)).await
    };
    let fit = json!({"role": "viewer", "password": "long enough for me"});
    assert_eq!(put("a%20b", fit.clone()).await.problem(), "malformed-name");
    assert_eq!(put(&"x".repeat(64), fit.clone()).await.problem(), "malformed-name");
    let short = json!({"role": "viewer", "password": "short"});
    assert_eq!(put("bob", short).await.problem(), "unfit-password");
    assert_eq!(put("bob", json!({"role": "viewer"})).await.problem(), "unfit-password");
    assert_eq!(put("bob", json!({"role": "king", "password": "x"})).await.status, 400);
    assert_eq!(put("bob", json!({"role": "viewer", "pass": "x"})).await.status, 400);
    assert_eq!(served.rest.get("/users").await.ok()["users"].as_array().unwrap().len(), 1);
    served.service.stop().await;
}

#[tokio::test]
async fn tokens_are_shown_once_and_end() {
    let served = serve().await;
    let admin = &served.rest;
    let make = async |rest: &Rest, body| rest.call(Method::POST, "/tokens", Some(body)).await;
    let made = make(admin, json!({"name": "ci", "role": "viewer"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let token = made.body["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("hfa_") && token.len() == 47, "{token}");
    let ci = admin.with(Some(format!("Bearer {token}")));
    assert_eq!(ci.get("/whoami").await.ok(), json!({"name": "ci", "role": "viewer"}));
    assert_eq!(
        make(admin, json!({"name": "ci", "role": "viewer"})).await.problem(),
        "token-exists"
    );
    let listed = admin.get("/tokens").await.ok();
    assert_eq!(listed["tokens"][0]["name"], "ci");
    assert!(!listed.to_string().contains(&token));
    assert_eq!(admin.delete("/tokens/ci").await.status, 204);
    assert_eq!(ci.get("/whoami").await.status, 401);
    assert_eq!(admin.delete("/tokens/ci").await.problem(), "unknown-token");

    let never = make(admin, json!({"name": "x", "role": "viewer", "expires_in_s": 0})).await;
    assert_eq!(never.status, 400);
    let made = make(admin, json!({"name": "brief", "role": "admin", "expires_in_s": 1})).await;
    let brief = admin.with(Some(format!("Bearer {}", made.body["token"].as_str().unwrap())));
    while brief.get("/whoami").await.status == 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(admin.get("/tokens").await.ok()["tokens"], json!([]), "it is removed");
    // Its name is free again.
    assert_eq!(make(admin, json!({"name": "brief", "role": "admin"})).await.status, 201);
    served.service.stop().await;
}
