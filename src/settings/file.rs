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
use super::schema;
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
            key: key_in(text, line),
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

/// The key that a line sets, with its section, as far as that can be told of a file that is no TOML.
fn key_in(text: &str, line: usize) -> Option<String> {
    let is_key = |name: &str| {
        let in_key = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        !name.is_empty() && name.chars().all(in_key)
    };
    let mut lines = text
        .lines()
        .take(line)
        .collect::<Vec<_>>()
        .into_iter()
        .rev();
    let (name, _) = lines.next()?.split_once('=')?;
    let name = Some(name.trim()).filter(|name| is_key(name))?;
    let section = lines
        .filter_map(|line| line.trim_start().strip_prefix('['))
        .filter_map(|header| header.trim_start_matches('[').split(']').next())
        .map(str::trim)
        .find(|section| is_key(section));
    Some(schema::join(section.unwrap_or_default(), name))
}
