//! Objects of rendered manifests.

use serde::Deserialize;
use serde_json::Value;

/// All objects of a rendering.
#[derive(Debug)]
pub struct Manifests(Vec<Value>);

impl Manifests {
    /// Reads YAML of many documents. A key that is there twice is an error, as it is to an API server.
    pub fn parse(text: &str) -> Manifests {
        let documents = serde_yaml_ng::Deserializer::from_str(text);
        let objects = documents.map(|document| {
            let strict = serde_yaml_ng::Value::deserialize(document).expect("valid YAML");
            serde_json::to_value(strict).expect("keys that are strings")
        });
        Manifests(objects.filter(|object| !object.is_null()).collect())
    }

    /// Of these objects.
    pub fn of_objects(objects: impl Iterator<Item = Value>) -> Manifests {
        Manifests(objects.collect())
    }

    /// With others.
    #[must_use]
    pub fn with(mut self, objects: impl IntoIterator<Item = Value>) -> Manifests {
        self.0.extend(objects);
        self
    }

    /// All of them.
    pub fn all(&self) -> &[Value] {
        &self.0
    }

    /// All of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// One by kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| object["kind"] == kind && name_of(object) == name)
    }

    /// One by kind and name that must be there.
    pub fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// Objects that hold a pod template, or are a pod, and that as an object with `metadata` and `spec`.
    pub fn pod_templates(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.0.iter().filter_map(|object| match object["kind"].as_str() {
            Some("Deployment" | "StatefulSet" | "Job") => {
                Some((object, &object["spec"]["template"]))
            }
            Some("Pod") => Some((object, object)),
            _ => None,
        })
    }
}

/// Name of an object.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Elements of a list that may be absent.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A string that must be one.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no string: {value}"))
}

/// Whether all labels of a selector are among those of an object.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().expect("a selector");
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
