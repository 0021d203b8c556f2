//! Members that show one another certificates.
//!
//! Each refusal stands in the log and in `GET /v1/cluster` of both sides, and the members that fit
//! one another go on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use phalanx::cluster::roster::{Contact, Contacts};
use phalanx::cluster::tls::{Security, Tls, TlsFiles};
use phalanx::cluster::transport::{PeerState, Transport, TransportIdentity, TransportOptions};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::fixture::{Cluster, SOON};
use super::support::authority::{Authority, Files, Wish, now};
use super::support::client;
use super::support::http::{Http, Request};
use super::support::node::{Node, NodeSetup};
use super::support::{fault, skipped, temp_dir, wait};

const EXPIRY: &str = "phalanx_tls_certificate_expiry_timestamp_seconds";

/// Lets a node use these files.
fn using(setup: &NodeSetup, files: &Files) -> NodeSetup {
    setup
        .clone()
        .set(
            "TRANSPORT__TLS__CERTIFICATE_FILE",
            files.certificate.display(),
        )
        .set(
            "TRANSPORT__TLS__PRIVATE_KEY_FILE",
            files.private_key.display(),
        )
        .set("TRANSPORT__TLS__CA_FILE", files.ca.display())
}

fn files_of(directory: &Path, node: u64) -> Files {
    Files::within(&directory.join(format!("tls-{node}")))
}

/// Three members of one CA that are not started yet.
fn members(directory: &Path, ca: &Authority) -> Cluster {
    let mut cluster = Cluster::new(directory);
    for (node, setup) in (1..).zip(&mut cluster.setups) {
        let wish = Wish::node(node);
        let files = ca.issue(&directory.join(format!("tls-{node}")), &wish);
        *setup = using(setup, &files);
    }
    cluster
}

/// How a node sees another one.
fn state(cluster: &Cluster, node: u64, other: u64) -> (String, String) {
    // A node that has just been started does not listen yet.
    let answer = wait::until("a node says how it sees the others", SOON, || {
        let mut client = cluster.node(node).client();
        client.try_send(&Request::get("/v1/cluster")).ok()
    });
    let view = answer.json();
    let members = view["members"].as_array().expect("a list").iter();
    let mut found = members.filter(|member| member["id"] == other);
    let member = found.next().expect("every member is listed");
    let text = |key: &str| member[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

fn wait_connected(cluster: &Cluster, node: u64, other: u64) {
    let what = format!("node {node} is connected to node {other}");
    wait::until(&what, SOON, || {
        (state(cluster, node, other).0 == "connected").then_some(())
    });
}

/// Waits until a node refuses another, or is refused, and both its log and its view say why.
fn wait_refused(cluster: &Cluster, node: u64, other: u64, words: &str) {
    let mut last = (String::new(), String::new());
    let found = wait::poll(SOON, || {
        last = state(cluster, node, other);
        (last.0 == "refused" && last.1.contains(words)).then_some(())
    });
    assert!(
        found.is_some(),
        "node {node} of node {other}, wanted {words:?}: {last:?}\n{}",
        cluster.node(node).log()
    );
    cluster.wait_log(node, words);
}

fn expiry(node: &Node) -> Option<Duration> {
    let seconds = node.metric(EXPIRY)?;
    Some(Duration::from_secs_f64(seconds))
}

#[test]
fn three_nodes_with_certificates_serve_and_survive_a_killed_leader() {
    let directory = temp_dir();
    let ca = Authority::new("ca");
    let mut cluster = members(directory.path(), &ca);
    // Of the third, the certificate runs out in an hour, and the log shows all that it can show.
    let mut soon = Wish::node(3);
    (soon.since, soon.until) = (
        Duration::from_secs(90 * 24 * 3600),
        now() + Duration::from_secs(3600),
    );
    let third = ca.issue(&directory.path().join("tls-3"), &soon);
    cluster.setups[2] = cluster.setups[2]
        .clone()
        .set("LOG__LEVEL", "trace,h2=info,openraft=info");
    cluster.start_ready();
    for (node, other) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        wait_connected(&cluster, node, other);
    }
    let mut accounts = cluster.open_accounts(16);
    for (id, _) in &accounts {
        for node in 1..=3 {
            let deposit = client::deposit(id, 5).key(&format!("at-{node}"));
            cluster.store_at(node, &deposit);
        }
    }
    let until = expiry(cluster.node(3)).expect("the metric is there");
    assert_eq!(until.as_secs(), soon.until.as_secs());
    cluster.wait_log(3, "runs out soon");
    assert!(!cluster.node(1).log().contains("runs out soon"));

    let (id, position) = &mut accounts[0];
    let victim = cluster
        .served_by(&mut cluster.anywhere(), id, position)
        .node;
    cluster.kill(victim);
    let mut http = cluster.anywhere();
    *position = client::store(&mut http, &client::deposit(id, 7).key("after"));
    assert_ne!(cluster.served_by(&mut http, id, position).node, victim);
    cluster.start(victim);
    cluster.wait_ready(victim);
    wait_connected(&cluster, if victim == 1 { 2 } else { 1 }, victim);

    let log = cluster.node(3).log();
    for file in [&third.certificate, &third.private_key, &third.ca] {
        for line in fs::read_to_string(file).expect("a file").lines() {
            assert!(line.contains("-----") || !log.contains(line), "{line}");
        }
    }
    for node in 1..=3 {
        let log = cluster.node(node).log();
        assert!(!log.contains("ERROR"), "node {node}:\n{log}");
    }
    // Last, as it is an error in the log of its own.
    not_in_plaintext(cluster.setups[0].cluster_address);
}

/// Somebody who does not speak TLS hears an alert and nothing of the protocol.
fn not_in_plaintext(address: SocketAddr) {
    let mut socket = TcpStream::connect(address).expect("the node listens");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    socket
        .write_all(preface)
        .expect("the node takes some bytes");
    let mut answer = Vec::new();
    let timeout = Some(Duration::from_secs(10));
    socket.set_read_timeout(timeout).expect("a timeout");
    socket.read_to_end(&mut answer).expect("it ends");
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 10]);
}

/// Starts a cluster whose third member has other files, or none, and looks at both sides.
fn third_is_refused(
    wrong: impl FnOnce(&Authority, &Path) -> Option<Files>,
    at_others: &str,
    at_third: &str,
) {
    let directory = temp_dir();
    let ca = Authority::new("ca");
    let mut cluster = members(directory.path(), &ca);
    let none = Files {
        certificate: "".into(),
        private_key: "".into(),
        ca: "".into(),
    };
    let files = wrong(&ca, &directory.path().join("tls-3")).unwrap_or(none);
    cluster.setups[2] = using(&cluster.setups[2], &files);
    for node in 1..=3 {
        cluster.start(node);
    }
    for node in [1, 2] {
        wait_refused(&cluster, node, 3, at_others);
        wait_refused(&cluster, 3, node, at_third);
    }
    wait_connected(&cluster, 1, 2);
    // The two that fit serve every shard; the third serves none.
    let mut http = Http::anywhere(&[cluster.address(1), cluster.address(2)]);
    for number in 0..8 {
        let request = client::open(&format!("a-{number}"));
        client::store(&mut http, &request);
        let alone = cluster.ask(3, &request);
        assert_eq!(alone.status, 503, "{}", alone.text());
    }
}

#[test]
fn a_node_without_tls_is_refused_by_those_that_have_it() {
    third_is_refused(
        |_, _| None,
        "node 3 does not speak TLS, and this node speaks nothing else",
        "speaks TLS, and this node does not",
    );
}

#[test]
fn a_node_with_a_certificate_of_a_foreign_ca_is_refused() {
    third_is_refused(
        |_, directory| Some(Authority::new("foreign").issue(directory, &Wish::node(3))),
        "node 3 presents a certificate that is signed by no CA",
        "presents a certificate that is signed by no CA",
    );
}

#[test]
fn a_node_with_an_expired_certificate_is_refused() {
    third_is_refused(
        |ca, directory| Some(ca.issue(directory, &Wish::node(3).expired())),
        "node 3 presents a certificate that ran out at",
        "refuses the certificate of this node: it has run out",
    );
}

#[test]
fn a_node_with_the_certificate_of_another_one_is_refused() {
    let words = "certificate of node 3 carries node-2.phalanx and not node-3.phalanx";
    third_is_refused(
        |ca, directory| Some(ca.issue(directory, &Wish::node(2))),
        words,
        words,
    );
}

#[test]
fn the_commands_of_the_manual_make_certificates_that_members_accept() {
    if !fault::is_there("openssl") {
        return skipped("the commands of the manual", "openssl is not installed");
    }
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
    let manual = fs::read_to_string(manual).expect("the manual is there");
    let mut blocks = manual.split("```sh\n").skip(1);
    let block = blocks.find(|block| block.contains("openssl req -x509"));
    let commands = block.and_then(|block| block.split("```").next());
    let directory = temp_dir();
    let made = Command::new("sh")
        .args(["-e", "-c", commands.expect("the manual has the commands")])
        .current_dir(directory.path())
        .output()
        .expect("there is a shell");
    assert!(made.status.success(), "{made:?}");
    let mut cluster = Cluster::new(directory.path());
    for (node, setup) in (1..).zip(&mut cluster.setups) {
        let file = |name: String| directory.path().join(name);
        let files = Files {
            certificate: file(format!("node-{node}.crt")),
            private_key: file(format!("node-{node}.key")),
            ca: file("ca.crt".to_owned()),
        };
        *setup = using(setup, &files);
    }
    cluster.start_ready();
    for (node, other) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        wait_connected(&cluster, node, other);
    }
}

#[test]
fn a_node_whose_files_cannot_be_used_does_not_start() {
    let directory = temp_dir();
    let mut cluster = members(directory.path(), &Authority::new("ca"));
    let files = files_of(directory.path(), 1);
    fs::copy(
        files_of(directory.path(), 2).private_key,
        &files.private_key,
    )
    .expect("a copy");
    cluster.start(1);
    let node = cluster.nodes[0].as_mut().expect("it was started");
    let status = node.wait_end(SOON).expect("it ends");
    assert_eq!(status.code(), Some(2));
    let log = node.log();
    assert!(log.contains("`transport.tls.private_key_file`"), "{log}");
}

#[test]
fn a_member_that_says_hello_as_another_one_is_refused_and_not_remembered() {
    let directory = temp_dir();
    let ca = Authority::new("ca");
    let mut cluster = members(directory.path(), &ca);
    cluster.start(1);
    cluster.start(2);
    wait_connected(&cluster, 1, 2);
    let words = "certificate of node 3 carries node-2.phalanx and not node-3.phalanx";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    {
        let _entered = runtime.enter();
        // The certificate and the key are those of node 2, and all else is as node 3 would say it.
        let liar = liar(&cluster, &files_of(directory.path(), 2), directory.path());
        let refused = wait::poll(SOON, || match liar.peer_state(1) {
            Some(PeerState::Refused(reason)) => Some(reason),
            _ => None,
        });
        let reason = refused.expect("it is refused");
        assert!(reason.contains(words), "{reason}");
    }
    runtime.shutdown_background();
    cluster.wait_log(1, words);
    // Had it been believed, the real one would now be taken for somebody else.
    cluster.start(3);
    wait_connected(&cluster, 1, 3);
    wait_connected(&cluster, 3, 1);
}

/// Connects to node 1 as node 3.
fn liar(cluster: &Cluster, files: &Files, directory: &Path) -> Transport {
    let files = TlsFiles {
        certificate: files.certificate.clone(),
        private_key: files.private_key.clone(),
        ca: files.ca.clone(),
    };
    let tls = Tls::load(3, "phalanx", files).expect("the files can be used");
    let known = Contact {
        address: cluster.setups[0].cluster_address.to_string(),
        incarnation: None,
    };
    let who = TransportIdentity {
        node: 3,
        cluster: "phalanx".to_owned(),
        shards: 4,
        incarnation: uuid::Uuid::from_u128(666),
        process: 666,
        data_dir: directory.to_owned(),
        contacts: Contacts {
            peers: BTreeMap::from([(1, known)]),
            ..Contacts::default()
        },
        security: Security::Tls(tls),
    };
    let options = TransportOptions {
        connect_timeout: Duration::from_secs(5),
        reconnect_max: Duration::from_millis(100),
        keepalive_interval: Duration::from_secs(1),
        keepalive_timeout: Duration::from_secs(5),
        calls_in_flight: 16,
        max_message_bytes: 8 << 20,
    };
    Transport::start(who, options).expect("it starts")
}

/// The certificate that a node shows to the bearer of these files.
fn shown(address: SocketAddr, bearer: &Files, name: &'static str) -> CertificateDer<'static> {
    let pem = |file: &Path| fs::read(file).expect("a file");
    let certificate = |file| CertificateDer::from_pem_slice(&pem(file)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&bearer.ca)).expect("a CA");
    let key = PrivateKeyDer::from_pem_slice(&pem(&bearer.private_key)).expect("a key");
    let chain = vec![certificate(&bearer.certificate)];
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a certificate of this key");
    let name = ServerName::try_from(name).expect("a name");
    let mut session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut socket = TcpStream::connect(address).expect("the node listens");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    let chain = session.peer_certificates().expect("a certificate");
    chain[0].clone().into_owned()
}

#[test]
fn changed_files_are_used_by_new_connections_and_broken_ones_are_not() {
    let directory = temp_dir();
    let ca = Authority::new("ca");
    let mut cluster = members(directory.path(), &ca);
    // A busy machine is no reason to give a connection up.
    cluster.set_up(|setup| setup.set("TRANSPORT__KEEPALIVE_TIMEOUT_MS", 30_000));
    cluster.start_ready();
    let (own, other) = (files_of(directory.path(), 1), files_of(directory.path(), 2));
    let address = cluster.setups[0].cluster_address;
    let first = shown(address, &other, "node-1.phalanx");
    let before = expiry(cluster.node(1)).expect("the metric is there");
    let cut = fs::read_to_string(&own.certificate).expect("a file");

    // A file that is cut short, then one that would be refused: neither is used.
    for (number, broken) in [cut[..cut.len() / 2].to_owned(), ca.sign(&Wish::node(1)).0]
        .into_iter()
        .enumerate()
    {
        fs::write(&own.certificate, broken).expect("a file can be written");
        wait::until("the change is refused", SOON, || {
            let text = cluster.node(1).send(&Request::get("/metrics")).text();
            let line = format!(
                "phalanx_tls_certificate_loads_total{{outcome=\"refused\"}} {}",
                number + 1
            );
            text.contains(&line).then_some(())
        });
    }
    cluster.wait_log(1, "cannot be used; the ones before stay in use");
    assert_eq!(expiry(cluster.node(1)), Some(before));
    assert_eq!(shown(address, &other, "node-1.phalanx"), first);

    let mut wish = Wish::node(1);
    wish.until += Duration::from_secs(24 * 3600);
    ca.issue(&directory.path().join("tls-1"), &wish);
    wait::until("the new certificate is in use", SOON, || {
        let until = expiry(cluster.node(1))?;
        (until.as_secs() == wish.until.as_secs()).then_some(())
    });
    let second = shown(address, &other, "node-1.phalanx");
    assert_ne!(second, first);
    let pem = fs::read(&own.certificate).expect("a file");
    let written = CertificateDer::from_pem_slice(&pem).expect("a certificate");
    assert_eq!(second, written);
    // Connections of before went on, and a new one comes about.
    for node in 1..=3 {
        let log = cluster.node(node).log();
        assert!(
            !log.contains("the connection is lost"),
            "node {node}:\n{log}"
        );
    }
    cluster.kill(2);
    cluster.start(2);
    cluster.wait_ready(2);
    wait_connected(&cluster, 2, 1);
    wait_connected(&cluster, 1, 2);
}
