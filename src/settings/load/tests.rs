//! Files and variables as people write them, right and wrong.

use std::path::PathBuf;

use super::*;

struct Given {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn given(text: &str) -> Given {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    Given {
        _directory: directory,
        path,
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<LoadedSettings, SettingsError> {
    let file = given(text);
    let variables = variables
        .iter()
        .map(|(name, value)| (name.into(), value.into()));
    Settings::load_with(Some(&file.path), variables)
}

/// The problems as `place: key` and the whole message, the directory cut off.
fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let error = load(text, variables).unwrap_err();
    assert!(matches!(error, SettingsError::Invalid(_)), "{error}");
    let shown = |problem: &Problem| {
        let text = problem.to_string();
        text.split_once("node.toml")
            .map_or(text.clone(), |(_, rest)| format!("node.toml{rest}"))
    };
    error.problems().iter().map(shown).collect()
}

fn only_problem(text: &str, variables: &[(&str, &str)]) -> String {
    let mut all = problems(text, variables);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn without_a_file_the_defaults_hold() {
    let loaded = Settings::load_with(None, []).unwrap();

    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.origin("http.listen"), Origin::Default);
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
    let text = "[http]\nlisten = \"127.0.0.1:1\"\nmax_connections = 5\n";

    let loaded = load(
        text,
        &[("PHALANX__HTTP__LISTEN", "127.0.0.1:2"), ("OTHER", "x")],
    )
    .unwrap();

    assert_eq!(loaded.settings.http.listen.port(), 2);
    assert_eq!(loaded.settings.http.max_connections, 5);
    let variable = "PHALANX__HTTP__LISTEN".to_owned();
    assert_eq!(
        loaded.origin("http.listen"),
        Origin::Environment { variable }
    );
    assert!(matches!(
        loaded.origin("http.max_connections"),
        Origin::File { line: 3, .. }
    ));
    assert_eq!(loaded.origin("http.allow_http2"), Origin::Default);
}

#[test]
fn every_way_to_write_a_key_in_toml_keeps_its_line() {
    let text = "node.id = 4\n\n[raft]\n\"proposals_in_flight\" = 1_0\n[cluster]\n\npeers = [\n  \
                { id = 2, address = \"b:1\" },\n  { address = \"[::1]:1\", id = 3 },\n]\n";

    let loaded = load(text, &[]).unwrap();

    assert_eq!(loaded.settings.node.id, 4);
    assert_eq!(loaded.settings.raft.proposals_in_flight, 10);
    assert_eq!(loaded.settings.cluster.peers.len(), 2);
    for (key, line) in [
        ("node.id", 1),
        ("raft.proposals_in_flight", 4),
        ("cluster.peers", 7),
        ("cluster.peers[1].id", 9),
    ] {
        assert!(
            matches!(loaded.origin(key), Origin::File { line: found, .. } if found == line),
            "{key}: {:?}",
            loaded.origin(key)
        );
    }
}

#[test]
fn variables_carry_text_numbers_flags_and_lists() {
    let loaded = load(
        "[[cluster.peers]]\nid = 8\naddress = \"h:1\"\n[[cluster.peers]]\nid = 9\naddress = \"i:1\"\n",
        &[
            ("PHALANX__NODE__ZONE", "12"),
            ("PHALANX__NODE__DATA_DIR", "/var/lib/a b"),
            ("PHALANX__RAFT__MAX_BATCH_COMMANDS", "2_000"),
            ("PHALANX__HTTP__ALLOW_HTTP2", "false"),
            ("PHALANX__JOURNAL__MAX_OPEN_FILES", "-1"),
            ("PHALANX__CLUSTER__READS", "read_index"),
            (
                "PHALANX__CLUSTER__PEERS",
                r#"[{id = 2, address = "b:7080"}]"#,
            ),
        ],
    )
    .unwrap();

    let settings = &loaded.settings;
    assert_eq!(settings.node.zone, "12");
    assert_eq!(settings.node.data_dir, PathBuf::from("/var/lib/a b"));
    assert_eq!(settings.raft.max_batch_commands, 2000);
    assert!(!settings.http.allow_http2);
    assert_eq!(settings.journal.max_open_files, -1);
    assert_eq!(settings.cluster.reads, crate::settings::ReadMode::ReadIndex);
    assert_eq!(
        settings.cluster.peers.len(),
        1,
        "the variable replaces the list of the file"
    );
    assert!(matches!(
        loaded.origin("cluster.peers[0].id"),
        Origin::Environment { .. }
    ));
    assert_eq!(loaded.origin("cluster.peers[1].id"), Origin::Default);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest_key() {
    for (text, expected) in [
        (
            "[http]\n\nlistn = \"127.0.0.1:1\"\n",
            "node.toml:3: unknown key `http.listn`; the nearest known key is `http.listen`",
        ),
        (
            "[http]\nshards = 2\n",
            "node.toml:2: unknown key `http.shards`; the nearest known key is `cluster.shards`",
        ),
        (
            "max_resident = 2\n",
            "node.toml:1: unknown key `max_resident`; the nearest known key is `actors.max_resident`",
        ),
        (
            "listen = \"127.0.0.1:1\"\n",
            "node.toml:1: unknown key `listen`; the nearest known key is `http.listen`",
        ),
        (
            "\n[htpp]\nlisten = \"127.0.0.1:1\"\n",
            "node.toml:2: unknown key `htpp`; the nearest known key is `http`",
        ),
        (
            "[[peers]]\nid = 2\n",
            "node.toml:1: unknown key `peers`; the nearest known key is `cluster.peers`",
        ),
        (
            "[[cluster.peers]]\nid = 2\naddress = \"b:1\"\nadress = \"b:1\"\n",
            "node.toml:4: unknown key `cluster.peers[0].adress`; \
             the nearest known key is `cluster.peers[].address`",
        ),
    ] {
        assert_eq!(only_problem(text, &[]), expected);
    }
}

#[test]
fn a_bad_value_names_its_line_and_what_fits() {
    for (text, expected) in [
        (
            "[node]\nid = \"one\"\n",
            "node.toml:2: bad value \"one\" for `node.id`: \
             expected a whole number from 1 to 9223372036854775807 (the default is 1)",
        ),
        (
            "[cluster]\nshards = -3\n",
            "node.toml:2: bad value -3 for `cluster.shards`: \
             expected a whole number from 1 to 4096 (the default is 8)",
        ),
        (
            "[cluster]\nshards = 1.5\n",
            "node.toml:2: bad value 1.5 for `cluster.shards`: \
             expected a whole number from 1 to 4096 (the default is 8)",
        ),
        (
            "[cluster]\nshards = 5000\n",
            "node.toml:2: `cluster.shards` = 5000 must be from 1 to 4096",
        ),
        (
            "[http]\nlisten = \"localhost\"\n",
            "node.toml:2: bad value \"localhost\" for `http.listen`: \
             invalid socket address syntax (the default is \"127.0.0.1:8080\")",
        ),
        (
            "[cluster]\nreads = \"stale\"\n",
            "node.toml:2: bad value \"stale\" for `cluster.reads`: \
             expected lease or read_index (the default is \"lease\")",
        ),
        (
            "[http]\nallow_http2 = \"yes\"\n",
            "node.toml:2: bad value \"yes\" for `http.allow_http2`: invalid type: \
             found string \"yes\", expected a boolean (the default is true)",
        ),
        ("http = 5\n", "node.toml:1: `http` must be a section"),
        (
            "[http.listen]\nport = 5\n",
            "node.toml:1: `http.listen` must be a single value",
        ),
        (
            "[cluster.peers]\nid = 5\n",
            "node.toml:1: `cluster.peers` must be a list of blocks, \
             each headed by its name in double brackets",
        ),
        (
            "[cluster]\npeers = [7]\n",
            "node.toml:2: `cluster.peers[0]` must be a block of keys",
        ),
        (
            "\n[[cluster.peers]]\nid = 2\n",
            "node.toml:2: `cluster.peers[0].address` is missing and has no default",
        ),
    ] {
        assert_eq!(only_problem(text, &[]), expected);
    }
}

#[test]
fn everything_wrong_is_reported_at_once_in_the_order_of_the_file() {
    let text = "[raft]\nheartbeat_interval_ms = 500\n[http]\nlistn = 1\nmax_body_bytes = \"big\"\n\
                [cluster]\nname = \"No\"\n[[cluster.peers]]\nid = 1\naddress = \"b\"\n";

    let all = problems(
        text,
        &[("PHALANX__HTTP__LISTN", "1"), ("PHALANX__NODE__ID", "x")],
    );

    let starts = [
        "node.toml:2: `raft.election_timeout_min_ms` = 400 must be more than two times \
         `raft.heartbeat_interval_ms` = 500",
        "node.toml:4: unknown key `http.listn`",
        "node.toml:5: bad value \"big\" for `http.max_body_bytes`",
        "node.toml:7: `cluster.name` = \"No\"",
        "node.toml:10: `cluster.peers[0].address` = \"b\" must be host:port",
        "environment variable PHALANX__HTTP__LISTN: names no key; \
         the nearest known one is PHALANX__HTTP__LISTEN",
        "environment variable PHALANX__NODE__ID: bad value \"x\" for `node.id`",
    ];
    assert_eq!(all.len(), starts.len(), "{all:#?}");
    for (problem, start) in all.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}\n{start}");
    }
}

#[test]
fn a_refused_value_does_not_break_rules_in_its_stead() {
    let text = "[raft]\nelection_timeout_max_ms = \"1 s\"\nelection_timeout_min_ms = 900\n";

    let problem = only_problem(text, &[]);

    assert!(
        problem.contains("bad value \"1 s\" for `raft.election_timeout_max_ms`"),
        "{problem}"
    );
}

#[test]
fn variables_that_name_no_key_are_refused() {
    for (variable, nearest) in [
        ("PHALANX__HTP__LISTEN", "PHALANX__HTTP__LISTEN"),
        ("PHALANX__SHARDS", "PHALANX__CLUSTER__SHARDS"),
        ("PHALANX__http__listen", "PHALANX__HTTP__LISTEN"),
        ("PHALANX__CLUSTER__PEER", "PHALANX__CLUSTER__PEERS"),
        ("PHALANX__LOG__LVL", "PHALANX__LOG__LEVEL"),
        ("PHALANX__LISTEN", "PHALANX__HTTP__LISTEN"),
        ("PHALANX__", "PHALANX__NODE__ID"),
    ] {
        let problem = only_problem("", &[(variable, "1")]);

        let start = format!(
            "environment variable {variable}: names no key; the nearest known one is {nearest} "
        );
        assert!(problem.starts_with(&start), "{problem}\n{start}");
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;

    let value = OsString::from_vec(vec![b'a', 0xff]);

    let error = Settings::load_with(None, [("PHALANX__NODE__ZONE".into(), value)]).unwrap_err();

    assert!(error.to_string().contains("not valid UTF-8"), "{error}");

    let name = OsString::from_vec(b"PHALANX__NODE__ZON\xff".to_vec());

    let error = Settings::load_with(None, [(name, "a".into())]).unwrap_err();

    assert!(
        error
            .to_string()
            .contains("the nearest known one is PHALANX__NODE__ZONE"),
        "{error}"
    );
}

#[test]
fn a_mistake_of_syntax_names_line_and_column() {
    for (text, line, column, key) in [
        ("[node]\nid = 1\nzone = \n", 3, 8, Some("node.zone")),
        ("[node]\nid = 1\nid = 2\n", 3, 1, Some("node.id")),
        ("[node\n", 1, 6, None),
        ("x = \n[node]\n", 1, 5, Some("x")),
        (
            "[node]\nzone = \"\u{fc}\u{fc}\" x\n",
            2,
            13,
            Some("node.zone"),
        ),
        (
            "[[cluster.peers]]\nid = 99999999999999999999\n",
            2,
            6,
            Some("cluster.peers.id"),
        ),
    ] {
        let error = load(text, &[]).unwrap_err();

        let SettingsError::Syntax {
            line: found_line,
            column: found_column,
            key: found_key,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*found_line, *found_column), (line, column), "{text:?}");
        assert_eq!(found_key.as_deref(), key, "{text:?}");
        let named = key.is_none_or(|key| error.to_string().contains(&format!("`{key}`")));
        assert!(named, "{error}");
    }
}

#[test]
fn a_file_that_is_missing_or_unreadable_is_named() {
    let directory = tempfile::tempdir().unwrap();

    let missing = Settings::load_with(Some(&directory.path().join("no.toml")), []).unwrap_err();
    let unreadable = Settings::load_with(Some(directory.path()), []).unwrap_err();

    assert!(
        missing
            .to_string()
            .contains("no.toml: there is no such file; name an"),
        "{missing}"
    );
    assert!(
        matches!(unreadable, SettingsError::Unreadable { .. }),
        "{unreadable}"
    );
}

#[test]
fn the_entries_written_as_toml_load_to_the_same_settings() {
    let text = "[node]\nid = 9\ndata_dir = 'C:\\odd \"dir\"'\n[[cluster.peers]]\nid = 2\n\
                address = \"[::1]:5\"\n[journal]\nmax_open_files = -1\n";
    let loaded = load(text, &[]).unwrap();
    let written: String = loaded
        .entries()
        .iter()
        .map(|entry| format!("{} = {}\n", entry.key, entry.toml()))
        .collect();

    let again = load(&written, &[]).unwrap();

    assert_eq!(again.settings, loaded.settings);
    assert_ne!(again.settings, Settings::default());
}
