//! The shipped file, the embedded defaults, the ranges and the types say the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use figment::value::Value;

use super::rules::RANGES;
use super::schema::{Schema, collect_values, variable_of};
use super::*;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/node.toml")
}

/// The comment above each key of the shipped file, joined to one line.
fn comments() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let mut section = "";
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(more) = line.strip_prefix('#') {
            comment.push_str(more);
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(" = ") {
            found.push((format!("{section}.{name}"), std::mem::take(&mut comment)));
        }
        comment.clear();
    }
    found
}

#[test]
fn the_shipped_file_is_the_embedded_defaults() {
    let loaded = Settings::load_with(Some(&shipped()), []).unwrap();

    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn the_embedded_defaults_keep_every_rule() {
    Settings::default().validate().unwrap();
}

#[test]
fn the_shipped_file_sets_every_key_but_the_peers() {
    let loaded = Settings::load_with(Some(&shipped()), []).unwrap();

    let unset: Vec<String> = loaded
        .entries()
        .into_iter()
        .filter(|entry| entry.origin == Origin::Default)
        .map(|entry| entry.key)
        .collect();
    assert_eq!(unset, ["cluster.peers"]);
}

#[test]
fn the_shipped_file_explains_every_key_with_its_default_and_its_range() {
    let schema = Schema::new().unwrap();
    let comments = comments();
    let explained: BTreeSet<&str> = comments.iter().map(|(key, _)| key.as_str()).collect();
    let mut known: BTreeSet<String> = schema.keys().into_iter().collect();
    assert!(known.remove("cluster.peers"));
    assert_eq!(explained, known.iter().map(String::as_str).collect());

    for (key, comment) in &comments {
        let default = schema.default_text(key).unwrap();
        assert!(
            comment.contains(&format!("Default {default}")),
            "{key}: {comment}"
        );
        if let Some((_, least, most)) = RANGES.iter().find(|(known, _, _)| known == key) {
            assert!(
                comment.contains(&format!("range {least} to {most}")),
                "{key}: {comment}"
            );
        }
    }
}

#[test]
fn the_peers_shown_in_the_shipped_file_work_when_uncommented() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(code) if !code.starts_with(' ') => format!("{code}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    std::fs::write(&file, uncommented).unwrap();

    let settings = Settings::load_with(Some(&file), []).unwrap().settings;

    let ids: Vec<u64> = settings.cluster.peers.iter().map(|peer| peer.id).collect();
    assert_eq!(ids, [2, 3]);
    assert_eq!(settings.cluster.effective_replication_factor(), 3);
}

#[test]
fn every_whole_number_has_a_range_that_holds_its_default() {
    let schema = Schema::new().unwrap();
    let mut numbers = Vec::new();
    collect_values(&schema.defaults, "", &mut |key, value| {
        if matches!(value, Value::Num(..)) {
            numbers.push((
                key,
                value
                    .to_i128()
                    .or(value.to_u128().map(|n| n as i128))
                    .unwrap(),
            ));
        }
    });

    let keys: BTreeSet<&str> = numbers.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, RANGES.iter().map(|(key, _, _)| *key).collect());
    for (key, default) in &numbers {
        let (_, least, most) = RANGES.iter().find(|(known, _, _)| known == key).unwrap();
        assert!((least..=most).contains(&default), "{key}");
    }
}

#[test]
fn every_key_has_its_own_variable() {
    let keys = Schema::new().unwrap().keys();

    let variables: BTreeSet<String> = keys.iter().map(|key| variable_of(key)).collect();

    assert_eq!(variables.len(), keys.len());
    assert!(variables.contains("PHALANX__ACTORS__MAX_IN_FLIGHT_PER_SHARD"));
}

#[test]
fn a_cluster_of_one_keeps_one_copy_and_advertises_its_listener() {
    let cluster = ClusterSettings::default();

    assert_eq!(cluster.member_count(), 1);
    assert_eq!(cluster.effective_replication_factor(), 1);
    assert_eq!(cluster.advertised_address(), "127.0.0.1:7080");
}

/// The three files of a loopback cluster.
fn members() -> Vec<Settings> {
    let load = |id| {
        let file = shipped().with_file_name(format!("node-{id}.toml"));
        Settings::load_with(Some(&file), []).unwrap().settings
    };
    (1..=3).map(load).collect()
}

#[test]
fn the_files_of_a_loopback_cluster_describe_one_cluster() {
    let members = members();
    for (id, own) in (1..).zip(&members) {
        assert_eq!(own.node.id, id);
        let mut addresses: Vec<(u64, String)> = own
            .cluster
            .peers
            .iter()
            .map(|peer| (peer.id, peer.address.clone()))
            .collect();
        addresses.push((id, own.cluster.advertised_address()));
        addresses.sort();
        let expected: Vec<(u64, String)> = members
            .iter()
            .map(|member| (member.node.id, member.cluster.advertised_address()))
            .collect();
        assert_eq!(addresses, expected);
    }
}

#[test]
fn the_files_of_a_loopback_cluster_differ_from_the_defaults_where_they_must_only() {
    for mut own in members() {
        let defaults = Settings::default();
        own.node.id = defaults.node.id;
        own.node.data_dir = defaults.node.data_dir.clone();
        own.http.listen = defaults.http.listen;
        own.cluster.listen = defaults.cluster.listen;
        own.cluster.peers.clear();
        assert_eq!(own, defaults);
    }
}
