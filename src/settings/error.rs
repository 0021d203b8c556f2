//! Why settings were refused, with every problem at once.
//!
//! Invariant: each message names the key, the place (file and line, or variable) and what to do,
//! because it is read by someone whose node does not start.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::origin::Origin;

/// Why no settings could be made; the process exits with code 2.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file that was named is not there.
    #[error(
        "{path}: there is no such file; \
         name an existing one, or start without a file to use the embedded defaults",
        path = .path.display()
    )]
    Missing {
        /// The file as it was named.
        path: PathBuf,
    },
    /// The file is there but cannot be read as text.
    #[error("{path}: the file cannot be read: {source}", path = .path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error(
        "{path}:{line}:{column}: not valid TOML{at}: {message}",
        path = .path.display(),
        at = .key.as_ref().map(|key| format!(" at `{key}`")).unwrap_or_default(),
    )]
    Syntax {
        /// The file as it was named.
        path: PathBuf,
        /// Line of the first mistake, from 1.
        line: usize,
        /// Column of the first mistake in characters, from 1.
        column: usize,
        /// The key that is set in this line, if one is.
        key: Option<String>,
        /// What the parser expected.
        message: String,
    },
    /// Keys are unknown or values are not allowed; all of them, not the first alone.
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
    /// The embedded defaults do not fit their own types: a defect of this program.
    #[error("the embedded defaults are broken, please report this defect: {0}")]
    BrokenDefaults(#[source] Box<figment::Error>),
}

impl SettingsError {
    /// The single problems, or none when the file could not be read at all.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => problems,
            Self::Missing { .. }
            | Self::Unreadable { .. }
            | Self::Syntax { .. }
            | Self::BrokenDefaults(_) => &[],
        }
    }
}

/// One key that is unknown or has a value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key with its section, such as `http.listen` or `cluster.peers[1].address`.
    pub key: String,
    /// Where it was set.
    pub origin: Origin,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemKind {
    /// No such key.
    UnknownKey {
        /// The known key that is written most like it.
        nearest: String,
    },
    /// No such variable.
    UnknownVariable {
        /// The known variable that is written most like it.
        nearest: String,
    },
    /// A section was expected and a value found, or the other way round.
    WrongShape {
        /// What belongs here.
        expected: &'static str,
    },
    /// A block lacks a key that has no default.
    MissingKey,
    /// The value has the wrong type or form.
    BadValue {
        /// The value as it was given.
        found: String,
        /// Why it does not fit.
        reason: String,
        /// The default as an example of the right form, if there is one.
        default: Option<String>,
    },
    /// The value has the right form but breaks a rule.
    BrokenRule {
        /// The rule and the values that break it.
        rule: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, kind } = self;
        match kind {
            ProblemKind::UnknownKey { nearest } => {
                write!(
                    f,
                    "{origin}: unknown key `{key}`; the nearest known key is `{nearest}`"
                )
            }
            ProblemKind::UnknownVariable { nearest } => {
                write!(
                    f,
                    "{origin}: names no key; the nearest known one is {nearest} for `{key}`"
                )
            }
            ProblemKind::WrongShape { expected } => {
                write!(f, "{origin}: `{key}` must be {expected}")
            }
            ProblemKind::MissingKey => write!(f, "{origin}: `{key}` is missing and has no default"),
            ProblemKind::BadValue {
                found,
                reason,
                default,
            } => {
                write!(f, "{origin}: bad value {found} for `{key}`: {reason}")?;
                match default {
                    Some(default) => write!(f, " (the default is {default})"),
                    None => Ok(()),
                }
            }
            ProblemKind::BrokenRule { rule } => write!(f, "{origin}: {rule}"),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "1 problem in the settings".to_owned(),
        count => format!("{count} problems in the settings"),
    };
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}
