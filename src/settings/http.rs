//! Section `[http]`: the interface for clients and the limits that keep slow or huge requests from
//! harming others.
//!
//! Refuses to hold anything secret: tokens and certificates are not settings of this section.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Where clients connect and what one of them may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port for clients.
    ///
    /// Default `127.0.0.1:8080`; any `ip:port`, `[ipv6]:port` or port 0 for a free one. An address
    /// other than loopback opens the node to the network.
    pub listen: SocketAddr,
    /// Connections that may be open at the same time; further ones are answered 503 and
    /// closed.
    ///
    /// Default 10000, range 1 to 1000000. Larger needs more memory and file handles; smaller
    /// refuses crowds earlier.
    pub max_connections: usize,
    /// Time for the complete header of a request, in milliseconds.
    ///
    /// Default 5000, range 10 to 600000. Larger tolerates slow networks; smaller frees connections
    /// that send nothing.
    pub header_timeout_ms: u64,
    /// Time for the complete body of a request after its header, in milliseconds.
    ///
    /// Default 10000, range 10 to 600000. Larger tolerates slow uploads; smaller frees the memory
    /// they hold sooner.
    pub body_timeout_ms: u64,
    /// Time that a connection may stay open between two requests, in milliseconds.
    ///
    /// Default 75000, range 10 to 3600000. Larger saves clients new connections; smaller frees idle
    /// ones sooner.
    pub idle_timeout_ms: u64,
    /// Time from the complete request to its reply, in milliseconds; afterwards the outcome is
    /// reported as unknown.
    ///
    /// Default 10000, range 10 to 600000. Larger waits longer for a slow disk or a new leader;
    /// smaller makes clients retry sooner.
    pub request_timeout_ms: u64,
    /// Time for which a node that stops still answers one more request of each open connection, in
    /// milliseconds.
    ///
    /// Default 250, range 0 to 60000. Larger lets slow clients hear that the connection ends, so
    /// that they need not guess what became of a request; smaller stops sooner when connections are
    /// idle.
    pub shutdown_linger_ms: u64,
    /// Largest body of a request, in bytes; a larger one is refused with 413.
    ///
    /// Default 1048576 (1 MiB), range 1024 to 67108864. Larger admits larger commands and needs
    /// more memory per request.
    pub max_body_bytes: usize,
    /// Stored size of the events in one page of a history, in bytes; a page that reaches it ends
    /// there and links to the next.
    ///
    /// Default 4194304 (4 MiB), range 1024 to 67108864. Larger needs fewer requests for long
    /// histories and more memory for each.
    pub max_history_bytes: usize,
    /// Memory for bodies that arrive in pieces and for large answers that are being sent, of all
    /// clients together, in bytes; what does not fit is answered 503.
    ///
    /// Default 268435456 (256 MiB), range 1048576 to 1099511627776. Larger serves more slow clients
    /// with large requests at the same time; smaller bounds the memory that they can occupy.
    pub max_buffered_bytes: usize,
    /// Largest header of a request with all its fields, in bytes; a larger one is refused with 431.
    ///
    /// Default 32768, range 8192 to 1048576. Larger admits long cookies and tokens; smaller saves
    /// memory per connection.
    pub max_header_bytes: usize,
    /// Event streams that may be open at the same time; further ones get 503.
    ///
    /// Default 2000, range 0 to 1000000. Larger admits more readers, each of which is told of every
    /// event; smaller leaves more of the processors to commands. 0 allows none.
    pub max_event_streams: usize,
    /// Whether a client may speak HTTP/2 on the same port.
    ///
    /// Default true. False leaves HTTP/1.1 alone, one request at a time on a connection.
    pub allow_http2: bool,
    /// Where clients reach the nodes, such as `https://orders.example.com`: what the `dataschema` of
    /// events begins with.
    ///
    /// Default "": `phalanx:`, which makes an absolute URI of the path of the JSON Schema that nobody can
    /// fetch as it stands. The same on every member.
    pub public_url: String,
    /// Name of a request header in which a proxy that has authenticated the caller says who it is, such
    /// as `X-Forwarded-User`; what it says of a command is stored with the events.
    ///
    /// Default "": no header is believed. Set it only where clients cannot reach the node except
    /// through the proxy, and the proxy replaces what clients send under this name.
    pub principal_header: String,
    /// Whether requests for aggregates, read models and event streams are refused with 401 when that
    /// header is missing.
    ///
    /// Default false. True needs `principal_header`; routes that describe or operate the node go on
    /// without it.
    pub require_principal: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            max_connections: 10_000,
            header_timeout_ms: 5_000,
            body_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            request_timeout_ms: 10_000,
            shutdown_linger_ms: 250,
            max_body_bytes: 1024 * 1024,
            max_history_bytes: 4 * 1024 * 1024,
            max_buffered_bytes: 256 * 1024 * 1024,
            max_header_bytes: 32 * 1024,
            max_event_streams: 2_000,
            allow_http2: true,
            public_url: String::new(),
            principal_header: String::new(),
            require_principal: false,
        }
    }
}
