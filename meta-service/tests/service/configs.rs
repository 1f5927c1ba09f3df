//! Configs that are refused, and in which words.

use meta_service::config::StoreKind;

use crate::peers::configure;

const HEAD: &str = "name = \"m\"\ngrpc_listen = \"127.0.0.1:1\"\nhttp_listen = \"127.0.0.1:2\"\n";

fn load(text: &str) -> Result<meta_service::config::Config, String> {
    let directory = tempfile::tempdir().unwrap();
    configure(directory.path(), &format!("{HEAD}{text}")).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    load(text).unwrap_err()
}

#[test]
fn the_store_decides_what_else_is_needed() {
    assert_eq!(load("data_dir = \"/x\"").unwrap().store, StoreKind::Sled);
    let text = refusal("");
    assert!(text.contains("field \"data_dir\"") && text.contains("a directory"), "{text}");
    let text = refusal("store = \"etcd\"");
    assert!(text.contains("field \"store\"") && text.contains("[etcd]"), "{text}");
    let text = refusal("data_dir = \"/x\"\n[etcd]\nendpoints = [\"http://a:1\"]");
    assert!(text.contains("field \"store\"") && text.contains("no section [etcd]"), "{text}");
    let etcd = load("store = \"etcd\"\ndata_dir = \"/x\"\n[etcd]\nendpoints = [\"http://a:1\"]");
    let etcd = etcd.unwrap();
    assert_eq!(etcd.advertised(), "127.0.0.1:1");
    assert_eq!(etcd.etcd.unwrap().prefix, "/holdfast/");
    let text = refusal("data_dir = \"/x\"\ngrpc_advertise = \"nowhere\"");
    assert!(text.contains("grpc_advertise") && text.contains("host:port"), "{text}");
}

#[test]
fn half_of_what_belongs_together_is_refused() {
    let refused = |etcd: &str, field: &str, why: &str| {
        let text = refusal(&format!("store = \"etcd\"\n[etcd]\n{etcd}"));
        assert!(text.contains(&format!("field \"{field}\"")) && text.contains(why), "{text}");
    };
    refused("endpoints = []", "etcd.endpoints", "one URL or more");
    for url in ["a:1", "ftp://a:1", "http://a", "http://a:1/x"] {
        refused(&format!("endpoints = [{url:?}]"), "etcd.endpoints", "http://host:port");
    }
    let one = "endpoints = [\"https://a:1\"]\n";
    refused(one, "etcd.endpoints", "ca_file");
    let one = format!("{one}ca_file = \"/ca\"\n");
    refused(&format!("{one}cert_file = \"/c\""), "etcd.key_file", "etcd.cert_file");
    refused(&format!("{one}key_file = \"/c\""), "etcd.cert_file", "etcd.key_file");
    refused(&format!("{one}user = \"u\""), "etcd.password_file", "etcd.user");
    refused(&format!("{one}request_timeout_ms = 1"), "etcd.request_timeout_ms", "50 to 60000");
    refused(&format!("{one}prefix = \"\""), "etcd.prefix", "1 to 255 bytes");
    let plain = "endpoints = [\"http://a:1\"]\nca_file = \"/ca\"";
    refused(plain, "etcd.endpoints", "https://host:port");
}

#[test]
fn an_admin_api_needs_a_place_and_a_password_file() {
    let config = load("data_dir = \"/x\"\n[admin]\nlisten = \"h:1\"").unwrap();
    assert_eq!(config.admin_advertised(), "h:1");
    let admin = config.admin.unwrap();
    let file = admin.password_file(config.data_dir.as_deref());
    assert_eq!(file, std::path::Path::new("/x/admin-password"));
    let refused = |text: &str, field: &str, why: &str| {
        let text = refusal(&format!("data_dir = \"/x\"\n{text}"));
        assert!(text.contains(&format!("\"{field}\"")) && text.contains(why), "{text}");
    };
    refused("[admin]\nlisten = \"h\"", "admin.listen", "host:port");
    let one = "[admin]\nlisten = \"h:1\"\n";
    refused(&format!("{one}advertise = \"h\""), "admin.advertise", "host:port");
    for (limit, allowed) in [("requests_max = 0", "1 to 10000"), ("body_bytes_max = 1", "1024 to")]
    {
        let field = format!("admin.limits.{}", limit.split_once(' ').unwrap().0);
        refused(&format!("{one}[admin.limits]\n{limit}"), &field, allowed);
    }
    let etcd = format!("store = \"etcd\"\n[etcd]\nendpoints = [\"http://a:1\"]\n{one}");
    let text = refusal(&etcd);
    assert!(text.contains("admin.password_file") && text.contains("a file"), "{text}");
    load(&format!("{etcd}password_file = \"/p\"")).unwrap();
}
