//! A reader of server-sent events, as strict as a browser's.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than the pause between two signs of life, by what a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// In which an event must have come, on a busy machine as well.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    lines: BufReader<TcpStream>,
    pub(crate) head: String,
    /// What came in chunks and is not read yet; a chunk may end anywhere, within a letter as well.
    bytes: Vec<u8>,
    pub(crate) last_id: String,
}

/// What an empty line ends.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// Its `event` field; empty when it has none.
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) comments: usize,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

impl Stream {
    pub(crate) fn open(address: SocketAddr, target: &str, last_id: Option<&str>) -> Self {
        Self::try_open(address, target, last_id).expect("the node answers")
    }

    /// The same of a node that may be down, or go down.
    pub(crate) fn try_open(
        address: SocketAddr,
        target: &str,
        last_id: Option<&str>,
    ) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let resume = last_id.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        socket.write_all(request.as_bytes())?;
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(std::io::Error::other(format!("no stream: {head}")));
        }
        Ok(Self {
            lines,
            head: head.to_ascii_lowercase(),
            bytes: Vec::new(),
            last_id: last_id.unwrap_or_default().to_owned(),
        })
    }

    /// Reads one more chunk; `false` at the end of the stream.
    fn read_chunk(&mut self) -> std::io::Result<bool> {
        let mut size = String::new();
        self.lines.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            return Ok(false);
        }
        let mut chunk = vec![0; size + 2];
        self.lines.read_exact(&mut chunk)?;
        chunk.truncate(size);
        self.bytes.extend(chunk);
        Ok(true)
    }

    /// The next block of lines; `None` at the end of the stream.
    pub(crate) fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.block() {
                return Some(message);
            }
            if !self.read_chunk().expect("a whole chunk in time") {
                return None;
            }
        }
    }

    /// The same of a stream that may have been cut anywhere.
    pub(crate) fn try_message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.block() {
                return Some(message);
            }
            if !self.read_chunk().unwrap_or(false) {
                return None;
            }
        }
    }

    /// The next whole block of lines, if it has come.
    fn block(&mut self) -> Option<Message> {
        let end = self.bytes.windows(2).position(|two| two == b"\n\n")?;
        let rest = self.bytes.split_off(end + 2);
        let mut block = std::mem::replace(&mut self.bytes, rest);
        block.truncate(end);
        let block = String::from_utf8(block).expect("UTF-8");
        let mut message = Message::default();
        for line in block.lines() {
            match line.split_once(':') {
                Some(("", _)) => message.comments += 1,
                Some(("id", id)) => self.last_id = id.trim_start().to_owned(),
                Some(("event", kind)) => message.kind = kind.trim_start().to_owned(),
                Some(("data", data)) => message.data.push_str(data.trim_start()),
                Some(("retry", _)) => {}
                other => panic!("{other:?} in {block}"),
            }
        }
        Some(message)
    }

    /// Reads until the stream ends.
    ///
    /// # Panics
    /// When it goes on for longer than this.
    pub(crate) fn drain(&mut self, within: Duration) -> Vec<Message> {
        let began = Instant::now();
        let mut messages = Vec::new();
        while let Some(message) = self.try_message() {
            messages.push(message);
            assert!(began.elapsed() < within, "the stream does not end");
        }
        messages
    }

    /// The next message that has data.
    pub(crate) fn told(&mut self) -> Message {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < TOLD_WITHIN, "nothing but comments");
            let message = self.message().expect("the stream goes on");
            if !message.data.is_empty() {
                return message;
            }
        }
    }

    /// The data of the next message.
    pub(crate) fn event(&mut self) -> Value {
        self.told().json()
    }

    pub(crate) fn events(&mut self, count: usize) -> Vec<Value> {
        (0..count).map(|_| self.event()).collect()
    }
}
