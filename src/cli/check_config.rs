//! `phalanx check-config FILE`: what a node would run with, and why.
//!
//! Refuses to open the data directory or a socket; the files of certificates it does read. Invariant:
//! the plain output is itself valid TOML with the same values, so that it can be kept, compared and
//! used.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{output, settings};
use crate::cluster::tls::{Tls, TlsFiles};
use crate::settings::{LoadedSettings, Origin, Settings, SettingsError};

/// Width up to which origins are aligned; one long list must not push them all away.
const MOST_ALIGNED: usize = 60;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Settings file in TOML; without it the embedded defaults and the environment are shown
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> ExitCode {
        match load(self.file.as_deref()) {
            Ok(loaded) if self.json => {
                output::result(format!("{:#}\n", as_json(self.file.as_deref(), &loaded)).as_bytes())
            }
            Ok(loaded) => output::result(as_lines(&loaded).as_bytes()),
            Err(error) => output::unusable(&error),
        }
    }
}

/// What `serve` would take, and besides what the other members would refuse of it.
fn load(file: Option<&Path>) -> Result<LoadedSettings, SettingsError> {
    let loaded = settings::load(file)?;
    let Settings {
        node,
        cluster,
        transport,
        ..
    } = &loaded.settings;
    let refused = TlsFiles::of(&transport.tls)
        .and_then(|files| Tls::check(node.id, &cluster.name, &files).err());
    loaded.refuse_for(refused.map(|error| (error.key(), error.to_string())))?;
    Ok(loaded)
}

fn as_lines(loaded: &LoadedSettings) -> String {
    let entries = loaded.entries();
    let settings: Vec<(String, &Origin)> = entries
        .iter()
        .map(|entry| (format!("{} = {}", entry.key, entry.toml()), &entry.origin))
        .collect();
    let width = settings
        .iter()
        .map(|(text, _)| text.chars().count())
        .max()
        .unwrap_or(0)
        .min(MOST_ALIGNED);
    settings
        .iter()
        .map(|(text, origin)| format!("{text:width$}  # {origin}\n"))
        .collect()
}

fn as_json(file: Option<&Path>, loaded: &LoadedSettings) -> Value {
    let keys: Vec<Value> = loaded
        .entries()
        .into_iter()
        .map(|entry| {
            let origin = origin_as_json(&entry.origin);
            json!({ "key": entry.key, "value": entry.value, "origin": origin })
        })
        .collect();
    json!({ "file": file.map(|path| path.display().to_string()), "keys": keys })
}

fn origin_as_json(origin: &Origin) -> Value {
    match origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::File { path, line } => {
            json!({ "kind": "file", "path": path.display().to_string(), "line": line })
        }
        Origin::Environment { variable } => json!({ "kind": "environment", "variable": variable }),
        Origin::Program => json!({ "kind": "program" }),
    }
}
