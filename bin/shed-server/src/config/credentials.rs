//! Checks the `credentials:` section (spec E). What a source holds is nobody's business here: it may be missing until a shed
//! is made.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use serde_saphyr::Spanned;
use shed_files::Excludes;
use shed_lifecycle::Credential;
use shed_types::{CredentialName, GuestPath};

use super::{LoadConfigError, Surroundings, check::Source, file::CredentialFile};

/// Home of user `shed` in the images that Shed builds, for the comparison of targets that are written in two ways.
const GUEST_HOME: &str = "/home/shed";

/// Where a shed has its project (spec E.3): a repository is cloned into it, or it is a directory of the host.
const WORKSPACE: &str = "/workspace";

/// Checks every entry, and that no two of them meet in a shed. `own` are the server's directories
/// and files, which are not for sheds.
pub(super) fn credentials(
    raw: BTreeMap<String, Spanned<CredentialFile>>,
    own: &[(&str, &Utf8Path)],
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<BTreeMap<CredentialName, Credential>, LoadConfigError> {
    let mut checked: BTreeMap<CredentialName, Credential> = BTreeMap::new();
    for (text, entry) in raw {
        let key = format!("credentials.{text}");
        let name: CredentialName =
            text.parse().map_err(|error| source.bad(&entry, "credentials", format!("{error}")))?;
        let place = entry.referenced;
        let CredentialFile { source: from, target, readonly, exclude } = entry.value;
        let missing = |what: &str| source.error(Some(place), &key, format!("needs a {what}"));
        let from = from.ok_or_else(|| missing("source"))?;
        let target = target.ok_or_else(|| missing("target"))?;
        let path = self::source(&from, &format!("{key}.source"), own, source, surroundings)?;
        let guest: GuestPath = target
            .value
            .parse()
            .map_err(|error| source.bad(&target, &format!("{key}.target"), format!("{error}")))?;
        let target_key = format!("{key}.target");
        if matches!(guest.as_str(), "/" | "~") || target.value.chars().any(char::is_control) {
            let problem = format!("{:?} is no place of its own in a shed", target.value);
            return Err(source.bad(&target, &target_key, problem));
        }
        if meet(&guest, &WORKSPACE.parse().expect("it is an absolute path")) {
            let problem = format!("{guest} is where a shed's project is");
            return Err(source.bad(&target, &target_key, problem));
        }
        if let Some(other) = checked.iter().find(|(_, other)| meet(&guest, &other.target)) {
            let problem =
                format!("{guest} is where credential `{}` is as well ({})", other.0, other.1.target);
            return Err(source.bad(&target, &target_key, problem));
        }
        let exclude = exclude.unwrap_or_default();
        for pattern in &exclude {
            Excludes::parse([&pattern.value])
                .map_err(|error| source.bad(pattern, &format!("{key}.exclude"), error.to_string()))?;
        }
        let exclude = exclude.into_iter().map(|pattern| pattern.value).collect();
        let read_only = readonly.unwrap_or(false);
        let _none = checked.insert(name, Credential { source: path, target: guest, read_only, exclude });
    }
    Ok(checked)
}

fn source(
    value: &Spanned<String>,
    key: &str,
    own: &[(&str, &Utf8Path)],
    source: Source<'_>,
    surroundings: &Surroundings,
) -> Result<Utf8PathBuf, LoadConfigError> {
    let path = source.absolute(value, key, surroundings)?;
    if value.value.contains(',') {
        return Err(source.bad(value, key, format!("{:?} has a comma in it", value.value)));
    }
    if path.components().any(|part| part.as_str() == "..") {
        return Err(source.bad(
            value,
            key,
            format!("{:?} has `..` in it; write where it leads to", value.value),
        ));
    }
    if path.parent().is_none() {
        return Err(source.bad(value, key, "must not be the whole file system"));
    }
    // As it is written, and as it is where links lead.
    let real = path.canonicalize_utf8().unwrap_or_else(|_| path.clone());
    for (other, directory) in own {
        let real_directory = directory.canonicalize_utf8().unwrap_or_else(|_| (*directory).to_owned());
        let within = path.starts_with(directory) || real.starts_with(&real_directory);
        if within || directory.starts_with(&path) || real_directory.starts_with(&real) {
            let place = if within { "is in" } else { "holds" };
            let problem = format!("{:?} {place} {other}, which is the server's own", value.value);
            return Err(source.bad(value, key, problem));
        }
    }
    Ok(tidy(&path))
}

/// Without doubled slashes, `.` and a slash at the end.
fn tidy(path: &Utf8Path) -> Utf8PathBuf {
    path.components().collect()
}

/// Whether one of two places is the other or in it.
fn meet(one: &GuestPath, other: &GuestPath) -> bool {
    let [one, other] = [one, other].map(|path| Utf8PathBuf::from(path.below_home(GUEST_HOME)));
    one.starts_with(&other) || other.starts_with(&one)
}
