//! Paths of sockets as vfkit comes to them: through Go's URLs, which change some of them.
//!
//! Called for `--restful-uri` and for the `socketURL` of a vsock port, which is a path, but one that vfkit puts into a URL:
//! a space in it, for example, becomes `%20` in the name of the socket that vfkit makes. Pure functions.

use anyhow::{Context, bail};

/// Longest path of a Unix socket on macOS in bytes (`sun_path` has 104, the last one is 0).
const SOCKET_PATH_MAX: usize = 103;

/// Where the machine's state can be asked for and changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RestUri {
    None,
    Unix(String),
    /// A host and its port.
    Tcp(String),
}

/// Reads `--restful-uri`.
///
/// # Errors
/// As vfkit: another scheme, a host or a path that is missing or has no place, a path too long for macOS.
pub(crate) fn rest_uri(text: &str) -> anyhow::Result<RestUri> {
    let (scheme, rest) = text.split_once(':').with_context(|| format!("{text:?} is no URI"))?;
    let rest = rest.split('?').next().unwrap_or_default();
    let (host, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    match scheme.to_ascii_lowercase().as_str() {
        "none" => Ok(RestUri::None),
        "unix" if !host.is_empty() => bail!("{text:?} has a host; a Unix socket's path follows `unix://`"),
        "unix" if !path.starts_with('/') => bail!("{text:?} has no absolute path"),
        "unix" => {
            let path = decoded(path)?;
            check_length(&path)?;
            Ok(RestUri::Unix(path))
        }
        "tcp" | "http" if !path.is_empty() => bail!("{text:?} has a path, where none may be"),
        "tcp" | "http" => match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(RestUri::Tcp(host.to_owned())),
            _ => bail!("{text:?} has no host with a port"),
        },
        _ => bail!("{text:?} has none of the schemes none, unix and tcp"),
    }
}

/// Where vfkit listens for the host's connections to a port of the guest (`connect`).
///
/// # Errors
/// When vfkit could not listen: it says so in its log, and the machine runs without this port.
pub(crate) fn made_socket(socket_url: &str) -> anyhow::Result<String> {
    let path = url_path(socket_url)?;
    let plain = path.bytes().all(|byte| passes(byte) || b"!'()*[]%".contains(&byte));
    let path = if plain { path.to_owned() } else { escaped(&decoded(path)?) };
    check_length(&path)?;
    Ok(path)
}

/// Where vfkit connects when the guest connects to a port of the host (`listen`).
///
/// # Errors
/// When vfkit could not connect anywhere.
pub(crate) fn dialled_socket(socket_url: &str) -> anyhow::Result<String> {
    let path = decoded(url_path(socket_url)?)?;
    check_length(&path)?;
    Ok(path)
}

/// The path of the URL that vfkit makes of a `socketURL`.
fn url_path(socket_url: &str) -> anyhow::Result<&str> {
    if !socket_url.starts_with('/') || socket_url.starts_with("//") {
        bail!("socketURL={socket_url} is not an absolute path");
    }
    if socket_url.bytes().any(|byte| byte.is_ascii_control()) {
        bail!("socketURL={socket_url:?} has a control character");
    }
    let path = socket_url.split(['#', '?']).next().unwrap_or_default();
    decoded(path)?;
    Ok(path)
}

fn check_length(path: &str) -> anyhow::Result<()> {
    if path.len() > SOCKET_PATH_MAX {
        bail!("{path} has {} bytes; the path of a socket has at most {SOCKET_PATH_MAX} on macOS", path.len());
    }
    Ok(())
}

/// What Go leaves as it is when it writes a path into a URL.
fn passes(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte)
}

fn escaped(path: &str) -> String {
    let one = |byte: u8| if passes(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    path.bytes().map(one).collect()
}

fn decoded(path: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let code = after.get(..2).and_then(|digits| hex::decode(digits).ok());
        bytes.extend(code.with_context(|| format!("{path:?} has a % without two digits behind it"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).with_context(|| format!("{path:?} is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_schemes() {
        assert_eq!(rest_uri("none://").unwrap(), RestUri::None);
        assert_eq!(rest_uri("unix:///tmp/r.sock").unwrap(), RestUri::Unix("/tmp/r.sock".into()));
        assert_eq!(rest_uri("unix:///tmp/a%20b").unwrap(), RestUri::Unix("/tmp/a b".into()));
        assert_eq!(rest_uri("tcp://localhost:81").unwrap(), RestUri::Tcp("localhost:81".into()));
        assert_eq!(rest_uri("http://[::1]:81").unwrap(), RestUri::Tcp("[::1]:81".into()));
    }

    #[test]
    fn other_uris_are_refused() {
        let long = format!("unix:///{}", "x".repeat(SOCKET_PATH_MAX));
        for text in [
            "",
            "/tmp/r.sock",
            "ftp://x",
            "unix://",
            "unix://tmp/r.sock",
            "unix:r.sock",
            "unix:///a%2",
            "tcp://",
            "tcp://localhost",
            "tcp://localhost:x",
            "tcp://localhost:81/vm",
            &long,
        ] {
            assert!(rest_uri(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plain_paths_stay_and_odd_ones_become_others() {
        for path in ["/tmp/shed-1/v.1024.sock", "/Users/ann/Library/a(b)!", "/a%20b"] {
            assert_eq!(made_socket(path).unwrap(), path);
        }
        assert_eq!(
            made_socket("/Users/ann/Application Support/v").unwrap(),
            "/Users/ann/Application%20Support/v"
        );
        assert_eq!(made_socket("/a b/(c)").unwrap(), "/a%20b/%28c%29");
        assert_eq!(made_socket("/ü").unwrap(), "/%C3%BC");
        assert_eq!(made_socket("/a#b").unwrap(), "/a");
        assert_eq!(dialled_socket("/a b").unwrap(), "/a b");
        assert_eq!(dialled_socket("/a%20b?c").unwrap(), "/a b");
    }

    #[test]
    fn what_is_no_absolute_path_leads_nowhere() {
        for path in
            ["", "v.sock", "unix:///v.sock", "//v.sock", "/a%zz", "/a\nb", &format!("/{}", "x".repeat(103))]
        {
            assert!(made_socket(path).is_err(), "{path}");
            assert!(dialled_socket(path).is_err(), "{path}");
        }
        assert!(made_socket(&format!("/{}", "x".repeat(102))).is_ok());
    }
}
