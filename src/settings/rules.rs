//! What values are allowed, alone and together.
//!
//! Owns every range and every rule over several keys. Invariant: each whole number of the settings
//! has a row in [`RANGES`]; a test compares the rows with the keys.

mod cluster;
mod level;
mod tls;

pub(crate) use self::cluster::is_host_port;

use std::collections::BTreeSet;
use std::fmt::Display;

use figment::value::{Num, Value};

use super::Settings;
use super::schema::{self, collect_values};
use crate::cluster::roles::Role;
use crate::http::{PublicUrl, principal_header};
use crate::projection::StoreAddress;

/// A broken rule and the keys it is about, the most likely culprit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) keys: Vec<String>,
    pub(super) rule: String,
}

impl Violation {
    pub(super) fn new(keys: &[&str], rule: String) -> Self {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        Self { keys, rule }
    }

    /// Whether one of its keys, or the list that holds it, is in the set.
    pub(super) fn touches(&self, refused: &BTreeSet<String>) -> bool {
        self.keys.iter().any(|key| {
            let list = key.split('[').next().unwrap_or(key);
            refused.contains(key) || refused.contains(list)
        })
    }
}

/// Key, least and most allowed value. `journal.max_open_files` has a gap besides, see
/// [`open_files`].
pub(super) const RANGES: &[(&str, i128, i128)] = &[
    ("node.id", 1, i64::MAX as i128),
    ("node.shutdown_grace_ms", 0, 600_000),
    ("http.max_connections", 1, 1_000_000),
    ("http.header_timeout_ms", 10, 600_000),
    ("http.body_timeout_ms", 10, 600_000),
    ("http.idle_timeout_ms", 10, 3_600_000),
    ("http.request_timeout_ms", 10, 600_000),
    ("http.shutdown_linger_ms", 0, 60_000),
    ("http.max_body_bytes", 1024, 67_108_864),
    ("http.max_history_bytes", 1024, 67_108_864),
    ("http.max_buffered_bytes", 1_048_576, 1_099_511_627_776),
    ("http.max_header_bytes", 8192, 1_048_576),
    ("http.max_event_streams", 0, 1_000_000),
    ("cluster.shards", 1, 4096),
    ("cluster.replication_factor", 1, 9),
    ("cluster.leader_wait_ms", 0, 600_000),
    ("cluster.balance_interval_ms", 0, 3_600_000),
    ("cluster.isolated_wait_ms", 0, 600_000),
    ("transport.connect_timeout_ms", 20, 60_000),
    ("transport.reconnect_max_ms", 5, 60_000),
    ("transport.keepalive_interval_ms", 50, 60_000),
    ("transport.keepalive_timeout_ms", 50, 60_000),
    ("transport.max_calls_in_flight", 16, 1_000_000),
    ("transport.max_message_bytes", 4_194_304, 1_073_741_824),
    ("raft.heartbeat_interval_ms", 5, 10_000),
    ("raft.election_timeout_min_ms", 20, 60_000),
    ("raft.election_timeout_max_ms", 20, 120_000),
    ("raft.max_batch_commands", 1, 65_536),
    ("raft.max_batch_bytes", 4096, 67_108_864),
    ("raft.proposals_in_flight", 1, 64),
    ("journal.reserve_free_bytes", 0, 1_099_511_627_776),
    ("journal.write_buffer_bytes", 1_048_576, 4_294_967_296),
    ("journal.index_write_buffer_bytes", 1_048_576, 4_294_967_296),
    ("journal.block_cache_bytes", 1_048_576, 1_099_511_627_776),
    ("journal.log_cache_bytes_per_shard", 65_536, 1_073_741_824),
    ("journal.idempotency_retention_s", 1, 2_592_000),
    ("journal.max_open_files", -1, 1_000_000),
    ("actors.max_resident", 1, 100_000_000),
    ("actors.idle_timeout_s", 1, 86_400),
    ("actors.snapshot_every_events", 1, 1_000_000),
    ("actors.snapshot_on_passivation_events", 1, 1_000_000),
    ("actors.max_concurrent_activations", 1, 65_536),
    ("actors.max_in_flight", 1, 10_000_000),
    ("actors.max_in_flight_bytes", 1024, 1_099_511_627_776),
    ("actors.max_in_flight_per_shard", 1, 10_000_000),
    ("actors.max_in_flight_per_aggregate", 1, 10_000_000),
    ("projections.batch_bytes", 4096, 16_777_216),
    ("projections.commit_interval_ms", 0, 10_000),
    ("projections.cache_rows", 1, 100_000_000),
    ("projections.read_connections", 1, 1024),
    ("projections.follow_interval_ms", 1, 10_000),
    ("projections.check_interval_s", 0, 31_536_000),
    ("projections.max_wait_ms", 0, 600_000),
];

/// The least and most value of a key that is a whole number.
pub(super) fn range_of(key: &str) -> Option<(i128, i128)> {
    let (_, least, most) = RANGES.iter().find(|(known, _, _)| *known == key)?;
    Some((*least, *most))
}

/// Every rule that the settings break; empty when they may be used.
pub(super) fn violations(settings: &Settings) -> Vec<Violation> {
    let mut found = Vec::new();
    ranges(settings, &mut found);
    texts(settings, &mut found);
    roles(settings, &mut found);
    callers(settings, &mut found);
    public_url(settings, &mut found);
    open_files(settings, &mut found);
    elections(settings, &mut found);
    messages(settings, &mut found);
    admission(settings, &mut found);
    cluster::check(settings, &mut found);
    tls::check(settings, &mut found);
    found
}

fn ranges(settings: &Settings, found: &mut Vec<Violation>) {
    let Ok(values) = schema::to_dict(settings) else {
        // Only a path that is not text cannot be written as a value, and `texts` refuses it.
        return;
    };
    collect_values(&values, "", &mut |key, value| {
        let (Value::Num(_, number), Some((least, most))) = (value, range_of(&key)) else {
            return;
        };
        if !whole(*number).is_some_and(|number| (least..=most).contains(&number)) {
            let value = super::tree::to_toml(value);
            found.push(Violation::new(
                &[&key],
                format!("`{key}` = {value} must be from {least} to {most}"),
            ));
        }
    });
}

fn whole(number: Num) -> Option<i128> {
    number.to_i128().or_else(|| {
        number
            .to_u128()
            .and_then(|number| i128::try_from(number).ok())
    })
}

fn texts(settings: &Settings, found: &mut Vec<Violation>) {
    if settings.node.data_dir.as_os_str().is_empty() {
        found.push(Violation::new(
            &["node.data_dir"],
            "`node.data_dir` must not be empty".to_owned(),
        ));
    }
    if settings.node.data_dir.to_str().is_none() {
        found.push(Violation::new(
            &["node.data_dir"],
            "`node.data_dir` must be valid UTF-8".to_owned(),
        ));
    }
    if let Err(reason) = StoreAddress::parse(&settings.projections.store.0) {
        found.push(Violation::new(
            &["projections.store"],
            format!("`projections.store` cannot be used: {reason}"),
        ));
    }
    let zone = &settings.node.zone;
    if !is_name(zone, |letter| {
        letter.is_ascii_alphanumeric() || "._-".contains(letter)
    }) {
        let rule =
            format!("`node.zone` = {zone:?} must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        found.push(Violation::new(&["node.zone"], rule));
    }
    level::check(&settings.log.level, found);
}

/// Each role once, at least one, and nobody founds a cluster who may hold nothing of it.
fn roles(settings: &Settings, found: &mut Vec<Violation>) {
    let node = &settings.node;
    let distinct: BTreeSet<Role> = node.roles.iter().copied().collect();
    if node.roles.is_empty() || distinct.len() != node.roles.len() {
        let names = Role::ALL.map(Role::name).join(", ");
        let rule = format!("`node.roles` must name at least one of {names}, each at most once");
        found.push(Violation::new(&["node.roles"], rule));
    } else if settings.cluster.bootstrap && !node.has(Role::Command) {
        let rule =
            "`node.roles` without `command` needs `cluster.bootstrap` = false: who founds a \
                    cluster holds copies of its shards, and a node without that role joins later"
                .to_owned();
        found.push(Violation::new(&["node.roles", "cluster.bootstrap"], rule));
    }
}

/// Where clients reach the nodes is a URL, if anything.
fn public_url(settings: &Settings, found: &mut Vec<Violation>) {
    let url = &settings.http.public_url;
    if let Err(reason) = PublicUrl::parse(url) {
        let rule = format!("`http.public_url` = {url:?} {reason}");
        found.push(Violation::new(&["http.public_url"], rule));
    }
}

/// The header that names callers can be one, and is there if requests must have it.
fn callers(settings: &Settings, found: &mut Vec<Violation>) {
    let http = &settings.http;
    let (header, required) = ("http.principal_header", "http.require_principal");
    match principal_header(&http.principal_header) {
        Err(reason) => {
            let rule = format!("`{header}` = {:?} {reason}", http.principal_header);
            found.push(Violation::new(&[header], rule));
        }
        Ok(None) if http.require_principal => {
            let rule = format!("`{required}` = true needs `{header}`: nothing says who calls");
            found.push(Violation::new(&[required, header], rule));
        }
        Ok(_) => {}
    }
}

/// Whether a text has 1 to 64 characters, all of them allowed.
fn is_name(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    (1..=64).contains(&text.chars().count()) && text.chars().all(allowed)
}

fn open_files(settings: &Settings, found: &mut Vec<Violation>) {
    let files = settings.journal.max_open_files;
    if (0..16).contains(&files) {
        let rule = format!("`journal.max_open_files` = {files} must be -1 or at least 16");
        found.push(Violation::new(&["journal.max_open_files"], rule));
    }
}

fn elections(settings: &Settings, found: &mut Vec<Violation>) {
    let raft = &settings.raft;
    let heartbeat = ("raft.heartbeat_interval_ms", raft.heartbeat_interval_ms);
    let least = ("raft.election_timeout_min_ms", raft.election_timeout_min_ms);
    let most = ("raft.election_timeout_max_ms", raft.election_timeout_max_ms);
    if heartbeat.1.saturating_mul(2) >= least.1 {
        found.push(pair(least, "must be more than two times", heartbeat));
    }
    if least.1 >= most.1 {
        found.push(pair(most, "must be more than", least));
    }
}

/// What replication reads from the log at once beside one whole entry, and headers.
const MESSAGE_OVERHEAD_BYTES: usize = 2 << 20;

/// A log entry and a request's body must fit into a message between members, or they could be
/// accepted and never be replicated or forwarded.
fn messages(settings: &Settings, found: &mut Vec<Violation>) {
    let message = (
        "transport.max_message_bytes",
        settings.transport.max_message_bytes,
    );
    let batch = ("raft.max_batch_bytes", settings.raft.max_batch_bytes);
    let body = ("http.max_body_bytes", settings.http.max_body_bytes);
    for part in [batch, body] {
        let least = part
            .1
            .saturating_mul(2)
            .saturating_add(MESSAGE_OVERHEAD_BYTES);
        if message.1 < least {
            let relation = format!("must be at least {least}, twice and 2 MiB more than");
            found.push(pair(message, &relation, part));
        }
    }
}

/// Limits nest: an aggregate within its shard within the node.
fn admission(settings: &Settings, found: &mut Vec<Violation>) {
    let actors = &settings.actors;
    let node = ("actors.max_in_flight", actors.max_in_flight);
    let shard = (
        "actors.max_in_flight_per_shard",
        actors.max_in_flight_per_shard,
    );
    let aggregate = (
        "actors.max_in_flight_per_aggregate",
        actors.max_in_flight_per_aggregate,
    );
    let bytes = ("actors.max_in_flight_bytes", actors.max_in_flight_bytes);
    let body = ("http.max_body_bytes", settings.http.max_body_bytes);
    let activations = (
        "actors.max_concurrent_activations",
        actors.max_concurrent_activations,
    );
    let resident = ("actors.max_resident", actors.max_resident);
    if shard.1 > node.1 {
        found.push(pair(shard, "must not be more than", node));
    }
    if aggregate.1 > shard.1 {
        found.push(pair(aggregate, "must not be more than", shard));
    }
    if bytes.1 < body.1 {
        found.push(pair(
            bytes,
            "must admit one body of the largest size, at least",
            body,
        ));
    }
    if activations.1 > resident.1 {
        found.push(pair(activations, "must not be more than", resident));
    }
}

fn pair<T: Display>(one: (&str, T), relation: &str, other: (&str, T)) -> Violation {
    let rule = format!(
        "`{}` = {} {relation} `{}` = {}",
        one.0, one.1, other.0, other.1
    );
    Violation::new(&[one.0, other.0], rule)
}

#[cfg(test)]
mod tests;
