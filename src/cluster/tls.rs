//! Whether and how connections between members are secured.
//!
//! Owns the step between a TCP connection and its first words: nothing at all, or TLS 1.3 with a
//! certificate on both sides. It refuses to mix the two. Invariants: with TLS, no byte of a peer
//! reaches HTTP/2 before its certificate was verified against the CA, afresh for every connection;
//! whose certificate it is, the handshake in words decides by [`member_name`], on both sides; no
//! part of a key or a certificate is ever shown.

mod credentials;
mod files;
mod socket;
mod verifier;
mod watch;
mod words;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::NodeId;
use credentials::Credentials;
pub use files::{TlsError, TlsFiles};
pub(crate) use socket::Socket;
pub(crate) use words::lacks;

/// First byte of a TLS record in which a handshake begins.
const TLS_HANDSHAKE: u8 = 0x16;
/// First byte of a TLS record that tells why there is no connection.
const TLS_ALERT: u8 = 0x15;
/// A fatal "unexpected message", for a peer whose first byte is not TLS.
const NOT_IN_PLAINTEXT: [u8; 7] = [TLS_ALERT, 3, 3, 0, 2, 2, 10];
/// The empty settings with which an HTTP/2 server begins, for a peer that speaks TLS.
const NOT_IN_TLS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// How long a refused connection is kept, so that its other side can read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// Connections that are kept so at the same time; others are closed over what they sent.
static FAREWELLS: Semaphore = Semaphore::const_new(64);
/// Bytes that are read from it meanwhile, and thrown away.
const FAREWELL_BYTES: u64 = 64 * 1024;

/// The DNS name that the certificate of a node must carry.
#[must_use]
pub fn member_name(node: NodeId, cluster: &str) -> String {
    format!("node-{node}.{cluster}")
}

/// How this node speaks with all others.
#[derive(Debug, Clone)]
pub enum Security {
    /// Without TLS.
    Plaintext,
    /// With certificates on both sides.
    Tls(Arc<Tls>),
}

/// What the certificate of the other side proves.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// There is no TLS, so it need not prove anything.
    NotNeeded,
    /// These DNS names are its own.
    Names(Arc<[String]>),
}

/// Why a connection was not secured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    /// One of the two refuses the other; the clause says why and what to do, and lacks its subject.
    #[error("{0}")]
    Refused(String),
    /// It ended.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

impl Security {
    /// Secures a connection that this node opened.
    pub(crate) async fn connect(
        &self,
        to: NodeId,
        cluster: &str,
        socket: TcpStream,
    ) -> Result<Socket, SecurityError> {
        let Self::Tls(tls) = self else {
            return Ok(Socket::opened(socket));
        };
        let name = ServerName::try_from(member_name(to, cluster)).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&tls.current().client));
        match connector.connect(name, socket).into_fallible().await {
            Ok(stream) => Ok(Socket::secured(stream.into())),
            Err((error, socket)) => {
                tokio::spawn(farewell(socket, &[]));
                Err(words::judge(error))
            }
        }
    }

    /// Secures a connection that a peer opened.
    pub(crate) async fn accept(&self, socket: TcpStream) -> Result<Socket, SecurityError> {
        let mut first = [0];
        if socket.peek(&mut first).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let speaks_tls = first == [TLS_HANDSHAKE];
        match self {
            Self::Plaintext if speaks_tls => {
                tokio::spawn(farewell(socket, &NOT_IN_TLS));
                Err(SecurityError::Refused(words::SPEAKS_TLS.to_owned()))
            }
            Self::Plaintext => Ok(Socket::accepted(socket)),
            Self::Tls(_) if !speaks_tls => {
                tokio::spawn(farewell(socket, &NOT_IN_PLAINTEXT));
                Err(SecurityError::Refused(words::SPEAKS_PLAINTEXT.to_owned()))
            }
            Self::Tls(tls) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&tls.current().server));
                match acceptor.accept(socket).into_fallible().await {
                    Ok(stream) => Ok(Socket::secured(stream.into())),
                    Err((error, socket)) => {
                        tokio::spawn(farewell(socket, &[]));
                        Err(words::judge(error))
                    }
                }
            }
        }
    }
}

/// Sends last words and waits for the other side to have read them: a socket that is closed over
/// unread bytes is reset, and takes the words with it.
async fn farewell(mut socket: TcpStream, last: &'static [u8]) {
    let Ok(_permit) = FAREWELLS.try_acquire() else {
        return;
    };
    let _cut = tokio::time::timeout(FAREWELL, async {
        socket.write_all(last).await?;
        socket.shutdown().await?;
        let mut rest = socket.take(FAREWELL_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    })
    .await;
}

/// Who connects, as far as is known before it has said anything: the port changes each time.
pub(crate) fn refused_from(address: SocketAddr, clause: &str) -> String {
    format!("a peer at {} {clause}", address.ip())
}

/// The certificates of this node: those in use, and the files from which newer ones come.
pub struct Tls {
    files: TlsFiles,
    /// The name that the certificate must carry.
    name: String,
    current: RwLock<Arc<Credentials>>,
}

impl Tls {
    /// Reads the files of a node.
    ///
    /// What only others can judge, dates, the CA and the name, is logged as an error and does not
    /// keep the node from starting: they refuse it, and it goes on by itself when the files are
    /// replaced.
    ///
    /// # Errors
    /// When a file cannot be used at all.
    pub fn load(node: NodeId, cluster: &str, files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let name = member_name(node, cluster);
        let credentials = Credentials::new(&files, &files.read()?)?;
        if let Err(error) = credentials.check(&name, &files) {
            tracing::error!(%error, "the other members will refuse this node");
        }
        Ok(Arc::new(Self {
            files,
            name,
            current: RwLock::new(Arc::new(credentials)),
        }))
    }

    /// Reads the files and judges them as the other members would.
    ///
    /// # Errors
    /// When they would be refused.
    pub fn check(node: NodeId, cluster: &str, files: &TlsFiles) -> Result<(), TlsError> {
        Credentials::new(files, &files.read()?)?.check(&member_name(node, cluster), files)
    }

    fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.current.read())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
