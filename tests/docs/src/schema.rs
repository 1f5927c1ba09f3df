//! What a JSON schema says of a config, as sections of fields.

use serde_json::{Map, Value};

/// A table of the TOML file.
#[derive(Debug, Clone)]
pub struct Section {
    /// Names of the tables on the way to it; empty for the top of the file.
    pub path: String,
    /// What it is about.
    pub about: String,
    /// It may be given many times: `[[path]]`.
    pub list: bool,
    /// It makes a difference whether it is there.
    pub optional: bool,
    /// Its fields, the required ones first.
    pub fields: Vec<Field>,
}

/// A field of a section.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name, without the section's.
    pub name: String,
    /// What TOML value it takes.
    pub kind: String,
    /// Its default; none if there is none.
    pub default: Option<Value>,
    /// The file is refused without it.
    pub required: bool,
    /// Bounds that the schema states; none if they are those of the number's type and the meaning has its own.
    pub bounds: Option<(u64, u64)>,
    /// Meaning.
    pub help: String,
    /// The values that there are, if there are only some, and what they mean.
    pub choices: Vec<(String, String)>,
}

impl Section {
    /// How `--set` names one of its fields.
    pub fn field_path(&self, field: &Field) -> String {
        if self.path.is_empty() {
            field.name.clone()
        } else {
            format!("{}.{}", self.path, field.name)
        }
    }
}

impl Field {
    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        matches!(self.kind.as_str(), "integer" | "float")
    }

    /// Bounds of the schema, or those in the words of the meaning: `1 to 1,024`.
    pub fn documented_bounds(&self) -> Option<(u64, u64)> {
        self.bounds.or_else(|| bounds_in(&self.help))
    }
}

/// All sections of a config, the top of the file first.
pub fn sections(schema: &Value) -> Vec<Section> {
    let mut found = Vec::new();
    let top = Place { path: String::new(), list: false, optional: false };
    collect(schema, schema, &Value::Null, top, text(schema, "description"), &mut found);
    found
}

struct Place {
    path: String,
    list: bool,
    optional: bool,
}

fn collect(
    root: &Value,
    node: &Value,
    defaults: &Value,
    place: Place,
    about: String,
    found: &mut Vec<Section>,
) {
    let nothing = Map::new();
    let properties = node["properties"].as_object().unwrap_or(&nothing);
    let required = |name: &str| {
        node["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name))
    };
    let (mut fields, mut inner) = (Vec::new(), Vec::new());
    for (name, property) in properties {
        let default = property.get("default").or_else(|| defaults.get(name)).cloned();
        let about = text(property, "description");
        let Shape { node, optional, list } = shape(root, property);
        if node["properties"].is_object() {
            let path =
                if place.path.is_empty() { name.clone() } else { format!("{}.{name}", place.path) };
            inner.push((node, default, Place { path, list, optional }, about));
        } else {
            fields.push(Field {
                name: name.clone(),
                kind: kind(node, list),
                default: default.filter(|value| !value.is_null()),
                required: required(name),
                bounds: bounds(node, &about),
                help: about,
                choices: choices(node),
            });
        }
    }
    fields.sort_by_key(|field| !field.required);
    found.push(Section {
        path: place.path,
        about,
        list: place.list,
        optional: place.optional,
        fields,
    });
    for (node, default, place, about) in inner {
        collect(root, node, &default.unwrap_or_default(), place, about, found);
    }
}

struct Shape<'a> {
    node: &'a Value,
    optional: bool,
    list: bool,
}

/// Follows references, looks into lists, and takes the one choice beside null.
fn shape<'a>(root: &'a Value, node: &'a Value) -> Shape<'a> {
    if let Some(target) = node["$ref"].as_str().and_then(|name| root.pointer(&name[1..])) {
        return shape(root, target);
    }
    if node["type"] == "array" {
        return Shape { list: true, ..shape(root, &node["items"]) };
    }
    let choices = node["anyOf"].as_array();
    match choices.and_then(|all| all.iter().find(|one| one["type"] != "null")) {
        Some(choice) => Shape { optional: true, ..shape(root, choice) },
        None => Shape { node, optional: false, list: false },
    }
}

fn kind(node: &Value, list: bool) -> String {
    let name = match &node["type"] {
        Value::Array(types) => types.iter().find(|one| *one != "null"),
        one => Some(one),
    };
    let name = match name.and_then(Value::as_str) {
        Some("number") => "float",
        Some(name) => name,
        // A choice of strings has the type at each of them.
        None => "string",
    };
    if list { format!("list of {name}s") } else { name.to_owned() }
}

fn bounds(node: &Value, help: &str) -> Option<(u64, u64)> {
    let (low, high) = (node["minimum"].as_u64()?, node["maximum"].as_u64()?);
    let of_type = match node["format"].as_str() {
        Some("uint8") => (0, u64::from(u8::MAX)),
        Some("uint16") => (0, u64::from(u16::MAX)),
        _ => (0, u64::MAX),
    };
    ((low, high) != of_type || bounds_in(help).is_none()).then_some((low, high))
}

/// The first `number to number` of a text.
fn bounds_in(help: &str) -> Option<(u64, u64)> {
    let words: Vec<&str> = help.split_whitespace().collect();
    let number = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_digit()).replace(',', "");
        word.parse::<u64>().ok()
    };
    words.windows(3).find_map(|three| match three {
        // `1 to 5, s` is one; `64 KiB to 1 GiB` is not.
        [low, "to", high] if low.starts_with(|c: char| c.is_ascii_digit()) => {
            Some((number(low)?, number(high)?))
        }
        _ => None,
    })
}

fn choices(node: &Value) -> Vec<(String, String)> {
    let named = |node: &Value| {
        let help = text(node, "description");
        let values = match node.get("const") {
            Some(value) => vec![value.clone()],
            None => node["enum"].as_array().cloned().unwrap_or_default(),
        };
        let names = values.iter().filter_map(Value::as_str).map(str::to_owned);
        names.map(|name| (name, help.clone())).collect::<Vec<_>>()
    };
    match node["oneOf"].as_array() {
        Some(all) => all.iter().flat_map(named).collect(),
        None => named(node).into_iter().map(|(name, _)| (name, String::new())).collect(),
    }
}

fn text(node: &Value, key: &str) -> String {
    node[key].as_str().unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_found_in_words() {
        assert_eq!(bounds_in("Shards, 1 to 1,024; fixed (default 16)."), Some((1, 1024)));
        assert_eq!(bounds_in("Time in ms; 0 to 600000 ..."), Some((0, 600_000)));
        assert_eq!(bounds_in("64 KiB to 1 TiB, from here to there"), None);
    }
}
