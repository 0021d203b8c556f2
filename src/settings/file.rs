//! Reads a settings file and keeps the line of every key.
//!
//! Refuses to know which keys exist. Invariant: lines and columns count from 1, columns in
//! characters, as editors do.

use std::fs;
use std::io;
use std::path::Path;

use toml_edit::Document;

use super::error::SettingsError;
use super::origin::Origin;
use super::tree::{self, Node, Tree};

/// The entries of the root of a file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Tree)>, SettingsError> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SettingsError::Missing {
            path: path.to_owned(),
        },
        _ => SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        },
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<(String, Tree)>, SettingsError> {
    let document = Document::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(text.len(), |span| span.start));
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        SettingsError::Syntax {
            path: path.to_owned(),
            line,
            column,
            message,
        }
    })?;
    let place = |byte: usize| Origin::File {
        path: path.to_owned(),
        line: position(text, byte).0,
    };
    let root = tree::from_item(document.as_item(), place(0), &place);
    match root.node {
        Node::Section(entries) => Ok(entries),
        Node::Leaf(_) | Node::List(_) => Ok(Vec::new()),
    }
}

/// Line and column of a byte of the text, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
    (line, column)
}
