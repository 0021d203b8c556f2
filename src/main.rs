//! The program `phalanx`: the command line around a node.

use std::process::ExitCode;

fn main() -> ExitCode {
    phalanx::cli::run(std::env::args_os(), |settings| {
        tracing::error!(node = settings.node.id, "this build has no node to run");
        ExitCode::FAILURE
    })
}
