//! What goes wrong with certificates, in words that say what to do.
//!
//! Each is a clause without its subject: the one who knows the node or the address puts it in
//! front. Invariant: the same trouble has the same words each time, so that it is logged once.

use std::io;

use jiff::Timestamp;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

use super::SecurityError;

/// Of a peer that opened TLS on a node without.
pub(super) const SPEAKS_TLS: &str = "speaks TLS, and this node does not: \
     set the section transport.tls on every member or on none";
/// Of a peer that did not, on a node with TLS.
pub(super) const SPEAKS_PLAINTEXT: &str = "does not speak TLS, and this node speaks nothing else: \
     set the section transport.tls on every member or on none";

/// Whether a failed connection is a refusal, of the peer by this node or the other way round.
pub(super) fn judge(error: io::Error) -> SecurityError {
    match refusal(&error) {
        Some(clause) => SecurityError::Refused(clause),
        None => SecurityError::Broken(error),
    }
}

/// The refusal in an error of a connection, if it is one.
pub(super) fn refusal(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        error @ Error::InvalidCertificate(_) => Some(format!(
            "presents a certificate that {}",
            certificate(error)
        )),
        Error::NoCertificatesPresented => {
            Some("presents no certificate: set the section transport.tls there".to_owned())
        }
        Error::InvalidMessage(_) => Some(SPEAKS_PLAINTEXT.to_owned()),
        Error::PeerIncompatible(why) => Some(format!("does not speak TLS 1.3 as needed: {why:?}")),
        Error::AlertReceived(alert) => {
            let said = alert_of_peer(*alert)?;
            Some(format!("refuses the certificate of this node: {said}"))
        }
        _ => None,
    }
}

/// What is wrong with a certificate.
pub(super) fn certificate(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else {
        return format!("cannot be accepted: {error}");
    };
    match why {
        // A signature that does not fit comes of another CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is signed by no CA in `transport.tls.ca_file`: sign \
             the certificates of all members by one CA, or add the other CA to that file"
                .to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("ran out at {}: renew it", moment(not_after.as_secs()))
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "is not valid before {}: set the clock, or make it valid earlier",
            moment(not_before.as_secs())
        ),
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            "is not for both sides of a connection: its extended key usage must have serverAuth \
             and clientAuth"
                .to_owned()
        }
        why => format!("cannot be accepted: {why}"),
    }
}

/// A certificate without the name that it needs.
pub(crate) fn lacks(name: &str, carried: &[String]) -> String {
    let wildcard = carried.iter().any(|name| name.starts_with('*'));
    let carried = match carried {
        [] => "no DNS name".to_owned(),
        some => some.join(", "),
    };
    let hint = if wildcard {
        ", as a wildcard proves no node"
    } else {
        ""
    };
    format!("carries {carried} and not {name}: make one with exactly this DNS name{hint}")
}

/// Why the peer refuses; `None` for alerts that say nothing about certificates.
fn alert_of_peer(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is signed by no CA in `transport.tls.ca_file` there: sign the certificates of all \
             members by one CA, or add the other CA to that file"
        }
        AlertDescription::CertificateExpired => {
            "it has run out, or is not valid yet, by the clock there: renew it"
        }
        AlertDescription::CertificateRequired => "it came without one",
        AlertDescription::UnsupportedCertificate => {
            "its extended key usage must have serverAuth and clientAuth"
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::AccessDenied => "the log there says why",
        _ => return None,
    })
}

/// Seconds since 1970 as people write a time.
pub(super) fn moment(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "the end of time".to_owned(), |t| t.to_string())
}
