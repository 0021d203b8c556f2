//! The settings of a node, and the files that they name.
//!
//! Owns what `serve` and `check-config` refuse alike. Invariant: a file that cannot be used is
//! reported as a wrong value is, with its key and where that was set, and all of them at once.

use std::path::Path;

use crate::cluster::tls::TlsFiles;
use crate::settings::{LoadedSettings, Settings, SettingsError};

/// Loads the settings and looks whether the files of certificates can be used.
pub(super) fn load(file: Option<&Path>) -> Result<LoadedSettings, SettingsError> {
    let loaded = Settings::load(file)?;
    let files = TlsFiles::of(&loaded.settings.transport.tls);
    let found = files.map(|files| files.problems()).unwrap_or_default();
    loaded.refuse_for(found.iter().map(|error| (error.key(), error.to_string())))?;
    Ok(loaded)
}
