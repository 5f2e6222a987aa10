//! Which name servers guests can use: those of the host that are reached from elsewhere, too.

use std::{fs, net::Ipv4Addr, path::Path};

/// Where the host's own name servers are, in the order they are looked at. The first one names a stub on the loopback address
/// where systemd-resolved or NetworkManager's dnsmasq runs; what these ask themselves is in the others.
const FILES: [&str; 3] =
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];

/// The most that a resolver takes (resolv.conf(5), MAXNS).
const SERVERS_MAX: usize = 3;

/// Largest file that is read, in bytes.
const FILE_MAX: usize = 64 * 1024;

/// Says that there is no name server for guests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no name server that guests can reach is in {files}: {found}. Name some with firecracker.dns in server.yaml, like [1.1.1.1]"
)]
pub struct DnsError {
    files: String,
    found: String,
}

/// Returns the host's name servers that guests can reach, three at most.
///
/// Only IPv4, because guests have nothing else, and none on a loopback address, which in a guest is the guest.
///
/// # Errors
/// When there is none; the text says what to configure.
pub fn dns_servers() -> Result<Vec<Ipv4Addr>, DnsError> {
    from_files(&FILES.map(Path::new))
}

fn from_files(files: &[&Path]) -> Result<Vec<Ipv4Addr>, DnsError> {
    let mut unusable = Vec::new();
    for file in files {
        // One that is not there, or cannot be read, names none.
        let Ok(bytes) = fs::read(file) else { continue };
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(FILE_MAX)]);
        let servers = reachable(&text, &mut unusable);
        if !servers.is_empty() {
            return Ok(servers);
        }
    }
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    unusable.truncate(SERVERS_MAX);
    let found = if unusable.is_empty() {
        "they name none".to_owned()
    } else {
        format!("{} cannot be reached from a guest", unusable.join(", "))
    };
    Err(DnsError { files: files.join(", "), found })
}

/// Returns those that guests can reach, and adds the others to `unusable`.
fn reachable(text: &str, unusable: &mut Vec<String>) -> Vec<Ipv4Addr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let Some(word) = words.next() else { continue };
        match word.parse::<Ipv4Addr>() {
            Ok(server) if !server.is_loopback() && !server.is_unspecified() && !server.is_multicast() => {
                if !servers.contains(&server) && servers.len() < SERVERS_MAX {
                    servers.push(server);
                }
            }
            Ok(_) | Err(_) => {
                unusable.push(word.chars().filter(|c| !c.is_control()).take(50).collect());
            }
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(texts: &[&str]) -> Result<Vec<Ipv4Addr>, DnsError> {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..texts.len()).map(|n| dir.path().join(n.to_string())).collect();
        for (file, text) in files.iter().zip(texts) {
            fs::write(file, text).unwrap();
        }
        let missing = dir.path().join("missing");
        let paths: Vec<&Path> =
            std::iter::once(missing.as_path()).chain(files.iter().map(std::path::PathBuf::as_path)).collect();
        from_files(&paths)
    }

    #[test]
    fn a_stub_on_the_loopback_address_is_passed_over_for_what_it_asks() {
        let stub = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\noptions edns0\n";
        let real =
            "nameserver 192.168.1.1\nnameserver fe80::1%eth0\nnameserver 192.168.1.1\nnameserver 1.1.1.1\n";
        let expected = [Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(1, 1, 1, 1)];
        assert_eq!(look(&[stub, real]).unwrap(), expected);
        assert_eq!(look(&[real, stub]).unwrap(), expected);
    }

    #[test]
    fn none_says_what_to_configure() {
        let error = look(&["nameserver 127.0.0.1\nnameserver ::1\nnameserver\n"]).unwrap_err().to_string();
        assert!(
            error.contains("127.0.0.1, ::1 cannot be reached") && error.contains("firecracker.dns"),
            "{error}"
        );
        assert!(look(&[]).unwrap_err().to_string().contains("they name none"));
    }

    proptest! {
        #[test]
        fn fuzz_resolv_conf(text in "(nameserver[ \t])?\\PC{0,60}") {
            let servers = reachable(&text, &mut Vec::new());
            prop_assert!(servers.len() <= SERVERS_MAX && servers.iter().all(|server| !server.is_loopback()));
        }
    }
}
