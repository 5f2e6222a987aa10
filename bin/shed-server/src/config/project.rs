//! The keys of server.yaml on what clones and hooks get: `env_file` and `git:`. Called by the check of the whole file.

use serde_saphyr::Spanned;
use shed_types::KnownHost;

use super::{LoadConfigError, check::Source, file::GitFile};

/// Most bytes of all lines together: they travel to the guest in one message of 1 MiB, in which there is more.
const MAX_KNOWN_HOSTS: usize = 128 << 10;

/// Checks the lines for known_hosts.
pub(super) fn known_hosts(raw: GitFile, source: Source<'_>) -> Result<Vec<KnownHost>, LoadConfigError> {
    const KEY: &str = "git.extra_known_hosts";
    let mut bytes = 0;
    let checked = raw.extra_known_hosts.unwrap_or_default().into_iter().map(|line: Spanned<String>| {
        bytes += line.value.len();
        if bytes > MAX_KNOWN_HOSTS {
            let problem = format!(
                "has more than {MAX_KNOWN_HOSTS} bytes; keep the hosts that repositories are cloned from"
            );
            return Err(source.bad(&line, KEY, problem));
        }
        line.value.parse().map_err(|error| {
            let problem = format!("{error}; write a line as `ssh-keyscan HOST` prints it");
            source.bad(&line, KEY, problem)
        })
    });
    checked.collect()
}
