//! The references that Phalanx is measured beside.
//!
//! Each peer answers the account's commands under the same URLs with the same rules and replies
//! after its own fsync, so that one load generator drives them all. This program owns the peers and
//! the comparison; it refuses to share code with Phalanx, because a peer that uses what it is
//! compared with measures nothing.

mod account;
mod compare;
mod driver;
mod etcd;
mod group_commit;
mod http;
mod map;
mod postgres;
mod redis;
mod rocksdb_floor;
mod wal;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The allocator that Phalanx uses as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The references that Phalanx is measured beside.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// axum answering from a map; nothing is stored.
    Map(Listen),
    /// axum appending to one log file: group commit, one fdatasync for whatever waits.
    Wal(ListenAndStore),
    /// axum over RocksDB: one writer thread, one synced batch for whatever waits.
    RocksdbFloor(ListenAndStore),
    /// axum over PostgreSQL: one transaction a command.
    Postgres(postgres::Args),
    /// Drive a Redis server directly, with the rule in Lua, and print a report.
    RedisBench(redis::Args),
    /// Drive an etcd cluster directly over gRPC, and print a report.
    EtcdBench(etcd::Args),
    /// Measure every peer and Phalanx in turns and print the ratios.
    Compare(compare::Args),
}

#[derive(Debug, clap::Args)]
struct Listen {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
}

#[derive(Debug, clap::Args)]
struct ListenAndStore {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// An empty directory.
    #[arg(long)]
    data_dir: PathBuf,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Map(args) => http::serve(args.listen, map::Map::default()),
        Command::Wal(args) => {
            wal::open(&args.data_dir).and_then(|store| http::serve(args.listen, store))
        }
        Command::RocksdbFloor(args) => {
            rocksdb_floor::open(&args.data_dir).and_then(|store| http::serve(args.listen, store))
        }
        Command::Postgres(args) => postgres::serve(args),
        Command::RedisBench(args) => redis::run(&args),
        Command::EtcdBench(args) => etcd::run(&args),
        Command::Compare(args) => return compare::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("phalanx-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
