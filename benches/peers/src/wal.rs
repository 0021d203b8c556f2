//! The peer that only appends: one log file, one fdatasync a group.
//!
//! The file is filled with zeros ahead of the appends. Blocks that were never written cost a
//! journal entry of the file system at their first fdatasync, which a floor should not pay.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::group_commit::{Disk, GroupCommit};

/// The file grows by this much at a time: more than a measurement writes, so that none pays for it.
const STEP_BYTES: u64 = 256 * 1024 * 1024;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A log file.
#[derive(Debug)]
struct Wal {
    file: File,
    end: u64,
    allocated: u64,
    buffer: Vec<u8>,
}

/// Opens a log in an empty directory.
pub(crate) fn open(data_dir: &Path) -> Result<GroupCommit, Box<dyn std::error::Error>> {
    std::fs::create_dir_all(data_dir)?;
    let path = data_dir.join("events.wal");
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut wal = Wal {
        file,
        end: 0,
        allocated: 0,
        buffer: Vec::new(),
    };
    wal.grow()?;
    Ok(GroupCommit::start(wal)?)
}

impl Wal {
    /// Fills the next step with zeros.
    fn grow(&mut self) -> io::Result<()> {
        let target = self.allocated + STEP_BYTES;
        while self.allocated < target {
            self.file.write_all_at(&ZEROS, self.allocated)?;
            self.allocated += ZEROS.len() as u64;
        }
        self.file.sync_all()
    }
}

impl Disk for Wal {
    fn commit(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        self.buffer.clear();
        for record in records {
            let length = u32::try_from(record.len()).map_err(io::Error::other)?;
            self.buffer.extend_from_slice(&length.to_le_bytes());
            self.buffer.extend_from_slice(record);
        }
        let end = self.end + self.buffer.len() as u64;
        while end > self.allocated {
            self.grow()?;
        }
        self.file.write_all_at(&self.buffer, self.end)?;
        self.end = end;
        self.file.sync_data()
    }
}
