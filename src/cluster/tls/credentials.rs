//! A certificate with its key and the CA, ready for connections in both roles.
//!
//! Refuses TLS before 1.3. Invariant: no connection resumes an earlier one, so each certificate is
//! verified anew, by the CA that is in use now.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, ServerConfig};

use super::files::{CA, CERTIFICATE, Contents, KEY, TlsError, TlsFiles};
use super::verifier::{AnyMember, names};
use super::words;

/// What is spoken inside.
const HTTP2: &[u8] = b"h2";
/// Before the first second of every certificate.
const BEGINNING: UnixTime = UnixTime::since_unix_epoch(Duration::ZERO);
/// Behind the last one.
const END: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));

/// See the file's description.
pub(super) struct Credentials {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    /// Of the files that they were made from.
    pub(super) mark: u64,
    /// The first second of the certificate, since 1970.
    pub(super) not_before: u64,
    /// The last one.
    pub(super) not_after: u64,
    chain: Vec<CertificateDer<'static>>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<AnyMember>,
}

impl Credentials {
    /// Takes the contents of the files.
    pub(super) fn new(files: &TlsFiles, contents: &Contents) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(files.roots(&contents.ca)?);
        let chain = files.chain(&contents.certificate)?;
        let key = files.key(&contents.private_key)?;
        let pair = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
            // The certificate is read here as well, to compare the two.
            let of_certificate = matches!(error, Error::InvalidCertificate(_));
            files.unusable(if of_certificate { CERTIFICATE } else { KEY }, error)
        })?;
        let pair = Arc::new(SingleCertAndKey::from(pair));
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                // Whom this node trusts is nobody's business.
                .clear_root_hint_subjects()
                .build()
                .map_err(|error| files.unusable(CA, Error::General(error.to_string())))?;
        let servers = Arc::new(AnyMember {
            roots,
            provider: Arc::clone(&provider),
        });
        let of_certificate = |error| files.unusable(CERTIFICATE, error);
        let (not_before, not_after) = dates(&chain, clients.as_ref()).map_err(of_certificate)?;
        Ok(Self {
            client: client(&provider, &pair, &servers).map_err(of_certificate)?,
            server: server(&provider, &pair, &clients).map_err(of_certificate)?,
            mark: contents.mark(),
            not_before,
            not_after,
            chain,
            clients,
            servers,
        })
    }

    /// Judges this node's own certificate as the other members would, now and by its own CA file.
    pub(super) fn check(&self, name: &str, files: &TlsFiles) -> Result<(), TlsError> {
        let unfit = |clause| TlsError::Unfit {
            file: files.certificate.clone(),
            clause,
        };
        let Some((own, intermediates)) = self.chain.split_first() else {
            return Err(unfit("is missing".to_owned()));
        };
        let now = UnixTime::now();
        self.clients
            .verify_client_cert(own, intermediates, now)
            .and_then(|_| self.servers.verify(own, intermediates, now))
            .map_err(|error| unfit(words::certificate(&error)))?;
        let carried = names(own);
        if carried.iter().any(|carried| carried == name) {
            Ok(())
        } else {
            Err(unfit(words::lacks(name, &carried)))
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    pair: &Arc<SingleCertAndKey>,
    servers: &Arc<AnyMember>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(servers) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::clone(pair) as _);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

fn server(
    provider: &Arc<CryptoProvider>,
    pair: &Arc<SingleCertAndKey>,
    clients: &Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::clone(clients))
        .with_cert_resolver(Arc::clone(pair) as _);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(Arc::new(config))
}

/// The first and the last second of a certificate. The verifier is the one reader of dates here:
/// asked about a moment outside of them, it names them before it looks at anything else.
fn dates(
    chain: &[CertificateDer<'static>],
    verifier: &dyn ClientCertVerifier,
) -> Result<(u64, u64), Error> {
    let Some((own, intermediates)) = chain.split_first() else {
        return Err(Error::NoCertificatesPresented);
    };
    let at = |moment| verifier.verify_client_cert(own, intermediates, moment);
    let not_before = match at(BEGINNING) {
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before, ..
        })) => not_before.as_secs(),
        _ => 0,
    };
    match at(END) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Ok((not_before, not_after.as_secs()))
        }
        Err(error) => Err(error),
        Ok(_) => Ok((not_before, u64::MAX)),
    }
}
