//! Names the file behind a damaged database, where RocksDB's own message does not.
//!
//! Owns: reading the frame of RocksDB's log files (write-ahead logs and manifests share it):
//! blocks of 32 KiB, in them records of `masked crc32c u32, length u16, type u8, payload`. Refuses:
//! to repair. Invariant: only reads.

use std::fs;
use std::path::{Path, PathBuf};

/// Frames do not cross the end of a block.
const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Records of recycled files carry the file's number as well. We write none, but a flipped bit in
/// the type must not be mistaken for the end.
const ZERO_TYPE: u8 = 0;

/// The database file that a message names.
pub(crate) fn named_file(message: &str) -> Option<String> {
    let separators = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '-');
    let known = |name: &&str| {
        let numbered = |name: &str, end: &str| {
            let digits = name.strip_suffix(end);
            digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
        };
        [".log", ".sst", ".blob"]
            .iter()
            .any(|end| numbered(name, end))
            || name.starts_with("MANIFEST-")
            || *name == "CURRENT"
    };
    let named = message
        .split(separators)
        .map(|word| word.trim_end_matches('.'));
    named.into_iter().find(known).map(str::to_owned)
}

/// The manifest, when its frames do not check out. RocksDB reads some damaged manifests for ever, so
/// this must be known before it opens them.
pub(crate) fn damaged_manifest(dir: &Path) -> Option<PathBuf> {
    let manifest = manifest(dir)?;
    let damaged = fs::read(&manifest).is_ok_and(|bytes| first_bad_frame(&bytes).is_some());
    damaged.then_some(manifest)
}

/// The manifest that CURRENT names, if there is one.
fn manifest(dir: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(dir.join("CURRENT")).ok()?;
    let path = dir.join(name.strip_suffix('\n')?);
    path.is_file().then_some(path)
}

/// The first log file of a database directory whose frames do not check out.
pub(crate) fn first_damaged(dir: &Path) -> Option<PathBuf> {
    let Some(manifest) = manifest(dir) else {
        return Some(dir.join("CURRENT"));
    };
    let mut files = vec![manifest];
    let mut logs: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    logs.sort();
    files.append(&mut logs);
    files
        .into_iter()
        .find(|path| fs::read(path).is_ok_and(|bytes| first_bad_frame(&bytes).is_some()))
}

/// Offset of the first frame whose checksum does not fit. A frame that the end of the file cuts is
/// not damage: it was never acknowledged.
pub(crate) fn first_bad_frame(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < bytes.len() {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            at += left;
            continue;
        }
        let frame = bytes.get(at..)?;
        let (header, rest) = frame.split_first_chunk::<HEADER_BYTES>()?;
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        if kind == ZERO_TYPE && length == 0 {
            at += left;
            continue;
        }
        if length > left - HEADER_BYTES {
            return Some(at);
        }
        let payload = rest.get(..length)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        if masked(crc) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Some(at);
        }
        at += HEADER_BYTES + length;
    }
    None
}

/// How RocksDB stores a checksum, so that a checksum over stored checksums stays sound.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let crc = masked(crc32c::crc32c_append(crc32c::crc32c(&[1]), payload));
        let length = u16::try_from(payload.len()).unwrap();
        let mut out = crc.to_le_bytes().to_vec();
        out.extend_from_slice(&length.to_le_bytes());
        out.push(1);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_flipped_bit_is_located_and_a_cut_is_not_damage() {
        let mut log = [frame(b"one"), frame(b"two"), frame(b"three")].concat();
        assert_eq!(first_bad_frame(&log), None);
        for cut in 0..log.len() {
            assert_eq!(first_bad_frame(&log[..cut]), None, "cut at {cut}");
        }
        log[18] ^= 4;
        assert_eq!(first_bad_frame(&log), Some(10));
    }

    #[test]
    fn files_are_found_in_messages() {
        let sst = "Corruption: block checksum mismatch in /d/db/000031.sst offset 5";
        assert_eq!(named_file(sst).as_deref(), Some("000031.sst"));
        assert_eq!(
            named_file("no such: MANIFEST-000004.").as_deref(),
            Some("MANIFEST-000004")
        );
        assert_eq!(named_file("Corruption: checksum mismatch"), None);
    }
}
