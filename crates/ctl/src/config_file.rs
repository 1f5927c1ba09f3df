//! The config files that `holdfast up` writes for its processes.

use std::fmt::Write;
use std::str::FromStr;

use crate::data_dir::DataDir;
use crate::plan::{Member, Plan};
use crate::role::Role;

/// A config field that the user sets: `ROLE.FIELD=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    role: Role,
    field: String,
    /// As TOML.
    value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Setting, String> {
        let (path, value) = text.split_once('=').ok_or("ROLE.FIELD=VALUE is wanted")?;
        let (role, field) = path.split_once('.').ok_or("ROLE.FIELD=VALUE is wanted")?;
        let bare = value.parse::<f64>().is_ok()
            || matches!(value, "true" | "false")
            || value.starts_with(['[', '"']);
        let value = if bare { value.to_owned() } else { quoted(value) };
        Ok(Setting { role: role.parse()?, field: field.to_owned(), value })
    }
}

/// The config of one process.
pub(crate) fn render(plan: &Plan, member: &Member, dir: &DataDir, settings: &[Setting]) -> String {
    let meta: Vec<String> = plan
        .members()
        .into_iter()
        .filter(|other| other.role == Role::Meta)
        .map(|other| quoted(&other.grpc))
        .collect();
    let mut fields = vec![
        ("name", quoted(&member.name)),
        ("grpc_listen", quoted(&member.grpc)),
        ("http_listen", quoted(&member.http)),
    ];
    match member.role {
        Role::Meta => fields.push(("replication_factor", plan.replication_factor().to_string())),
        Role::Storage | Role::Gateway => {
            fields.push(("meta", format!("[{}]", meta.join(", "))));
            fields.push(("worker_threads", worker_threads(plan).to_string()));
        }
    }
    if member.role.has_data() {
        fields.push(("data_dir", quoted(&dir.data(&member.name).to_string_lossy())));
    }
    if let Some(mqtt) = &member.mqtt {
        fields.push(("mqtt_listen", quoted(mqtt)));
    }
    let set = settings.iter().filter(|setting| setting.role == member.role);
    for Setting { field, value, .. } in set {
        fields.retain(|(name, _)| name != field);
        fields.push((field, value.clone()));
    }
    let mut text = "# Written by `holdfast up` at each start.\n".to_owned();
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// The processes share the cores of this machine.
fn worker_threads(plan: &Plan) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / plan.members().len().max(1)).max(1)
}

/// A TOML basic string.
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
    use crate::plan::Wish;

    #[test]
    fn each_role_gets_its_fields_and_the_users() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = DataDir::create(folder.path()).expect("created");
        let wish = Wish { mqtt_port: Some(0), ..Wish::default() };
        let plan = Plan::lay_out(None, &wish, &dir).expect("laid out");
        let set: Setting = "gateway.name=x".parse().expect("valid");
        let texts: Vec<String> = plan
            .members()
            .iter()
            .map(|member| render(&plan, member, &dir, std::slice::from_ref(&set)))
            .collect();
        assert!(texts[0].contains("replication_factor = 3") && texts[0].contains("data_dir"));
        assert!(texts[1].contains("meta = [\"127.0.0.1:") && texts[1].contains("data_dir"));
        assert!(texts[4].contains("mqtt_listen") && !texts[4].contains("data_dir"));
        assert!(texts[4].contains("name = \"x\"") && !texts[4].contains("gateway-1"));
    }

    #[test]
    fn settings_keep_numbers_and_quote_text() {
        let setting = |text: &str| text.parse::<Setting>().map(|setting| setting.value);
        assert_eq!(setting("meta.lease_ms=3000").as_deref(), Ok("3000"));
        assert_eq!(setting("meta.name=a\"b").as_deref(), Ok("\"a\\\"b\""));
        assert!(setting("broker.name=a").is_err());
        assert!(setting("meta.name").is_err());
    }
}
