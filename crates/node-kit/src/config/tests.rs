use serde::Deserialize;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Example {
    grpc_listen: String,
    #[serde(default)]
    shards: u16,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    meta: Vec<String>,
    #[serde(default)]
    inner: Option<Inner>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Inner {
    on: bool,
    share: f64,
    size: u64,
    mode: Mode,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// One.
    #[default]
    First,
    /// Two.
    SecondOne,
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rule {
    filter: String,
}

impl Validate for Example {
    fn validate(&self) -> Result<(), Invalid> {
        check_address("grpc_listen", &self.grpc_listen)?;
        check_range("inner.size", self.inner.as_ref().map_or(0, |inner| inner.size), 0..=9)?;
        check_range("shards", self.shards, 0..=1024)
    }
}

fn loaded(text: &str, sets: &[&str]) -> Result<Example, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("F");
    fs::write(&path, text).expect("written");
    let overrides: Result<Vec<Override>, _> = sets.iter().map(|set| set.parse()).collect();
    load_with(&path, &overrides?)
}

fn message(text: &str) -> String {
    loaded(text, &[]).expect_err("wrong").to_string()
}

const FILE: &str = "grpc_listen = \"a:1\"\nshards = 3\nzone = \"z\"\n[inner]\nsize = 4\n";

fn set(sets: &[&str]) -> Example {
    loaded(FILE, sets).expect("valid")
}

fn refused(sets: &[&str]) -> String {
    loaded(FILE, sets).expect_err("wrong").to_string()
}

#[test]
fn a_wrong_value_is_named_with_field_and_allowed_form() {
    let text = message("grpc_listen = \"abc\"\n");
    assert!(
        text.ends_with("field \"grpc_listen\": value \"abc\" is not allowed: host:port"),
        "{text}"
    );
}

#[test]
fn a_wrong_type_is_named_with_field_and_line() {
    let text = message("grpc_listen = \"a:1\"\nshards = \"many\"\n");
    assert!(text.contains("line 2: field \"shards\": value \"many\""), "{text}");
    assert!(text.contains("u16"), "{text}");
}

#[test]
fn unknown_and_missing_fields_are_named() {
    let text = message("grpc_listen = \"a:1\"\nshard = 3\n");
    assert!(text.contains("unknown field `shard`") && text.contains("`shards`"), "{text}");
    let text = message("shards = 3\n");
    assert!(text.contains("missing field `grpc_listen`"), "{text}");
}

#[test]
fn a_value_out_of_range_names_the_range() {
    let text = message("grpc_listen = \"a:1\"\nshards = 2000\n");
    assert!(text.ends_with("value \"2000\" is not allowed: 0 to 1024"), "{text}");
}

#[test]
fn values_are_toml_or_text() {
    let config = set(&[
        "shards=7",
        "grpc_listen=storage-0.storage:7002",
        "meta=[\"m0:1\", \"m1:1\"]",
        "inner.on=true",
        "inner.share=0.5",
        "inner.mode=second-one",
        "inner.rules=[{filter = \"a/#\"}]",
    ]);
    let inner = Inner {
        on: true,
        share: 0.5,
        size: 4,
        mode: Mode::SecondOne,
        rules: vec![Rule { filter: "a/#".into() }],
    };
    let expected = Example {
        grpc_listen: "storage-0.storage:7002".into(),
        shards: 7,
        zone: Some("z".into()),
        meta: vec!["m0:1".into(), "m1:1".into()],
        inner: Some(inner),
    };
    assert_eq!(config, expected);
}

#[test]
fn text_stays_text_though_it_looks_like_a_number() {
    for (given, zone) in
        [("1", "1"), ("1e3", "1e3"), ("true", "true"), ("2026-01-01", "2026-01-01"), ("\"1\"", "1")]
    {
        assert_eq!(set(&[&format!("zone={given}")]).zone.as_deref(), Some(zone));
    }
    assert_eq!(set(&["zone=a=b"]).zone.as_deref(), Some("a=b"));
}

#[test]
fn an_empty_value_leaves_the_field_unset() {
    let config = set(&["zone=", "shards=", "inner.size="]);
    assert_eq!((config.zone, config.shards), (None, 0));
    assert_eq!(config.inner, Some(Inner::default()));
    assert_eq!(set(&["inner="]).inner, None);
    assert_eq!(set(&["inner=", "inner.size="]).inner, None);
    assert!(refused(&["grpc_listen="]).contains("missing field `grpc_listen`"));
}

#[test]
fn the_last_one_counts_and_tables_are_made() {
    assert_eq!(set(&["shards=7", "shards=8"]).shards, 8);
    assert_eq!(set(&["inner=", "inner.size=2"]).inner.map(|inner| inner.size), Some(2));
}

#[test]
fn a_wrong_override_is_named_by_its_field() {
    for (given, told) in [
        ("shards=many", "--set shards=\"many\": invalid type: string \"many\", expected u16"),
        ("shards=70000", "--set shards=\"70000\": invalid value: integer `70000`, expected u16"),
        ("shards=2000", "--set shards=\"2000\": not allowed: 0 to 1024"),
        ("inner.size=10", "--set inner.size=\"10\": not allowed: 0 to 9"),
        ("inner={size=10}", "--set inner.size=\"10\": not allowed: 0 to 9"),
        ("shard=1", "--set shard=\"1\": unknown field `shard`"),
        ("inner.mode=third", "--set inner.mode=\"third\": unknown variant `third`"),
        ("inner.rules=[{filter=1}]", "--set inner.rules=\"[{filter=1}]\": invalid type: integer"),
        ("shards.a=1", "--set shards.a: \"shards\" is no table"),
        ("meta", "--set \"meta\": FIELD=VALUE is expected"),
        ("=1", "--set \"=1\": FIELD=VALUE is expected"),
        ("inner..size=1", "--set \"inner..size=1\": FIELD=VALUE is expected"),
    ] {
        let message = refused(&[given]);
        assert!(message.starts_with(told), "{given}: {message}");
    }
}

#[test]
fn errors_of_the_file_keep_their_line_beside_overrides() {
    let file = "grpc_listen = \"a:1\"\nshards = \"many\"\n";
    let message = loaded(file, &["zone=z"]).expect_err("wrong").to_string();
    assert!(message.contains("line 2: field \"shards\": value \"many\""), "{message}");
    assert_eq!(loaded(file, &["shards=5"]).expect("repaired").shards, 5);
}
