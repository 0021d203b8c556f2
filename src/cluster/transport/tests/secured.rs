//! Two transports with certificates, good ones and others.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::super::super::tls::tests::authority::{Authority, Wish};
use super::super::super::tls::tests::secured;
use super::*;

/// The security of a node whose certificate says this; the directory holds its files.
fn security(ca: &Authority, node: NodeId, wish: &Wish) -> (Security, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let files = ca.issue(dir.path(), wish);
    (secured(node, files), dir)
}

fn good(ca: &Authority, node: NodeId) -> Security {
    security(ca, node, &Wish::node(node)).0
}

async fn pair_of(first: Security, second: Security) -> (Side, Side) {
    let (a, b) = (listener().await, listener().await);
    let (at, bt) = (
        a.local_addr().unwrap().to_string(),
        b.local_addr().unwrap().to_string(),
    );
    (
        side(1, a, (2, bt), |who| who.security = first),
        side(2, b, (1, at), |who| who.security = second),
    )
}

/// Waits until both refuse, and compares why.
async fn refuse(one: &Side, two: &Side, words: [&str; 2]) {
    for ((side, peer), words) in [(one, 2), (two, 1)].into_iter().zip(words) {
        until("refused", || refused(side, peer).is_some()).await;
        let reason = refused(side, peer).unwrap();
        assert!(reason.contains(words), "{words:?}: {reason}");
        assert!(reason.contains("node "), "{reason}");
    }
    for side in [one, two] {
        assert_eq!(side.echo.calls.load(Ordering::Relaxed), 0);
        assert!(side.transport.0.identity.pins.of(1).is_none());
        assert!(side.transport.0.identity.pins.of(2).is_none());
    }
}

#[tokio::test]
async fn with_certificates_on_both_sides_calls_are_answered() {
    let ca = Authority::new("ca");
    let (one, two) = pair_of(good(&ca, 1), good(&ca, 2)).await;
    connected(&one, 2).await;
    connected(&two, 1).await;
    for (side, peer) in [(&one, 2), (&two, 1)] {
        let large = Bytes::from(vec![7; 5 << 20]);
        let request = large.clone();
        let transport = &side.transport;
        let answer = transport.call(peer, Lane::Bulk, CallKind::History, request, LONG);
        assert_eq!(answer.await.unwrap(), large);
    }
}

#[tokio::test]
async fn plaintext_and_tls_refuse_each_other_in_words() {
    let ca = Authority::new("ca");
    let (one, two) = pair_of(good(&ca, 1), Security::Plaintext).await;
    let words = [
        "does not speak TLS, and this",
        "speaks TLS, and this node does not",
    ];
    refuse(&one, &two, words).await;
}

#[tokio::test]
async fn a_foreign_ca_is_refused_on_both_sides() {
    let (ca, foreign) = (Authority::new("ca"), Authority::new("ca"));
    let (one, two) = pair_of(good(&ca, 1), good(&foreign, 2)).await;
    let words = "presents a certificate that is signed by no CA";
    refuse(&one, &two, [words, words]).await;
}

#[tokio::test]
async fn a_certificate_of_a_foreign_ca_is_refused_also_where_only_one_side_minds() {
    let (ca, foreign) = (Authority::new("ca"), Authority::new("foreign"));
    let dir = tempfile::tempdir().unwrap();
    let files = foreign.issue(dir.path(), &Wish::node(2));
    std::fs::write(&files.ca, ca.pem()).unwrap();
    let (one, two) = pair_of(good(&ca, 1), secured(2, files)).await;
    let words = [
        "presents a certificate that is signed by no CA",
        "refuses the certificate of this node: it is signed by no CA",
    ];
    refuse(&one, &two, words).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let ca = Authority::new("ca");
    let (expired, _dir) = security(&ca, 2, &Wish::node(2).expired());
    let (one, two) = pair_of(good(&ca, 1), expired).await;
    let words = [
        "presents a certificate that ran out at",
        "refuses the certificate of this node: it has run out",
    ];
    refuse(&one, &two, words).await;
}

#[tokio::test]
async fn a_certificate_that_is_not_for_both_roles_is_refused() {
    let ca = Authority::new("ca");
    let mut wish = Wish::node(2);
    wish.for_clients = false;
    let (one, two) = pair_of(good(&ca, 1), security(&ca, 2, &wish).0).await;
    // Node 1 reaches it as a server, and is not asked by it.
    until("refused", || refused(&two, 1).is_some()).await;
    let reason = refused(&two, 1).unwrap();
    assert!(reason.contains("serverAuth and clientAuth"), "{reason}");
    assert_eq!(one.echo.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused_on_both_sides() {
    let ca = Authority::new("ca");
    for other in ["node-3.phalanx", "*.phalanx", "node-2.other", "*.a.phalanx"] {
        let (wrong, _dir) = security(&ca, 2, &Wish::name(other));
        let (one, two) = pair_of(good(&ca, 1), wrong).await;
        let words = format!("certificate of node 2 carries {other} and not node-2.phalanx");
        refuse(&one, &two, [&words, &words]).await;
    }
}

#[tokio::test]
async fn whoever_says_another_id_than_its_certificate_is_refused_and_not_remembered() {
    let ca = Authority::new("ca");
    let (liar, _dir) = security(&ca, 2, &Wish::node(2));
    let (a, b) = (listener().await, listener().await);
    let at = a.local_addr().unwrap().to_string();
    let bt = b.local_addr().unwrap().to_string();
    // Node 2 says Hello as node 3, to a node that knows both.
    let one = side(1, a, (3, bt.clone()), |who| {
        who.security = good(&ca, 1);
        let second = contacts([(2, "127.0.0.1:1".to_owned())]);
        who.contacts.peers.extend(second.peers);
    });
    let three = side(3, b, (1, at.clone()), |who| {
        who.security = liar;
        who.incarnation = Uuid::from_u128(99);
    });
    for (side, peer) in [(&one, 3), (&three, 1)] {
        until("refused", || refused(side, peer).is_some()).await;
        let reason = refused(side, peer).unwrap();
        let words = "certificate of node 3 carries node-2.phalanx and not node-3.phalanx";
        assert!(reason.contains(words), "{reason}");
    }
    assert_eq!(one.echo.calls.load(Ordering::Relaxed), 0);
    assert_eq!(one.transport.incarnation_of(3), None);
    three.drop_server();
    drop(three);
    let listener = loop {
        // The port is free once the last connection of before is gone.
        match TcpListener::bind(&bt).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let real = side(3, listener, (1, at), |who| who.security = good(&ca, 3));
    connected(&one, 3).await;
    connected(&real, 1).await;
}

#[tokio::test]
async fn nothing_passes_without_a_certificate() {
    let ca = Authority::new("ca");
    let (one, _two) = pair_of(good(&ca, 1), good(&ca, 2)).await;
    let address = one.server_address(&_two);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("node-1.phalanx").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    // This side is done before it hears that it is refused.
    let mut stream = connector.connect(name, socket).await.unwrap();
    let _sent = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert!(answer.is_empty(), "{answer:?}");
}

impl Side {
    /// Where this side listens, as the other one knows.
    fn server_address(&self, other: &Side) -> String {
        other.transport.address_of(self.transport.me()).unwrap()
    }
}
