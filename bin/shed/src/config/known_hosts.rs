//! The SSH host keys of the servers, `~/.shed/known_hosts` (spec K.3), in the format of sshd(8), so that ssh reads it.
//!
//! Changed by `server add`, `server remove` and the first command on a server of this machine, under the lock of the
//! config file; read by whatever connects over SSH. Lines that are not ours (comments,
//! markers, hashed or listed hosts) stay as they are. A key that has changed is never replaced here: whether that is a
//! new server or an attack is for the user to say.

use std::{fmt, fs, io, str::FromStr};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::TcpPort;

use super::{Host, ServerEntry};

/// Port of SSH, which a line leaves out (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
const SSH_PORT: u16 = 22;

/// Longest key that is kept, in bytes of base64. An RSA key of 16384 bits, the longest that OpenSSH takes, has 2764.
const KEY_MAX: usize = 4096;

/// Why a host key was not kept or dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KnownHostsError {
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Write(#[from] shed_state::WriteFileError),
    #[error("the SSH host key of {place} is not the one that {path} has")]
    Changed { place: Place, path: Utf8PathBuf },
}

/// Says why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host key is its type and its base64, on one line")]
pub(crate) struct ParseHostKeyError;

/// A public key as a line of `authorized_keys` has it, without a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostKey {
    kind: String,
    base64: String,
}

impl FromStr for HostKey {
    type Err = ParseHostKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim_end().contains(['\n', '\r']) {
            return Err(ParseHostKeyError);
        }
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(base64)) = (words.next(), words.next()) else { return Err(ParseHostKeyError) };
        // ssh-ed25519, ecdsa-sha2-nistp256, sk-ssh-ed25519@openssh.com
        let is_kind = kind.starts_with(|c: char| c.is_ascii_lowercase())
            && kind.len() <= 64
            && kind.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'@' | b'.'));
        let is_base64 = base64.len() <= KEY_MAX
            && base64
                .trim_end_matches('=')
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
        if is_kind && is_base64 {
            Ok(Self { kind: kind.to_owned(), base64: base64.to_owned() })
        } else {
            Err(ParseHostKeyError)
        }
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.base64)
    }
}

/// Whose key it is, as ssh writes it: `[host]:port`, or the bare host on port 22.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(String);

impl Place {
    /// Returns the place of a server's SSH server.
    pub(crate) fn of(entry: &ServerEntry) -> Self {
        Self::at(&entry.host, entry.ssh_port)
    }

    fn at(host: &Host, port: TcpPort) -> Self {
        match port.get() {
            SSH_PORT => Self(host.as_str().to_owned()),
            port => Self(format!("[{}]:{port}", host.as_str())),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct KnownHosts {
    path: Utf8PathBuf,
}

impl KnownHosts {
    pub(super) fn new(path: Utf8PathBuf) -> Self {
        Self { path }
    }

    /// Returns where the file is.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Keeps the key of a server.
    ///
    /// # Errors
    /// [`KnownHostsError::Changed`] when there is another key of this type for the place, and those of reading and
    /// writing. The file is unchanged then.
    pub(crate) fn add(&self, place: &Place, key: &HostKey) -> Result<(), KnownHostsError> {
        let before = self.read()?;
        match with(&before, place, key) {
            Some(after) => self.write(&before, &after),
            None => Err(KnownHostsError::Changed { place: place.clone(), path: self.path.clone() }),
        }
    }

    /// Returns the keys that a server may have: those of its place, of the one type that Shed's servers have, without
    /// those that are revoked there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn keys(&self, place: &Place) -> Result<Vec<shed_ssh::client::HostKey>, KnownHostsError> {
        Ok(keys(&self.read()?, place))
    }

    /// Returns the number of the first line that has a key of the place.
    pub(crate) fn line_of(&self, place: &Place) -> Option<usize> {
        let text = self.read().ok()?;
        let at = text.lines().position(|line| read_line(line).is_some_and(|line| line.names(place)))?;
        Some(at + 1)
    }

    /// Drops the keys of a server.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub(crate) fn remove(&self, place: &Place) -> Result<(), KnownHostsError> {
        let before = self.read()?;
        self.write(&before, &without(&before, place))
    }

    /// Returns whether there is a key of a server. Lines whose hosts are hashed cannot be told apart and may be its.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn knows(&self, place: &Place) -> Result<bool, KnownHostsError> {
        let is_its = |line: &str| {
            let mut hosts = read_line(line).into_iter().flat_map(|line| line.hosts.split(','));
            hosts.any(|host| host.eq_ignore_ascii_case(&place.0)) || line.starts_with('|')
        };
        Ok(self.read()?.lines().any(is_its))
    }

    /// Reads the file; a missing one is an empty one.
    fn read(&self) -> Result<String, KnownHostsError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(KnownHostsError::Read { path: self.path.clone(), source }),
        }
    }

    fn write(&self, before: &str, after: &str) -> Result<(), KnownHostsError> {
        if before == after {
            return Ok(());
        }
        // A rename would put a plain file where the user has a link.
        let target = self.path.canonicalize_utf8().unwrap_or_else(|_| self.path.clone());
        Ok(shed_state::atomic::write_for_owner(&target, after.as_bytes(), 0o600)?)
    }
}

/// Returns the text with the key in it; nothing when the place has another key of this type.
fn with(text: &str, place: &Place, key: &HostKey) -> Option<String> {
    let mut known =
        text.lines().filter_map(read_line).filter(|line| line.kind == key.kind && line.names(place));
    if let Some(line) = known.next() {
        return (line.base64 == key.base64).then(|| text.to_owned());
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Some(format!("{text}{gap}{place} {key}\n"))
}

/// The type of a server's key; the client takes no other.
const SERVER_KEY: &str = "ssh-ed25519";

fn keys(text: &str, place: &Place) -> Vec<shed_ssh::client::HostKey> {
    let key = |line: Line<'_>| format!("{} {}", line.kind, line.base64).parse().ok();
    let revoked: Vec<shed_ssh::client::HostKey> = text
        .lines()
        .filter_map(|line| read_line(line.strip_prefix("@revoked")?))
        .filter(|line| line.names(place))
        .filter_map(key)
        .collect();
    text.lines()
        .filter_map(read_line)
        .filter(|line| line.kind == SERVER_KEY && line.names(place))
        .filter_map(key)
        .filter(|key| !revoked.contains(key))
        .collect()
}

/// Returns the text without the lines of this place alone.
fn without(text: &str, place: &Place) -> String {
    let is_other =
        |line: &&str| read_line(line).is_none_or(|line| !line.hosts.eq_ignore_ascii_case(&place.0));
    text.split_inclusive('\n').filter(is_other).collect()
}

/// A line that names its hosts.
struct Line<'a> {
    hosts: &'a str,
    kind: &'a str,
    base64: &'a str,
}

impl Line<'_> {
    /// Returns whether it is about this place, and not only by a pattern.
    fn names(&self, place: &Place) -> bool {
        self.hosts.split(',').any(|host| host.eq_ignore_ascii_case(&place.0))
    }
}

/// Reads a line; nothing when it is a comment, a marker, hashed, or none.
fn read_line(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    let hosts = words.next().filter(|hosts| !hosts.starts_with(['#', '@', '|']))?;
    Some(Line { hosts, kind: words.next()?, base64: words.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> HostKey {
        text.parse().unwrap()
    }

    fn place(text: &str) -> Place {
        Place(text.to_owned())
    }

    #[test]
    fn a_place_has_brackets_and_a_port_unless_it_is_that_of_ssh() {
        let at = |host: &str, port: u16| {
            Place::at(&host.to_owned().try_into().unwrap(), TcpPort::new(port).unwrap()).to_string()
        };
        assert_eq!(at("Mini.Lan", 2222), "[mini.lan]:2222");
        assert_eq!(at("mini", 22), "mini");
        assert_eq!(at("::1", 2222), "[::1]:2222");
    }

    #[test]
    fn a_key_is_added_once_and_one_that_has_changed_is_refused() {
        let first = with("# mine", &place("[mini]:2222"), &key("ssh-ed25519 AAAA comment")).unwrap();
        assert_eq!(first, "# mine\n[mini]:2222 ssh-ed25519 AAAA\n");
        assert_eq!(with(&first, &place("[mini]:2222"), &key("ssh-ed25519 AAAA")).unwrap(), first);
        assert_eq!(with(&first, &place("[mini]:2222"), &key("ssh-ed25519 BBBB")), None);
        assert_eq!(
            with("a,[mini]:2222 ssh-ed25519 AAAA", &place("[mini]:2222"), &key("ssh-ed25519 B")),
            None
        );
        // Another type, another port or another host is another key.
        for (place_, key_) in
            [("[mini]:2222", "ssh-rsa B"), ("[mini]:2223", "ssh-ed25519 B"), ("mini", "ssh-ed25519 B")]
        {
            assert!(with(&first, &place(place_), &key(key_)).is_some(), "{place_} {key_}");
        }
    }

    #[test]
    fn the_keys_of_a_place_are_those_of_its_lines_that_are_not_revoked() {
        const A: &str = "AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        const B: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
        let text = format!(
            "# x\n[mini]:2222 ssh-ed25519 {A}\na,[MINI]:2222,b ssh-ed25519 {B} me\n[mini]:2222 ssh-ed25519 junk\n\
             [other]:2222 ssh-ed25519 {A}\n[mini]:2222 ssh-rsa AAAA\n@revoked [old]:22 ssh-ed25519 {A}\n"
        );
        let of = |text: &str, at: &str| -> Vec<String> {
            keys(text, &place(at)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&text, "[mini]:2222"), [format!("ssh-ed25519 {A}"), format!("ssh-ed25519 {B}")]);
        assert!(of(&text, "mini").is_empty());
        let revoked = format!("{text}@revoked [mini]:2222 ssh-ed25519 {A}\n");
        assert_eq!(of(&revoked, "[mini]:2222"), [format!("ssh-ed25519 {B}")]);
    }

    #[test]
    fn only_the_lines_of_the_place_go() {
        let text = "# [mini]:2222\n[mini]:2222 ssh-ed25519 A\n@revoked [mini]:2222 ssh-ed25519 B\n\
                    [mini]:22220 ssh-ed25519 C\na,[mini]:2222 ssh-rsa D\n[MINI]:2222 ssh-rsa E";
        assert_eq!(
            without(text, &place("[mini]:2222")),
            "# [mini]:2222\n@revoked [mini]:2222 ssh-ed25519 B\n[mini]:22220 ssh-ed25519 C\na,[mini]:2222 ssh-rsa D\n"
        );
    }

    #[test]
    fn a_server_cannot_slip_in_a_second_line_or_a_host() {
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA\n* ssh-rsa BBBB",
            "ssh-ed25519 AAAA\r* ssh-rsa B",
            "* ssh-ed25519 A",
            "ssh-ed25519 A\u{1b}[2J",
            "Ssh A",
            "ssh-ed25519 ü",
            &format!("ssh-rsa {}", "A".repeat(5000)),
        ] {
            assert!(text.parse::<HostKey>().is_err(), "{text:?}");
        }
        assert_eq!(key("ecdsa-sha2-nistp256 AA+/==  me@mini\n").to_string(), "ecdsa-sha2-nistp256 AA+/==");
    }

    #[test]
    fn the_file_is_written_whole_for_the_user_alone_and_a_missing_one_is_empty() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("known_hosts");
        let file = KnownHosts::new(path.clone());
        file.remove(&place("mini")).unwrap();
        assert!(!path.exists(), "nothing to write");
        file.add(&place("mini"), &key("ssh-ed25519 AAAA")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = file.add(&place("mini"), &key("ssh-ed25519 BBBB")).unwrap_err();
        assert!(matches!(error, KnownHostsError::Changed { .. }), "{error}");
        assert!(file.knows(&place("mini")).unwrap() && !file.knows(&place("[mini]:2222")).unwrap());
        file.remove(&place("mini")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        fs::write(&path, "|1|salt|hash ssh-ed25519 AAAA\n").unwrap();
        assert!(file.knows(&place("mini")).unwrap(), "it may be");
    }
}
