//! The three files of a node: where they are, what is in them, and what can be wrong with that.
//!
//! Refuses passwords. Invariant: errors name the key of the settings and the file, and show no line
//! of it: a key in the wrong form is still a key.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error, RootCertStore};

use super::credentials::Credentials;
use crate::settings::TlsSettings;

/// The keys of the settings.
pub(super) const CERTIFICATE: &str = "transport.tls.certificate_file";
pub(super) const KEY: &str = "transport.tls.private_key_file";
pub(super) const CA: &str = "transport.tls.ca_file";

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of this node and its intermediates.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// The CA of all members.
    pub ca: PathBuf,
}

/// Why the files cannot be used. No variant holds anything that was read from them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("`{key}`: failed to read {}: {source}", file.display())]
    Unreadable {
        /// The key of the settings.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("`{key}`: {} {what}", file.display())]
    Malformed {
        /// The key of the settings.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The library does not take what a file holds.
    #[error("`{key}`: {} cannot be used: {source}", file.display())]
    Unusable {
        /// The key of the settings.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What the library said.
        source: Box<Error>,
    },
    /// The other members would refuse it.
    #[error("`{CERTIFICATE}`: the certificate in {} {clause}", file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
        /// Why, and what to do.
        clause: String,
    },
}

impl TlsError {
    /// The key of the settings that names the file.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unreadable { key, .. }
            | Self::Malformed { key, .. }
            | Self::Unusable { key, .. } => key,
            Self::Unfit { .. } => CERTIFICATE,
        }
    }
}

impl TlsFiles {
    /// The files that the settings name; `None` without TLS.
    #[must_use]
    pub fn of(settings: &TlsSettings) -> Option<Self> {
        settings.is_on().then(|| Self {
            certificate: settings.certificate_file.clone(),
            private_key: settings.private_key_file.clone(),
            ca: settings.ca_file.clone(),
        })
    }

    /// Everything that keeps a node from using the files: of each by itself, and if there is nothing
    /// of that sort, of all three together.
    #[must_use]
    pub fn problems(&self) -> Vec<TlsError> {
        let of_certificate = read(CERTIFICATE, &self.certificate)
            .and_then(|bytes| self.chain(&bytes))
            .err();
        let of_key = read(KEY, &self.private_key)
            .and_then(|bytes| self.key(&bytes))
            .err();
        let of_ca = read(CA, &self.ca)
            .and_then(|bytes| self.roots(&bytes))
            .err();
        let found: Vec<_> = [of_certificate, of_key, of_ca]
            .into_iter()
            .flatten()
            .collect();
        if !found.is_empty() {
            return found;
        }
        let together = self
            .read()
            .and_then(|contents| Credentials::new(self, &contents));
        together.err().into_iter().collect()
    }

    /// Reads all three. They are small and on a local disk.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            private_key: read(KEY, &self.private_key)?,
            ca: read(CA, &self.ca)?,
        })
    }

    /// This node's certificate first, then its intermediates.
    pub(super) fn chain(&self, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(CERTIFICATE, &self.certificate, bytes)
    }

    /// The CAs that members are trusted by.
    pub(super) fn roots(&self, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(CA, &self.ca, bytes)? {
            let added = roots.add(root);
            added.map_err(|error| self.unusable(CA, error))?;
        }
        Ok(roots)
    }

    pub(super) fn key(&self, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(bytes)
            .map_err(|error| malformed(KEY, &self.private_key, &error))
    }

    /// What the library said of one of the files.
    pub(super) fn unusable(&self, key: &'static str, error: Error) -> TlsError {
        let file = match key {
            KEY => &self.private_key,
            CA => &self.ca,
            _ => &self.certificate,
        };
        TlsError::Unusable {
            key,
            file: file.clone(),
            source: Box::new(error),
        }
    }
}

/// The bytes of the files.
#[derive(Hash)]
pub(super) struct Contents {
    pub(super) certificate: Vec<u8>,
    pub(super) private_key: Vec<u8>,
    pub(super) ca: Vec<u8>,
}

impl Contents {
    /// Tells these contents from others without keeping them.
    pub(super) fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Unreadable {
        key,
        file: file.to_owned(),
        source,
    })
}

fn certificates(
    key: &'static str,
    file: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(malformed(key, file, &pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(error) => Err(malformed(key, file, &error)),
    }
}

/// In words of ours: the library's show the line that it does not understand.
fn malformed(key: &'static str, file: &Path, error: &pem::Error) -> TlsError {
    let what = match error {
        pem::Error::NoItemsFound if key == KEY => {
            "holds no private key that can be used; it must be PEM and have no password"
        }
        pem::Error::NoItemsFound => "holds no certificate in PEM",
        pem::Error::MissingSectionEnd { .. } => "is cut short: a section has no END line",
        pem::Error::IllegalSectionStart { .. } => "has a BEGIN line that is not PEM",
        _ => "is not PEM",
    };
    TlsError::Malformed {
        key,
        file: file.to_owned(),
        what,
    }
}
