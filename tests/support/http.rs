//! A small blocking HTTP/1.1 client with full control over the bytes it sends.
//!
//! Refuses to be clever: no redirects, no retries but where a test asks for them by name, no reuse of a
//! connection that failed. Invariant: a response is only returned when it was received completely.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::wait;

/// Longer than the longest time in which a node must answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// In which a whole response must have come, however often there is more of it: one that never ends, such
/// as a stream of events where a refusal was expected, is an error and does not hold a test up for ever.
const WHOLE: Duration = Duration::from_secs(60);
/// For elections and connections that come back, with room for a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// In which a node that was started listens, on a busy machine as well.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// A request under construction.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request without a body.
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// A GET.
    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of a JSON body.
    pub(crate) fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target)
            .header("Content-Type", "application/json")
            .body(body)
    }

    /// A command with its fields as JSON text.
    pub(crate) fn command(kind: &str, id: &str, command: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::post(&command_target(kind, id, command), body)
    }

    /// Adds a header; the same name may be added twice.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header that a constructor added.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Sets the body; its length is declared.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Whether it can be sent again although what became of it is unknown. A drain is one, however often it
    /// is asked for.
    fn is_repeatable(&self) -> bool {
        let reads = matches!(&*self.method, "GET" | "HEAD");
        reads
            || self.target.ends_with("/drain")
            || self.headers.iter().any(|(n, _)| n == "Idempotency-Key")
    }

    /// Sets the idempotency key.
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }

    pub(crate) fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\n",
            self.method, self.target
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// Where a command is posted.
pub(crate) fn command_target(kind: &str, id: &str, command: &str) -> String {
    format!("/v1/aggregates/{kind}/{id}/commands/{command}")
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in status {}: {}", self.status, self.text()))
    }

    /// The `code` of a problem; empty when the body is no problem.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    host: SocketAddr,
    received: Vec<u8>,
    deadline: Instant,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream,
            host: address,
            received: Vec::new(),
            deadline: Instant::now() + WHOLE,
        })
    }

    /// Whether the other side has not closed it so far, and has said nothing that nobody asked for.
    fn is_idle(&self) -> bool {
        let mut byte = [0];
        let peeked = self
            .stream
            .set_nonblocking(true)
            .and_then(|()| self.stream.peek(&mut byte));
        let blocking = self.stream.set_nonblocking(false);
        blocking.is_ok()
            && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Changes how long a read may wait.
    pub(crate) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// Sends a request and reads its response.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Response> {
        let written = self.write(&request.to_bytes(self.host));
        let response = self.read_response(request.method == "HEAD");
        match written {
            // A node may refuse, answer and close before it has taken everything.
            Err(error) if response.is_err() => Err(error),
            _ => response,
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that no more bytes will come.
    pub(crate) fn finish_writing(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Reads one response; informational ones are passed over.
    pub(crate) fn read_response(&mut self, to_head: bool) -> io::Result<Response> {
        self.deadline = Instant::now() + WHOLE;
        loop {
            let (status, headers) = self.read_head()?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut response = Response {
                status,
                headers,
                body: Vec::new(),
            };
            let bodiless = to_head || status == 204 || status == 304;
            if !bodiless {
                response.body = self.read_body(&response)?;
            }
            return Ok(response);
        }
    }

    /// Reads until the other side closes; gives what came.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        self.deadline = Instant::now() + WHOLE;
        while self.receive()? > 0 {}
        Ok(std::mem::take(&mut self.received))
    }

    fn receive(&mut self) -> io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; 16 * 1024];
        let count = match self.stream.read(&mut chunk) {
            // The process was stopped for a while.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.receive(),
            read => read?,
        };
        self.received.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    fn receive_more(&mut self) -> io::Result<()> {
        match self.receive()? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn read_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let found = self.received.windows(end.len()).position(|at| at == end);
            if let Some(at) = found {
                let rest = self.received.split_off(at + end.len());
                let mut taken = std::mem::replace(&mut self.received, rest);
                taken.truncate(at);
                return Ok(taken);
            }
            self.receive_more()?;
        }
    }

    fn read_exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.received.len() < count {
            self.receive_more()?;
        }
        let rest = self.received.split_off(count);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let head = self.read_until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Ok((status, headers))
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if response.header("Transfer-Encoding") == Some("chunked") {
            return self.read_chunks();
        }
        match response.header("Content-Length") {
            Some(length) => {
                let length = length.parse().map_err(io::Error::other)?;
                self.read_exactly(length)
            }
            None => self.read_to_end(),
        }
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_until(b"\r\n")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.read_exactly(length)?);
            self.read_until(b"\r\n")?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// A client that opens a new connection whenever the last one failed or was closed by the node. With
/// several nodes it stays with one until that one fails or cannot serve, then tries the next.
#[derive(Debug)]
pub(crate) struct Http {
    addresses: Vec<SocketAddr>,
    current: usize,
    connection: Option<Connection>,
    patience: Option<Duration>,
}

impl Http {
    /// A client of the node at this address; connects with its first request.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::anywhere(&[address])
    }

    /// A client of whichever of these nodes can serve a request.
    pub(crate) fn anywhere(addresses: &[SocketAddr]) -> Self {
        assert!(!addresses.is_empty());
        Self {
            addresses: addresses.to_vec(),
            current: 0,
            connection: None,
            patience: None,
        }
    }

    /// Gives a node this long for each answer.
    pub(crate) fn patient_for(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Sends once, to each node in turn until one does not refuse.
    pub(crate) fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        let mut last = self.try_current(request);
        for _ in 1..self.addresses.len() {
            if matches!(&last, Ok(response) if response.status != 503) {
                return last;
            }
            self.connection = None;
            self.current = (self.current + 1) % self.addresses.len();
            last = self.try_current(request);
        }
        last
    }

    fn try_current(&mut self, request: &Request) -> io::Result<Response> {
        let open = self.connection.take().filter(Connection::is_idle);
        let mut connection = match open {
            Some(connection) => connection,
            None => Connection::open(self.addresses[self.current])?,
        };
        if let Some(patience) = self.patience {
            connection.set_read_timeout(patience)?;
        }
        let response = connection.send(request)?;
        let closing = response
            .header("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closing {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// Sends to a node that is expected to answer. One that does not listen yet is waited for: it has been
    /// started, and has been sent nothing.
    ///
    /// # Panics
    /// When no complete response comes.
    pub(crate) fn send(&mut self, request: &Request) -> Response {
        let answer = wait::poll(LISTENS_WITHIN, || match self.try_send(request) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
            answer => Some(answer),
        });
        let answer = answer.unwrap_or_else(|| Err(io::ErrorKind::ConnectionRefused.into()));
        answer.unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"))
    }

    /// Sends until the answer says more than that there is none for now: a leader may be lost, and a
    /// connection as well, on a machine that stands still for a moment. What was refused because too much
    /// was asked for is not asked for again, except under a limit in a second; what may have been done is
    /// sent again only if that does no harm.
    ///
    /// # Panics
    /// When there is no such answer, or not in time.
    pub(crate) fn send_until_answered(&mut self, request: &Request) -> Response {
        let mut last = None;
        let answer = wait::poll(ANSWERED_WITHIN, || {
            let answer = match self.try_send(request) {
                Ok(answer) => answer,
                Err(error)
                    if request.is_repeatable()
                        || error.kind() == io::ErrorKind::ConnectionRefused =>
                {
                    last = Some(error.to_string());
                    return None;
                }
                Err(error) => panic!("no answer to {request:?}: {error}"),
            };
            let later = match answer.status {
                429 => true,
                503 => answer.code() != "overloaded",
                504 => {
                    let lost = ["outcome-unknown", "member-unreachable", "transfer-timeout"];
                    lost.contains(&&*answer.code()) && request.is_repeatable()
                }
                _ => false,
            };
            if later {
                last = Some(format!("{} {}", answer.status, answer.text()));
                return None;
            }
            Some(answer)
        });
        answer.unwrap_or_else(|| panic!("no other answer to {request:?}: {last:?}"))
    }

    /// GETs from a node that is expected to answer.
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.send(&Request::get(target))
    }
}
