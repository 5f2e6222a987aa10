//! `~/.docker/config.json`: Docker asks `docker-credential-shed` for credentials where its `credsStore` says so.
//!
//! The file is the user's. It is changed only where it says nothing about that yet, and holds no logins: with a `credsStore`
//! Docker would look at those no more.

use std::{
    io::{self, Read},
    path::Path,
};

use serde_json::{Map, Value};
use shed_files::{Beneath, ReachError};

/// The file below the home directory.
const FILE: &str = ".docker/config.json";

/// Longest one that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The key that names a helper, by what follows `docker-credential-`.
const KEY: &str = "credsStore";

/// The helper's name there.
const SHED: &str = "shed";

/// Has Docker use the helper, or no longer. Returns why that was not done, for the log.
pub(super) fn apply(home: &Path, enabled: bool) -> Result<(), String> {
    if home.parent().is_none() {
        return if enabled { Err("the user has no home directory of their own".to_owned()) } else { Ok(()) };
    }
    let problem = |error: &dyn std::error::Error| {
        format!("{}: {}", home.join(FILE).display(), shed_types::error_chain(error))
    };
    let root = match Beneath::open(home) {
        Err(error) if !enabled && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        root => root.map_err(|error| problem(&error))?,
    };
    let old = match root.file(Path::new(FILE)) {
        Ok((file, _)) => {
            let mut text = Vec::new();
            file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| problem(&error))?;
            Some(text)
        }
        Err(ReachError::Missing) => None,
        // Nothing that the agent wrote is behind a link.
        Err(_) if !enabled => return Ok(()),
        Err(error) => return Err(problem(&error)),
    };
    let change = if enabled { with(old.as_deref()) } else { Ok(without(old.as_deref())) };
    match change {
        Ok(None) => Ok(()),
        Ok(Some(new)) => root.write(Path::new(FILE), new.as_bytes(), 0o600).map_err(|error| problem(&error)),
        Err(reason) => Err(format!("{}: {reason}", home.join(FILE).display())),
    }
}

/// The file with the helper; nothing when it has it already.
fn with(old: Option<&[u8]>) -> Result<Option<String>, &'static str> {
    let mut config = match old {
        None => Map::new(),
        Some(text) if text.trim_ascii().is_empty() => Map::new(),
        Some(text) => read(text).ok_or("it is no JSON object and is left as it is")?,
    };
    match config.get(KEY).map(Value::as_str) {
        Some(Some(SHED)) => return Ok(None),
        Some(Some("")) | None => {}
        Some(_) => return Err("it names another credsStore and is left as it is"),
    }
    let logins = config.get("auths").and_then(Value::as_object).into_iter().flat_map(Map::values);
    if logins.filter_map(Value::as_object).any(|login| !login.is_empty()) {
        return Err("it holds logins, which Docker would not use any more; it is left as it is");
    }
    config.insert(KEY.to_owned(), SHED.into());
    Ok(Some(written(config)))
}

/// The file without the helper; nothing when it has none.
fn without(old: Option<&[u8]>) -> Option<String> {
    let mut config = read(old?)?;
    if config.get(KEY)?.as_str() != Some(SHED) {
        return None;
    }
    config.remove(KEY);
    Some(written(config))
}

fn read(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(text).ok()
}

fn written(config: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(config))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, chown, symlink},
    };

    use super::*;

    #[test]
    fn the_helper_is_added_only_where_nothing_is_said_and_nothing_lost() {
        assert_eq!(with(None).unwrap().unwrap(), "{\n  \"credsStore\": \"shed\"\n}\n");
        let merged = with(Some(br#"{"psFormat":"x","auths":{"r":{}},"credsStore":""}"#)).unwrap().unwrap();
        let merged: Value = serde_json::from_str(&merged).unwrap();
        assert_eq!(merged, serde_json::json!({"psFormat": "x", "auths": {"r": {}}, "credsStore": "shed"}));
        assert_eq!(with(Some(br#"{"credsStore":"shed"}"#)), Ok(None));
        for other in [
            &br#"{"credsStore":"pass"}"#[..],
            br#"{"credsStore":7}"#,
            br#"{"auths":{"r":{"auth":"eA=="}}}"#,
            b"[",
            b"[]",
            b"\xff",
        ] {
            assert!(with(Some(other)).is_err(), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn only_the_helper_itself_is_taken_back() {
        assert_eq!(without(Some(br#"{"credsStore":"shed"}"#)).unwrap(), "{}\n");
        for other in [None, Some(&br#"{"credsStore":"pass"}"#[..]), Some(b"{}"), Some(b"[")] {
            assert_eq!(without(other), None);
        }
    }

    #[test]
    fn the_file_is_the_users_and_no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let (home, elsewhere) = (home.path(), tempfile::tempdir().unwrap());
        if rustix::process::geteuid().is_root() {
            chown(home, Some(4711), Some(4712)).unwrap();
        }
        let owner = fs::metadata(home).unwrap();
        apply(home, false).unwrap();
        assert!(!home.join(".docker").exists());
        apply(home, true).unwrap();
        for (path, mode) in [(".docker", 0o700), (FILE, 0o600)] {
            let meta = fs::metadata(home.join(path)).unwrap();
            assert_eq!(
                (meta.uid(), meta.gid(), meta.mode() & 0o777),
                (owner.uid(), owner.gid(), mode),
                "{path}"
            );
        }
        apply(home, false).unwrap();
        assert_eq!(fs::read_to_string(home.join(FILE)).unwrap(), "{}\n");

        let target = elsewhere.path().join("config.json");
        fs::write(&target, "{}").unwrap();
        fs::remove_file(home.join(FILE)).unwrap();
        symlink(&target, home.join(FILE)).unwrap();
        assert!(apply(home, true).is_err());
        fs::remove_dir_all(home.join(".docker")).unwrap();
        symlink(elsewhere.path(), home.join(".docker")).unwrap();
        assert!(apply(home, true).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "{}");
        assert!(apply(Path::new("/"), true).is_err());
    }
}
