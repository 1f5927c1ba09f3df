//! The config files that `holdfast up` writes for its processes.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use crate::local::data_dir::DataDir;
use crate::local::plan::{Member, Plan};
use crate::local::role::Role;

/// A config field that the user sets: `ROLE.FIELD=VALUE` or `NAME.FIELD=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    target: Target,
    field: String,
    /// As TOML.
    value: String,
}

/// Whose field it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Of all processes of a role.
    Role(Role),
    /// Of one process.
    Process(String),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let form = "ROLE.FIELD=VALUE or NAME.FIELD=VALUE is wanted";
        let (path, value) = text.split_once('=').ok_or(form)?;
        let (target, field) = path.split_once('.').ok_or(form)?;
        let bare = value.parse::<f64>().is_ok()
            || matches!(value, "true" | "false")
            || value.starts_with(['[', '"']);
        let value = if bare { value.to_owned() } else { quoted(value) };
        Ok(Setting { target: target.parse()?, field: field.to_owned(), value })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if let Some(role) = Role::named(text) {
            return Ok(Target::Role(role));
        }
        match text.split_once('-') {
            Some((role, n)) if Role::named(role).is_some() && n.parse::<u16>().is_ok() => {
                Ok(Target::Process(text.to_owned()))
            }
            _ => Err(format!(
                "{text:?} is no role (etcd, meta, storage, gateway) and no process like storage-1"
            )),
        }
    }
}

impl Setting {
    fn is_for(&self, member: &Member) -> bool {
        match &self.target {
            Target::Role(role) => *role == member.role,
            Target::Process(name) => *name == member.name,
        }
    }
}

/// Writes the config of one process.
pub(crate) fn write(
    plan: &Plan,
    member: &Member,
    dir: &DataDir,
    settings: &[Setting],
) -> Result<(), (PathBuf, io::Error)> {
    let path = dir.config(&member.name);
    fs::write(&path, render(plan, member, dir, settings)).map_err(|source| (path, source))
}

/// The config of one process: TOML, and YAML for etcd.
fn render(plan: &Plan, member: &Member, dir: &DataDir, settings: &[Setting]) -> String {
    let mut fields = match member.role {
        Role::Etcd => etcd_fields(plan, member, dir),
        Role::Meta => meta_fields(plan, member, dir),
        Role::Storage | Role::Gateway => data_plane_fields(plan, member, dir),
    };
    for Setting { field, value, .. } in settings.iter().filter(|setting| setting.is_for(member)) {
        fields.retain(|(name, _)| name != field);
        fields.push((field, value.clone()));
    }
    let is = if member.role == Role::Etcd { ":" } else { " =" };
    let mut text = "# Written by `holdfast up` at each start.\n".to_owned();
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}{is} {value}");
    }
    text
}

type Fields<'a> = Vec<(&'a str, String)>;

fn own_fields(member: &Member) -> Fields<'static> {
    vec![
        ("name", quoted(&member.name)),
        ("grpc_listen", quoted(&member.grpc)),
        ("http_listen", quoted(&member.http)),
    ]
}

fn data_dir(member: &Member, dir: &DataDir) -> String {
    quoted(&dir.data(&member.name).to_string_lossy())
}

fn meta_fields(plan: &Plan, member: &Member, dir: &DataDir) -> Fields<'static> {
    let mut fields = own_fields(member);
    fields.push(("replication_factor", plan.replication_factor().to_string()));
    fields.push(("data_dir", data_dir(member, dir)));
    if let Some(admin) = &member.admin {
        fields.push(("admin.listen", quoted(admin)));
        fields.push(("admin.advertise", quoted(admin)));
        fields.push(("admin.password_file", quoted(&dir.admin_password().to_string_lossy())));
    }
    let etcd = plan.of_role(Role::Etcd);
    if !etcd.is_empty() {
        let endpoints = etcd.iter().map(|etcd| quoted(&http(&etcd.grpc)));
        fields.push(("store", quoted("etcd")));
        fields.push(("etcd.endpoints", list(endpoints)));
    }
    fields
}

fn data_plane_fields(plan: &Plan, member: &Member, dir: &DataDir) -> Fields<'static> {
    let mut fields = own_fields(member);
    let metas = plan.of_role(Role::Meta);
    fields.push(("meta", list(metas.iter().map(|meta| quoted(&meta.grpc)))));
    fields.push(("worker_threads", worker_threads(plan).to_string()));
    if member.role.has_data() {
        fields.push(("data_dir", data_dir(member, dir)));
    }
    if let Some(zone) = &member.zone {
        fields.push(("zone", quoted(zone)));
    }
    if let Some(mqtt) = &member.mqtt {
        fields.push(("mqtt_listen", quoted(mqtt)));
    }
    fields
}

/// What an etcd needs. One that has data takes the other members from there.
fn etcd_fields(plan: &Plan, member: &Member, dir: &DataDir) -> Fields<'static> {
    let peer = |member: &Member| http(member.peer.as_deref().unwrap_or_default());
    let members = plan.of_role(Role::Etcd);
    let cluster: Vec<String> =
        members.iter().map(|etcd| format!("{}={}", etcd.name, peer(etcd))).collect();
    let state = if dir.data(&member.name).exists() { "existing" } else { "new" };
    vec![
        ("name", quoted(&member.name)),
        ("data-dir", data_dir(member, dir)),
        ("listen-client-urls", quoted(&http(&member.grpc))),
        ("advertise-client-urls", quoted(&http(&member.grpc))),
        ("listen-peer-urls", quoted(&peer(member))),
        ("initial-advertise-peer-urls", quoted(&peer(member))),
        ("initial-cluster", quoted(&cluster.join(","))),
        ("initial-cluster-token", quoted(&dir.root().to_string_lossy())),
        ("initial-cluster-state", quoted(state)),
        ("logger", quoted("zap")),
        ("log-level", quoted("warn")),
    ]
}

fn http(address: &str) -> String {
    format!("http://{address}")
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// The processes share the cores of this machine.
fn worker_threads(plan: &Plan) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / plan.members().len().max(1)).max(1)
}

/// A string of TOML, and of YAML.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::Wish;
    use crate::local::sites::Sites;

    fn texts(wish: Wish, settings: &[&str]) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        let wish = Wish { mqtt_port: Some(0), ..wish };
        let plan = Plan::lay_out(None, &wish, &Sites::default(), &dir).expect("laid out");
        let settings: Vec<Setting> =
            settings.iter().map(|setting| setting.parse().expect("valid")).collect();
        let members = plan.members();
        let text = |member: &Member| render(&plan, member, &dir, &settings);
        members.iter().map(|member| (member.name.clone(), text(member))).collect()
    }

    #[test]
    fn each_role_gets_its_fields_and_the_users() {
        let texts = texts(Wish::default(), &["gateway.name=x", "storage-2.zone=b"]);
        assert!(texts[0].1.contains("replication_factor = 3") && texts[0].1.contains("data_dir"));
        assert!(texts[0].1.contains("admin.listen = \"127.0.0.1:"), "{}", texts[0].1);
        assert!(texts[0].1.contains("/admin-password\""), "{}", texts[0].1);
        assert!(texts[1].1.contains("meta = [\"127.0.0.1:") && texts[1].1.contains("data_dir"));
        assert!(!texts[1].1.contains("zone") && texts[2].1.contains("zone = \"b\""));
        assert!(texts[4].1.contains("mqtt_listen") && !texts[4].1.contains("data_dir"));
        assert!(texts[4].1.contains("name = \"x\"") && !texts[4].1.contains("gateway-1"));
    }

    #[test]
    fn with_etcd_every_meta_service_knows_all_members() {
        let wish = Wish { etcd: Some(3), meta: Some(2), zones: Some(3), ..Wish::default() };
        let texts = texts(wish, &["etcd.heartbeat-interval=50"]);
        let of = |name: &str| &texts.iter().find(|(of, _)| of == name).expect("there").1;
        assert!(of("etcd-2").contains("initial-cluster: \"etcd-1=http://127.0.0.1:"));
        assert!(of("etcd-2").contains("initial-cluster-state: \"new\""));
        assert!(of("etcd-2").contains("heartbeat-interval: 50"));
        let meta = of("meta-2");
        assert!(meta.contains("store = \"etcd\""), "{meta}");
        assert_eq!(meta.matches("http://127.0.0.1:").count(), 3, "{meta}");
        assert!(of("storage-3").contains("zone = \"zone-3\""));
        assert_eq!(of("gateway-1").matches("meta = [").count(), 1);
    }

    #[test]
    fn settings_keep_numbers_and_quote_text() {
        let setting = |text: &str| text.parse::<Setting>().map(|setting| setting.value);
        assert_eq!(setting("meta.lease_ms=3000").as_deref(), Ok("3000"));
        assert_eq!(setting("meta.name=a\"b").as_deref(), Ok("\"a\\\"b\""));
        assert_eq!(setting("storage-1.protocol_version_max=1").as_deref(), Ok("1"));
        assert!(setting("broker.name=a").is_err());
        assert!(setting("storage-x.name=a").is_err());
        assert!(setting("meta.name").is_err());
    }
}
