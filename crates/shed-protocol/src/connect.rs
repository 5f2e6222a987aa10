//! The line that opens a stream: `CONNECT <port>` and its answer.
//!
//! Firecracker's hybrid vsock speaks it for us (its docs/vsock.md); on a multiplexed pipe the two ends of Shed
//! speak it themselves, so that a stream is opened in one way everywhere.

use shed_types::{GuestPort, TcpPort};

/// Longest line that is read before the peer is given up on, in bytes, line feed included (spec B.6).
pub const MAX_LINE: usize = 64;

/// Says why a line is no `CONNECT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseConnectError {
    #[error("the peer did not begin with CONNECT and a port")]
    Malformed,
    #[error("the guest has no service on port {0}")]
    UnknownPort(u32),
}

/// The answer to a `CONNECT` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectReply {
    /// The stream is open; raw bytes follow.
    Ok,
    /// It is not, and why.
    Refused(String),
}

/// Returns the line that asks for `port`.
#[must_use]
pub fn request_line(port: GuestPort) -> String {
    format!("CONNECT {port}\n")
}

/// Reads a request line, without its line feed.
///
/// # Errors
/// When the line is not one, or names a port without a service.
pub fn parse_request(line: &[u8]) -> Result<GuestPort, ParseConnectError> {
    let digits = line.strip_prefix(b"CONNECT ").ok_or(ParseConnectError::Malformed)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ParseConnectError::Malformed);
    }
    let number =
        str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(ParseConnectError::Malformed)?;
    GuestPort::from_number(number).ok_or(ParseConnectError::UnknownPort(number))
}

/// Returns the line that asks the agent's TCP proxy for a port of the guest's loopback. It is the second of its kind on
/// a stream to [`GuestPort::Tcp`].
#[must_use]
pub fn tcp_request_line(port: TcpPort) -> String {
    format!("CONNECT {port}\n")
}

/// Reads a request line to the TCP proxy, without its line feed.
///
/// # Errors
/// When the line is not one, or the port none of TCP's.
pub fn parse_tcp_request(line: &[u8]) -> Result<TcpPort, ParseConnectError> {
    str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("CONNECT ")?.parse().ok())
        .ok_or(ParseConnectError::Malformed)
}

impl ConnectReply {
    /// Returns the reply's line; a reason is cut to fit into [`MAX_LINE`] and its line feeds are dropped.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Ok => "OK\n".to_owned(),
            Self::Refused(reason) => {
                let mut text: String =
                    reason.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).collect();
                text.truncate(MAX_LINE - "ERR \n".len());
                format!("ERR {text}\n")
            }
        }
    }

    /// Reads a reply line, without its line feed. Firecracker puts a number behind its `OK`.
    ///
    /// # Errors
    /// When the line is no reply.
    pub fn parse(line: &[u8]) -> Result<Self, ParseConnectError> {
        if line == b"OK" || line.starts_with(b"OK ") {
            Ok(Self::Ok)
        } else if let Some(reason) = line.strip_prefix(b"ERR ") {
            Ok(Self::Refused(String::from_utf8_lossy(reason).into_owned()))
        } else {
            Err(ParseConnectError::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_reads_back() {
        for port in GuestPort::ALL {
            let line = request_line(port);
            assert_eq!(parse_request(line.trim_end().as_bytes()), Ok(port));
        }
    }

    #[test]
    fn a_line_to_the_tcp_proxy_reads_back_and_others_are_refused() {
        for number in [1, 80, 1024, 65535] {
            let port = TcpPort::new(number).unwrap();
            assert_eq!(parse_tcp_request(tcp_request_line(port).trim_end().as_bytes()), Ok(port));
            assert!(tcp_request_line(port).len() <= MAX_LINE);
        }
        for line in
            ["", "CONNECT ", "CONNECT 0", "CONNECT 65536", "CONNECT -1", "CONNECT 1 2", "CONNECT 80\r", "80"]
        {
            assert_eq!(parse_tcp_request(line.as_bytes()), Err(ParseConnectError::Malformed), "{line:?}");
        }
        assert_eq!(parse_tcp_request(b"CONNECT \xff"), Err(ParseConnectError::Malformed));
    }

    #[test]
    fn hostile_request_lines_are_refused() {
        for line in [
            "",
            "CONNECT",
            "CONNECT ",
            "CONNECT -1",
            "CONNECT +1024",
            "CONNECT 1024 ",
            "connect 1024",
            "CONNECT 99999999999999999999",
        ] {
            assert_eq!(parse_request(line.as_bytes()), Err(ParseConnectError::Malformed), "{line:?}");
        }
        assert_eq!(parse_request(b"CONNECT 1"), Err(ParseConnectError::UnknownPort(1)));
    }

    #[test]
    fn a_long_reason_still_fits_the_line() {
        let line = ConnectReply::Refused("x\n".repeat(500)).line();
        assert!(line.len() <= MAX_LINE && line.matches('\n').count() == 1);
        assert!(matches!(ConnectReply::parse(line.trim_end().as_bytes()), Ok(ConnectReply::Refused(_))));
        assert_eq!(ConnectReply::parse(b"OK 1073741824"), Ok(ConnectReply::Ok));
    }
}
