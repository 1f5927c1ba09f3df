//! Manifests as they were when somebody last looked at them. `UPDATE_GOLDEN=1` writes them anew.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use holdfast_deploy::chart::Rendering;

/// Rules and dashboards are other files of the chart, checked elsewhere, and long.
const NOT_SHOWN: [&str; 2] =
    ["metrics.dashboards.enabled=false", "metrics.prometheusRule.enabled=false"];

#[test]
fn manifests_are_as_they_were() {
    let files = [
        "ci/default-values.yaml",
        "ci/everything-on-values.yaml",
        "ci/zones-values.yaml",
        "examples/laptop.yaml",
        "examples/three-zones.yaml",
        "examples/external-etcd.yaml",
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for file in files {
        let rendering = Rendering::of(file).set(&NOT_SHOWN).upgrade();
        let path = folder.join(format!("{}.yaml", rendering.name.trim_end_matches("-values")));
        let now = rendering.text();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &now).unwrap();
        }
        let before = fs::read_to_string(&path).unwrap_or_default();
        if now != before {
            let lines = now.lines().zip(before.lines()).position(|(now, before)| now != before);
            let at = lines.unwrap_or(now.lines().count().min(before.lines().count()));
            let (now, before) = (now.lines().nth(at), before.lines().nth(at));
            panic!(
                "{file}: line {} of {} is {now:?} and was {before:?}. If that is meant: UPDATE_GOLDEN=1",
                at + 1,
                path.display()
            );
        }
    }
}
