//! Which keys exist, taken from the settings types themselves.
//!
//! Owns the list of known keys and the search for the nearest one. Invariant: nothing is listed
//! twice by hand; the keys are those of the serialized defaults, plus one example for each list
//! that is empty by default.

use figment::value::{Dict, Value};

use super::cluster::Peer;
use super::error::SettingsError;
use super::{Settings, tree};

/// What the name of a variable starts with when it overrides a key.
pub(super) const VARIABLE_PREFIX: &str = "PHALANX__";

/// The key whose value may hold a password: no message and no report shows it as it is.
pub(super) const SECRET: &str = "projections.store";

/// What stands for a value that is not shown.
pub(super) const HIDDEN: &str = "(not shown)";

/// The known keys and their defaults.
#[derive(Debug)]
pub(super) struct Schema {
    /// The default of every key.
    pub(super) defaults: Dict,
    /// The same with one example block in every list; it shows which keys a block has.
    pub(super) example: Dict,
}

/// Whether a name stands for a section (or a list of blocks) or for a single value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Section,
    Value,
}

impl Schema {
    /// Reads the keys off the settings types.
    pub(super) fn new() -> Result<Self, SettingsError> {
        let defaults = Settings::default();
        let mut example = defaults.clone();
        example.cluster.peers.push(Peer {
            id: 2,
            address: "127.0.0.1:7081".to_owned(),
        });
        Ok(Self {
            defaults: to_dict(&defaults)?,
            example: to_dict(&example)?,
        })
    }

    /// Every key that has a default, sorted; a list counts as one key.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        collect_values(&self.defaults, "", &mut |key, _| keys.push(key));
        keys
    }

    /// The default of a key as TOML writes it; none for keys of a block.
    pub(super) fn default_text(&self, key: &str) -> Option<String> {
        value_at(&self.defaults, key).map(|value| tree::to_toml(value).to_string())
    }

    /// The known name of the given sort that is written most like `key`.
    pub(super) fn nearest(&self, key: &str, sort: Sort) -> String {
        self.nearest_of(key, |_, known| known == sort)
    }

    /// The admitted name that is written most like `key`. The last part counts more than the section,
    /// so that a key in the wrong section finds its right one; of several, the section decides.
    pub(super) fn nearest_of(&self, key: &str, admits: impl Fn(&str, Sort) -> bool) -> String {
        let key = without_numbers(key);
        let (section, name) = split(&key);
        let mut names = Vec::new();
        collect_names(&self.example, "", &mut names);
        names
            .into_iter()
            .filter(|(known, sort)| admits(known, *sort))
            .map(|(known, _)| known)
            .min_by_key(|known| {
                let (known_section, known_name) = split(known);
                let section_distance = strsim::osa_distance(section, known_section);
                let distance = 2 * strsim::osa_distance(name, known_name) + section_distance.min(4);
                (distance, section_distance)
            })
            .unwrap_or_default()
    }
}

/// The variable that overrides a key: `http.listen` becomes `PHALANX__HTTP__LISTEN`.
pub(super) fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// The value of a dotted key.
pub(super) fn value_at<'a>(dict: &'a Dict, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => dict.get(key),
        Some((section, rest)) => value_at(dict.get(section)?.as_dict()?, rest),
    }
}

/// Calls `visit` with every dotted key and its value, sorted; a list counts as one value.
pub(super) fn collect_values<'a>(
    dict: &'a Dict,
    path: &str,
    visit: &mut dyn FnMut(String, &'a Value),
) {
    for (name, value) in dict {
        let key = join(path, name);
        match value.as_dict() {
            Some(section) => collect_values(section, &key, visit),
            None => visit(key, value),
        }
    }
}

/// A key within a section; the root has the empty name.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

/// The settings as nested values.
pub(super) fn to_dict(settings: &Settings) -> Result<Dict, SettingsError> {
    Value::serialize(settings)
        .map_err(|error| SettingsError::BrokenDefaults(Box::new(error)))
        .map(|value| value.into_dict().unwrap_or_default())
}

fn collect_names(dict: &Dict, path: &str, names: &mut Vec<(String, Sort)>) {
    for (name, value) in dict {
        let key = join(path, name);
        match value {
            Value::Dict(_, section) => {
                collect_names(section, &key, names);
                names.push((key, Sort::Section));
            }
            Value::Array(_, blocks) => {
                let sort = match blocks.first() {
                    Some(Value::Dict(_, block)) => {
                        collect_names(block, &format!("{key}[]"), names);
                        Sort::Section
                    }
                    Some(_) => Sort::Value,
                    None => Sort::Section,
                };
                names.push((key, sort));
            }
            Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..) => {
                names.push((key, Sort::Value));
            }
        }
    }
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

/// `cluster.peers[12].id` becomes `cluster.peers[].id`.
fn without_numbers(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    let mut inside = false;
    for letter in key.chars() {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            _ if inside => continue,
            _ => {}
        }
        text.push(letter);
    }
    text
}
