//! Section `[transport]`: the connections between the members of the cluster.
//!
//! Refuses a switch that would queue without bound or retry what may have been done. Invariant
//! after validation: a message of replication and a forwarded request fit into the largest message.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The connections between members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransportSettings {
    /// Time for a connection to another member and its handshake, in milliseconds.
    ///
    /// Default 500, range 20 to 60000. Larger suits far networks; smaller tries again sooner.
    pub connect_timeout_ms: u64,
    /// Longest pause between two attempts to reach a member, in milliseconds.
    ///
    /// Default 150, range 5 to 60000. Larger costs less while a member is away; smaller finds it
    /// sooner when it is back.
    pub reconnect_max_ms: u64,
    /// Time between two signs of life on a connection, in milliseconds.
    ///
    /// Default 500, range 50 to 60000. Larger saves messages; smaller notices a cut sooner.
    pub keepalive_interval_ms: u64,
    /// Silence after a sign of life that ends the connection, in milliseconds.
    ///
    /// Default 1500, range 50 to 60000. Larger tolerates pauses; smaller notices a cut sooner.
    pub keepalive_timeout_ms: u64,
    /// Most calls to one member that wait for an answer, for each of the three lanes.
    ///
    /// Default 4096, range 16 to 1000000. Larger admits more forwarded requests; smaller bounds the
    /// memory that a slow member costs.
    pub max_calls_in_flight: usize,
    /// Largest message to or from another member, in bytes.
    ///
    /// Default 16777216 (16 MiB), range 4194304 to 1073741824. Larger admits larger batches and
    /// histories; smaller bounds the memory of a connection.
    pub max_message_bytes: usize,
    /// `[transport.tls]`: the certificates that members show one another.
    pub tls: TlsSettings,
}

/// The certificates that members show one another. With all three files, every connection between
/// members is TLS with a certificate on both sides; with none, it is plaintext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate of this node in PEM, its intermediates behind it.
    ///
    /// Default empty: no TLS. It must carry the DNS name `node-<node.id>.<cluster.name>`.
    pub certificate_file: PathBuf,
    /// The private key of the certificate in PEM, without a password.
    ///
    /// Default empty: no TLS.
    pub private_key_file: PathBuf,
    /// The CA that signs the certificates of the members, in PEM; more than one may stand in it.
    ///
    /// Default empty: no TLS.
    pub ca_file: PathBuf,
}

impl TlsSettings {
    /// Whether members speak TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.files()
            .iter()
            .all(|(_, file)| !file.as_os_str().is_empty())
    }

    /// Each key with its file.
    #[must_use]
    pub fn files(&self) -> [(&'static str, &Path); 3] {
        [
            ("transport.tls.certificate_file", &self.certificate_file),
            ("transport.tls.private_key_file", &self.private_key_file),
            ("transport.tls.ca_file", &self.ca_file),
        ]
    }
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 500,
            reconnect_max_ms: 150,
            keepalive_interval_ms: 500,
            keepalive_timeout_ms: 1500,
            max_calls_in_flight: 4096,
            max_message_bytes: 16 * 1024 * 1024,
            tls: TlsSettings::default(),
        }
    }
}
