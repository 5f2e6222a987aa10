//! What the client's config file says, as types.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shed_client::{ParseAddressError, ServerAddress};
use shed_types::TcpPort;

use crate::values::Timeout;

/// Longest name of a server in characters; a DNS label, as names are often derived from host names.
const NAME_MAX: usize = 63;

/// Says why a text is not a server's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a server name: use 1 to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or digit"
)]
pub(crate) struct ParseServerNameError(String);

/// The client's name for a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ServerName(String);

impl ServerName {
    /// Returns the name of this machine's server while no server is configured.
    pub(crate) fn local() -> Self {
        Self("local".to_owned())
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = ParseServerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=NAME_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if good { Ok(Self(text.to_owned())) } else { Err(ParseServerNameError(text.to_owned())) }
    }
}

impl TryFrom<String> for ServerName {
    type Error = ParseServerNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A host name or an IP address; IPv6 without brackets. Checked by [`ServerAddress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Host(String);

impl Host {
    /// Returns the host of an address that is a good one; names in lower case, so that equal ones look equal.
    pub(crate) fn of(address: &ServerAddress) -> Self {
        Self(address.host().to_ascii_lowercase())
    }

    /// Returns the host without brackets.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first label of a host name, which makes a short name; nothing for an IP address.
    pub(crate) fn first_label(&self) -> Option<&str> {
        let is_ip = self.0.contains(':') || self.0.parse::<Ipv4Addr>().is_ok();
        if is_ip { None } else { self.0.split('.').next() }
    }
}

/// Writes the host as it stands in a URL: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(&self.0) }
    }
}

impl TryFrom<String> for Host {
    type Error = ParseAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ServerAddress::new(&text, default_http_port()).map(|address| Self::of(&address))
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// The whole file. Keys that are not known are refused, so that a misspelt one is not ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientConfig {
    /// The servers, by the client's names for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) servers: BTreeMap<ServerName, ServerEntry>,
    /// The server that is asked when nothing else names one; the first that was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default_server: Option<ServerName>,
    /// Where each shed was last seen.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sheds: BTreeMap<String, CachedShed>,
    /// How long a create may take unless `--timeout` says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) create_timeout: Option<Timeout>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerEntry {
    /// Host name or IP address.
    pub(crate) host: Host,
    /// Port of the HTTP API.
    #[serde(default = "default_http_port")]
    pub(crate) http_port: TcpPort,
    /// Port of the SSH server, as the server reported it.
    #[serde(default = "default_ssh_port")]
    pub(crate) ssh_port: TcpPort,
    /// When it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) added_at: Option<Timestamp>,
}

/// Where a shed was last seen. Only a guess: commands ask the server and correct it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CachedShed {
    /// Which server had it.
    pub(crate) server: ServerName,
    /// Its status then, in the words of the API.
    #[serde(default)]
    pub(crate) status: String,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) updated_at: Option<Timestamp>,
}

/// Returns the port of the HTTP API unless configured otherwise.
pub(crate) fn default_http_port() -> TcpPort {
    TcpPort::new(shed_api::DEFAULT_HTTP_PORT).expect("the default HTTP port is not 0")
}

/// Returns the port of the SSH server unless configured otherwise.
pub(crate) fn default_ssh_port() -> TcpPort {
    TcpPort::new(shed_api::DEFAULT_SSH_PORT).expect("the default SSH port is not 0")
}

impl ServerEntry {
    /// Returns this machine's server on its usual ports, which is tried while no server is configured.
    pub(crate) fn this_machine() -> Self {
        Self {
            host: Host(Ipv4Addr::LOCALHOST.to_string()),
            http_port: default_http_port(),
            ssh_port: default_ssh_port(),
            added_at: None,
        }
    }

    /// Returns the address of the API.
    pub(crate) fn address(&self) -> ServerAddress {
        ServerAddress::new(self.host.as_str(), self.http_port)
            .expect("a Host is one that ServerAddress accepted")
    }

    /// Returns the name or address of its host.
    pub(crate) fn host(&self) -> &str {
        self.host.as_str()
    }

    /// Returns the address of the API for people.
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.http_port)
    }
}

impl ClientConfig {
    /// Adds a server; the first one becomes the default.
    pub(crate) fn add_server(&mut self, name: ServerName, entry: ServerEntry) {
        if self.servers.is_empty() {
            self.default_server = Some(name.clone());
        }
        self.servers.insert(name, entry);
    }

    /// Removes a server with the sheds seen on it, and picks another default if it was that.
    /// Returns whether there was one.
    pub(crate) fn remove_server(&mut self, name: &ServerName) -> bool {
        let removed = self.servers.remove(name).is_some();
        self.sheds.retain(|_, shed| shed.server != *name);
        if self.default_server.as_ref() == Some(name) {
            self.default_server = self.oldest_server();
        }
        removed
    }

    /// Returns the server that was added first.
    fn oldest_server(&self) -> Option<ServerName> {
        self.servers.iter().min_by_key(|(_, entry)| entry.added_at).map(|(name, _)| name.clone())
    }

    /// Returns the server at this host and port, if it is known.
    pub(crate) fn server_at(&self, host: &Host, port: TcpPort) -> Option<&ServerName> {
        self.servers
            .iter()
            .find(|(_, entry)| entry.host == *host && entry.http_port == port)
            .map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn entry(host: &str, added_at: i64) -> ServerEntry {
        let added_at = Some(Timestamp::from_second(added_at).unwrap());
        ServerEntry { host: host.to_owned().try_into().unwrap(), added_at, ..ServerEntry::this_machine() }
    }

    #[test]
    fn the_first_server_is_the_default_and_the_oldest_takes_its_place() {
        let mut config = ClientConfig::default();
        config.add_server(name("a"), entry("a", 10));
        config.add_server(name("c"), entry("c", 20));
        config.add_server(name("b"), entry("b", 30));
        assert_eq!(config.default_server, Some(name("a")));
        assert!(config.remove_server(&name("a")));
        assert_eq!(config.default_server, Some(name("c")));
        assert!(!config.remove_server(&name("a")));
    }

    #[test]
    fn removing_a_server_forgets_the_sheds_seen_there() {
        let mut config = ClientConfig::default();
        config.add_server(name("a"), entry("a", 10));
        config.add_server(name("b"), entry("b", 20));
        for (shed, server) in [("web", "a"), ("api", "b")] {
            let seen = CachedShed { server: name(server), status: "running".into(), updated_at: None };
            config.sheds.insert(shed.into(), seen);
        }
        config.remove_server(&name("a"));
        assert_eq!(config.sheds.keys().collect::<Vec<_>>(), ["api"]);
        config.remove_server(&name("b"));
        assert_eq!(config, ClientConfig::default());
    }

    #[test]
    fn names_that_could_be_read_as_a_flag_or_a_path_are_refused() {
        for text in ["", "-n", "a/b", "..", "a b", "ü", &"a".repeat(64)] {
            assert!(text.parse::<ServerName>().is_err(), "{text:?}");
        }
        for text in ["mini", "Mini-2", "10.0.0.2", "a_b"] {
            assert!(text.parse::<ServerName>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn the_file_of_the_specification_reads() {
        let text = "servers:\n  mini:\n    host: mini.lan\n    http_port: 9000\n    ssh_port: 2222\n    added_at: 2026-01-02T03:04:05Z\n\
                    default_server: mini\nsheds:\n  web: {server: mini, status: running, updated_at: 2026-01-02T03:04:05Z}\n\
                    create_timeout: 30m\n";
        let config: ClientConfig = serde_saphyr::from_str(text).unwrap();
        assert_eq!(config.servers[&name("mini")].url(), "http://mini.lan:9000");
        assert_eq!(config.create_timeout.unwrap().to_string(), "30m");
        assert_eq!(config.sheds["web"].server, name("mini"));
    }

    #[test]
    fn an_ipv6_host_gets_its_brackets_back_in_a_url_and_names_are_lower_case() {
        assert_eq!(entry("::1", 0).url(), "http://[::1]:8080");
        assert_eq!(entry("[::1]", 0), entry("::1", 0));
        assert_eq!(entry("Mini.Lan", 0), entry("mini.lan", 0));
        assert_eq!(entry("mini.lan", 0).host.first_label(), Some("mini"));
        assert!(
            entry("::1", 0).host.first_label().is_none() && entry("10.0.0.2", 0).host.first_label().is_none()
        );
    }

    #[test]
    fn misspelt_keys_are_refused() {
        for text in ["server: {}", "servers: {a: {hots: b}}", "servers: {a: {host: b, http_port: 0}}"] {
            assert!(serde_saphyr::from_str::<ClientConfig>(text).is_err(), "{text}");
        }
    }
}
