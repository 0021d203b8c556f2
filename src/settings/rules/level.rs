//! What may stand in `log.level`.
//!
//! Refuses a word that is neither a level nor a directive. The filter would take it for a module and
//! show nothing of all others, so that `warning` would silence a node. Invariant: what passes names
//! a level for every module that it names.

use tracing_subscriber::EnvFilter;

use super::Violation;

/// The levels, and the numbers that stand for them.
const LEVELS: [&str; 12] = [
    "off", "error", "warn", "info", "debug", "trace", "0", "1", "2", "3", "4", "5",
];

pub(super) fn check(level: &str, found: &mut Vec<Violation>) {
    let reason = match level.split(',').find(|directive| !names_a_level(directive)) {
        Some("") => "it names none".to_owned(),
        Some(word) => format!(
            "{word:?} is none of off, error, warn, info, debug, trace; for a module, write \
             module=level"
        ),
        None => match EnvFilter::try_new(level) {
            Ok(_) => return,
            Err(error) => error.to_string(),
        },
    };
    let rule = format!(
        "`log.level` = {level:?} is not a level or a list of directives such as \
         `info,phalanx::journal=debug`: {reason}"
    );
    found.push(Violation::new(&["log.level"], rule));
}

fn names_a_level(directive: &str) -> bool {
    directive.contains('=')
        || LEVELS
            .iter()
            .any(|level| level.eq_ignore_ascii_case(directive))
}
