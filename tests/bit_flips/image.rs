//! Places in a data directory, and copies of it with one bit changed.
//!
//! Invariant: the original is only read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand::rngs::StdRng;

/// A bit of a file.
#[derive(Debug, Clone)]
pub(crate) struct Flip {
    /// What sort of file it is, such as `.sst`.
    pub(crate) kind: String,
    /// The file, relative to the data directory.
    pub(crate) file: PathBuf,
    pub(crate) byte: usize,
    pub(crate) bit: u8,
}

impl Flip {
    /// The file's own name.
    pub(crate) fn file_name(&self) -> String {
        file_name(&self.file)
    }

    /// Whether the file holds read models.
    pub(crate) fn is_of_views(&self) -> bool {
        self.kind.starts_with(".sqlite")
    }
}

fn file_name(file: &Path) -> String {
    file.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Bits spread evenly over the kinds of files, and evenly within a kind.
pub(crate) fn places(data_dir: &Path, count: usize, rng: &mut StdRng) -> Vec<Flip> {
    let mut kinds: BTreeMap<String, Vec<(PathBuf, usize)>> = BTreeMap::new();
    for file in files(data_dir) {
        let length = fs::metadata(data_dir.join(&file))
            .expect("a file has a length")
            .len();
        if length > 0 {
            let length = usize::try_from(length).expect("fits");
            kinds
                .entry(kind_of(&file))
                .or_default()
                .push((file, length));
        }
    }
    assert!(
        kinds.contains_key(".sst"),
        "no table was written: {:?}",
        kinds.keys()
    );
    assert!(
        kinds.contains_key(".log"),
        "no log was written: {:?}",
        kinds.keys()
    );
    assert!(
        kinds.contains_key(".sqlite") && kinds.contains_key(".sqlite-wal"),
        "no read models were written: {:?}",
        kinds.keys()
    );
    kinds
        .iter()
        .cycle()
        .take(count)
        .map(|(kind, files)| one_of(kind, files, rng))
        .collect()
}

/// A bit of one of these files, each bit equally likely.
fn one_of(kind: &str, files: &[(PathBuf, usize)], rng: &mut StdRng) -> Flip {
    let total = files.iter().map(|(_, length)| length).sum();
    let mut byte = rng.random_range(0..total);
    let mut chosen = &files[0].0;
    for (file, length) in files {
        chosen = file;
        if byte < *length {
            break;
        }
        byte -= length;
    }
    Flip {
        kind: kind.to_owned(),
        file: chosen.clone(),
        byte,
        bit: rng.random_range(0..8),
    }
}

/// The extension, or the name without its numbers.
fn kind_of(file: &Path) -> String {
    if file_name(file).starts_with("LOG") {
        return "LOG".to_owned();
    }
    match file.extension() {
        Some(extension) => format!(".{}", extension.to_string_lossy()),
        None => file_name(file)
            .trim_end_matches(|c: char| c.is_ascii_digit() || c == '-')
            .to_owned(),
    }
}

/// All files below a directory, relative to it, in a fixed order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        for entry in fs::read_dir(directory.join(&relative)).expect("a directory can be read") {
            let entry = entry.expect("a directory can be read");
            let path = relative.join(entry.file_name());
            if entry.file_type().expect("a file has a type").is_dir() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Copies a data directory and flips a bit in the copy.
pub(crate) fn copy_with_flip(original: &Path, copy: &Path, flip: Option<&Flip>) {
    for file in files(original) {
        let target = copy.join(&file);
        fs::create_dir_all(target.parent().expect("a file lies in a directory"))
            .expect("a directory can be made");
        let mut bytes = fs::read(original.join(&file)).expect("a file can be read");
        if let Some(flip) = flip.filter(|flip| flip.file == file) {
            bytes[flip.byte] ^= 1 << flip.bit;
        }
        fs::write(target, bytes).expect("a file can be written");
    }
}
