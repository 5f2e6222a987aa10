//! What may be named as a repository (spec D.1). The text later stands on a git command line in the guest, so
//! everything that git could read as an option or a transport helper is refused here.

/// Longest repository in bytes; as long as browsers take a URL.
const MAX: usize = 2048;

/// Says why a text names no repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RepoError {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX} bytes")]
    TooLong,
    #[error("it begins with a hyphen")]
    Hyphen,
    #[error("it has a space or control character")]
    Space,
    #[error(
        "it is neither owner/repo, user@host:path, nor an https, http, ssh or git URL with host and path"
    )]
    Form,
}

/// Checks a repository: `owner/repo`, `user@host:path`, or a URL of a scheme that fetches over a network.
pub(super) fn check(repo: &str) -> Result<(), RepoError> {
    if repo.is_empty() {
        return Err(RepoError::Empty);
    }
    if repo.len() > MAX {
        return Err(RepoError::TooLong);
    }
    if repo.starts_with('-') {
        return Err(RepoError::Hyphen);
    }
    if repo.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(RepoError::Space);
    }
    if is_shorthand(repo) || is_scp_like(repo) || is_url(repo) { Ok(()) } else { Err(RepoError::Form) }
}

fn is_shorthand(repo: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && word != "."
            && word != ".."
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    repo.split_once('/').is_some_and(|(owner, name)| is_word(owner) && is_word(name))
}

/// `user@host:path`. The user makes it distinct from `ext::` and other transport helpers.
fn is_scp_like(repo: &str) -> bool {
    let Some((user, rest)) = repo.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let user_fits = !user.is_empty()
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    user_fits && is_host(host) && !path.is_empty() && !path.starts_with(['-', ':'])
}

fn is_url(repo: &str) -> bool {
    let Some((scheme, rest)) = repo.split_once("://") else { return false };
    if !matches!(scheme, "https" | "http" | "ssh" | "git") {
        return false;
    }
    let Some((authority, path)) = rest.split_once('/') else { return false };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port_fits) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<shed_types::TcpPort>().is_ok()),
        None => (host, true),
    };
    port_fits && is_host(host) && !path.is_empty()
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && !host.starts_with('-')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories_are_accepted() {
        for repo in [
            "charliek/codelens",
            "a.b_c-d/e.git",
            "git@github.com:owner/repo.git",
            "https://github.com/owner/repo",
            "https://user:secret@host:8443/x",
            "ssh://git@host:22/path",
            "git://host/path",
        ] {
            assert_eq!(check(repo), Ok(()), "{repo}");
        }
    }

    #[test]
    fn what_git_would_take_for_something_else_is_refused() {
        for (repo, error) in [
            ("", RepoError::Empty),
            ("--upload-pack=x", RepoError::Hyphen),
            ("-a/b", RepoError::Hyphen),
            ("a b/c", RepoError::Space),
            ("a/b\n", RepoError::Space),
            ("file:///etc", RepoError::Form),
            ("ext::sh -c", RepoError::Space),
            ("ext::sh@x:y", RepoError::Form),
            ("/etc/passwd", RepoError::Form),
            ("../x", RepoError::Form),
            ("a/..", RepoError::Form),
            ("a/b/c", RepoError::Form),
            ("a/-b", RepoError::Form),
            ("git@-oProxyCommand=x:y", RepoError::Form),
            ("ssh://-oProxyCommand=x/y", RepoError::Form),
            ("https://host", RepoError::Form),
            ("https://host:0/x", RepoError::Form),
            ("justaword", RepoError::Form),
        ] {
            assert_eq!(check(repo), Err(error), "{repo:?}");
        }
        assert_eq!(check(&format!("a/{}", "b".repeat(MAX))), Err(RepoError::TooLong));
    }

    proptest! {
        #[test]
        fn nothing_that_passes_can_be_an_option_or_have_a_space(repo in "\\PC{0,40}|[a-z@:/.-]{0,30}") {
            if check(&repo).is_ok() {
                prop_assert!(!repo.starts_with('-') && !repo.contains(char::is_whitespace));
                // What git takes for the name of a transport helper (gitremote-helpers(7)).
                let word = repo.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+.-_".contains(c));
                prop_assert!(!word.starts_with("::"));
            }
        }
    }
}
