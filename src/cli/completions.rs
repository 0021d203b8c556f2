//! `phalanx completions SHELL`: a script on standard output.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell that will read the script
    shell: Shell,
}

impl Arguments {
    pub(super) fn run<C: CommandFactory>(self) -> ExitCode {
        let mut command = C::command();
        let name = command.get_name().to_owned();
        // Into memory first: the generator panics when its output is closed.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        output::result(&script)
    }
}
