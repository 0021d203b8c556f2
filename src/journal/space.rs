//! Watches the free space, so that the log never meets a full disk.
//!
//! Owns: when to look and when the journal counts as full. Invariant: it turns full while the
//! reserve is still there, which is what votes, raft's own entries and RocksDB's files live on.

use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::Disk;

/// Look again after this much time ...
const INTERVAL_NS: u64 = 100_000_000;
/// ... or this many written bytes, or this part of the reserve, whichever comes first.
const INTERVAL_BYTES: usize = 8 << 20;
const INTERVAL_OF_RESERVE: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Space {
    reserve_bytes: u64,
    checked_ns: Option<u64>,
    bytes_since: usize,
}

impl Space {
    pub(crate) fn new(reserve_bytes: u64) -> Self {
        Self {
            reserve_bytes,
            checked_ns: None,
            bytes_since: 0,
        }
    }

    /// Counts written bytes.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.bytes_since = self.bytes_since.saturating_add(bytes);
    }

    /// Looks if it is time to, and updates `full`.
    pub(crate) fn check(&mut self, disk: &dyn Disk, now_ns: u64, full: &AtomicBool) {
        let due = self
            .checked_ns
            .is_none_or(|at| now_ns.saturating_sub(at) >= INTERVAL_NS);
        let part = usize::try_from(self.reserve_bytes / INTERVAL_OF_RESERVE).unwrap_or(usize::MAX);
        let much = self.bytes_since >= INTERVAL_BYTES.min(part);
        if self.reserve_bytes == 0 || !(due || much) {
            return;
        }
        self.checked_ns = Some(now_ns);
        self.bytes_since = 0;
        let free = match disk.free_bytes() {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "failed to read the free space");
                return;
            }
        };
        let was_full = full.load(Ordering::Relaxed);
        let is_full = free < self.threshold(was_full);
        if is_full != was_full {
            full.store(is_full, Ordering::Relaxed);
            let reserve = self.reserve_bytes;
            if is_full {
                tracing::error!(
                    free,
                    reserve,
                    "the disk is full up to the reserve; commands are refused"
                );
            } else {
                tracing::info!(free, reserve, "there is space again; commands are accepted");
            }
        }
    }

    /// Once full, an eighth more must be free, so that the answer does not flicker.
    fn threshold(&self, was_full: bool) -> u64 {
        let margin = if was_full { self.reserve_bytes / 8 } else { 0 };
        self.reserve_bytes.saturating_add(margin)
    }
}
