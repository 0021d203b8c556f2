//! Which files are taken, which certificates fit which node, and that nothing of them is shown.

use std::fs;
use std::path::Path;

use super::*;

#[path = "../../../tests/support/authority.rs"]
pub(crate) mod authority;

use authority::{Authority, Files, Wish};

impl From<Files> for TlsFiles {
    fn from(files: Files) -> Self {
        Self {
            certificate: files.certificate,
            private_key: files.private_key,
            ca: files.ca,
        }
    }
}

/// Security with a certificate of its own directory.
pub(crate) fn secured(node: NodeId, files: Files) -> Security {
    Security::Tls(Tls::load(node, "phalanx", files.into()).unwrap())
}

fn judged(ca: &Authority, wish: &Wish) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let files = ca.issue(dir.path(), wish).into();
    Tls::check(2, "phalanx", &files).map_err(|error| error.to_string())
}

#[test]
fn only_the_exact_name_of_the_node_fits() {
    let ca = Authority::new("ca");
    judged(&ca, &Wish::node(2)).unwrap();
    let mut two_names = Wish::name("host.example");
    two_names.names.push("node-2.phalanx".to_owned());
    judged(&ca, &two_names).unwrap();
    for other in [
        "node-3.phalanx",
        "node-22.phalanx",
        "node-2.phalanx2",
        "node-2.phalanx.example",
        "x.node-2.phalanx",
        "node-2",
        "*.phalanx",
        "*",
        "Node-2.phalanx",
        "node-02.phalanx",
    ] {
        let error = judged(&ca, &Wish::name(other)).unwrap_err();
        assert!(error.contains("and not node-2.phalanx"), "{other}: {error}");
        assert!(error.contains(&format!("carries {other} and")), "{error}");
        let told = error.contains("wildcard");
        assert_eq!(told, other.contains('*'), "{error}");
    }
    let mut by_common_name = Wish::node(2);
    by_common_name.names.clear();
    by_common_name.common_name = "node-2.phalanx".to_owned();
    let error = judged(&ca, &by_common_name).unwrap_err();
    assert!(error.contains("no DNS name"), "{error}");
}

#[test]
fn what_others_would_refuse_is_named_with_its_remedy() {
    let (ca, foreign) = (Authority::new("ca"), Authority::new("ca"));
    let error = judged(&ca, &Wish::node(2).expired()).unwrap_err();
    assert!(error.contains("ran out at 2"), "{error}");
    assert!(
        error.contains("`transport.tls.certificate_file`"),
        "{error}"
    );
    let mut wish = Wish::node(2);
    wish.for_clients = false;
    let error = judged(&ca, &wish).unwrap_err();
    assert!(error.contains("serverAuth and clientAuth"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let files = ca.issue(dir.path(), &Wish::node(2));
    fs::write(&files.ca, foreign.pem()).unwrap();
    let error = Tls::check(2, "phalanx", &files.clone().into()).unwrap_err();
    assert!(error.to_string().contains("by no CA in"), "{error}");
    // Two CAs in one file are both trusted.
    fs::write(&files.ca, [foreign.pem(), ca.pem()].concat()).unwrap();
    Tls::check(2, "phalanx", &files.into()).unwrap();
}

/// Breaks one file and gives the complaint, which must not show what stands in it.
fn complaint(change: impl FnOnce(&Files, &Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let files = ca.issue(dir.path(), &Wish::node(2));
    let secret = fs::read_to_string(&files.private_key).unwrap();
    change(&files, dir.path());
    let error = Tls::load(2, "phalanx", files.into()).unwrap_err();
    let shown = format!("{error} {error:?}");
    for line in secret.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!shown.contains(&line[..line.len().min(16)]), "{shown}");
    }
    error.to_string()
}

#[test]
fn files_that_cannot_be_used_are_named_by_their_key_and_not_shown() {
    let error = complaint(|files, _| fs::remove_file(&files.ca).unwrap());
    assert!(
        error.contains("`transport.tls.ca_file`: failed to read"),
        "{error}"
    );
    let error = complaint(|files, _| fs::write(&files.certificate, "none").unwrap());
    assert!(
        error.contains("`transport.tls.certificate_file`"),
        "{error}"
    );
    assert!(error.contains("holds no certificate"), "{error}");
    let error = complaint(|files, _| {
        fs::copy(&files.certificate, &files.private_key).unwrap();
    });
    assert!(
        error.contains("`transport.tls.private_key_file`"),
        "{error}"
    );
    assert!(error.contains("holds no private key"), "{error}");
    // The key of another certificate.
    let error = complaint(|files, dir| {
        let other = Authority::new("ca").issue(&dir.join("other"), &Wish::node(2));
        fs::copy(other.private_key, &files.private_key).unwrap();
    });
    assert!(
        error.contains("`transport.tls.private_key_file`"),
        "{error}"
    );
    // A key whose lines were joined: its one line is the key.
    let error = complaint(|files, _| {
        let text = fs::read_to_string(&files.private_key).unwrap();
        fs::write(&files.private_key, text.replace('\n', " ")).unwrap();
    });
    assert!(error.contains("is cut short"), "{error}");
    // The BEGIN line runs into the key.
    let error = complaint(|files, _| {
        let text = fs::read_to_string(&files.private_key).unwrap();
        fs::write(&files.private_key, text.replacen("-----\n", "", 1)).unwrap();
    });
    assert!(
        error.contains("`transport.tls.private_key_file`"),
        "{error}"
    );
    let error = complaint(|files, _| {
        let text = fs::read_to_string(&files.private_key).unwrap();
        let end = text.find("-----END").unwrap();
        fs::write(&files.private_key, &text[..end]).unwrap();
    });
    assert!(error.contains("is cut short"), "{error}");
}

#[test]
fn debug_shows_paths_and_nothing_of_what_is_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = Authority::new("ca").issue(dir.path(), &Wish::node(2));
    let texts = [&files.certificate, &files.private_key, &files.ca].map(|file| {
        let text = fs::read_to_string(file).unwrap();
        text.lines().nth(1).unwrap().to_owned()
    });
    let tls = Tls::load(2, "phalanx", files.into()).unwrap();
    let shown = format!("{:?} {:?}", Security::Tls(Arc::clone(&tls)), tls.current());
    assert!(shown.contains("node.key"), "{shown}");
    for text in texts {
        assert!(!shown.contains(&text), "{shown}");
    }
}

#[test]
fn the_dates_of_a_certificate_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let wish = Wish::node(2);
    let files = Authority::new("ca").issue(dir.path(), &wish);
    let tls = Tls::load(2, "phalanx", files.into()).unwrap();
    assert_eq!(tls.current().not_after, wish.until.as_secs());
    let age = authority::now().as_secs() - tls.current().not_before;
    assert!(age.abs_diff(wish.since.as_secs()) < 60, "{age}");
}
