//! Where the requests go: a parsed `http://host:port`.
//!
//! It refuses everything that the small client cannot speak: TLS, user names, paths.

use std::net::{SocketAddr, ToSocketAddrs};

use super::run::BenchError;

/// A server's address, resolved once.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What goes into the `Host` header.
    pub(super) host: String,
    /// The first address the name resolves to.
    pub(super) address: SocketAddr,
}

impl Target {
    /// Parses and resolves a URL.
    pub(super) fn parse(url: &str) -> Result<Self, BenchError> {
        let bad = |reason: &str| BenchError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(bad("it must begin with http:// (TLS is not supported)"));
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || host.contains(['/', '?', '#', '@', ' ', '\r', '\n']) {
            return Err(bad("only a host and a port may follow http://"));
        }
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let address = authority
            .to_socket_addrs()
            .map_err(|error| bad(&format!("it does not resolve: {error}")))?
            .next()
            .ok_or_else(|| bad("it resolves to no address"))?;
        Ok(Self {
            host: host.to_owned(),
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_addresses_are_taken_and_the_rest_refused() {
        let target = Target::parse("http://127.0.0.1:8080/").unwrap();
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(target.host, "127.0.0.1:8080");
        assert_eq!(
            Target::parse("http://127.0.0.1").unwrap().address.port(),
            80
        );
        for bad in [
            "https://127.0.0.1:1",
            "127.0.0.1:1",
            "http://",
            "http://127.0.0.1:1/v1",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
