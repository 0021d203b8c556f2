//! Known advisories against the versions in `Cargo.lock`, without a network.
//!
//! `.config/advisories.toml` holds what the RustSec database said, on the day that it names, of the
//! crates that are used here. It cannot know what was found later: that is for `cargo deny`, where
//! it is installed, and for whoever makes the file anew:
//!
//! ```sh
//! PHALANX_ADVISORY_DB=path/to/advisory-db cargo test ... --test dependencies
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::{Version, VersionReq};
use toml_edit::DocumentMut;

const FILE: &str = ".config/advisories.toml";

/// An advisory, as far as it matters here.
struct Advisory {
    id: String,
    name: String,
    /// Versions that do not have the flaw any more, or never had it.
    unharmed: Vec<VersionReq>,
}

impl Advisory {
    fn concerns(&self, version: &Version) -> bool {
        !self.unharmed.iter().any(|range| range.matches(version))
    }
}

type Locked = BTreeMap<String, Vec<Version>>;

#[test]
fn no_locked_version_has_a_known_advisory_that_is_not_accepted() {
    let locked = locked();
    if let Some(database) = std::env::var_os("PHALANX_ADVISORY_DB") {
        std::fs::write(FILE, rendered(&PathBuf::from(database), &locked)).expect("writable");
    }
    let known = parsed(&read(FILE));
    assert!(known.len() > 20, "the file names what is known");
    let accepted = accepted();
    let mut complaints = BTreeSet::new();
    let mut used = BTreeSet::new();
    for advisory in &known {
        for version in locked.get(&advisory.name).into_iter().flatten() {
            if !advisory.concerns(version) {
                continue;
            }
            if accepted.contains(&advisory.id) {
                used.insert(advisory.id.clone());
            } else {
                complaints.insert(format!("{} {version}: {}", advisory.name, advisory.id));
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(
        used, accepted,
        "what is accepted without need is accepted no more"
    );
}

#[test]
fn a_version_is_concerned_until_it_is_patched_unless_it_never_had_the_flaw() {
    let text = r#"
        [[advisory]]
        id = "X-1"
        crate = "a"
        unharmed = [">= 1.2.3, < 2.0.0", ">= 2.0.2", "< 0.5.0"]
    "#;
    let advisory = parsed(text).remove(0);
    let concerned = |version| advisory.concerns(&Version::parse(version).expect("a version"));
    for harmed in ["1.2.2", "2.0.0", "2.0.1", "0.5.0"] {
        assert!(concerned(harmed), "{harmed}");
    }
    for unharmed in ["1.2.3", "1.9.0", "2.0.2", "0.4.9", "3.0.0+build"] {
        assert!(!concerned(unharmed), "{unharmed}");
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is locked, by name.
fn locked() -> Locked {
    let lock: DocumentMut = read("Cargo.lock").parse().expect("TOML");
    let mut locked = Locked::new();
    let packages = lock["package"].as_array_of_tables().expect("packages");
    for package in packages {
        let text = |key: &str| package[key].as_str().expect("text");
        let version = Version::parse(text("version")).expect("a version");
        locked
            .entry(text("name").to_owned())
            .or_default()
            .push(version);
    }
    locked
}

/// What `.config/deny.toml` accepts, with its reasons.
fn accepted() -> BTreeSet<String> {
    let deny: DocumentMut = read(".config/deny.toml").parse().expect("TOML");
    let ignored = deny["advisories"]["ignore"].as_array().expect("a list");
    let ids = ignored
        .iter()
        .map(|id| id.as_str().expect("an id").to_owned());
    ids.collect()
}

fn parsed(text: &str) -> Vec<Advisory> {
    let file: DocumentMut = text.parse().expect("TOML");
    let advisories = file["advisory"].as_array_of_tables().expect("advisories");
    let parse = |table: &toml_edit::Table| {
        let text = |key: &str| table[key].as_str().expect("text").to_owned();
        let ranges = table["unharmed"].as_array().expect("ranges").iter();
        Advisory {
            id: text("id"),
            name: text("crate"),
            unharmed: ranges
                .map(|range| range.as_str().expect("a range").parse().expect("a range"))
                .collect(),
        }
    };
    advisories.iter().map(parse).collect()
}

/// The file, out of a checkout of the database.
fn rendered(database: &Path, locked: &Locked) -> String {
    let mut found = BTreeMap::new();
    for name in locked.keys() {
        let Ok(files) = std::fs::read_dir(database.join("crates").join(name)) else {
            continue;
        };
        for file in files {
            let text = read(file.expect("a file").path());
            let head = text.split("```").nth(1).expect("a head");
            let head: DocumentMut = head.trim_start_matches("toml").parse().expect("TOML");
            if head["advisory"].get("withdrawn").is_some() {
                continue;
            }
            let id = head["advisory"]["id"].as_str().expect("an id").to_owned();
            let ranges = ["patched", "unaffected"].into_iter().flat_map(|key| {
                let list = head["versions"].get(key).and_then(|list| list.as_array());
                list.into_iter().flatten().map(|range| range.to_string())
            });
            let ranges: Vec<String> = ranges.map(|range| range.trim().to_owned()).collect();
            found.insert(id, (name, ranges.join(", ")));
        }
    }
    let day = Command::new("git")
        .args(["log", "-1", "--format=%cs"])
        .current_dir(database)
        .output()
        .expect("git runs");
    let day = String::from_utf8(day.stdout).expect("UTF-8");
    let mut out = format!(
        "# Advisories of the RustSec database that name a crate in Cargo.lock, and the versions that\n\
         # are not concerned. Made by tests/dependencies/advisories.rs.\n\nas_of = \"{}\"\n",
        day.trim()
    );
    for (id, (name, ranges)) in found {
        write!(
            out,
            "\n[[advisory]]\nid = \"{id}\"\ncrate = \"{name}\"\nunharmed = [{ranges}]\n"
        )
        .expect("memory");
    }
    out
}
