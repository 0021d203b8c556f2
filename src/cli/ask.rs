//! One HTTP request to a node, for commands that ask a question and end.
//!
//! Plain HTTP/1.1 over one connection that is closed behind it. Refuses redirects, TLS and answers
//! over 64 MiB.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// The largest answer.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Not an address of a node.
    #[error("`{url}` is no address of a node: expected http://host:port")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody is there.
    #[error(
        "failed to ask {url}: {source}; --url names a running node, by default \
         http://127.0.0.1:8080"
    )]
    Connect {
        /// Whom.
        url: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The node does not answer in time, or broke off.
    #[error("failed to ask {url}: {source}")]
    Io {
        /// Whom.
        url: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Somebody is there and speaks no HTTP/1.1, or ended before a word.
    #[error(
        "failed to ask {url}: {source}; if that is `cluster.listen`, the address for other members: \
         --url takes `http.listen` of a node, by default http://127.0.0.1:8080"
    )]
    NoHttp {
        /// Whom.
        url: String,
        /// What came instead of an answer.
        #[source]
        source: std::io::Error,
    },
    /// It answers, but not with success.
    #[error("{url} answers {status}: {text}")]
    Status {
        /// Whom.
        url: String,
        /// The status line.
        status: String,
        /// The body.
        text: String,
    },
}

/// An answer.
#[derive(Debug)]
pub(super) struct Page {
    /// Its body.
    pub(super) body: Vec<u8>,
    /// Its field `Link`, which says where there is more.
    pub(super) link: Option<String>,
}

/// The body of the answer to `GET path`, each step within `patience`.
pub(crate) fn get(url: &str, path: &str, patience: Duration) -> Result<Vec<u8>, AskError> {
    get_with(url, path, &[], patience)
}

/// The same with header fields.
pub(super) fn get_with(
    url: &str,
    path: &str,
    headers: &[(&str, &str)],
    patience: Duration,
) -> Result<Vec<u8>, AskError> {
    Ok(ask(url, &format!("GET {path}"), headers, None, patience)?.body)
}

/// The answer to `GET path` with the link that it came with, each step within `patience`.
pub(super) fn get_page(url: &str, path: &str, patience: Duration) -> Result<Page, AskError> {
    ask(url, &format!("GET {path}"), &[], None, patience)
}

/// The body of the answer to `POST path` with JSON, each step within `patience`.
pub(super) fn post(
    url: &str,
    path: &str,
    json: &str,
    patience: Duration,
) -> Result<Vec<u8>, AskError> {
    Ok(ask(url, &format!("POST {path}"), &[], Some(json), patience)?.body)
}

/// The body of the answer to `DELETE path`, each step within `patience`.
pub(super) fn delete(url: &str, path: &str, patience: Duration) -> Result<Vec<u8>, AskError> {
    Ok(ask(url, &format!("DELETE {path}"), &[], None, patience)?.body)
}

fn ask(
    url: &str,
    line: &str,
    headers: &[(&str, &str)],
    json: Option<&str>,
    patience: Duration,
) -> Result<Page, AskError> {
    let authority = authority(url).ok_or_else(|| AskError::Url {
        url: url.to_owned(),
    })?;
    let failed = |source| AskError::Io {
        url: url.to_owned(),
        source,
    };
    let mut request = format!("{line} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    for (name, value) in headers {
        if value.contains(['\r', '\n']) {
            let text = format!("{name} has a line break");
            return Err(failed(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                text,
            )));
        }
        request += &format!("{name}: {value}\r\n");
    }
    if let Some(json) = json {
        let length = json.len();
        request +=
            &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}");
    } else {
        request += "\r\n";
    }
    let socket = connect(&authority, patience).map_err(|source| AskError::Connect {
        url: url.to_owned(),
        source,
    })?;
    let mut answer = Vec::new();
    let exchanged = exchange(socket, &request, patience, &mut answer);
    if let Some(source) = no_http(&exchanged, &answer) {
        let url = url.to_owned();
        return Err(AskError::NoHttp { url, source });
    }
    exchanged.map_err(failed)?;
    let cut = || {
        let text = "the answer is cut short";
        failed(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text))
    };
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(cut)?;
    let (head, body) = answer.split_at_checked(end + 4).ok_or_else(cut)?;
    let head = String::from_utf8_lossy(head);
    let status = head.lines().next().unwrap_or_default();
    let field = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| body.len() < length) {
        return Err(cut());
    }
    if matches!(status.split(' ').nth(1), Some("200" | "201" | "202")) {
        Ok(Page {
            body: body.to_vec(),
            link: field("link").map(str::to_owned),
        })
    } else {
        Err(AskError::Status {
            url: url.to_owned(),
            status: status.to_owned(),
            text: String::from_utf8_lossy(body).into_owned(),
        })
    }
}

/// `host:port` of `http://host:port/`.
fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
        return None;
    }
    let named = authority.rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
    });
    Some(if named {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    })
}

fn connect(authority: &str, patience: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name leads to no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(
    mut socket: TcpStream,
    request: &str,
    patience: Duration,
    answer: &mut Vec<u8>,
) -> io::Result<()> {
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    socket.write_all(request.as_bytes())?;
    match socket.take(MAX_BYTES).read_to_end(answer) {
        Ok(_) => Ok(()),
        // What the system says of a timeout helps nobody.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let text = format!("no answer within {patience:?}");
            Err(io::Error::new(ErrorKind::TimedOut, text))
        }
        Err(error) => Err(error),
    }
}

/// What speaks against HTTP at the other end: it closes or resets the connection before an answer
/// begins, or sends something else.
fn no_http(exchanged: &io::Result<()>, answer: &[u8]) -> Option<io::Error> {
    if answer.starts_with(b"HTTP/") {
        return None;
    }
    match exchanged {
        Ok(()) if answer.is_empty() => Some(io::Error::other(
            "the connection is closed without an answer",
        )),
        Ok(()) => Some(io::Error::other("the answer is not HTTP/1.1")),
        Err(error) => {
            let gone = [
                ErrorKind::ConnectionReset,
                ErrorKind::ConnectionAborted,
                ErrorKind::BrokenPipe,
            ];
            gone.contains(&error.kind())
                .then(|| io::Error::new(error.kind(), error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// Answers one request with these bytes; gives where.
    fn answering(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            socket.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}/")
    }

    #[test]
    fn a_body_is_taken_and_anything_but_success_is_told() {
        let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!(get(&url, "/x", PATIENCE).unwrap(), b"{}");
        let url = answering("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno");
        let told = get(&url, "/x", PATIENCE).unwrap_err().to_string();
        assert!(
            told.ends_with("answers HTTP/1.1 404 Not Found: no"),
            "{told}"
        );
        let url = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}");
        let told = get(&url, "/x", PATIENCE).unwrap_err().to_string();
        assert!(told.ends_with("the answer is cut short"), "{told}");
    }

    #[test]
    fn where_nobody_is_or_answers_it_is_told_what_to_look_at() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let told = get(&url, "/x", Duration::from_millis(50)).unwrap_err();
        assert!(
            told.to_string().ends_with("no answer within 50ms"),
            "{told}"
        );
        drop(listener);
        let told = get(&url, "/x", PATIENCE).unwrap_err().to_string();
        assert!(told.contains("refused") && told.contains("--url"), "{told}");
    }

    /// The port for other members speaks HTTP/2, or TLS, and closes what begins with anything else.
    #[test]
    fn where_no_http_is_spoken_the_address_for_members_is_suspected() {
        let settings_of_http2 = "\0\0\0\u{4}\0\0\0\0\0";
        let alert_of_tls = "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{a}";
        for said in ["", settings_of_http2, alert_of_tls] {
            let told = get(&answering(said), "/x", PATIENCE).unwrap_err();
            let told = told.to_string();
            assert!(told.contains("`cluster.listen`"), "{told}");
            assert!(told.contains("--url takes `http.listen`"), "{told}");
        }
        // Closed over a request that is not read, a connection is reset.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            socket.peek(&mut [0]).unwrap();
        });
        let told = get(&url, "/x", PATIENCE).unwrap_err().to_string();
        assert!(told.contains("`cluster.listen`"), "{told}");
    }

    #[test]
    fn only_plain_addresses_are_taken() {
        assert_eq!(authority("http://a:81/").as_deref(), Some("a:81"));
        assert_eq!(authority("http://[::1]:81").as_deref(), Some("[::1]:81"));
        assert_eq!(authority("http://a").as_deref(), Some("a:80"));
        for bad in ["a:81", "https://a", "http://", "http://a/b", "http://u@a"] {
            assert_eq!(authority(bad), None, "{bad}");
        }
    }
}
