//! Makes settings out of the embedded defaults, a file and the environment, in this order of
//! precedence.
//!
//! Refuses to stop at the first mistake: everything wrong is reported at once. Invariant: what is
//! returned keeps every rule, and each key has an origin.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};

use super::check::Layer;
use super::error::{Problem, ProblemKind, SettingsError};
use super::origin::Origin;
use super::rules::{self, Violation};
use super::schema::{self, SECRET, Schema};
use super::{Settings, environment, file, tree};
use crate::projection::StoreAddress;

/// Valid settings and where each of them came from.
#[derive(Debug, Clone)]
pub struct LoadedSettings {
    /// The settings; they keep every rule.
    pub settings: Settings,
    origins: BTreeMap<String, Origin>,
    values: Dict,
}

/// One key of [`LoadedSettings`], for a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key with its section, such as `http.listen`.
    pub key: String,
    /// The value; it serializes to any format.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

impl Entry {
    /// The value as the file would write it.
    #[must_use]
    pub fn toml(&self) -> String {
        tree::to_toml(&self.value).to_string()
    }
}

impl LoadedSettings {
    /// Where the value of a key came from; [`Origin::Default`] for a key that nothing set.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Refuses the settings for what only shows outside of them, such as a file that is named and not
    /// there: each key with what is wrong with it.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with every one of them; none is no error.
    pub fn refuse_for(
        &self,
        found: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<(), SettingsError> {
        let mut problems: Vec<Problem> = found
            .into_iter()
            .map(|(key, rule)| Violation::new(&[key], rule).into_problem(|key| self.origin(key)))
            .collect();
        in_order(&mut problems);
        refuse_if_any(problems)
    }

    /// Every key with its value and origin, sorted by key; a list is one entry.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        schema::collect_values(&self.values, "", &mut |key, value| {
            let origin = self.origin(&key);
            let value = value.clone();
            entries.push(Entry { key, value, origin });
        });
        entries
    }
}

impl Settings {
    /// Reads the file, if one is given, and the environment of this process over the embedded
    /// defaults.
    ///
    /// # Errors
    /// The file is missing, unreadable or not TOML; or [`SettingsError::Invalid`] with every
    /// unknown key, bad value and broken rule.
    pub fn load(path: Option<&Path>) -> Result<LoadedSettings, SettingsError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// The same as [`Settings::load`] with the given variables in place of those of the process.
    ///
    /// # Errors
    /// The same as [`Settings::load`].
    pub fn load_with(
        path: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<LoadedSettings, SettingsError> {
        let schema = Schema::new()?;
        let mut from_file = Layer::default();
        if let Some(path) = path {
            from_file.add(file::read(path)?, &schema);
        }
        let from_environment = environment::read(variables.into_iter(), &schema);
        merge(from_file, from_environment)
    }

    /// Checks the rules on settings that a program built itself; loaded settings have passed it.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with every broken rule.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let problems: Vec<Problem> = rules::violations(self)
            .into_iter()
            .map(|violation| violation.into_problem(|_| Origin::Program))
            .collect();
        refuse_if_any(problems)
    }
}

fn merge(file: Layer, environment: Layer) -> Result<LoadedSettings, SettingsError> {
    let settings: Settings = Figment::from(Serialized::defaults(Settings::default()))
        .merge(Serialized::defaults(file.values))
        .merge(Serialized::defaults(environment.values))
        .extract()
        .map_err(|error| SettingsError::BrokenDefaults(Box::new(error)))?;

    let mut origins = file.origins;
    for key in environment.origins.keys() {
        let block = format!("{key}[");
        origins.retain(|known, _| !known.starts_with(&block));
    }
    origins.extend(environment.origins);

    let refused: BTreeSet<String> = file
        .refused
        .into_iter()
        .chain(environment.refused)
        .collect();
    let mut problems = file.problems;
    problems.extend(environment.problems);
    let origin_of = |key: &str| origins.get(key).cloned().unwrap_or(Origin::Default);
    problems.extend(
        rules::violations(&settings)
            .into_iter()
            .filter(|violation| !violation.touches(&refused))
            .map(|violation| violation.into_problem(origin_of)),
    );
    in_order(&mut problems);
    refuse_if_any(problems)?;

    let mut values = schema::to_dict(&settings)?;
    hide(&mut values);
    Ok(LoadedSettings {
        settings,
        origins,
        values,
    })
}

/// What may hold a password is shown without it.
fn hide(values: &mut Dict) {
    let (section, name) = SECRET.split_once('.').unwrap_or_default();
    if let Some(Value::Dict(_, section)) = values.get_mut(section)
        && let Some(Value::String(_, text)) = section.get_mut(name)
    {
        *text = StoreAddress::shown(text);
    }
}

/// As they stand in the file, and those of elsewhere behind them.
fn in_order(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| match &problem.origin {
        Origin::File { line, .. } => (0, *line),
        Origin::Environment { .. } => (1, 0),
        Origin::Default | Origin::Program => (2, 0),
    });
}

fn refuse_if_any(problems: Vec<Problem>) -> Result<(), SettingsError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(SettingsError::Invalid(problems))
    }
}

impl Violation {
    /// A rule over several keys is reported at the first one that somebody set.
    fn into_problem(self, origin_of: impl Fn(&str) -> Origin) -> Problem {
        let set = self
            .keys
            .iter()
            .find(|key| origin_of(key) != Origin::Default);
        let key = set.or(self.keys.first()).cloned().unwrap_or_default();
        Problem {
            origin: origin_of(&key),
            key,
            kind: ProblemKind::BrokenRule { rule: self.rule },
        }
    }
}

#[cfg(test)]
mod tests;
