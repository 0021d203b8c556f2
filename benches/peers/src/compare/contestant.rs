//! Who is compared, over how many nodes, and what each is called.
//!
//! It owns names and what must be installed. How each is started is in `start`.

use super::Args;
use super::process::find_program;
use super::start::{ETCD, postgres_program};

/// What to install, for those who miss something.
const INSTALL: &str = "install it with `apt-get install postgresql redis-server etcd-server`";

/// One of the compared systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Contestant {
    Phalanx,
    PhalanxAccount,
    RocksdbFloor,
    Wal,
    Postgres,
    Redis,
    Map,
    #[value(name = "phalanx-3")]
    Phalanx3,
    #[value(name = "postgres-3")]
    Postgres3,
    #[value(name = "etcd-3")]
    Etcd3,
}

/// Those that are compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// One node; a reply follows its own sync.
    One,
    /// Three nodes; a reply follows the sync of a majority.
    Three,
}

impl Group {
    pub(super) const ALL: [Self; 2] = [Self::One, Self::Three];

    /// For headings.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::One => "one node",
            Self::Three => "three nodes",
        }
    }

    /// With whom the others of the group are compared.
    pub(super) fn reference(self) -> Contestant {
        match self {
            Self::One => Contestant::Phalanx,
            Self::Three => Contestant::Phalanx3,
        }
    }
}

impl Contestant {
    pub(super) const ALL: [Self; 10] = [
        Self::Phalanx,
        Self::PhalanxAccount,
        Self::RocksdbFloor,
        Self::Wal,
        Self::Postgres,
        Self::Redis,
        Self::Map,
        Self::Phalanx3,
        Self::Postgres3,
        Self::Etcd3,
    ];

    /// With whom it is compared.
    pub(super) fn group(self) -> Group {
        match self {
            Self::Phalanx3 | Self::Postgres3 | Self::Etcd3 => Group::Three,
            Self::Phalanx
            | Self::PhalanxAccount
            | Self::RocksdbFloor
            | Self::Wal
            | Self::Postgres
            | Self::Redis
            | Self::Map => Group::One,
        }
    }

    /// As in the table and in `--only`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Phalanx => "phalanx",
            Self::PhalanxAccount => "phalanx-account",
            Self::RocksdbFloor => "rocksdb-floor",
            Self::Wal => "wal",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Map => "map",
            Self::Phalanx3 => "phalanx-3",
            Self::Postgres3 => "postgres-3",
            Self::Etcd3 => "etcd-3",
        }
    }

    /// What it is, for the table.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Phalanx => "this node, one voter; orders with 100-byte events",
            Self::PhalanxAccount => "the same with accounts, whose events are shorter",
            Self::RocksdbFloor => "axum + RocksDB, one writer, group commit, nothing else",
            Self::Wal => "axum + one log file, group commit",
            Self::Postgres => "axum + PostgreSQL, one transaction a command",
            Self::Redis => "Redis, appendfsync always, rule in Lua, driven without HTTP",
            Self::Map => "axum answering from a map, nothing stored",
            Self::Phalanx3 => "three nodes of this; orders with 100-byte events",
            Self::Postgres3 => "axum + PostgreSQL, two synchronous standbys, ANY 1",
            Self::Etcd3 => "etcd, three members, rule by compare-and-put, driven by gRPC",
        }
    }

    /// Why it cannot take part, if so.
    pub(super) fn missing(self, args: &Args) -> Option<String> {
        let unless =
            |here: bool, what: &str| (!here).then(|| format!("{what} is not installed: {INSTALL}"));
        let generator = args.phalanx.is_file();
        if !generator {
            return Some(format!("{} is not a file", args.phalanx.display()));
        }
        match self {
            Self::Phalanx
            | Self::PhalanxAccount
            | Self::RocksdbFloor
            | Self::Wal
            | Self::Map
            | Self::Phalanx3 => None,
            Self::Postgres | Self::Postgres3 => {
                let programs = ["postgres", "initdb", "pg_basebackup"];
                let all = programs.iter().all(|name| postgres_program(name).is_some());
                unless(all, "PostgreSQL")
            }
            Self::Redis => unless(find_program("redis-server", &[]).is_some(), "Redis"),
            Self::Etcd3 => unless(find_program(ETCD, &[]).is_some(), "etcd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn names_are_those_of_the_option() {
        for contestant in Contestant::ALL {
            let value = contestant.to_possible_value().unwrap();
            assert_eq!(value.get_name(), contestant.name());
        }
        assert_eq!(Contestant::value_variants().len(), Contestant::ALL.len());
    }
}
