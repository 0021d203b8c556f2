//! The command line: its commands, its help and its exit codes.
//!
//! Owns the way from arguments to a call and back to an exit code. Refuses to know how a node runs:
//! it is handed in, so that a program with aggregates of its own has the same command line. A
//! further command is one variant of `Command`, one module and one arm in [`run`].
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments or settings; `entity` has 3 as well, for what there
//! is not. Invariant: results go to standard
//! output and messages to standard error; a reader that went away is no error.

pub(crate) mod ask;
mod check_config;
mod cluster;
mod completions;
mod entity;
mod output;
mod projections;
mod serve;
mod settings;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::node::NodeBuilder;
use crate::settings::Settings;

/// Exit code for arguments or settings that cannot be used.
const EXIT_UNUSABLE: u8 = 2;

const LONG_VERSION: &str = match (cfg!(debug_assertions), cfg!(feature = "failpoints")) {
    (false, false) => concat!(env!("CARGO_PKG_VERSION"), " (release build)"),
    (false, true) => concat!(
        env!("CARGO_PKG_VERSION"),
        " (release build with failpoints)"
    ),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (debug build)"),
    (true, true) => concat!(env!("CARGO_PKG_VERSION"), " (debug build with failpoints)"),
};

/// A clustered, in-memory command model with an HTTP interface.
#[derive(Debug, Parser)]
#[command(
    name = "phalanx",
    version,
    long_version = LONG_VERSION,
    arg_required_else_help = true,
    after_help = "Every setting can be overridden by a variable: \
                  PHALANX__HTTP__LISTEN sets http.listen."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or Ctrl-C
    Serve(serve::Arguments),
    /// Check the settings and print every key, its value and where it came from
    CheckConfig(check_config::Arguments),
    /// Find out whether this build understands a data directory as the one did that wrote it
    Verify(verify::Arguments),
    /// Ask a running node about its cluster
    Cluster(cluster::Arguments),
    /// Ask a running node about its projections, or operate them
    Projections(projections::Arguments),
    /// Ask a running node about one aggregate: its state, its history, what would have been
    Entity(entity::Arguments),
    /// Drive a server with commands and fresh reads, and measure it
    Bench(Box<crate::bench::Args>),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// Runs the command that the arguments name. The first argument is the name of the program.
///
/// `node` tells what the node consists of: `serve` runs it, `verify` reads a journal with its types.
pub fn run<I, T>(arguments: I, node: impl FnOnce() -> NodeBuilder) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    run_with(arguments, node, NodeBuilder::run)
}

/// The same; `serve` runs a node with valid settings, the log being set up, and returns the exit code
/// of the process.
fn run_with<I, T>(
    arguments: I,
    node: impl FnOnce() -> NodeBuilder,
    serve: impl FnOnce(NodeBuilder, Settings) -> ExitCode,
) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => return output::answer(&answer),
    };
    match cli.command {
        Command::Serve(arguments) => arguments.run(|settings| serve(node(), settings)),
        Command::CheckConfig(arguments) => arguments.run(),
        Command::Verify(arguments) => arguments.run(node()),
        Command::Cluster(arguments) => arguments.run(),
        Command::Projections(arguments) => arguments.run(),
        Command::Entity(arguments) => arguments.run(),
        Command::Bench(arguments) => crate::bench::run(*arguments),
        Command::Completions(arguments) => arguments.run::<Cli>(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_gets_the_settings_and_decides_the_exit_code() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.toml");
        std::fs::write(&file, "[node]\nid = 7\n").unwrap();
        let mut seen = None;

        let code = run_with(
            ["phalanx", "serve", "--config", file.to_str().unwrap()],
            NodeBuilder::default,
            |_, settings| {
                seen = Some(settings.node.id);
                ExitCode::from(9)
            },
        );

        assert_eq!(seen, Some(7));
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(9)));
    }
}
