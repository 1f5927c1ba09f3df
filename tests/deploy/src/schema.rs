//! values.schema.json against values.yaml.

use serde_json::Value;

/// A schema whose references are to its own definitions.
#[derive(Debug)]
pub struct Schema<'a> {
    root: &'a Value,
}

impl<'a> Schema<'a> {
    /// Of the whole file.
    pub fn new(root: &'a Value) -> Schema<'a> {
        Schema { root }
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            None => schema,
            Some(reference) => {
                let path = reference.strip_prefix('#').expect("a reference to this file");
                self.root.pointer(path).unwrap_or_else(|| panic!("{reference} is nowhere"))
            }
        }
    }

    /// Where values and schema do not go together: values that the schema does not know, fields of it
    /// that no value has, and sections to which anything could be added.
    pub fn differences(&self, values: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.compare(self.root, values, "", &mut found);
        found
    }

    fn compare(&self, schema: &'a Value, value: &Value, path: &str, found: &mut Vec<String>) {
        let schema = self.resolved(schema);
        let Some(fields) = schema["properties"].as_object() else { return };
        // Other charts' values are in `global`, too.
        if path != ".global" && schema["additionalProperties"] != Value::Bool(false) {
            found.push(format!("{path}: the schema lets anything in"));
        }
        // A map of the values that Kubernetes knows more fields of than we give.
        let partial = ["probes", "resources", "updateStrategy"];
        let partial = partial.iter().any(|part| path.contains(&format!(".{part}")));
        let Some(table) = value.as_object() else { return };
        for (key, value) in table {
            let path = format!("{path}.{key}");
            match fields.get(key) {
                Some(schema) => self.compare(schema, value, &path, found),
                None => found.push(format!("{path}: not in the schema")),
            }
        }
        // The condition of a dependency is the other chart's value.
        let known = |key: &str| table.contains_key(key) || path.is_empty() && key == "enabled";
        let unused = fields.keys().filter(|key| !known(key) && !partial);
        found.extend(unused.map(|key| format!("{path}.{key}: not in values.yaml")));
    }
}
