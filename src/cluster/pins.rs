//! Which incarnation each node id belongs to.
//!
//! The first contact with a node notes its incarnation in `data_dir/peers`, synced, before the
//! handshake succeeds. Owns that file. Refuses another incarnation under a known id, whatever the
//! reason: a raft voter that has lost its log may lose what it confirmed. Invariant: a pin never
//! changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use phalanx_actors::codec::{self, ValueType};
use uuid::Uuid;

use super::NodeId;

const FILE: &str = "peers";
const DRAFT: &str = "peers.new";
const SCHEMA: u16 = 1;

/// Why a node is not who it says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    /// The id belongs to another incarnation.
    #[error("known as {known}")]
    Other {
        /// Which one.
        known: Uuid,
    },
    /// The file could not be written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The pins of one data directory.
#[derive(Debug)]
pub(crate) struct Pins {
    dir: PathBuf,
    known: Mutex<BTreeMap<NodeId, [u8; 16]>>,
}

impl Pins {
    /// Reads the pins of a data directory, none when it is new.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let file = dir.join(FILE);
        let known = match fs::read(&file) {
            Ok(bytes) => codec::unseal(ValueType::Peers, &bytes).map_err(|error| {
                let text = format!("{} is damaged: {error}", file.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            dir: dir.to_owned(),
            known: Mutex::new(known),
        })
    }

    /// Whether a node is the one that is known by this id; an id that nobody had yet is taken.
    pub(crate) fn check(&self, node: NodeId, incarnation: Uuid) -> Result<(), PinError> {
        let mut known = self.known.lock();
        if let Some(pinned) = known.get(&node) {
            let pinned = Uuid::from_bytes(*pinned);
            return if pinned == incarnation {
                Ok(())
            } else {
                Err(PinError::Other { known: pinned })
            };
        }
        let mut with = known.clone();
        with.insert(node, incarnation.into_bytes());
        self.save(&with)?;
        *known = with;
        Ok(())
    }

    /// Notes what a node has announced to the cluster, unless it is known here already.
    pub(crate) fn learn(&self, node: NodeId, incarnation: Uuid) {
        if let Err(error) = self.check(node, incarnation) {
            // Its connections are refused with the same words.
            tracing::debug!(node, %error, "an announced incarnation is not taken");
        }
    }

    /// The incarnation that a node is known by.
    pub(crate) fn of(&self, node: NodeId) -> Option<Uuid> {
        self.known.lock().get(&node).copied().map(Uuid::from_bytes)
    }

    fn save(&self, known: &BTreeMap<NodeId, [u8; 16]>) -> io::Result<()> {
        let bytes = codec::seal(ValueType::Peers, SCHEMA, known).map_err(io::Error::other)?;
        let draft = self.dir.join(DRAFT);
        let mut file = File::create(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_incarnation_stays_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let pins = Pins::open(dir.path()).unwrap();
        assert_eq!(pins.of(7), None);
        pins.check(7, first).unwrap();
        pins.check(7, first).unwrap();
        assert!(matches!(pins.check(7, second), Err(PinError::Other { known }) if known == first));

        let pins = Pins::open(dir.path()).unwrap();
        assert!(matches!(pins.check(7, second), Err(PinError::Other { .. })));
        pins.check(8, second).unwrap();
        assert_eq!(pins.of(8), Some(second));
    }

    #[test]
    fn a_damaged_file_is_reported_and_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        Pins::open(dir.path())
            .unwrap()
            .check(7, Uuid::from_u128(1))
            .unwrap();
        let file = dir.path().join(FILE);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
        assert!(
            Pins::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }
}
