//! A client that writes what it is told and reads what comes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

/// One reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        let limit = Some(Duration::from_secs(20));
        socket.set_read_timeout(limit).unwrap();
        Self {
            socket,
            read: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Writes what may fail because the server has closed already.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    pub(crate) fn finish_writing(&self) {
        self.socket.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Reads one reply; `None` when the server closes without one.
    pub(crate) fn try_read(&mut self, is_head: bool) -> Option<Reply> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.more() == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        self.read.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut reply = Reply {
            status: status.parse().unwrap(),
            headers,
            body: Vec::new(),
        };
        let bodiless = is_head || matches!(reply.status, 100 | 204 | 304);
        let length: usize = match reply.header("content-length") {
            Some(length) if !bodiless => length.parse().unwrap(),
            _ => 0,
        };
        while self.read.len() < length {
            assert!(self.more() > 0, "the server closed within a body");
        }
        reply.body = self.read.drain(..length).collect();
        Some(reply)
    }

    pub(crate) fn read(&mut self) -> Reply {
        self.try_read(false).unwrap()
    }

    /// Reads until the server closes; fails if it says anything more.
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(self.more(), 0, "{:?}", String::from_utf8_lossy(&self.read));
    }

    fn more(&mut self) -> usize {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(length) => {
                self.read.extend_from_slice(&buffer[..length]);
                length
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            // The process was stopped for a while.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.more(),
            Err(error) => panic!("{error}"),
        }
    }

    /// One request on this connection.
    pub(crate) fn request(&mut self, method: &str, path: &str, fields: &str, body: &str) -> Reply {
        self.write(request(method, path, fields, body).as_bytes());
        self.try_read(method == "HEAD").unwrap()
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, "", "")
    }

    pub(crate) fn get_with(&mut self, path: &str, fields: &str) -> Reply {
        self.request("GET", path, fields, "")
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Reply {
        self.request("POST", path, "", body)
    }

    pub(crate) fn post_with(&mut self, path: &str, fields: &str, body: &str) -> Reply {
        self.request("POST", path, fields, body)
    }
}

/// A request as bytes; `fields` is whole lines.
pub(crate) fn request(method: &str, path: &str, fields: &str, body: &str) -> String {
    let framing = if method == "POST" {
        format!("content-length: {}\r\n", body.len())
    } else {
        String::new()
    };
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{fields}{framing}\r\n{body}")
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} appears twice");
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Checks everything that every problem has, and gives its members.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let json = self.json();
        assert_eq!(json["code"], code);
        assert_eq!(json["type"], format!("/problems/{code}"));
        assert_eq!(json["status"], status);
        for text in ["title", "detail", "instance"] {
            assert!(!json[text].as_str().unwrap().is_empty(), "{text}");
        }
        assert!(json["retryable"].is_boolean());
        let outcome = json["outcome"].as_str().unwrap();
        assert_eq!(outcome == "unknown", code == "outcome-unknown");
        let trace = json["trace_id"].as_str().unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit()));
        if let 429 | 503 = status {
            let seconds: u64 = self.header("retry-after").unwrap().parse().unwrap();
            assert!(seconds >= 1);
        }
        json
    }
}
