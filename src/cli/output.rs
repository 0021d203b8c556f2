//! Writing results and messages without a panic, whatever the other end does.
//!
//! Invariant: a closed pipe ends the command quietly, as in `phalanx check-config | head -1`.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::EXIT_UNUSABLE;

/// Writes a result to standard output.
pub(super) fn result(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Reports arguments or settings that cannot be used.
pub(super) fn unusable(error: &dyn Display) -> ExitCode {
    message(error);
    ExitCode::from(EXIT_UNUSABLE)
}

/// Reports that what was asked for is not there.
pub(super) fn absent(error: &dyn Display, code: u8) -> ExitCode {
    message(error);
    ExitCode::from(code)
}

/// Reports a failure that is not about arguments or settings.
pub(super) fn failed(error: &dyn Display) -> ExitCode {
    message(error);
    ExitCode::FAILURE
}

/// Prints the help, the version or a complaint of the parser.
pub(super) fn answer(answer: &clap::Error) -> ExitCode {
    match answer.print() {
        Ok(()) => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(EXIT_UNUSABLE)),
        Err(error) => finish(Err(error)),
    }
}

/// The text with its control characters escaped: what others wrote must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    let escaped = |character: char| -> Vec<char> {
        if character.is_control() {
            character.escape_default().collect()
        } else {
            vec![character]
        }
    };
    text.chars().flat_map(escaped).collect()
}

fn finish(written: io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&format_args!("standard output cannot be written: {error}")),
    }
}

fn message(text: &dyn Display) {
    // When standard error is closed as well, there is nobody left to tell; the exit code says it.
    writeln!(io::stderr().lock(), "phalanx: {text}").ok();
}
