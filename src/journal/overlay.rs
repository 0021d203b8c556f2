//! A disk that is only read, with index rows on top that it has lost.
//!
//! Index rows are written lazily, so a node that was killed leaves a log whose newest entries have none;
//! a restart writes them again. Who only reads keeps them in memory instead. Owns: those rows, which no
//! more memory than a running node gives to rows that it has not flushed. Refuses: every write to the
//! disk below. Invariant: of two rows with one key, the one on top counts.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use parking_lot::RwLock;

use super::disk::{Batch, Change, Disk, DiskError, Durability, Row, Scan, Table, Visit};
use super::rows::LogKey;

/// See the module.
#[derive(Debug)]
pub(crate) struct Overlay<D> {
    below: D,
    index: RwLock<BTreeMap<Vec<u8>, Bytes>>,
}

/// Somebody wanted to change a disk that is only read.
#[derive(Debug, thiserror::Error)]
#[error("this disk is only read")]
struct OnlyRead;

fn refused<T>() -> Result<T, DiskError> {
    Err(DiskError::io(OnlyRead))
}

impl<D: Disk> Overlay<D> {
    pub(crate) fn new(below: D) -> Self {
        Self {
            below,
            index: RwLock::default(),
        }
    }
}

impl<D: Disk> Disk for Overlay<D> {
    /// Takes index rows, for as long as it lives.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), DiskError> {
        let rows = |change| match change {
            Change::Put(Table::Index, key, value) => Some((key, value)),
            Change::Put(..) | Change::Delete(..) | Change::DeleteRange(..) => None,
        };
        let rows: Option<Vec<_>> = batch.changes().map(rows).collect();
        let (Some(rows), Durability::Lazy) = (rows, durability) else {
            return refused();
        };
        let rows = rows.into_iter();
        let mut index = self.index.write();
        index.extend(rows.map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value))));
        Ok(())
    }

    fn sync_log(&self) -> Result<(), DiskError> {
        refused()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        if table == Table::Index
            && let Some(value) = self.index.read().get(key)
        {
            return Ok(Some(value.clone()));
        }
        self.below.get(table, key)
    }

    fn get_log_rows(&self, keys: &[LogKey]) -> Result<Vec<Option<Bytes>>, DiskError> {
        self.below.get_log_rows(keys)
    }

    fn scan(&self, scan: Scan<'_>, visit: Visit<'_>) -> Result<(), DiskError> {
        if scan.table != Table::Index {
            return self.below.scan(scan, visit);
        }
        let index = self.index.read();
        let range = index.range::<[u8], _>((
            std::ops::Bound::Included(scan.from),
            std::ops::Bound::Excluded(scan.to),
        ));
        let mut on_top = range.peekable();
        let mut flow = ControlFlow::Continue(());
        self.below.scan(scan, &mut |key, value| {
            while let Some((above, row)) = on_top.next_if(|(above, _)| above.as_slice() < key) {
                flow = visit(above, row);
                if flow.is_break() {
                    return flow;
                }
            }
            flow = match on_top.next_if(|(above, _)| above.as_slice() == key) {
                Some((_, row)) => visit(key, row),
                None => visit(key, value),
            };
            flow
        })?;
        for (above, row) in on_top {
            if flow.is_break() {
                break;
            }
            flow = visit(above, row);
        }
        Ok(())
    }

    fn last(&self, scan: Scan<'_>) -> Result<Option<Row>, DiskError> {
        let below = self.below.last(scan)?;
        if scan.table != Table::Index {
            return Ok(below);
        }
        let index = self.index.read();
        let mut range = index.range::<[u8], _>((
            std::ops::Bound::Included(scan.from),
            std::ops::Bound::Excluded(scan.to),
        ));
        let above = range.next_back();
        let above = above.map(|(key, row)| (key.clone(), row.clone()));
        // Of equal keys the later one is taken.
        Ok(below.into_iter().chain(above).max_by(|a, b| a.0.cmp(&b.0)))
    }

    fn write_mark(&self, _slot: usize, _bytes: &[u8]) -> Result<(), DiskError> {
        refused()
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        refused()
    }

    fn free_bytes(&self) -> Result<u64, DiskError> {
        self.below.free_bytes()
    }

    fn flush(&self) -> Result<(), DiskError> {
        refused()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryDisk;
    use super::*;

    fn batch(rows: &[(&str, &str)]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in rows {
            batch.put(Table::Index, key.as_bytes(), [value.as_bytes()]);
        }
        batch
    }

    fn scan<'a>(from: &'a str, to: &'a str) -> Scan<'a> {
        Scan {
            table: Table::Index,
            from: from.as_bytes(),
            to: to.as_bytes(),
            within_stream: false,
        }
    }

    /// The first rows of a range, and its last one.
    fn seen(disk: &dyn Disk, from: &str, to: &str, most: usize) -> (Vec<String>, Option<String>) {
        let text = |key: &[u8], value: &[u8]| {
            let of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            of(key) + &of(value)
        };
        let mut rows = Vec::new();
        disk.scan(scan(from, to), &mut |key, value| {
            rows.push(text(key, value));
            match rows.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
        .unwrap();
        let last = disk.last(scan(from, to)).unwrap();
        (rows, last.map(|(key, value)| text(&key, &value)))
    }

    #[test]
    fn rows_of_both_come_in_order_and_the_upper_ones_count() {
        let memory = MemoryDisk::default();
        let below = memory.attach().unwrap();
        let lower = batch(&[("b", "0"), ("d", "0"), ("f", "0")]);
        below.write(&lower, Durability::Lazy).unwrap();
        let disk = Overlay::new(below);
        let upper = batch(&[("a", "1"), ("d", "1"), ("e", "1"), ("g", "1")]);
        disk.write(&upper, Durability::Lazy).unwrap();
        let all = ["a1", "b0", "d1", "e1", "f0", "g1"];
        for most in 1..=all.len() {
            let (rows, last) = seen(&disk, "a", "h", most);
            assert_eq!(rows, all[..most]);
            assert_eq!(last.as_deref(), Some("g1"));
        }
        assert_eq!(seen(&disk, "b", "g", 9).0, all[1..5]);
        assert_eq!(seen(&disk, "b", "g", 9).1.as_deref(), Some("f0"));
        assert_eq!(seen(&disk, "c", "e", 9).1.as_deref(), Some("d1"));
        assert_eq!(seen(&disk, "x", "z", 9), (vec![], None));
        let get = |key: &str| disk.get(Table::Index, key.as_bytes()).unwrap();
        assert_eq!(
            (get("d").as_deref(), get("f").as_deref()),
            (Some(&b"1"[..]), Some(&b"0"[..]))
        );
    }

    #[test]
    fn nothing_reaches_the_disk_below() {
        let memory = MemoryDisk::default();
        let disk = Overlay::new(memory.attach().unwrap());
        disk.write(&batch(&[("a", "1")]), Durability::Lazy).unwrap();
        assert!(disk.below.get(Table::Index, b"a").unwrap().is_none());
        let mut log = Batch::default();
        log.put(Table::Log, b"a", [&b"1"[..]]);
        let mut gone = Batch::default();
        gone.delete(Table::Index, b"a");
        for refused in [
            disk.write(&log, Durability::Lazy),
            disk.write(&gone, Durability::Lazy),
            disk.write(&batch(&[("a", "1")]), Durability::Logged),
            disk.write_mark(0, b"x"),
            disk.sync_mark(),
            disk.sync_log(),
            disk.flush(),
        ] {
            assert!(refused.is_err());
        }
    }
}
