//! How RocksDB is set up, and why.
//!
//! Owns: every tuning decision. Invariant: memory is bounded by the options (block cache, and at
//! most three write buffers per table), and no setting weakens what a synced write promises.
//!
//! - The log's values go to blob files: an event is written to the write-ahead log and once more
//!   when the buffer is flushed, and never again, while tables hold keys only. Reading a record reads
//!   its own bytes and not those of its neighbours.
//! - The index is small rows in random order: universal compaction rewrites each a few times only.
//!   Filters over whole keys answer a new idempotency key, filters over the stream's prefix answer
//!   a new aggregate, both from memory.
//! - `TolerateCorruptedTailRecords`: a log that was cut while it was written opens; one that was
//!   damaged does not. Log files are not recycled, for a recycled one hides where it ends.

use std::sync::Arc;

use jiff::Timestamp;
use phalanx_actors::ports::Clock;
use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompactionStyle,
    DBCompressionType, DBRecoveryMode, Options, SliceTransform, UniversalCompactOptions,
};

use super::disk::Table;
use super::rows;
use super::types::JournalOptions;

/// Below this, a value stays in the table: moving it would cost more than it saves.
const MIN_BLOB_BYTES: u64 = 64;
/// Of filters: about 1 % false answers.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Of tables and of the index table's blocks.
const BLOCK_BYTES: usize = 4 << 10;
/// Of the small tables.
const SMALL_WRITE_BUFFER_BYTES: usize = 1 << 20;
/// Of the snapshot table.
const SNAPSHOT_WRITE_BUFFER_BYTES: usize = 8 << 20;

/// Options of the database as a whole.
pub(crate) fn database(options: &JournalOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    db.set_recycle_log_file_num(0);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_paranoid_checks(true);
    db.set_use_fsync(false);
    db.set_max_open_files(options.max_open_files.max(64));
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1 << 20);
    // Tables whose rows are not in the write-ahead log, or that are rarely written, would keep
    // old log files alive; past this they are flushed instead.
    db.set_max_total_wal_size(3 * size_u64(options.write_buffer_bytes));
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(16 << 20);
    db.set_stats_dump_period_sec(0);
    // One writer: these only help several.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db
}

/// The tables with their options.
pub(crate) fn tables(
    options: &JournalOptions,
    clock: &Arc<dyn Clock>,
) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let table = |table: Table| {
        let options = match table {
            Table::Log => log(options, &cache),
            Table::Index => index(options, &cache, clock),
            Table::Snapshot => snapshot(&cache),
            Table::Meta => small(&cache),
        };
        ColumnFamilyDescriptor::new(table.name(), options)
    };
    let default = ColumnFamilyDescriptor::new("default", small(&cache));
    Table::ALL.into_iter().map(table).chain([default]).collect()
}

fn log(options: &JournalOptions, cache: &Cache) -> Options {
    let mut cf = Options::default();
    cf.set_write_buffer_size(options.write_buffer_bytes);
    cf.set_max_write_buffer_number(3);
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_enable_blob_files(true);
    cf.set_min_blob_size(MIN_BLOB_BYTES);
    // Records are a few hundred bytes: packed one by one they shrink little.
    cf.set_blob_compression_type(DBCompressionType::None);
    cf.set_enable_blob_gc(false);
    cf.set_block_based_table_factory(&blocks(cache, false));
    cf
}

fn index(options: &JournalOptions, cache: &Cache, clock: &Arc<dyn Clock>) -> Options {
    let mut cf = Options::default();
    cf.set_write_buffer_size(options.index_write_buffer_bytes);
    cf.set_max_write_buffer_number(3);
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_max_size_amplification_percent(100);
    cf.set_universal_compaction_options(&universal);
    cf.set_prefix_extractor(SliceTransform::create(
        "phalanx.stream.1",
        rows::stream_prefix,
        Some(rows::is_of_stream),
    ));
    cf.set_memtable_prefix_bloom_ratio(0.05);
    cf.set_memtable_whole_key_filtering(true);
    cf.set_block_based_table_factory(&blocks(cache, true));
    let clock = Arc::clone(clock);
    cf.set_compaction_filter("phalanx.expiry.1", move |_, key: &[u8], value: &[u8]| {
        if is_expired(key, value, clock.now()) {
            Decision::Remove
        } else {
            Decision::Keep
        }
    });
    cf
}

/// Whether a row is that of a forgotten idempotency key. A damaged row stays, to be reported when
/// it is read.
fn is_expired(key: &[u8], value: &[u8], now: Timestamp) -> bool {
    rows::is_dedup_key(key)
        && rows::DedupRow::open(value).is_ok_and(|row| row.expires_us <= now.as_microsecond())
}

fn snapshot(cache: &Cache) -> Options {
    let mut cf = Options::default();
    cf.set_write_buffer_size(SNAPSHOT_WRITE_BUFFER_BYTES);
    cf.set_max_write_buffer_number(3);
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_block_based_table_factory(&blocks(cache, true));
    cf
}

fn small(cache: &Cache) -> Options {
    let mut cf = Options::default();
    cf.set_write_buffer_size(SMALL_WRITE_BUFFER_BYTES);
    cf.set_block_based_table_factory(&blocks(cache, false));
    cf
}

fn blocks(cache: &Cache, filter: bool) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(6);
    // Filters and indexes live in the cache and count there; what is asked on every lookup stays.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    if filter {
        table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
        table.set_partition_filters(true);
        table.set_whole_key_filtering(true);
        table.set_optimize_filters_for_memory(true);
    }
    table
}

fn size_u64(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
