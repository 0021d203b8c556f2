//! How many files this process may have open, and how many of them clients get.
//!
//! Invariant: connections never take the files that the journal needs for its next table; without one it
//! could not go on, and the node would end.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::settings::Settings;

/// At the address for members: lanes for each of them, both ways, and what strangers may hold.
const FOR_EACH_MEMBER: u64 = 6;
const FOR_STRANGERS: u64 = 384;
/// Members that are reckoned with where fewer are named: others may join.
const MEMBERS: usize = 8;
/// Log files, read models, listeners, pipes and timers.
const FOR_THE_REST: u64 = 128;
/// With less than that for clients, nothing is gained.
const LEAST: usize = 16;

/// Raises the limit as far as it goes without privileges, and gives how many connections of clients are taken:
/// `http.max_connections`, or what the limit leaves.
pub(super) fn connections(settings: &Settings) -> usize {
    let wanted = settings.http.max_connections;
    let Some(limit) = raised() else {
        return wanted;
    };
    let Some(room) = room(settings, limit).filter(|room| *room < wanted) else {
        return wanted;
    };
    tracing::warn!(
        open_files = limit,
        connections = room,
        wanted,
        "the limit of open files leaves fewer connections than http.max_connections; raise it \
         (ulimit -n, LimitNOFILE= in a unit of systemd)"
    );
    room
}

/// The soft limit after it was raised to the hard one; `None` without a limit.
fn raised() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let new = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, new) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            current
        }
    }
}

/// The connections that a limit leaves; `None` where the journal may open as many files as it likes.
fn room(settings: &Settings, limit: u64) -> Option<usize> {
    let tables = u64::try_from(settings.journal.max_open_files).ok()?.max(64);
    let members = settings.cluster.peers.len();
    let for_members = if members > 0 {
        let members = u64::try_from(members.max(MEMBERS)).unwrap_or(u64::MAX);
        FOR_EACH_MEMBER.saturating_mul(members) + FOR_STRANGERS
    } else {
        0
    };
    let taken = tables + for_members + FOR_THE_REST;
    let left = usize::try_from(limit.saturating_sub(taken)).unwrap_or(usize::MAX);
    Some(left.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_journal_and_the_members_leave() {
        let mut settings = Settings::default();
        settings.journal.max_open_files = 512;
        assert_eq!(room(&settings, 1024), Some(1024 - 512 - 128));
        assert_eq!(room(&settings, 300), Some(LEAST));
        assert_eq!(room(&settings, u64::MAX), Some(usize::MAX - 640));
        settings.journal.max_open_files = -1;
        assert_eq!(room(&settings, 1024), None);
    }
}
