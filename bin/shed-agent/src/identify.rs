//! Makes the machine the shed that the host says it is (design §5).
//!
//! It may be told at any time, more than once, and with other values; each step does nothing when all is as it should
//! be. What fails is reported, and the other steps are done all the same.

use std::{fs, io, path::Path, process::Stdio};

use shed_protocol::Identify;

use crate::{clock, image, log, mounts, network, state::State, whole_file};

/// Where the shed's name is kept for commands and for agents that start later in this boot (environment.d(5)).
pub(crate) const ENVIRONMENT_FILE: &str = "/run/environment.d/10-shed.conf";

/// Most seed bytes that are taken (shed-protocol, `Identify::random_seed`).
const MAX_SEED: usize = 512;

/// Says which steps failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot apply the shed's identity: {}", .0.join("; "))]
pub(crate) struct IdentifyError(Vec<String>);

/// Applies an identity.
pub(crate) async fn apply(identity: &Identify, state: &State) -> Result<(), IdentifyError> {
    let mut failed = Vec::new();
    let mut note = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            failed.push(format!("{what}: {error}"));
        }
    };
    // The clock comes first: everything after it may put times into files.
    note("clock", clock::step(identity.now));
    note("random seed", seed(&identity.random_seed));
    note("name", set_name(&identity.name, state));
    note("host name", set_hostname(Path::new("/etc"), &identity.hostname));
    if let Some(id) = &identity.machine_id {
        note("machine id", set_machine_id(Path::new("/etc"), id));
    }
    // A shed without its directory is not what was asked for, and would write where nobody looks.
    note(
        "host directory",
        mounts::apply(&identity.mounts, &state.share_streams).await.map_err(io::Error::other),
    );
    image::apply(identity.image.as_ref(), state);
    // A machine without these is still the shed it should be, so they only leave a line in the kernel's log. Keys bear
    // the host name and come after it; nobody waits for them.
    let network = identity.network.as_ref().map_or(Ok(()), network::configure);
    for (what, result) in [("network", network), ("ssh host keys", make_host_keys())] {
        if let Err(error) = result {
            log::info(&format!("{what}: {error}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(IdentifyError(failed)) }
}

/// Mixes bytes into the kernel's pool. They count for nothing there (random(4)), which is right for bytes that came
/// over a wire.
fn seed(hex: &str) -> io::Result<()> {
    if hex.is_empty() {
        return Ok(());
    }
    let bytes = parse_hex(hex).filter(|bytes| bytes.len() <= MAX_SEED);
    let bytes = bytes
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no hex of at most 512 bytes"))?;
    fs::write("/dev/urandom", bytes)
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

fn set_name(name: &str, state: &State) -> io::Result<()> {
    name.parse::<shed_types::ShedName>()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    state.set_name(name);
    let file = Path::new(ENVIRONMENT_FILE);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    whole_file::replace(file, format!("SHED_NAME={name}\nSHED_WORKSPACE=/workspace\n").as_bytes(), 0o644)
}

fn set_hostname(etc: &Path, hostname: &str) -> io::Result<()> {
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if hostname.is_empty() || hostname.len() > 64 || !hostname.bytes().all(label) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{hostname:?} is no host name")));
    }
    if rustix::system::uname().nodename().to_bytes() != hostname.as_bytes() {
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    write_hostname(etc, hostname)
}

fn write_hostname(etc: &Path, hostname: &str) -> io::Result<()> {
    whole_file::replace(&etc.join("hostname"), format!("{hostname}\n").as_bytes(), 0o644)?;
    let hosts = etc.join("hosts");
    let old = fs::read_to_string(&hosts).unwrap_or_default();
    whole_file::replace(&hosts, with_own_name(&old, hostname).as_bytes(), 0o644)
}

/// Puts the machine's own name on the line of 127.0.1.1, Debian's place for it, so that it resolves without a network.
fn with_own_name(hosts: &str, hostname: &str) -> String {
    let own = format!("127.0.1.1\t{hostname}");
    let is_own = |line: &&str| line.split_ascii_whitespace().next() == Some("127.0.1.1");
    let mut lines: Vec<&str> = hosts.lines().collect();
    match lines.iter().position(is_own) {
        Some(first) => {
            lines[first] = &own;
            let (before, after) = lines.split_at(first + 1);
            let after = after.iter().filter(|line| !is_own(line));
            lines = before.iter().chain(after).copied().collect();
        }
        None => {
            let place = lines.iter().position(|line| line.starts_with("127.0.0.1")).map_or(0, |at| at + 1);
            lines.insert(place, &own);
        }
    }
    lines.join("\n") + "\n"
}

fn set_machine_id(etc: &Path, id: &str) -> io::Result<()> {
    let good = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !good {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not 32 hex digits"));
    }
    whole_file::replace(&etc.join("machine-id"), format!("{id}\n").as_bytes(), 0o444)
}

/// Has a key made when there is an SSH server and it has none.
fn make_host_keys() -> io::Result<()> {
    let exists = |path: &str| Path::new(path).exists();
    let has_key = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("ssh_host_") && name.ends_with("_key")
    };
    if !exists("/usr/sbin/sshd")
        || !exists("/usr/bin/ssh-keygen")
        || fs::read_dir("/etc/ssh")?.flatten().any(has_key)
    {
        return Ok(());
    }
    let mut keygen = tokio::process::Command::new("/usr/bin/ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    tokio::spawn(async move {
        if let Ok(status) = keygen.wait().await
            && !status.success()
        {
            log::error(&format!("ssh-keygen failed: {status}"));
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_name_has_one_line_however_often_it_changes() {
        let first = with_own_name("127.0.0.1 localhost\n::1 localhost\n", "demo");
        assert_eq!(first, "127.0.0.1 localhost\n127.0.1.1\tdemo\n::1 localhost\n");
        assert_eq!(with_own_name(&first, "demo"), first);
        let doubled = format!("{first}127.0.1.1 old\n");
        assert_eq!(with_own_name(&doubled, "new"), "127.0.0.1 localhost\n127.0.1.1\tnew\n::1 localhost\n");
        assert_eq!(with_own_name("", "x"), "127.0.1.1\tx\n");
    }

    #[test]
    fn files_are_written_once_and_again_with_other_values() {
        let etc = tempfile::tempdir().unwrap();
        for name in ["one", "one", "two"] {
            write_hostname(etc.path(), name).unwrap();
            assert_eq!(fs::read_to_string(etc.path().join("hostname")).unwrap(), format!("{name}\n"));
        }
        let id = "0123456789abcdef0123456789abcdef";
        set_machine_id(etc.path(), id).unwrap();
        set_machine_id(etc.path(), id).unwrap();
        assert!(set_machine_id(etc.path(), "0123").is_err());
        assert!(set_machine_id(etc.path(), &id.to_uppercase()).is_err());
    }

    #[test]
    fn bad_host_names_are_refused_before_anything_is_done() {
        let etc = tempfile::tempdir().unwrap();
        for name in ["", "a b", "a\nb", "ü", &"x".repeat(65)] {
            assert!(set_hostname(etc.path(), name).is_err(), "{name:?}");
        }
        assert_eq!(fs::read_dir(etc.path()).unwrap().count(), 0);
    }

    #[test]
    fn hex_is_read_strictly() {
        assert_eq!(parse_hex("00fFa1"), Some(vec![0, 0xff, 0xa1]));
        assert_eq!(parse_hex("0"), None);
        assert_eq!(parse_hex("0g"), None);
        assert_eq!(parse_hex("+1"), None);
    }
}
