//! Where a server is: host and port, as a user writes them.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use shed_api::DEFAULT_HTTP_PORT;
use shed_types::TcpPort;

/// Longest host name in bytes (RFC 1035 §2.3.4).
const HOST_MAX: usize = 253;

/// Host and port of a server's HTTP API.
///
/// Reads `host`, `host:port`, `[::1]:port`, `::1` and any of them behind `http://`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// A name, an IPv4 address or an IPv6 address without brackets.
    host: String,
    port: u16,
}

/// Says why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    #[error("{0:?} is not a server's address: the host is missing")]
    NoHost(String),
    #[error("{0:?} is not a server's address: its host has characters that no host name has")]
    BadHost(String),
    #[error("{0:?} is not a server's address: its port must be a number from 1 to 65535")]
    BadPort(String),
    #[error("{0:?} asks for HTTPS, which this version does not speak; use http:// within a private network")]
    Https(String),
}

impl ServerAddress {
    /// Makes the address of a host and port.
    ///
    /// # Errors
    /// When `host` can be neither a name nor an address.
    pub fn new(host: &str, port: TcpPort) -> Result<Self, ParseAddressError> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(ParseAddressError::NoHost(host.to_owned()));
        }
        let is_name = bare.len() <= HOST_MAX
            && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !is_name && !is_ipv6(bare) {
            return Err(ParseAddressError::BadHost(host.to_owned()));
        }
        Ok(Self { host: bare.to_owned(), port: port.get() })
    }

    /// Returns the host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// Returns whether the text is an IPv6 address, possibly with a zone.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "eth0"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric())
}

impl FromStr for ServerAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err(ParseAddressError::Https(text.to_owned()));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if is_ipv6(rest) {
            (rest, None)
        } else if let Some(inside) = rest.strip_prefix('[') {
            let (host, after) =
                inside.split_once(']').ok_or_else(|| ParseAddressError::BadHost(text.to_owned()))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(ParseAddressError::BadHost(text.to_owned())),
            }
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            None => TcpPort::new(DEFAULT_HTTP_PORT).expect("the default port is not 0"),
            Some(port) => port.parse().map_err(|_| ParseAddressError::BadPort(text.to_owned()))?,
        };
        if host.is_empty() {
            return Err(ParseAddressError::NoHost(text.to_owned()));
        }
        Self::new(host, port).map_err(|_| ParseAddressError::BadHost(text.to_owned()))
    }
}

/// Writes `host:port`, with brackets around an IPv6 address: the form of a `Host` header.
impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_write_an_address_is_read() {
        for (text, written) in [
            ("mini", "mini:8080"),
            ("mini:9000", "mini:9000"),
            ("http://mini.local:9000/", "mini.local:9000"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("::1", "[::1]:8080"),
            ("[::1]", "[::1]:8080"),
            ("http://[fe80::1%eth0]:65535", "[fe80::1%eth0]:65535"),
        ] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "http://",
            ":80",
            "a:0",
            "a:65536",
            "a:b",
            "a b",
            "a/b",
            "[::1",
            "[::1]x",
            "https://a",
            "a@b",
            "ü",
            "a:1:2",
            "a\r\nX: y",
        ] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in "\\PC{0,40}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                prop_assert_eq!(address.to_string().parse::<ServerAddress>().unwrap(), address);
            }
        }
    }
}
