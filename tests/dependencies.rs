//! What Phalanx is built from: licences that fit, nothing from outside of the registry, nothing that
//! was ruled out, and no known advisory.
//!
//! Licences and sources are read off `cargo metadata`. Advisories that were known on a certain day
//! are looked for in any case; newer ones need a database that is kept elsewhere, and `cargo-deny`:
//! where they are missing, that part is skipped loudly. `.config/deny.toml` says what is accepted
//! and why.

#![expect(clippy::panic, reason = "a test fails by panicking")]

#[path = "dependencies/advisories.rs"]
mod advisories;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Licences that may be combined into an Apache-2.0 program. An expression passes when one of its
/// alternatives needs nothing else.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not come in, and why.
const BANNED: [(&str, &str); 4] = [
    (
        "ractor_cluster",
        "not ready for production, and its queues have no bounds",
    ),
    (
        "openssl-sys",
        "rustls serves the same purpose without a system library",
    ),
    ("bindgen-cli", "only the library is needed"),
    (
        "native-tls",
        "rustls serves the same purpose without a system library",
    ),
];

#[test]
fn licences_sources_and_choices_hold() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut complaints = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !fits(licence) {
            complaints.insert(format!(
                "{name}: the licence `{licence}` is not among those allowed"
            ));
        }
        let source = package["source"].as_str().unwrap_or("registry+");
        if !source.starts_with("registry+") && !source.starts_with("sparse+") {
            complaints.insert(format!(
                "{name}: comes from {source}, not from the registry"
            ));
        }
        for (banned, why) in BANNED {
            if name == banned {
                complaints.insert(format!("{name}: {why}"));
            }
        }
    }
    assert!(packages.len() > 50, "the metadata names the whole tree");
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn cargo_deny_knows_of_no_advisory_that_is_not_accepted() {
    if !succeeds(Command::new("cargo").args(["deny", "--version"])) {
        return skipped("newer than .config/advisories.toml: cargo-deny is not installed");
    }
    if !succeeds(Command::new("cargo").args(["deny", "fetch"])) {
        return skipped("the advisory database cannot be fetched here");
    }
    let output = Command::new("cargo")
        .args([
            "deny",
            "check",
            "--config",
            ".config/deny.toml",
            "advisories",
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_licence_expression_passes_only_with_an_allowed_alternative() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "MIT/Apache-2.0",
    ] {
        assert!(fits(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND SSPL-1.0",
    ] {
        assert!(!fits(bad), "{bad}");
    }
}

/// Every part of an `AND` needs one allowed alternative of its `OR`s.
fn fits(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| ALLOWED.contains(&licence.trim()))
    })
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn skipped(why: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "SKIPPED: advisories: {why}").expect("standard error is open");
}
