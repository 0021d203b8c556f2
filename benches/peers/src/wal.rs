//! The peer that only appends: one log file, grown ahead in steps, one fdatasync a group.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::group_commit::{Disk, GroupCommit};

/// The file grows by this much at a time, so that an append does not change its length.
const STEP_BYTES: u64 = 64 * 1024 * 1024;

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
    let wal = Wal {
        file,
        end: 0,
        allocated: 0,
        buffer: Vec::new(),
    };
    Ok(GroupCommit::start(wal)?)
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
        if end > self.allocated {
            self.allocated = end.next_multiple_of(STEP_BYTES);
            let keep = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&self.file, keep, 0, self.allocated)?;
            self.file.sync_all()?;
        }
        self.file.write_all_at(&self.buffer, self.end)?;
        self.end = end;
        self.file.sync_data()
    }
}
