//! Where a value came from, in the words that a message shows.

use std::fmt;
use std::path::PathBuf;

/// Where the value of one key came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The embedded default: neither the file nor the environment names the key.
    Default,
    /// A line of the settings file.
    File {
        /// The file as it was named by the caller.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its full name, such as `PHALANX__HTTP__LISTEN`.
        variable: String,
    },
    /// A program that built the settings itself.
    Program,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Program => f.write_str("program"),
        }
    }
}
