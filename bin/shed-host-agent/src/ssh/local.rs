//! Private keys in files of the user, which sign in this process (mode `local-keys`).
//!
//! They are read for each request and forgotten after it, so that a key that was replaced or removed is that at once.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
};

use camino::{Utf8Path, Utf8PathBuf};
use russh::keys::{
    HashAlg, PrivateKey, decode_secret_key,
    signature::Signer,
    ssh_key::{self, private::KeypairData},
};
use shed_extensions::{
    Binary, clean,
    ssh::{Key, RSA_SHA2_256, RSA_SHA2_512, Sign, Signature},
};

/// The files, in the order in which their keys are listed (spec J.4).
const FILES: [&str; 3] = ["id_ed25519", "id_rsa", "id_ecdsa"];

/// Longest file that is read in bytes; one of the longest RSA key has some 13,000.
const MAX_FILE: u64 = 64 << 10;

/// Why a file's key is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Skipped {
    #[error(
        "{0} is encrypted, and the host agent asks for no passphrase; add it to an SSH agent with ssh-add"
    )]
    Encrypted(Utf8PathBuf),
    #[error("{0} can be read by others; make it your own with chmod 600")]
    TooOpen(Utf8PathBuf),
    #[error("{0} cannot be used: {1}")]
    Unusable(Utf8PathBuf, String),
}

/// A key and what is listed of it.
pub(super) struct LocalKey {
    secret: PrivateKey,
    pub(super) listed: Key,
}

/// Why a key does not sign.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("the key cannot sign so: flags {0:#x} are not known")]
    Flags(u32),
    #[error("an RSA key signs with SHA-256 or SHA-512 only; SHA-1, which was asked for, is broken")]
    Sha1,
    #[error("the key cannot sign: {0}")]
    Failed(String),
}

/// Reads the keys of a home; what is there but not used is returned beside them.
pub(super) fn read(home: &Utf8Path) -> (Vec<LocalKey>, Vec<Skipped>) {
    let (mut keys, mut skipped) = (Vec::new(), Vec::new());
    for name in FILES {
        let path = home.join(".ssh").join(name);
        match read_one(&path) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {}
            Err(why) => skipped.push(why),
        }
    }
    (keys, skipped)
}

fn read_one(path: &Utf8Path) -> Result<Option<LocalKey>, Skipped> {
    let unusable = |why: String| Skipped::Unusable(path.to_owned(), why);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
    };
    let about = file.metadata().map_err(|error| unusable(error.to_string()))?;
    if !about.is_file() || about.len() > MAX_FILE {
        return Err(unusable("it is no file of a private key".to_owned()));
    }
    // OpenSSH's own rule.
    if about.mode() & 0o077 != 0 {
        return Err(Skipped::TooOpen(path.to_owned()));
    }
    let mut text = String::new();
    let read = file.take(MAX_FILE).read_to_string(&mut text);
    let _length = read.map_err(|error| unusable(error.to_string()))?;
    let secret = decode_secret_key(&text, None).map_err(|error| match error {
        russh::keys::Error::KeyIsEncrypted => Skipped::Encrypted(path.to_owned()),
        other => unusable(other.to_string()),
    })?;
    let blob = secret.public_key().to_bytes().map_err(|error| unusable(error.to_string()))?;
    let format = secret.algorithm().as_str().to_owned();
    let comment = clean(&String::from_utf8_lossy(secret.comment().as_bytes()), 256);
    Ok(Some(LocalKey { secret, listed: Key { format, blob: Binary(blob), comment } }))
}

impl LocalKey {
    /// Signs. Of both hashes the shorter one is taken, as OpenSSH's agent does.
    pub(super) fn sign(&self, request: &Sign) -> Result<Signature, SignError> {
        if request.flags & !(RSA_SHA2_256 | RSA_SHA2_512) != 0 {
            return Err(SignError::Flags(request.flags));
        }
        let data = &request.data.0;
        let signature: Result<ssh_key::Signature, _> = match self.secret.key_data() {
            KeypairData::Rsa(pair) => {
                let hash = match request.flags {
                    0 => return Err(SignError::Sha1),
                    flags if flags & RSA_SHA2_256 != 0 => HashAlg::Sha256,
                    _ => HashAlg::Sha512,
                };
                (pair, Some(hash)).try_sign(data)
            }
            _ => self.secret.try_sign(data),
        };
        let signature = signature.map_err(|error| SignError::Failed(error.to_string()))?;
        Ok(Signature {
            format: signature.algorithm().as_str().to_owned(),
            blob: Binary(signature.as_bytes().to_vec()),
            rest: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn make(home: &Utf8Path, name: &str, arguments: &[&str]) {
        let path = home.join(".ssh").join(name);
        let made =
            Command::new("ssh-keygen").args(["-q", "-C", "me", "-f", path.as_str()]).args(arguments).status();
        assert!(made.unwrap().success());
    }

    fn home() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let home = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        fs::create_dir(home.join(".ssh")).unwrap();
        (dir, home)
    }

    #[test]
    fn what_cannot_be_used_is_skipped_and_said() {
        let (_guard, home) = home();
        assert!(matches!(read(&home), (keys, skipped) if keys.is_empty() && skipped.is_empty()));
        make(&home, "id_ed25519", &["-t", "ed25519", "-N", "secret"]);
        make(&home, "id_ecdsa", &["-t", "ecdsa", "-N", ""]);
        fs::set_permissions(home.join(".ssh/id_ecdsa"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(home.join(".ssh/id_rsa"), "no key").unwrap();
        fs::set_permissions(home.join(".ssh/id_rsa"), fs::Permissions::from_mode(0o600)).unwrap();
        let (keys, skipped) = read(&home);
        assert!(keys.is_empty());
        assert_eq!(skipped[0], Skipped::Encrypted(home.join(".ssh/id_ed25519")));
        assert!(matches!(&skipped[1], Skipped::Unusable(path, _) if path.ends_with("id_rsa")));
        assert_eq!(skipped[2], Skipped::TooOpen(home.join(".ssh/id_ecdsa")));
    }

    #[test]
    fn old_pem_files_of_rsa_keys_are_read_and_encrypted_ones_skipped() {
        let (_guard, home) = home();
        make(&home, "id_rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]);
        let (keys, skipped) = read(&home);
        assert!(skipped.is_empty(), "{skipped:?}");
        assert_eq!(keys[0].listed.format, "ssh-rsa");
        let request = |flags| Sign { public_key: Binary(vec![]), data: Binary(vec![1]), flags };
        assert_eq!(keys[0].sign(&request(2)).unwrap().format, "rsa-sha2-256");
        assert_eq!(keys[0].sign(&request(4)).unwrap().format, "rsa-sha2-512");
        assert!(matches!(keys[0].sign(&request(0)), Err(SignError::Sha1)));
        assert!(matches!(keys[0].sign(&request(8)), Err(SignError::Flags(8))));
        fs::remove_file(home.join(".ssh/id_rsa")).unwrap();
        make(&home, "id_rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret"]);
        let (keys, skipped) = read(&home);
        assert!(keys.is_empty());
        assert_eq!(skipped, [Skipped::Encrypted(home.join(".ssh/id_rsa"))]);
    }
}
