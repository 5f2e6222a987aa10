//! Reads the config file, and replaces it under a lock.
//!
//! The lock is on a file beside it, because the config file itself is renamed over. It is held for a read, a
//! change in memory and a write, never while a server is asked.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
};

use camino::{Utf8Path, Utf8PathBuf};

use super::{known_hosts::KnownHosts, model::ClientConfig};

/// Directory of the client's files below the home directory (spec K.3).
const DIRECTORY: &str = ".shed";

/// The config file in it.
const FILE: &str = "config.yaml";

/// The host keys of the servers, beside it.
const KNOWN_HOSTS: &str = "known_hosts";

/// What is copied into sheds, beside it.
const SYNC: &str = "sync.yaml";

/// Why the config file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the home directory is unknown: HOME is not set")]
    NoHome,
    #[error("could not read {path}")]
    Read {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a config file of shed")]
    Parse {
        path: Utf8PathBuf,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("could not create the directory {path}")]
    CreateDirectory {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not lock {path}")]
    Lock {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write the servers and sheds for {path} as YAML")]
    Serialise {
        path: Utf8PathBuf,
        #[source]
        source: Box<serde_saphyr::SerializeError>,
    },
    #[error(transparent)]
    Write(#[from] shed_state::WriteFileError),
}

/// The config file's place.
#[derive(Debug, Clone)]
pub(crate) struct ConfigStore {
    path: Utf8PathBuf,
}

impl ConfigStore {
    /// Uses `path`, or `~/.shed/config.yaml` without one.
    ///
    /// # Errors
    /// [`ConfigError::NoHome`].
    pub(crate) fn locate(path: Option<&Utf8Path>) -> Result<Self, ConfigError> {
        if let Some(path) = path {
            return Ok(Self { path: path.to_owned() });
        }
        let home = std::env::var("HOME").ok().filter(|home| !home.is_empty()).ok_or(ConfigError::NoHome)?;
        Ok(Self { path: Utf8PathBuf::from(home).join(DIRECTORY).join(FILE) })
    }

    /// Returns the file of host keys, which lies beside the config file. To be changed within [`Self::update`] only.
    pub(crate) fn known_hosts(&self) -> KnownHosts {
        KnownHosts::new(self.path.with_file_name(KNOWN_HOSTS))
    }

    /// Returns where the config file is, from the root.
    ///
    /// # Errors
    /// When the working directory is gone, and the path is relative to it.
    pub(crate) fn absolute(&self) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { path: self.path.clone(), source };
        let path = std::path::absolute(&self.path).map_err(failed)?;
        let path = Utf8PathBuf::from_path_buf(path)
            .map_err(|path| failed(io::Error::other(format!("{} is not UTF-8", path.display()))))?;
        Ok(Self { path })
    }

    /// Returns the config file.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns the place of another of the client's files, which lies beside the config file.
    pub(crate) fn beside(&self, name: &str) -> Utf8PathBuf {
        self.path.with_file_name(name)
    }

    /// Takes the lock of a file beside the config file, and makes their directory when it is missing. It is held until
    /// the returned file is closed, and not passed on to programs that are started.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub(crate) fn lock_beside(&self, name: &str) -> Result<File, ConfigError> {
        Self { path: self.beside(name) }.lock()
    }

    /// Returns the file that says what is copied into sheds; it lies beside the config file.
    pub(crate) fn sync_file(&self) -> Utf8PathBuf {
        self.path.with_file_name(SYNC)
    }

    /// Reads the file; a missing one is an empty one.
    ///
    /// # Errors
    /// When it cannot be read or is not a config file.
    pub(crate) fn load(&self) -> Result<ClientConfig, ConfigError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ClientConfig::default()),
            Err(source) => return Err(ConfigError::Read { path: self.path.clone(), source }),
        };
        // YAML reads nothing, or nothing but comments, as null.
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(ClientConfig::default());
        }
        serde_saphyr::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: self.path.clone(), source: Box::new(source) })
    }

    /// Reads the file, lets `change` change it, and writes it when it did; nobody else writes in between.
    ///
    /// # Errors
    /// Those of reading and writing, and what `change` returns; nothing is written then.
    pub(crate) fn update<T, E: From<ConfigError>>(
        &self,
        change: impl FnOnce(&mut ClientConfig) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = self.lock()?;
        let before = self.load()?;
        let mut config = before.clone();
        let value = change(&mut config)?;
        if config != before {
            self.save(&config)?;
        }
        Ok(value)
    }

    fn lock(&self) -> Result<File, ConfigError> {
        let directory = self.path.parent().filter(|path| !path.as_str().is_empty());
        if let Some(directory) = directory.filter(|path| !path.exists()) {
            shed_state::atomic::create_directory_for_owner(directory, 0o700)
                .map_err(|source| ConfigError::CreateDirectory { path: directory.to_owned(), source })?;
        }
        let path = Utf8PathBuf::from(format!("{}.lock", self.path));
        let mut options = OpenOptions::new();
        options.truncate(false).write(true).mode(0o600);
        let open = || match options.clone().create_new(true).open(&path) {
            // What root locks under sudo, the user must be able to lock again.
            Ok(made) => {
                let directory = directory.unwrap_or(Utf8Path::new("."));
                shed_state::atomic::give_to_owner_of(directory, &made).map(|()| made)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.clone().create(true).open(&path)
            }
            Err(error) => Err(error),
        };
        open()
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| ConfigError::Lock { path: path.clone(), source })
    }

    fn save(&self, config: &ClientConfig) -> Result<(), ConfigError> {
        let mut text = serde_saphyr::to_string(config)
            .map_err(|source| ConfigError::Serialise { path: self.path.clone(), source: Box::new(source) })?;
        if !text.ends_with('\n') {
            text.push('\n');
        }
        // A rename would put a plain file where the user has a link into, say, a repository of dotfiles.
        let target = self.path.canonicalize_utf8().unwrap_or_else(|_| self.path.clone());
        Ok(shed_state::atomic::write_for_owner(&target, text.as_bytes(), 0o600)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{ServerEntry, ServerName};

    fn store() -> (tempfile::TempDir, ConfigStore) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("home/.shed/config.yaml");
        (dir, ConfigStore::locate(Some(&path)).unwrap())
    }

    fn add(store: &ConfigStore, name: &str) {
        let name: ServerName = name.parse().unwrap();
        store
            .update::<_, ConfigError>(|config| {
                config.add_server(name, ServerEntry::this_machine());
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn what_is_written_reads_back_and_is_for_the_user_alone() {
        let (_dir, store) = store();
        add(&store, "mini");
        assert_eq!(store.load().unwrap().servers.len(), 1);
        let mode = |path: &Utf8Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path), 0o600);
        assert_eq!(mode(store.path.parent().unwrap()), 0o700);
    }

    #[test]
    fn a_missing_or_empty_file_is_an_empty_config() {
        let (_dir, store) = store();
        assert_eq!(store.load().unwrap(), ClientConfig::default());
        fs::create_dir_all(store.path.parent().unwrap()).unwrap();
        for text in ["", "\n# only a comment\n"] {
            fs::write(&store.path, text).unwrap();
            assert_eq!(store.load().unwrap(), ClientConfig::default(), "{text:?}");
        }
    }

    #[test]
    fn a_broken_file_is_named_and_stays_as_it_is() {
        let (_dir, store) = store();
        fs::create_dir_all(store.path.parent().unwrap()).unwrap();
        fs::write(&store.path, "servers: [").unwrap();
        let error = store.update::<_, ConfigError>(|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(store.path.as_str()), "{error}");
        assert_eq!(fs::read_to_string(&store.path).unwrap(), "servers: [");
    }

    #[test]
    fn a_refused_change_writes_nothing() {
        let (_dir, store) = store();
        let result = store.update::<(), ConfigError>(|config| {
            config.add_server("mini".parse().unwrap(), ServerEntry::this_machine());
            Err(ConfigError::NoHome)
        });
        assert!(matches!(result, Err(ConfigError::NoHome)));
        assert!(!store.path.exists());
    }

    #[test]
    fn writers_at_once_lose_nothing() {
        let (_dir, store) = store();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let store = &store;
                scope.spawn(move || add(store, &format!("server{number}")));
            }
        });
        assert_eq!(store.load().unwrap().servers.len(), 8);
    }

    #[test]
    fn a_link_stays_a_link() {
        let (dir, store) = store();
        let real = dir.path().join("dotfiles.yaml");
        fs::write(&real, "").unwrap();
        fs::create_dir_all(store.path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&real, &store.path).unwrap();
        add(&store, "mini");
        assert!(fs::symlink_metadata(&store.path).unwrap().is_symlink());
        assert!(fs::read_to_string(real).unwrap().contains("mini"));
    }
}
