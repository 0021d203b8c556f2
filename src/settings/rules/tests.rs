//! Each rule is broken once, at its edge, and kept once.

use super::*;
use crate::settings::Peer;

/// The first key of each rule that a change of the defaults breaks.
fn broken_by(change: impl FnOnce(&mut Settings)) -> Vec<String> {
    let mut settings = Settings::default();
    change(&mut settings);
    violations(&settings)
        .into_iter()
        .map(|violation| violation.keys.into_iter().next().unwrap())
        .collect()
}

fn peer(id: u64, address: &str) -> Peer {
    Peer {
        id,
        address: address.to_owned(),
    }
}

#[test]
fn each_number_may_be_at_its_edges_and_not_beyond() {
    let at = |key: &str, number: i128| {
        let text = format!("{key} = {number}\n");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        match Settings::load_with(Some(&file), []) {
            Ok(_) => true,
            Err(error) => !error
                .to_string()
                .contains(&format!("from {} to ", range_of(key).unwrap().0)),
        }
    };
    for (key, least, most) in RANGES {
        assert!(at(key, *least), "{key} {least}");
        assert!(at(key, *most), "{key} {most}");
        assert!(!at(key, least - 1), "{key} {}", least - 1);
        if *most < i128::from(i64::MAX) {
            assert!(!at(key, most + 1), "{key} {}", most + 1);
        }
    }
}

#[test]
fn a_number_beyond_toml_is_refused_too() {
    assert_eq!(
        broken_by(|settings| settings.node.id = u64::MAX),
        ["node.id"]
    );
}

#[test]
fn elections_leave_room_for_two_heartbeats() {
    let broken = |heartbeat, least, most| {
        broken_by(|settings| {
            settings.raft.heartbeat_interval_ms = heartbeat;
            settings.raft.election_timeout_min_ms = least;
            settings.raft.election_timeout_max_ms = most;
        })
    };

    assert_eq!(broken(100, 201, 202), [] as [&str; 0]);
    assert_eq!(broken(100, 200, 202), ["raft.election_timeout_min_ms"]);
    assert_eq!(broken(100, 300, 300), ["raft.election_timeout_max_ms"]);
}

#[test]
fn a_header_that_names_callers_can_be_one_and_is_there_if_it_must_be() {
    let broken = |name: &str, required| {
        broken_by(|settings| {
            settings.http.principal_header = name.to_owned();
            settings.http.require_principal = required;
        })
    };

    assert_eq!(broken("", false), [] as [&str; 0]);
    assert_eq!(broken("X-Forwarded-User", true), [] as [&str; 0]);
    assert_eq!(broken("", true), ["http.require_principal"]);
    for name in ["Authorization", "x y", "phalanx-occurred-at"] {
        assert_eq!(broken(name, true), ["http.principal_header"], "{name}");
    }
}

#[test]
fn where_clients_reach_the_nodes_is_a_url() {
    let broken = |url: &str| broken_by(|settings| settings.http.public_url = url.to_owned());
    assert_eq!(broken(""), [] as [&str; 0]);
    assert_eq!(broken("https://orders.example.com"), [] as [&str; 0]);
    assert_eq!(broken("orders.example.com"), ["http.public_url"]);
}

#[test]
fn limits_of_admission_nest() {
    assert_eq!(
        broken_by(|settings| settings.actors.max_in_flight_per_shard = 8193),
        ["actors.max_in_flight_per_shard"]
    );
    assert_eq!(
        broken_by(|settings| settings.actors.max_in_flight_per_aggregate = 4097),
        ["actors.max_in_flight_per_aggregate"]
    );
    assert_eq!(
        broken_by(|settings| settings.actors.max_in_flight_bytes = 1_048_575),
        ["actors.max_in_flight_bytes"]
    );
    assert_eq!(
        broken_by(|settings| settings.actors.max_resident = 63),
        ["actors.max_concurrent_activations"]
    );
    assert_eq!(
        broken_by(|settings| {
            settings.actors.max_resident = 64;
            settings.actors.max_in_flight = 4096;
            settings.actors.max_in_flight_per_aggregate = 4096;
            settings.actors.max_in_flight_bytes = 1_048_576;
        }),
        [] as [&str; 0]
    );
}

#[test]
fn texts_have_their_alphabet_and_length() {
    for name in ["", "Phalanx", "a_b", "a b", &"a".repeat(65)] {
        assert_eq!(
            broken_by(|settings| settings.cluster.name = name.to_owned()),
            ["cluster.name"],
            "{name:?}"
        );
    }
    for zone in ["", "a b", "z\u{fc}rich", "a/b"] {
        let broken = broken_by(|settings| settings.node.zone = zone.to_owned());
        assert_eq!(broken, ["node.zone"], "{zone:?}");
    }
    assert_eq!(
        broken_by(|settings| settings.node.data_dir = "".into()),
        ["node.data_dir"]
    );
    for level in [
        "phalanx=loud",
        "loud",
        "warning",
        "",
        " ",
        "info,",
        "info phalanx",
        "phalanx::journal",
        "info,phalanx",
        "info, phalanx=warn",
        "info, warn",
    ] {
        let broken = broken_by(|settings| settings.log.level = level.to_owned());
        assert_eq!(broken, ["log.level"], "{level:?}");
    }
    for level in [
        "off",
        "INFO",
        "0",
        "phalanx=debug",
        "info,phalanx=warn",
        "[span{a=1}]=info,warn",
    ] {
        let broken = broken_by(|settings| settings.log.level = level.to_owned());
        assert_eq!(broken, [] as [&str; 0], "{level:?}");
    }
    assert_eq!(
        broken_by(|settings| {
            settings.cluster.name = "a".repeat(64);
            settings.node.zone = "EU-west_1.a".to_owned();
            settings.log.level = "warn,phalanx::journal=trace".to_owned();
        }),
        [] as [&str; 0]
    );
}

#[cfg(unix)]
#[test]
fn a_data_directory_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;

    let path = std::ffi::OsString::from_vec(vec![b'a', 0xff]);

    assert_eq!(
        broken_by(|settings| settings.node.data_dir = path.into()),
        ["node.data_dir"]
    );
}

#[test]
fn open_files_have_a_gap_between_all_and_sixteen() {
    for files in [0, 1, 15] {
        let broken = broken_by(|settings| settings.journal.max_open_files = files);
        assert_eq!(broken, ["journal.max_open_files"], "{files}");
    }
    for files in [-1, 16] {
        let broken = broken_by(|settings| settings.journal.max_open_files = files);
        assert!(broken.is_empty(), "{files}: {broken:?}");
    }
}

#[test]
fn the_listeners_do_not_share_a_port() {
    let broken = |http: &str, members: &str| {
        broken_by(|settings| {
            settings.http.listen = http.parse().unwrap();
            settings.cluster.listen = members.parse().unwrap();
        })
    };

    assert_eq!(broken("127.0.0.1:80", "127.0.0.1:80"), ["cluster.listen"]);
    assert_eq!(broken("0.0.0.0:80", "127.0.0.1:80"), ["cluster.listen"]);
    assert!(broken("127.0.0.2:80", "127.0.0.1:80").is_empty());
    assert!(
        broken("127.0.0.1:0", "127.0.0.1:0").is_empty(),
        "port 0 is a different one each time"
    );
}

#[test]
fn peers_are_told_apart_and_are_not_this_node() {
    let broken = |peers: Vec<Peer>| broken_by(|settings| settings.cluster.peers = peers);

    assert!(broken(vec![peer(2, "b:7080"), peer(3, "[::1]:7080")]).is_empty());
    assert_eq!(broken(vec![peer(1, "b:7080")]), ["cluster.peers[0].id"]);
    assert_eq!(broken(vec![peer(0, "b:7080")]), ["cluster.peers[0].id"]);
    assert_eq!(
        broken(vec![peer(2, "b:7080"), peer(2, "c:7080")]),
        ["cluster.peers[1].id"]
    );
    assert_eq!(
        broken(vec![peer(2, "b:7080"), peer(3, "b:7080")]),
        ["cluster.peers[1].address"]
    );
    assert_eq!(
        broken(vec![peer(2, "127.0.0.1:7080")]),
        ["cluster.peers[0].address"]
    );
    for address in [
        "",
        "b",
        "b:",
        ":1",
        "b:0",
        "b:+1",
        "b:65536",
        "http://b:1",
        "::1:1",
        "[b]:1",
        "0.0.0.0:1",
        "[::]:1",
    ] {
        assert_eq!(
            broken(vec![peer(2, address)]),
            ["cluster.peers[0].address"],
            "{address:?}"
        );
    }
}

#[test]
fn peers_need_an_address_to_reach_this_node() {
    let broken = |listen: &str, advertise: &str, peers: Vec<Peer>| {
        broken_by(|settings| {
            settings.cluster.listen = listen.parse().unwrap();
            settings.cluster.advertise = advertise.to_owned();
            settings.cluster.peers = peers;
        })
    };

    assert_eq!(
        broken("0.0.0.0:7080", "", vec![peer(2, "b:7080")]),
        ["cluster.advertise"]
    );
    assert_eq!(
        broken("127.0.0.1:0", "", vec![peer(2, "b:7080")]),
        ["cluster.advertise"]
    );
    assert!(broken("0.0.0.0:7080", "a:7080", vec![peer(2, "b:7080")]).is_empty());
    assert!(
        broken("0.0.0.0:7080", "", vec![]).is_empty(),
        "a cluster of one is dialled by nobody"
    );
    for none in ["a", "0.0.0.0:7080", "[::]:7080"] {
        assert_eq!(
            broken("127.0.0.1:7080", none, vec![]),
            ["cluster.advertise"]
        );
    }
    let long = |letters: usize| format!("{}:1", "a".repeat(letters));
    assert_eq!(
        broken("127.0.0.1:7080", &long(254), vec![]),
        ["cluster.advertise"]
    );
    assert!(broken("127.0.0.1:7080", &long(253), vec![]).is_empty());
    assert_eq!(
        broken("127.0.0.1:7080", "a:1", vec![peer(2, "a:1")]),
        ["cluster.peers[0].address"]
    );
}

#[test]
fn tls_has_all_its_files_or_none_and_a_name_for_certificates() {
    let broken = |files: [&str; 3], name: &str| {
        broken_by(|settings| {
            let tls = &mut settings.transport.tls;
            let [certificate, key, ca] = files;
            tls.certificate_file = certificate.into();
            tls.private_key_file = key.into();
            tls.ca_file = ca.into();
            settings.cluster.name = name.to_owned();
        })
    };

    assert!(broken(["", "", ""], "-a-").is_empty());
    assert!(broken(["a", "b", "c"], &"a".repeat(63)).is_empty());
    assert_eq!(
        broken(["a", "", "c"], "a"),
        ["transport.tls.private_key_file"]
    );
    assert_eq!(
        broken(["", "", "c"], "a"),
        [
            "transport.tls.certificate_file",
            "transport.tls.private_key_file"
        ]
    );
    assert!(broken(["", "", ""], "9").is_empty());
    assert!(broken(["a", "b", "c"], "9a").is_empty());
    for name in ["-a", "a-", "2026", &"a".repeat(64)] {
        assert_eq!(broken(["a", "b", "c"], name), ["cluster.name"], "{name:?}");
    }
}

#[test]
fn settings_of_a_program_are_checked_by_the_same_rules() {
    let mut settings = Settings::default();
    settings.cluster.shards = 0;

    let error = settings.validate().unwrap_err();

    assert_eq!(
        error.to_string(),
        "1 problem in the settings\n  program: `cluster.shards` = 0 must be from 1 to 4096"
    );
}
