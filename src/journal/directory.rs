//! The data directory: who may use it, and whose it is.
//!
//! Owns: the lock file, the format file and the mark file's first bytes. Refuses: a directory in
//! use, one that belongs to another cluster, node or shard count, and one that holds data without a
//! format file. Invariant: the format file is the last thing that formatting writes, so a directory
//! has either no identity or a whole one.
//!
//! ```text
//! data_dir/lock      held while a process uses the directory; holds its process id
//! data_dir/format    identity, incarnation, format version
//! data_dir/mark      see `mark`
//! data_dir/db/       RocksDB
//! ```

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use phalanx_actors::codec::{self, CodecError, ValueType};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::mark::{self, Marks};
use super::types::{Identity, OpenError};

/// The newest format that this release reads, and the one that it writes.
const FORMAT_VERSION: u32 = 1;
const SCHEMA: u16 = 1;
const LOCK: &str = "lock";
const FORMAT: &str = "format";
const FORMAT_DRAFT: &str = "format.new";
const DATABASE: &str = "db";

/// What the format file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    version: u32,
    cluster_name: String,
    node_id: u64,
    shards: u32,
    incarnation: [u8; 16],
}

impl Format {
    /// Of a new directory.
    pub(crate) fn new(identity: &Identity, incarnation: Uuid) -> Self {
        Self {
            version: FORMAT_VERSION,
            cluster_name: identity.cluster_name.clone(),
            node_id: identity.node_id,
            shards: identity.shards,
            incarnation: incarnation.into_bytes(),
        }
    }

    /// Whose the directory is.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            cluster_name: self.cluster_name.clone(),
            node_id: self.node_id,
            shards: self.shards,
        }
    }

    pub(crate) fn incarnation(&self) -> Uuid {
        Uuid::from_bytes(self.incarnation)
    }

    #[cfg(test)]
    pub(crate) fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    pub(crate) fn seal(&self) -> Result<Vec<u8>, CodecError> {
        codec::seal(ValueType::Format, SCHEMA, self)
    }

    pub(crate) fn open(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::unseal(ValueType::Format, bytes)
    }

    /// Refuses settings that name somebody else.
    pub(crate) fn check(&self, identity: &Identity, data_dir: &Path) -> Result<(), OpenError> {
        let mismatch = |key, stored: String, configured: String| OpenError::Mismatch {
            key,
            stored,
            configured,
            data_dir: data_dir.to_owned(),
        };
        if self.version > FORMAT_VERSION {
            return Err(OpenError::Newer {
                file: data_dir.join(FORMAT),
                found: self.version,
                supported: FORMAT_VERSION,
            });
        }
        let pairs = [
            (
                "cluster.name",
                format!("{:?}", self.cluster_name),
                format!("{:?}", identity.cluster_name),
            ),
            (
                "node.id",
                self.node_id.to_string(),
                identity.node_id.to_string(),
            ),
            (
                "cluster.shards",
                self.shards.to_string(),
                identity.shards.to_string(),
            ),
        ];
        for (key, stored, configured) in pairs {
            if stored != configured {
                return Err(mismatch(key, stored, configured));
            }
        }
        Ok(())
    }
}

/// A data directory in use. Dropping it gives it free.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
    pub(crate) format: Format,
    pub(crate) marks: Marks,
}

impl Directory {
    /// Takes a directory, and formats it when it is new.
    pub(crate) fn open(path: &Path, identity: &Identity) -> Result<Self, OpenError> {
        fs::create_dir_all(path).map_err(|error| io(path, error))?;
        let lock = lock(path)?;
        let format = match fs::read(path.join(FORMAT)) {
            Ok(bytes) => Format::open(&bytes)
                .map_err(|error| damaged(&path.join(FORMAT), identity, &error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => format(path, identity)?,
            Err(error) => return Err(io(&path.join(FORMAT), error)),
        };
        format.check(identity, path)?;
        let file = path.join(mark::FILE_NAME);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(&file, error)),
        };
        let marks = mark::load(mark::split(&bytes, identity.shards), identity.shards)
            .map_err(|error| damaged(&file, identity, &error))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            format,
            marks,
        })
    }

    /// Takes a directory to read it, whoever's it is. Changes nothing in it; as long as it is taken, no
    /// node can use it.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        let bytes = fs::read(path.join(FORMAT)).map_err(|error| io(&path.join(FORMAT), error))?;
        let lock_path = path.join(LOCK);
        let mut lock = File::open(&lock_path).map_err(|error| io(&lock_path, error))?;
        take(
            path,
            lock_path,
            &mut lock,
            FlockOperation::NonBlockingLockShared,
        )?;
        let nobody = Identity {
            cluster_name: String::new(),
            node_id: 0,
            shards: 0,
        };
        let format = Format::open(&bytes);
        let format = format.map_err(|error| damaged(&path.join(FORMAT), &nobody, &error))?;
        let identity = format.identity();
        format.check(&identity, path)?;
        let file = path.join(mark::FILE_NAME);
        let bytes = fs::read(&file).map_err(|error| io(&file, error))?;
        let marks = mark::load(mark::split(&bytes, identity.shards), identity.shards)
            .map_err(|error| damaged(&file, &identity, &error))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            format,
            marks,
        })
    }

    /// Opens the mark file for reading, which is all that can be done with it then.
    pub(crate) fn mark_file_read_only(&self) -> Result<File, OpenError> {
        let path = self.path.join(mark::FILE_NAME);
        File::open(&path).map_err(|error| io(&path, error))
    }

    /// Opens the mark file for writing.
    pub(crate) fn mark_file(&self) -> Result<File, OpenError> {
        let path = self.path.join(mark::FILE_NAME);
        let file = File::options().write(true).open(&path);
        file.map_err(|error| io(&path, error))
    }

    /// Where the database lies.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

/// Takes the lock file.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .clone();
    let mut file = options.open(&path).map_err(|error| io(&path, error))?;
    take(
        dir,
        path.clone(),
        &mut file,
        FlockOperation::NonBlockingLockExclusive,
    )?;
    file.set_len(0).map_err(|error| io(&path, error))?;
    writeln!(file, "{}", std::process::id()).map_err(|error| io(&path, error))?;
    Ok(file)
}

/// Locks the lock file, or says who has it.
fn take(dir: &Path, path: PathBuf, file: &mut File, how: FlockOperation) -> Result<(), OpenError> {
    match rustix::fs::flock(&*file, how) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The holder's number is a courtesy; the refusal stands without it.
            let holder = match file.read_to_string(&mut holder) {
                Ok(1..) if holder.trim().parse::<u32>().is_ok() => {
                    format!(", process {}", holder.trim())
                }
                _ => String::new(),
            };
            Err(OpenError::Locked {
                data_dir: dir.to_owned(),
                lock: path,
                holder,
            })
        }
        Err(error) => Err(io(&path, error.into())),
    }
}

/// Formats an empty directory.
fn format(dir: &Path, identity: &Identity) -> Result<Format, OpenError> {
    refuse_foreign(dir)?;
    let encode = |error: CodecError| OpenError::Io {
        path: dir.to_owned(),
        source: Arc::new(error),
    };
    let format = Format::new(identity, Uuid::new_v4());
    let marks = mark::initial_file(identity.shards).map_err(encode)?;
    write_synced(&dir.join(mark::FILE_NAME), &marks)?;
    let draft = dir.join(FORMAT_DRAFT);
    write_synced(&draft, &format.seal().map_err(encode)?)?;
    let target = dir.join(FORMAT);
    fs::rename(&draft, &target).map_err(|error| io(&target, error))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    for dir in [Some(dir), parent].into_iter().flatten() {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| io(dir, error))?;
    }
    Ok(format)
}

/// Only what an interrupted formatting leaves may be there.
fn refuse_foreign(dir: &Path) -> Result<(), OpenError> {
    let ours = [LOCK, mark::FILE_NAME, FORMAT_DRAFT, "lost+found"];
    for entry in fs::read_dir(dir).map_err(|error| io(dir, error))? {
        let name = entry.map_err(|error| io(dir, error))?.file_name();
        if !ours.iter().any(|ours| name == *ours) {
            return Err(OpenError::Foreign {
                data_dir: dir.to_owned(),
                found: format!("`{}`", name.display()),
            });
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| io(path, error))
}

fn io(path: &Path, error: std::io::Error) -> OpenError {
    OpenError::Io {
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

fn damaged(file: &Path, identity: &Identity, error: &CodecError) -> OpenError {
    OpenError::Damaged {
        file: file.to_owned(),
        shards: format!("0 to {}", identity.shards.saturating_sub(1)),
        reason: error.to_string(),
    }
}
