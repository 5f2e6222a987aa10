//! Asks QEMU's program once what it is and can do.
//!
//! It starts a machine without CPU, memory or devices, sandboxed as a real one, and reads the greeting of its
//! monitor. So an answer means that this very program starts on this very host.

use std::{io, process::Stdio, time::Duration};

use camino::Utf8Path;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

use super::command_line::{SANDBOX_ARGS, Sandbox};
use crate::system;

/// Longest wait for the answer. It comes within 0.1 s on an idle host.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest greeting that is read, in bytes; QEMU's has about 150.
const GREETING_MAX: u64 = 64 * 1024;

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Version {
    pub major: u32,
    pub minor: u32,
    pub micro: u32,
}

/// The oldest version that is known to understand our command line: Debian 12's.
pub(super) const OLDEST: Version = Version { major: 7, minor: 2, micro: 0 };

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// What the program is and can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    pub version: Version,
    pub sandbox: Sandbox,
}

/// Asks the program.
///
/// # Errors
/// When it cannot be started, or says nothing that QEMU would say.
pub(super) async fn probe(binary: &Utf8Path) -> io::Result<Program> {
    if system::qemu_has_sandbox()
        && let Ok(version) = greeting(binary, &SANDBOX_ARGS).await
    {
        return Ok(Program { version, sandbox: Sandbox::On });
    }
    Ok(Program { version: greeting(binary, &[]).await?, sandbox: Sandbox::Unsupported })
}

async fn greeting(binary: &Utf8Path, extra: &[&str]) -> io::Result<Version> {
    let mut child = Command::new(binary)
        .args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"])
        .args(extra)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("the program has no standard streams"));
    };
    let answer = timeout(PATIENCE, async {
        let mut line = Vec::new();
        BufReader::new(stdout.take(GREETING_MAX)).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            let mut text = String::new();
            stderr.take(4096).read_to_string(&mut text).await?;
            return Err(io::Error::other(format!("it ended with: {}", text.trim())));
        }
        let version = parse_greeting(&line)?;
        // Ends the program; its exit code says nothing that the greeting has not said.
        stdin.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n").await?;
        child.wait().await?;
        Ok(version)
    });
    answer.await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {PATIENCE:?}")))
    })
}

/// Reads the first line of a monitor (QEMU, docs/interop/qmp-spec).
fn parse_greeting(line: &[u8]) -> io::Result<Version> {
    #[derive(Deserialize)]
    struct Greeting {
        #[serde(rename = "QMP")]
        qmp: Qmp,
    }
    #[derive(Deserialize)]
    struct Qmp {
        version: Versions,
    }
    #[derive(Deserialize)]
    struct Versions {
        qemu: Version,
    }
    let greeting: Greeting = serde_json::from_slice(line)?;
    Ok(greeting.qmp.version.qemu)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_version_is_in_the_greeting() {
        let line = br#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#;
        let version = parse_greeting(line).unwrap();
        assert_eq!(version.to_string(), "10.0.2");
        assert!(version > OLDEST);
        assert!(parse_greeting(b"QEMU emulator version 10.0.2").is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_no_qemu_is_refused_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        std::fs::write(&path, "#!/bin/sh\necho wrong library >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = probe(Utf8Path::from_path(&path).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("wrong library"), "{error}");
    }
}
