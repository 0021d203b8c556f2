//! The command line as a user sees it: the real program, its output and its exit codes.
//!
//! Refuses to look inside; the rules themselves are tested where they are written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "support/authority.rs"]
#[expect(dead_code, reason = "other tests ask it for more")]
mod authority;

use authority::{Authority, Wish};

/// The program with no variable of this process.
fn phalanx(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phalanx"));
    command.env_clear().args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    phalanx(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A settings file in a directory that vanishes with it.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn with(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("node.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("node.toml")
    }

    fn check(&self) -> Output {
        run(&["check-config", self.path().to_str().unwrap()])
    }
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/node.toml")
}

/// The exit code 2, nothing on standard output, and every one of the texts on standard error.
#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    let complaint = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{complaint}");
    assert_eq!(stdout(output), "");
    for text in texts {
        assert!(
            complaint.contains(text),
            "{text:?} is missing in:\n{complaint}"
        );
    }
}

#[test]
fn the_shipped_file_is_accepted_and_every_line_names_its_place() {
    let path = shipped();

    let output = run(&["check-config", path.to_str().unwrap()]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.lines().count() > 40, "{text}");
    for line in text.lines() {
        let (setting, origin) = line.split_once("  # ").unwrap();
        assert!(setting.contains(" = "), "{line}");
        let from_file = origin.starts_with(&format!("{}:", path.display()));
        assert!(
            from_file || setting.starts_with("cluster.peers = []"),
            "{line}"
        );
    }
    assert_eq!(stderr(&output), "");
}

#[test]
fn what_check_config_prints_is_accepted_as_a_file_with_the_same_values() {
    let values = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split("  # ").next().unwrap().trim_end().to_owned())
            .collect()
    };
    let first =
        File::with("[node]\nid = 4\n[[cluster.peers]]\nid = 2\naddress = \"b:1\"\n").check();

    let second = File::with(&stdout(&first)).check();

    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert_eq!(values(&stdout(&second)), values(&stdout(&first)));
    let peers = r#"cluster.peers = [{ address = "b:1", id = 2 }]"#;
    assert!(
        values(&stdout(&first)).contains(&peers.to_owned()),
        "{}",
        stdout(&first)
    );
}

#[test]
fn the_json_report_names_key_value_and_origin() {
    let file = File::with("[node]\n\nid = 4\n");
    let path = file.path();

    let output = phalanx(&["check-config", "--json", path.to_str().unwrap()])
        .env("PHALANX__HTTP__LISTEN", "127.0.0.1:9")
        .output()
        .unwrap();

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entry = |key: &str| -> Value {
        let keys = report["keys"].as_array().unwrap();
        keys.iter()
            .find(|entry| entry["key"] == key)
            .unwrap()
            .clone()
    };
    assert_eq!(report["file"], path.to_str().unwrap());
    assert_eq!(entry("node.id")["value"], 4);
    assert_eq!(entry("node.id")["origin"]["line"], 3);
    assert_eq!(entry("http.listen")["value"], "127.0.0.1:9");
    assert_eq!(
        entry("http.listen")["origin"]["variable"],
        "PHALANX__HTTP__LISTEN"
    );
    assert_eq!(
        entry("raft.max_batch_commands")["origin"]["kind"],
        "default"
    );
}

#[test]
fn a_variable_overrides_the_file_and_is_named_as_the_origin() {
    let path = shipped();

    let output = phalanx(&["check-config", path.to_str().unwrap()])
        .env("PHALANX__HTTP__LISTEN", "0.0.0.0:9090")
        .output()
        .unwrap();

    let text = stdout(&output);
    let line = text
        .lines()
        .find(|line| line.starts_with("http.listen = "))
        .unwrap();
    assert!(line.contains("\"0.0.0.0:9090\""), "{line}");
    assert!(
        line.ends_with("# environment variable PHALANX__HTTP__LISTEN"),
        "{line}"
    );
}

#[test]
fn without_a_file_the_defaults_are_shown() {
    let output = run(&["check-config"]);

    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output)
            .lines()
            .all(|line| line.ends_with("# default")),
        "{}",
        stdout(&output)
    );
}

#[test]
fn unknown_keys_and_bad_values_are_all_reported_with_key_line_and_nearest_key() {
    let output =
        File::with("[http]\nlistn = \"127.0.0.1:1\"\n[cluster]\nshards = \"many\"\n").check();

    assert_refused(
        &output,
        &[
            "2 problems",
            "node.toml:2: unknown key `http.listn`; the nearest known key is `http.listen`",
            "node.toml:4: bad value \"many\" for `cluster.shards`",
        ],
    );
}

#[test]
fn rules_over_several_keys_are_reported_at_the_line_that_broke_them() {
    let output = File::with("[raft]\n\nelection_timeout_max_ms = 300\n").check();

    assert_refused(
        &output,
        &[
            "node.toml:3: `raft.election_timeout_max_ms` = 300 must be more than \
             `raft.election_timeout_min_ms` = 400",
        ],
    );
}

#[test]
fn the_password_of_the_store_is_shown_nowhere() {
    let secret = "s3cret";
    let shown = |text: &str| {
        let file = File::with(&format!("[projections]\nstore = {text}\n"));
        let path = file.path();
        let plain = file.check();
        let json = run(&["check-config", "--json", path.to_str().unwrap()]);
        let all = [&plain, &json].map(|o| format!("{}{}", stdout(o), stderr(o)));
        assert!(!all.concat().contains(secret), "{text}: {all:?}");
        plain
    };
    let good = shown("\"postgres://u:s3cret@127.0.0.1:1/d?sslmode=disable\"");
    let line = "projections.store = \"postgres://u:***@127.0.0.1:1/d?sslmode=disable\"";
    assert!(stdout(&good).contains(line), "{}", stdout(&good));
    for bad in [
        "\"postgres://u:s3cret@127.0.0.1:x/d\"",
        "\"postgres://u:s3cret@h/d?pasword=s3cret\"",
        "\"mysql://u:s3cret@h/d\"",
        "[\"postgres://u:s3cret@h/d\"]",
        "{url = \"postgres://u:s3cret@h/d\"}",
    ] {
        assert_refused(&shown(bad), &["projections.store"]);
    }
    let output = phalanx(&["check-config"])
        .env("PHALANX__PROJECTIONS__STORE", "postgres://u:s3cret@h:x/d")
        .output()
        .unwrap();
    assert_refused(&output, &["PHALANX__PROJECTIONS__STORE"]);
    assert!(!stderr(&output).contains(secret));
}

#[test]
fn certificates_are_all_named_and_looked_at() {
    let output = File::with("[transport.tls]\nca_file = \"ca.crt\"\n").check();

    assert_refused(
        &output,
        &[
            "node.toml:2: `transport.tls.certificate_file` must be set as well",
            "node.toml:2: `transport.tls.private_key_file` must be set as well",
        ],
    );
}

#[test]
fn every_file_of_a_certificate_that_cannot_be_used_is_named_where_it_was_set() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node.key"), "no key").unwrap();
    let text = "[transport.tls]\nca_file = \"/no/ca.crt\"\n\
                private_key_file = \"node.key\"\ncertificate_file = \"/no/node.crt\"\n";
    std::fs::write(directory.path().join("node.toml"), text).unwrap();
    let named = [
        "3 problems",
        "node.toml:2: `transport.tls.ca_file`: failed to read /no/ca.crt",
        "node.toml:3: `transport.tls.private_key_file`: node.key holds no private key",
        "node.toml:4: `transport.tls.certificate_file`: failed to read /no/node.crt",
    ];

    for arguments in [&["check-config"][..], &["serve", "--config"]] {
        let output = phalanx(arguments)
            .arg("node.toml")
            .current_dir(directory.path())
            .output()
            .unwrap();

        assert_refused(&output, &named);
    }
    let output = phalanx(&["serve", "--config", "node.toml"])
        .env("PHALANX__TRANSPORT__TLS__CA_FILE", "/no/other.crt")
        .current_dir(directory.path())
        .output()
        .unwrap();
    let variable = "environment variable PHALANX__TRANSPORT__TLS__CA_FILE: \
                    `transport.tls.ca_file`: failed to read /no/other.crt";
    assert_refused(&output, &[variable]);
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 2, "no data directory was made");
}

#[test]
fn a_certificate_that_others_would_refuse_is_a_mistake_of_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let files = Authority::new("ca").issue(directory.path(), &Wish::name("node-9.phalanx"));
    let file = directory.path().join("node.toml");
    let text = format!(
        "[transport.tls]\ncertificate_file = {:?}\nprivate_key_file = {:?}\nca_file = {:?}\n",
        files.certificate, files.private_key, files.ca
    );
    std::fs::write(&file, text).unwrap();

    let output = run(&["check-config", file.to_str().unwrap()]);

    assert_refused(
        &output,
        &["node.toml:2: `transport.tls.certificate_file`: the certificate in "],
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_line_and_column() {
    let output = File::with("[node]\nid = \n").check();

    assert_refused(&output, &["node.toml:2:6: not valid TOML"]);
}

#[test]
fn a_missing_file_is_named_and_the_way_out_told() {
    let output = run(&["check-config", "no/such/node.toml"]);

    assert_refused(
        &output,
        &[
            "no/such/node.toml: there is no such file",
            "embedded defaults",
        ],
    );
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_one() {
    let output = phalanx(&["check-config"])
        .env("PHALANX__HTP__LISTEN", "x")
        .output()
        .unwrap();

    assert_refused(
        &output,
        &[
            "PHALANX__HTP__LISTEN: names no key",
            "PHALANX__HTTP__LISTEN",
        ],
    );
}

#[test]
fn a_bad_value_in_a_variable_is_refused_by_its_name() {
    let output = phalanx(&["check-config"])
        .env("PHALANX__CLUSTER__SHARDS", "0")
        .output()
        .unwrap();

    assert_refused(
        &output,
        &["environment variable PHALANX__CLUSTER__SHARDS: `cluster.shards` = 0 must be from 1"],
    );
}

#[test]
fn serve_refuses_bad_settings_before_it_starts_anything() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("node.toml"), "[node]\nidd = 1\n").unwrap();

    let output = phalanx(&["serve", "--config", "node.toml"])
        .current_dir(directory.path())
        .output()
        .unwrap();

    assert_refused(
        &output,
        &["node.toml:2: unknown key `node.idd`", "`node.id`"],
    );
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "no data directory was made");
}

#[test]
fn version_and_help_go_to_standard_output() {
    let version = run(&["--version"]);
    let help = run(&["--help"]);

    assert_eq!(version.status.code(), Some(0));
    let start = format!("phalanx {} (", env!("CARGO_PKG_VERSION"));
    assert!(stdout(&version).starts_with(&start), "{}", stdout(&version));
    assert_eq!(help.status.code(), Some(0));
    for word in [
        "serve",
        "check-config",
        "completions",
        "PHALANX__HTTP__LISTEN",
    ] {
        assert!(stdout(&help).contains(word), "{word}");
    }
}

#[test]
fn wrong_arguments_exit_with_two_and_a_hint() {
    assert_refused(&run(&["serv"]), &["serve"]);
    assert_refused(&run(&[]), &["Usage: phalanx"]);
    assert_refused(&run(&["serve", "--confg", "x"]), &["--config"]);
    assert_refused(&run(&["completions", "cobol"]), &["bash"]);
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);

        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("check-config"), "{shell}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    for arguments in [
        &["check-config"][..],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);

        let output = phalanx(arguments).stdout(writer).output().unwrap();

        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();

    let output = phalanx(&["check-config"]).stdout(full).output().unwrap();

    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("standard output cannot be written"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_node_without_the_crash_points_that_are_set_does_not_start() {
    let file = File::with("[node]\nid = 0\n");
    let mut serve = phalanx(&["serve", "--config", file.path().to_str().unwrap()]);
    let output = serve
        .env("FAILPOINTS", "journal::before_write=return")
        .output()
        .unwrap();
    if cfg!(feature = "failpoints") {
        // It comes to its settings.
        assert_refused(&output, &["node.id"]);
    } else {
        assert_refused(&output, &["FAILPOINTS", "--features phalanx/failpoints"]);
    }
}
