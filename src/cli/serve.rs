//! `phalanx serve`: settings and log first, then the node.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{output, settings};
use crate::failpoints;
use crate::settings::Settings;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Settings file in TOML; without it the embedded defaults hold
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self, serve: impl FnOnce(Settings) -> ExitCode) -> ExitCode {
        let _armed = match failpoints::arm() {
            Ok(armed) => armed,
            Err(error) => return output::unusable(&error),
        };
        let loaded = match settings::load(self.config.as_deref()) {
            Ok(loaded) => loaded,
            Err(error) => return output::unusable(&error),
        };
        if let Err(error) = telemetry::init(&loaded.settings.log) {
            return output::failed(&error);
        }
        serve(loaded.settings)
    }
}
