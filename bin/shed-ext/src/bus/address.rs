//! Where the publish API is. Only addresses are taken: a static program must not resolve names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hyper::Uri;
use shed_protocol::publish;

/// An address with all that a request says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Where to connect.
    pub(super) socket: SocketAddr,
    /// Value of the Host header.
    pub(super) authority: String,
    /// Path of the request.
    pub(super) path: String,
}

/// Says why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} cannot be asked: {problem}; it is like http://127.0.0.1:498")]
pub(crate) struct AddressError {
    url: String,
    problem: &'static str,
}

impl Address {
    /// The agent's own.
    pub(super) fn of_agent() -> Self {
        let socket = SocketAddr::from((Ipv4Addr::LOCALHOST, publish::PORT));
        Self { socket, authority: socket.to_string(), path: publish::PATH.to_owned() }
    }

    /// Reads a URL; without a path it has the API's.
    pub(super) fn parse(url: &str) -> Result<Self, AddressError> {
        let wrong = |problem| AddressError { url: url.chars().take(200).collect(), problem };
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("it does not begin with http://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no address"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user"));
        }
        let host = authority.host();
        let ip: IpAddr = match host {
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            _ => host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .map_err(|_| wrong("its host is neither an IP address nor localhost"))?,
        };
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "/" => publish::PATH,
            path => path,
        };
        let socket = SocketAddr::new(ip, authority.port_u16().unwrap_or(80));
        Ok(Self { socket, authority: socket.to_string(), path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_or_without_a_path_is_taken() {
        assert_eq!(Address::parse("http://127.0.0.1:498").unwrap(), Address::of_agent());
        assert_eq!(Address::parse("http://localhost:498/v1/publish").unwrap(), Address::of_agent());
        let other = Address::parse("http://[::1]/x?y").unwrap();
        assert_eq!((other.authority.as_str(), other.path.as_str()), ("[::1]:80", "/x?y"));
    }

    #[test]
    fn what_would_need_a_resolver_or_tls_is_refused() {
        for bad in
            ["", "127.0.0.1:498", "https://127.0.0.1", "http://example.org", "http://a@127.0.0.1", "http://"]
        {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
