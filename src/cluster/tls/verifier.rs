//! Who signed a certificate, what it may be used for, and until when.
//!
//! Refuses to judge names: whose certificate it is, the handshake decides, where a refusal can be
//! told in words. Invariant: no certificate that the CA did not sign passes, in either role.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Takes a certificate that the CA has signed for servers, whatever its names.
#[derive(Debug)]
pub(super) struct AnyMember {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl AnyMember {
    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for AnyMember {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The DNS names that a certificate carries, as they are: a wildcard is a name that begins with a
/// star, and no node is called so. The common name is none of them.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let mut names: Vec<String> = parsed.valid_dns_names().map(str::to_owned).collect();
    for wildcard in wildcards(&parsed) {
        if !names.contains(&wildcard) {
            names.push(wildcard);
        }
    }
    names
}

/// The wildcards among the names. The library gives those of at least three labels as names, and
/// shows others, such as `*.phalanx`, only where it tells what does not fit.
fn wildcards(certificate: &webpki::EndEntityCert<'_>) -> Vec<String> {
    let Ok(nobody) = ServerName::try_from("nobody.invalid") else {
        return Vec::new();
    };
    match certificate.verify_is_valid_for_subject_name(&nobody) {
        Err(webpki::Error::CertNotValidForName(context)) => {
            let shown = context.presented.iter();
            let name = |text: &String| {
                let name = text.strip_prefix("DnsName(\"")?.strip_suffix("\")")?;
                Some(name.to_owned())
            };
            let is_wildcard = |name: &String| {
                name.starts_with('*') && name.bytes().all(|byte| byte.is_ascii_graphic())
            };
            shown.filter_map(name).filter(is_wildcard).collect()
        }
        Ok(()) | Err(_) => Vec::new(),
    }
}
