//! A private key of OpenSSH on the host, the real `ssh-agent` that holds it, and what no other place may have of it.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

use crate::{SHORT, Stage, wait_for};

/// Shortest line of a key that is looked for; the last one of a file may be a few characters that are anywhere.
const MEANINGFUL: usize = 24;

/// A pair of keys in files.
#[derive(Debug, Clone)]
pub struct SshKey {
    private: Utf8PathBuf,
}

impl SshKey {
    /// Makes a pair without a passphrase.
    ///
    /// # Panics
    /// When ssh-keygen cannot.
    #[track_caller]
    #[must_use]
    pub fn generate(private: Utf8PathBuf, kind: &str) -> Self {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", "planted", "-f", private.as_str()])
            .status();
        assert!(made.expect("ssh-keygen can be run").success(), "ssh-keygen makes no {kind} key");
        Self { private }
    }

    /// Takes a pair that is there.
    #[must_use]
    pub const fn at(private: Utf8PathBuf) -> Self {
        Self { private }
    }

    /// The file of the private key.
    #[must_use]
    pub fn private(&self) -> &Utf8Path {
        &self.private
    }

    /// The public key: kind, base64, comment.
    ///
    /// # Panics
    /// When its file is gone.
    #[must_use]
    pub fn public(&self) -> String {
        let text = fs::read_to_string(format!("{}.pub", self.private)).expect("the public key");
        text.trim().to_owned()
    }

    /// The base64 of the public key, which the agent protocol calls its blob.
    ///
    /// # Panics
    /// When its file is gone.
    #[must_use]
    pub fn blob(&self) -> String {
        self.public().split(' ').nth(1).expect("a public key has three fields").to_owned()
    }

    /// Lines of the private key that are in no other file.
    ///
    /// # Panics
    /// When the key has none, or its file is gone.
    #[must_use]
    pub fn secret_lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.private).expect("the private key");
        secret_lines(&text, &self.blob())
    }
}

/// Lines of the body that are long enough to mean something and are not only about the public part.
fn secret_lines(text: &str, blob: &str) -> Vec<String> {
    let body: Vec<&str> = text.lines().filter(|line| !line.starts_with("-----")).collect();
    // The file begins with names of ciphers and the public key (OpenSSH's PROTOCOL.key): the same in every such file, or
    // public. Base64 of those is three bytes off the public key's own, so lines are left out by their place.
    let public = 60 + blob.len();
    let lines = body.iter().scan(0, |offset, line| {
        let begins = *offset;
        *offset += line.len();
        Some((begins, *line))
    });
    let lines = lines.filter(|(begins, line)| {
        // The private part of an RSA key has its modulus as well.
        *begins >= public && line.len() >= MEANINGFUL && !blob.contains(line)
    });
    let secret: Vec<String> = lines.map(|(_, line)| line.to_owned()).collect();
    assert!(!secret.is_empty(), "the key has no line that could be looked for");
    secret
}

/// The user's `ssh-agent`.
#[derive(Debug)]
pub struct SshAgent {
    child: Child,
    socket: Utf8PathBuf,
    _dir: TempDir,
}

impl SshAgent {
    /// Starts one that holds no key.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    #[must_use]
    pub fn start(stage: &Stage) -> Self {
        let dir = tempfile::Builder::new().prefix("agent-").tempdir().expect("a temporary directory");
        let socket = Utf8PathBuf::from_path_buf(dir.path().join("sock")).expect("such names are UTF-8");
        // Providers are allowed below a directory that is not there; it also names the stage, which ends what names it.
        let none = stage.dir().join("no-providers/*");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a", socket.as_str(), "-P", none.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-agent can be run");
        wait_for("ssh-agent", SHORT, || socket.exists().then_some(()));
        Self { child, socket, _dir: dir }
    }

    /// Gives it a key.
    ///
    /// # Panics
    /// When it does not take it.
    #[track_caller]
    pub fn add(&self, key: &SshKey) {
        let mut add = Command::new("ssh-add");
        let added = add.args(["-q", key.private().as_str()]).env("SSH_AUTH_SOCK", &self.socket).status();
        assert!(added.expect("ssh-add can be run").success(), "the agent does not take {}", key.private());
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Utf8Path {
        &self.socket
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_is_not_public() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        for kind in ["ed25519", "rsa", "ecdsa"] {
            let (one, other) = (dir.join(format!("{kind}-1")), dir.join(format!("{kind}-2")));
            let (one, other) = (SshKey::generate(one, kind), SshKey::generate(other, kind));
            let text = fs::read_to_string(other.private()).unwrap();
            for line in one.secret_lines() {
                assert!(!text.contains(&line) && !one.public().contains(&line), "{kind}: {line}");
            }
        }
    }
}
