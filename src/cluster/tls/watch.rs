//! Keeps the certificates in use the ones in the files, and tells when they run out.
//!
//! Owns the looks at the files and the metrics. Refuses files that other members would refuse, and
//! those that still change: certificate and key are two files, written one after the other.
//! Invariant: what is in use is replaced as a whole or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_rustls::rustls::pki_types::UnixTime;

use super::credentials::Credentials;
use super::files::{Contents, TlsError};
use super::{Tls, words};
use crate::cluster::metrics;

/// Between two looks at the files. What is found must be there at the second look as well.
const LOOK: Duration = Duration::from_secs(2);
/// Time before the end of a certificate from which it is warned of, in seconds; for a certificate
/// of a short life, a quarter of that.
const WARN_BEFORE_S: u64 = 14 * 24 * 3600;
/// Between two warnings.
const WARN_AGAIN: Duration = Duration::from_secs(3600);

/// What a look found: a mark of the contents, or why there are none.
type Sight = Result<u64, String>;

/// How far the watching is.
#[derive(Debug)]
struct Watched {
    seen: Sight,
    /// What the last change came from, or the last complaint.
    settled: Sight,
    warned: Option<Instant>,
}

impl Tls {
    /// Watches the files until it is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mark = self.current().mark;
        let mut watched = Watched {
            seen: Ok(mark),
            settled: Ok(mark),
            warned: None,
        };
        metrics::set_certificate_expiry(self.current().not_after);
        for outcome in ["loaded", "refused"] {
            metrics::certificate_loads(outcome).increment(0);
        }
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                this.look(&mut watched);
                watched
            });
            match looked.await {
                Ok(back) => watched = back,
                Err(error) => {
                    tracing::error!(%error, "certificates are not watched any more");
                    return;
                }
            }
        }
    }

    fn look(&self, watched: &mut Watched) {
        let read = self.files.read();
        let sight = read
            .as_ref()
            .map(Contents::mark)
            .map_err(TlsError::to_string);
        let before = std::mem::replace(&mut watched.seen, sight.clone());
        if sight == before && sight != watched.settled {
            watched.settled = sight;
            self.take(read);
        }
        self.warn(watched);
    }

    /// Puts the files into use, if they can be.
    fn take(&self, read: Result<Contents, TlsError>) {
        let credentials = read.and_then(|contents| {
            let credentials = Credentials::new(&self.files, &contents)?;
            credentials.check(&self.name, &self.files)?;
            Ok(credentials)
        });
        match credentials {
            Ok(credentials) => {
                let until = words::moment(credentials.not_after);
                metrics::set_certificate_expiry(credentials.not_after);
                metrics::certificate_loads("loaded").increment(1);
                *self.current.write() = Arc::new(credentials);
                tracing::info!(%until, "new connections use the new certificate");
            }
            Err(error) => {
                metrics::certificate_loads("refused").increment(1);
                tracing::error!(
                    %error,
                    "the changed certificate files cannot be used; the ones before stay in use"
                );
            }
        }
    }

    fn warn(&self, watched: &mut Watched) {
        let current = self.current();
        let life = current.not_after.saturating_sub(current.not_before);
        let left = current.not_after.saturating_sub(UnixTime::now().as_secs());
        if left > WARN_BEFORE_S.min(life / 4) {
            watched.warned = None;
            return;
        }
        if watched.warned.is_some_and(|at| at.elapsed() < WARN_AGAIN) {
            return;
        }
        watched.warned = Some(Instant::now());
        let until = words::moment(current.not_after);
        if left == 0 {
            tracing::error!(
                %until,
                "the certificate of this node has run out; other members refuse new connections"
            );
        } else {
            tracing::warn!(%until, "the certificate of this node runs out soon; renew it");
        }
    }
}
