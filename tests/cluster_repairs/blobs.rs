//! The rows of the log in a node's blob files, and flipping a bit in one.
//!
//! A blob file has a header of 30 bytes, then records, then a footer of 32 bytes. A record has a header
//! of 32 bytes, which begins with the lengths of its key and value, then key and value.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

const FILE_HEADER: usize = 30;
const FILE_FOOTER: usize = 32;
const RECORD_HEADER: usize = 32;

/// A row of the log as it lies in a file.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) shard: u32,
    pub(crate) index: u64,
    pub(crate) slot: u32,
    file: PathBuf,
    value: Range<usize>,
    bytes: Vec<u8>,
}

impl Row {
    /// Whether these words occur in it.
    pub(crate) fn mentions(&self, words: &str) -> bool {
        let windows = self.bytes.windows(words.len());
        windows.into_iter().any(|found| found == words.as_bytes())
    }
}

/// All rows of a data directory that lie in blob files.
pub(crate) fn rows(data_dir: &Path) -> Vec<Row> {
    let files = fs::read_dir(data_dir.join("db")).expect("a database is there");
    let files = files.map(|file| file.expect("a directory can be read").path());
    let blobs = files.filter(|file| file.extension().is_some_and(|end| end == "blob"));
    let rows: Vec<Row> = blobs.flat_map(|file| rows_of(&file)).collect();
    assert!(!rows.is_empty(), "no rows are in blob files");
    rows
}

fn rows_of(file: &Path) -> Vec<Row> {
    let bytes = fs::read(file).expect("a file can be read");
    let mut found = Vec::new();
    let mut at = FILE_HEADER;
    while at + RECORD_HEADER + FILE_FOOTER <= bytes.len() {
        let length = |from: usize| {
            let word = bytes[from..from + 8].try_into().expect("eight bytes");
            usize::try_from(u64::from_le_bytes(word)).expect("fits")
        };
        let key = at + RECORD_HEADER..at + RECORD_HEADER + length(at);
        let value = key.end..key.end + length(at + 8);
        assert!(
            value.end <= bytes.len(),
            "{}: not a blob file",
            file.display()
        );
        let packed = u128::from_be_bytes(bytes[key].try_into().expect("a key of the log"));
        at = value.end;
        found.push(Row {
            shard: u32::try_from(packed >> 96).expect("32 bits"),
            index: u64::try_from((packed >> 32) & u128::from(u64::MAX)).expect("64 bits"),
            slot: u32::try_from(packed & u128::from(u32::MAX)).expect("32 bits"),
            file: file.to_owned(),
            bytes: bytes[value.clone()].to_vec(),
            value,
        });
    }
    found
}

/// Flips a bit in the middle of a row, as it lies on disk; the node may run.
pub(crate) fn damage(row: &Row) {
    use std::os::unix::fs::FileExt as _;
    let at = row.value.start + row.value.len() / 2;
    let flipped = row.bytes[row.value.len() / 2] ^ 0x04;
    let file = fs::File::options().write(true).open(&row.file);
    let file = file.expect("a file can be opened");
    file.write_all_at(&[flipped], u64::try_from(at).expect("fits"))
        .expect("a byte can be written");
}
