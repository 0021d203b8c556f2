//! Certificates for tests: a CA, and what it signs.
//!
//! Knows nothing of the product but the names that it asks for; unit tests use this file as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A CA with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Its DNS names.
    pub(crate) names: Vec<String>,
    /// Its common name, which nobody should look at.
    pub(crate) common_name: String,
    /// How long it has been valid.
    pub(crate) since: Duration,
    /// When it runs out, after 1970.
    pub(crate) until: Duration,
    /// For clients as well as for servers.
    pub(crate) for_clients: bool,
}

impl Wish {
    /// A good certificate of one name.
    pub(crate) fn name(name: impl Into<String>) -> Self {
        Self {
            names: vec![name.into()],
            common_name: "a node".to_owned(),
            since: DAY,
            until: now() + 90 * DAY,
            for_clients: true,
        }
    }

    /// A good certificate of a node in the cluster of the tests.
    pub(crate) fn node(node: u64) -> Self {
        Self::name(format!("node-{node}.phalanx"))
    }

    /// It ran out a minute ago.
    pub(crate) fn expired(mut self) -> Self {
        self.until = now() - Duration::from_secs(60);
        self
    }
}

/// The time since 1970.
pub(crate) fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("it is after 1970")
}

/// The three files of a node.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Files {
    /// The files in a directory, whether they are there or not.
    pub(crate) fn within(directory: &Path) -> Self {
        Self {
            certificate: directory.join("node.crt"),
            private_key: directory.join("node.key"),
            ca: directory.join("ca.crt"),
        }
    }
}

impl Authority {
    /// A new CA.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("a CA signs itself").pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its own certificate in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate and its key, in PEM.
    pub(crate) fn sign(&self, wish: &Wish) -> (String, String) {
        let mut params = CertificateParams::new(wish.names.clone()).expect("names that can be");
        let name = wish.common_name.as_str();
        params.distinguished_name.push(DnType::CommonName, name);
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + (now() - wish.since);
        params.not_after = epoch + wish.until;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if wish.for_clients {
            let clients = ExtendedKeyUsagePurpose::ClientAuth;
            params.extended_key_usages.push(clients);
        }
        let key = KeyPair::generate().expect("a key can be made");
        let signed = params.signed_by(&key, &self.issuer);
        let signed = signed.expect("the CA signs");
        (signed.pem(), key.serialize_pem())
    }

    /// Signs, and writes the three files of a node into a directory.
    pub(crate) fn issue(&self, directory: &Path, wish: &Wish) -> Files {
        fs::create_dir_all(directory).expect("a directory can be made");
        let files = Files::within(directory);
        let (certificate, key) = self.sign(wish);
        fs::write(&files.certificate, certificate).expect("a file can be written");
        fs::write(&files.private_key, key).expect("a file can be written");
        fs::write(&files.ca, self.pem()).expect("a file can be written");
        files
    }
}
