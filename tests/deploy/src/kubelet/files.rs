//! What is mounted into a container.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::container::Place;
use crate::manifests::{list, text};

/// Mount paths, and the folders that lie there.
pub(super) type Mounts = Vec<(String, String)>;

/// Makes the folders of all volumes of a pod. Files of ConfigMaps are as a process in the pod would see them.
pub(super) fn mount(place: &Place<'_>) -> Mounts {
    let container = &list(&place.template["spec"]["containers"])[0];
    let folder = |mount: &Value| {
        let folder = place.folder.join(place.name).join(text(&mount["name"]));
        fs::create_dir_all(&folder).unwrap();
        (text(&mount["mountPath"]).to_owned(), folder.to_str().unwrap().to_owned())
    };
    let mounts: Mounts = list(&container["volumeMounts"]).iter().map(folder).collect();
    for volume in list(&place.template["spec"]["volumes"]) {
        let folder = place.folder.join(place.name).join(text(&volume["name"]));
        if volume["configMap"].is_object() {
            write_config(place, &folder, text(&volume["configMap"]["name"]), &mounts);
        }
        if volume["secret"].is_object() {
            write_secret(place, &folder, &volume["secret"]);
        }
    }
    mounts
}

fn write_config(place: &Place<'_>, folder: &Path, name: &str, mounts: &Mounts) {
    let data = place.manifests.get("ConfigMap", name)["data"].as_object().unwrap();
    for (file, content) in data {
        fs::write(folder.join(file), place.localized(text(content), mounts)).unwrap();
    }
}

fn write_secret(place: &Place<'_>, folder: &Path, secret: &Value) {
    let data = &place.manifests.get("Secret", text(&secret["secretName"]))["data"];
    for item in list(&secret["items"]) {
        let content = STANDARD.decode(text(&data[text(&item["key"])])).unwrap();
        fs::write(folder.join(text(&item["path"])), content).unwrap();
    }
}
