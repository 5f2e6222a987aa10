//! The key by which SSH clients know this server: made at the first start, and the same ever after (spec A.3, K.3).
//!
//! `serve` loads it before the sheds are opened; the API tells its public half, which clients put into their
//! `known_hosts`. A file that is there is never written to: a server whose key changes looks to every client like
//! somebody else, so whatever is wrong with the file is said, and its owner decides.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::{Algorithm, PrivateKey, ssh_key};
use shed_api::SshHostKey;
use shed_state::{WriteFileError, atomic};

/// Longest key file that is read, in bytes. An Ed25519 key takes about 400; a long RSA key, which is refused by name,
/// less than 16 KiB.
const MAX_FILE: u64 = 64 << 10;

/// The private half and what is told of the public one.
#[derive(Clone)]
pub struct HostKey {
    private: PrivateKey,
}

/// Why there is no host key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error(
        "could not make the directory of the SSH host key, {path}; make it, or set `ssh_host_key` in server.yaml"
    )]
    Directory {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not make a key pair for SSH")]
    Generate(#[source] ssh_key::Error),
    #[error(
        "could not keep the new SSH host key; set `ssh_host_key` in server.yaml to a place that can be written to"
    )]
    Write(#[source] WriteFileError),
    #[error(
        "could not read the SSH host key {path}; let the server's user own it, or set `ssh_host_key` in server.yaml to \
         another file"
    )]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the SSH host key {path} is {what}, not a file; set `ssh_host_key` in server.yaml to another path"
    )]
    NotAFile { path: Utf8PathBuf, what: &'static str },
    #[error(
        "the SSH host key {path} may be read by others than its owner (mode {mode:04o}), who could then pose as this \
         server; if nobody has, `chmod 600 {path}`, else remove it, and the next start makes a new key"
    )]
    Open { path: Utf8PathBuf, mode: u32 },
    #[error(
        "{path} is no SSH host key in OpenSSH's format (`-----BEGIN OPENSSH PRIVATE KEY-----`); move it away, and the \
         next start makes one, or convert it with `ssh-keygen -p -f {path}`"
    )]
    NotAKey {
        path: Utf8PathBuf,
        #[source]
        source: ssh_key::Error,
    },
    #[error("the SSH host key {path} is longer than {MAX_FILE} bytes, which no key is; move the file away")]
    TooLong { path: Utf8PathBuf },
    #[error(
        "the SSH host key {path} has a passphrase, and nobody is there to enter it; take it off with \
         `ssh-keygen -p -N '' -f {path}`"
    )]
    Encrypted { path: Utf8PathBuf },
    #[error(
        "the SSH host key {path} is of type {algorithm}, and this server uses ssh-ed25519; set `ssh_host_key` in \
         server.yaml to another file, or make one with `ssh-keygen -t ed25519 -N '' -f FILE`"
    )]
    OtherType { path: Utf8PathBuf, algorithm: Algorithm },
}

impl HostKey {
    /// Reads the key, or makes one when there is no file. Blocks on the disk.
    ///
    /// # Errors
    /// When there is something at `path` that is no usable key, or nothing can be written there. What is there is
    /// untouched.
    pub fn load_or_make(path: &Utf8Path) -> Result<Self, HostKeyError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let new = Self::generate()?;
        let text = new.private.to_openssh(ssh_key::LineEnding::LF).map_err(HostKeyError::Generate)?;
        let directory = path.parent().unwrap_or(Utf8Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| HostKeyError::Directory { path: directory.to_owned(), source })?;
        if atomic::create(path, text.as_bytes(), 0o600).map_err(HostKeyError::Write)? {
            tracing::info!(%path, fingerprint = %new.fingerprint(), "made the SSH host key");
            return Ok(new);
        }
        // Another server that starts at this moment was quicker, and its key is the one that stays.
        let gone = || io::Error::new(io::ErrorKind::NotFound, "it was there a moment ago");
        Self::load(path)?.ok_or_else(|| HostKeyError::Read { path: path.to_owned(), source: gone() })
    }

    /// Makes a key that is kept nowhere.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate() -> Result<Self, HostKeyError> {
        let mut private =
            PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).map_err(HostKeyError::Generate)?;
        private.set_comment("shed-server");
        Ok(Self { private })
    }

    /// Reads the key; none when there is no file.
    ///
    /// # Errors
    /// When the file is no usable key.
    pub fn load(path: &Utf8Path) -> Result<Option<Self>, HostKeyError> {
        let read_failed = |source| HostKeyError::Read { path: path.to_owned(), source };
        let file = match open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_failed(error)),
        };
        let metadata = file.metadata().map_err(read_failed)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a directory" } else { "a device, pipe or socket" };
            return Err(HostKeyError::NotAFile { path: path.to_owned(), what });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        // As OpenSSH does: tightening the file would hide that the key may have been copied.
        if mode & 0o077 != 0 {
            return Err(HostKeyError::Open { path: path.to_owned(), mode });
        }
        let mut text = Vec::new();
        let length = file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(read_failed)?;
        if length as u64 > MAX_FILE {
            return Err(HostKeyError::TooLong { path: path.to_owned() });
        }
        let private = PrivateKey::from_openssh(&text)
            .map_err(|source| HostKeyError::NotAKey { path: path.to_owned(), source })?;
        if private.is_encrypted() {
            return Err(HostKeyError::Encrypted { path: path.to_owned() });
        }
        let algorithm = private.algorithm();
        if algorithm != Algorithm::Ed25519 {
            return Err(HostKeyError::OtherType { path: path.to_owned(), algorithm });
        }
        Ok(Some(Self { private }))
    }

    /// Returns the key that the SSH server signs with.
    #[must_use]
    pub fn private(&self) -> &PrivateKey {
        &self.private
    }

    /// Returns the public half as the API tells it: type and base64, without a comment.
    ///
    /// # Panics
    /// Never: the key is Ed25519, whose public half always has this form.
    #[must_use]
    pub fn public(&self) -> SshHostKey {
        let public = ssh_key::PublicKey::new(self.private.public_key().key_data().clone(), "");
        let host_key = public.to_openssh().expect("an Ed25519 key fits a line of authorized_keys");
        SshHostKey { host_key: host_key.trim_end().to_owned() }
    }

    /// Returns the fingerprint as `ssh-keygen -l` prints it.
    #[must_use]
    pub fn fingerprint(&self) -> ssh_key::Fingerprint {
        self.private.fingerprint(ssh_key::HashAlg::Sha256)
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostKey").field(&self.fingerprint().to_string()).finish()
    }
}

/// Opens without waiting: what is no file is refused after a look at it, and a pipe would wait for its other end.
fn open(path: &Utf8Path) -> io::Result<File> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(nonblock).open(path)
}

#[cfg(test)]
mod tests;
