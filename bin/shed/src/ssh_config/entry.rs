//! One shed as a host of ssh.

use std::fmt::Write as _;

use camino::Utf8Path;
use shed_types::{ShedName, TcpPort};

use crate::config::{Host, ServerName};

/// What the name of a host begins with; the shed's name follows.
const PREFIX: &str = "shed-";

/// Begins the line that says which server an entry is for.
const ON_SERVER: &str = "  # on server ";

/// What each entry ends with. ssh takes the first value it finds, so these hold whatever the user has set for all hosts:
/// - the keys of servers are pinned, and a changed one is refused;
/// - the name in the file of keys is that of `HostName`, neither an address nor a name made longer by the resolver;
/// - a connection that is gone is noticed, and one that is silent is kept open by whatever is in between;
/// - a shed gets neither the user's ssh-agent nor the display.
///
/// A login needs no key, and ssh asks for that first, so no key of the user is shown to the server.
const RULES: &str = "  StrictHostKeyChecking yes
  CheckHostIP no
  CanonicalizeHostname no
  ServerAliveInterval 30
  ForwardAgent no
  ForwardX11 no
";

/// Says that a path cannot be written in a configuration of ssh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ssh cannot be told of {path:?}: its configuration has no way to write {what} in a path")]
pub(crate) struct UnwritablePathError {
    path: String,
    what: &'static str,
}

/// Where a shed is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) shed: &'a ShedName,
    pub(crate) server: &'a ServerName,
    pub(crate) host: &'a Host,
    pub(crate) port: TcpPort,
    pub(crate) known_hosts: &'a Utf8Path,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its name: `shed-web`.
    pub(crate) alias: String,
    /// Its lines, the first of which names it.
    pub(crate) text: String,
}

/// Returns the name under which ssh finds a shed.
pub(crate) fn alias(shed: &ShedName) -> String {
    format!("{PREFIX}{shed}")
}

impl Entry {
    /// Makes the entry of a shed.
    ///
    /// # Errors
    /// When the path of the known hosts has characters that ssh would not read back.
    pub(crate) fn new(target: Target<'_>) -> Result<Self, UnwritablePathError> {
        let Target { shed, server, host, port, known_hosts } = target;
        let alias = alias(shed);
        let known_hosts = path(known_hosts)?;
        // A zone of an IPv6 address begins with a percent sign, which ssh replaces with its own tokens.
        let host = host.as_str().replace('%', "%%");
        let mut text = String::new();
        write!(
            text,
            "Host {alias}\n{ON_SERVER}{server}\n  HostName {host}\n  Port {port}\n  User {shed}\n  \
             UserKnownHostsFile {known_hosts}\n{RULES}"
        )
        .expect("a String takes all");
        Ok(Self { alias, text })
    }

    /// Begins an entry with a line as it was found; nothing when the line names none of our hosts.
    pub(super) fn begun_by(line: &str) -> Option<Self> {
        let alias = line.strip_prefix("Host ")?.trim();
        let is_ours = alias.strip_prefix(PREFIX).is_some_and(|name| name.parse::<ShedName>().is_ok());
        is_ours.then(|| Self { alias: alias.to_owned(), text: format!("{line}\n") })
    }

    /// Returns the server's name that the entry has.
    pub(crate) fn server(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(ON_SERVER))
    }
}

/// Writes a path so that ssh reads it back: tokens and quotes have a meaning there, and a blank ends it
/// (ssh_config(5), `UserKnownHostsFile`).
fn path(path: &Utf8Path) -> Result<String, UnwritablePathError> {
    let text = path.as_str();
    let refused = [("\"", "a quote"), ("\\", "a backslash"), ("${", "`${`")].into_iter();
    let refused = refused.filter(|(part, _)| text.contains(part)).map(|(_, what)| what).next();
    let refused = refused.or_else(|| text.contains(char::is_control).then_some("a control character"));
    if let Some(what) = refused {
        return Err(UnwritablePathError { path: text.to_owned(), what });
    }
    let escaped = text.replace('%', "%%");
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:,=%~".contains(c);
    // Only where they are needed, for not every program that reads the file understands them.
    Ok(if escaped.chars().all(is_plain) { escaped } else { format!("\"{escaped}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, port: u16, known_hosts: &str) -> Result<Entry, UnwritablePathError> {
        Entry::new(Target {
            shed: &"web".parse().unwrap(),
            server: &"mini".parse().unwrap(),
            host: &host.to_owned().try_into().unwrap(),
            port: TcpPort::new(port).unwrap(),
            known_hosts: Utf8Path::new(known_hosts),
        })
    }

    #[test]
    fn an_entry_has_what_ssh_needs() {
        let entry = entry("mini.lan", 2222, "/home/me/.shed/known_hosts").unwrap();
        insta::assert_snapshot!(entry.text, @r"
        Host shed-web
          # on server mini
          HostName mini.lan
          Port 2222
          User web
          UserKnownHostsFile /home/me/.shed/known_hosts
          StrictHostKeyChecking yes
          CheckHostIP no
          CanonicalizeHostname no
          ServerAliveInterval 30
          ForwardAgent no
          ForwardX11 no
        ");
        assert_eq!(entry.server(), Some("mini"));
    }

    #[test]
    fn paths_are_quoted_where_they_must_be_and_refused_where_that_does_not_help() {
        assert_eq!(path("/home/me/.shed/known_hosts".into()).unwrap(), "/home/me/.shed/known_hosts");
        assert_eq!(path("/Users/A B/known#hosts".into()).unwrap(), "\"/Users/A B/known#hosts\"");
        assert_eq!(path("/x/100%h".into()).unwrap(), "/x/100%%h");
        for text in ["/a\"b", "/a\\b", "/a${HOME}", "/a\nHost *"] {
            assert!(path(text.into()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_our_own_hosts_are_entries() {
        assert_eq!(Entry::begun_by("Host shed-web").unwrap().alias, "shed-web");
        for line in [
            "Host *",
            "Host shed-",
            "Host shed-a shed-b",
            "Host shed-*",
            "host shed-web",
            "  Host shed-web",
            "",
        ] {
            assert_eq!(Entry::begun_by(line), None, "{line:?}");
        }
    }
}
