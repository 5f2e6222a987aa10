//! A small HTTP/1.1 client on a plain socket, so that a test can also send what no proper client would.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::{BOOT, EventStream, exec::ExecStream};

/// Headers that make a create or start stream its progress.
const EVENTS: &str = "Accept: text/event-stream\r\n";

/// Where the API is.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    address: SocketAddr,
}

/// What the server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The whole head in lower case, for looking up headers.
    pub head: String,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads the body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("the body is no JSON ({error}): {} {:?}", self.status, self.text()),
        }
    }

    /// Returns code and message of an error.
    ///
    /// # Panics
    /// When the body does not have the shape that every error has (spec A.1).
    #[track_caller]
    #[must_use]
    pub fn error(&self) -> (String, String) {
        let json = self.json();
        let object = json.as_object().filter(|object| object.len() == 1);
        let part = |key: &str| object.and_then(|object| object["error"][key].as_str()).map(str::to_owned);
        match (part("code"), part("message")) {
            (Some(code), Some(message)) if !message.trim().is_empty() => (code, message),
            _ => panic!("the body has not the shape of an error: {} {json}", self.status),
        }
    }

    /// Checks the status.
    ///
    /// # Panics
    /// When it is another one; the message has the body.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status; the body: {}", self.text());
        self
    }
}

impl Http {
    /// Talks to the server at `address`.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Asks with GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "", None)
    }

    /// Asks with DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, "", None)
    }

    /// Asks with POST and, when there is one, a body that claims to be JSON.
    #[track_caller]
    pub fn post(&self, path: &str, body: Option<&str>) -> Reply {
        self.request("POST", path, "", body.map(str::as_bytes))
    }

    /// Sends an archive into a directory of a shed; `target` is written as it stands in a query.
    #[track_caller]
    pub fn put_files(&self, name: &str, target: &str, archive: &[u8]) -> Reply {
        let path = format!("/api/sheds/{name}/files?path={target}");
        self.request("PUT", &path, "Content-Type: application/x-tar\r\n", Some(archive))
    }

    /// Creates a shed and waits for the answer.
    #[track_caller]
    pub fn create(&self, body: &Value) -> Reply {
        self.post("/api/sheds", Some(&body.to_string()))
    }

    /// Creates a shed and follows its progress.
    #[track_caller]
    #[must_use]
    pub fn create_events(&self, body: &Value) -> EventStream {
        EventStream::new(self.open("POST", "/api/sheds", EVENTS, Some(body.to_string().as_bytes())))
    }

    /// Starts a shed and follows its progress.
    #[track_caller]
    #[must_use]
    pub fn start_events(&self, name: &str) -> EventStream {
        EventStream::new(self.open("POST", &format!("/api/sheds/{name}/start"), EVENTS, None))
    }

    /// Follows the events at a path.
    #[track_caller]
    #[must_use]
    pub fn events(&self, path: &str) -> EventStream {
        EventStream::new(self.open("GET", path, EVENTS, None))
    }

    /// Returns a shed as the API shows it.
    #[track_caller]
    #[must_use]
    pub fn shed(&self, name: &str) -> Value {
        self.get(&format!("/api/sheds/{name}")).is(200).json()
    }

    /// Returns a shed's status.
    #[track_caller]
    #[must_use]
    pub fn status(&self, name: &str) -> String {
        self.shed(name)["status"].as_str().expect("a shed has a status").to_owned()
    }

    /// Returns the names of all sheds.
    #[track_caller]
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let list = self.get("/api/sheds").is(200).json();
        let sheds = list["sheds"].as_array().expect("`sheds` is a list").clone();
        sheds.iter().map(|shed| shed["name"].as_str().expect("a shed has a name").to_owned()).collect()
    }

    /// Opens an exec stream: sends the request for an upgrade and expects that it is granted.
    #[track_caller]
    pub fn exec(&self, name: &str) -> ExecStream {
        let upgrade = "Connection: Upgrade\r\nUpgrade: shed-exec\r\n";
        let response = self.open("GET", &format!("/api/sheds/{name}/exec"), upgrade, None);
        match response.into_upgraded() {
            Ok(reader) => ExecStream::new(reader),
            Err(reply) => panic!("no upgrade: {} {}", reply.status, reply.text()),
        }
    }

    /// Sends a request and reads the whole answer.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> Reply {
        self.open(method, path, headers, body).read().expect("the server answers with a whole response")
    }

    /// Sends these very bytes, closes the sending side and returns all that comes back until the server closes.
    ///
    /// # Errors
    /// When the connection breaks or nothing comes for half a minute.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        // The server may answer and close before it has read everything.
        let _cut_off = stream.write_all(bytes);
        let _closed = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
            Ok(_) | Err(_) => Ok(answer),
        }
    }

    /// Opens a plain connection to the server.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(BOOT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a request and reads the head of the answer.
    #[track_caller]
    fn open(&self, method: &str, path: &str, headers: &str, body: Option<&[u8]>) -> Response {
        match self.try_open(method, path, headers, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {path} failed: {error}"),
        }
    }

    /// Sends a request and reads the head of the answer.
    ///
    /// # Errors
    /// When nobody listens, or no answer comes.
    pub fn try_open(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: Option<&[u8]>,
    ) -> io::Result<Response> {
        let mut stream = self.connect()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}", self.address);
        if !headers.contains("Connection:") {
            head.push_str("Connection: close\r\n");
        }
        if let Some(body) = body {
            if !headers.contains("Content-Type:") {
                head.push_str("Content-Type: application/json\r\n");
            }
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        // A server that has read enough to refuse may answer and close before it has read all.
        let written = stream.write_all(&bytes);
        Response::read_head(BufReader::new(stream)).map_err(|error| written.err().unwrap_or(error))
    }
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub struct Response {
    status: u16,
    head: String,
    body: Body,
}

/// A body, by the way its end is known.
#[derive(Debug)]
enum Body {
    Chunked { reader: BufReader<TcpStream>, left: usize, over: bool },
    Length(io::Take<BufReader<TcpStream>>),
    ToEnd(BufReader<TcpStream>),
}

impl Response {
    fn read_head(mut reader: BufReader<TcpStream>) -> io::Result<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("only {head:?} came")));
            }
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
        let head = head.to_ascii_lowercase();
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let body = match length {
            // 1xx, 204 and 304 have no body (RFC 9110 section 6.4.1); an upgrade's bytes are read by its taker.
            _ if status == 101 => Body::ToEnd(reader),
            _ if matches!(status, 204 | 304) => Body::Length(reader.take(0)),
            Some(length) => Body::Length(reader.take(length)),
            None if header(&head, "transfer-encoding") == Some("chunked") => {
                Body::Chunked { reader, left: 0, over: false }
            }
            None => Body::ToEnd(reader),
        };
        Ok(Self { status, head, body })
    }

    /// Reads the body to its end.
    ///
    /// # Errors
    /// When the connection breaks before it.
    pub fn read(mut self) -> io::Result<Reply> {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body)?;
        Ok(Reply { status: self.status, head: self.head, body })
    }

    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    pub(crate) fn into_upgraded(self) -> Result<BufReader<TcpStream>, Reply> {
        match (self.status, self.body) {
            (101, Body::ToEnd(reader)) => Ok(reader),
            (status, body) => Err(Self { status, head: self.head, body }.read().expect("a whole response")),
        }
    }
}

/// Returns the value of a header in a head that is in lower case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Length(reader) => reader.read(buffer),
            Self::ToEnd(reader) => reader.read(buffer),
            Self::Chunked { over: true, .. } => Ok(0),
            Self::Chunked { reader, left, over } => {
                if *left == 0 {
                    *left = next_chunk(reader)?;
                    if *left == 0 {
                        *over = true;
                        return Ok(0);
                    }
                }
                let most = buffer.len().min(*left);
                let length = reader.read(&mut buffer[..most])?;
                if length == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the body broke off inside a chunk",
                    ));
                }
                *left -= length;
                if *left == 0 {
                    let mut line_end = [0; 2];
                    reader.read_exact(&mut line_end)?;
                }
                Ok(length)
            }
        }
    }
}

fn next_chunk(reader: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body broke off between chunks"));
    }
    usize::from_str_radix(line.trim(), 16)
        .map_err(|_| io::Error::other(format!("no chunk begins with {line:?}")))
}
