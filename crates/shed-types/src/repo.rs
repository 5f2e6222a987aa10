//! What may be named as a repository (spec D.1), and how much of it may be shown.
//!
//! The text later stands on a git command line in a guest, so everything that git could read as an option or a transport
//! helper is refused here. It may hold a password, which is on its way to the clone only: whatever is kept, logged or shown
//! is [`Repo::masked`].

use std::{borrow::Cow, fmt, ops::Range, str::FromStr};

use crate::TcpPort;

/// Longest repository in bytes; as long as browsers take a URL.
const MAX: usize = 2048;

/// A user name without a password that is this long is an access token, which forges take in its place. The longest user
/// name of GitHub has 39 characters, of which hardly anybody uses more than 20; their shortest tokens have 20.
const TOKEN: usize = 20;

/// What stands for a secret.
const MASK: &str = "***";

/// Says why a text names no repository. It never quotes the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseRepoError {
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

/// A repository: `owner/repo` of GitHub, `user@host:path`, or a URL of a scheme that fetches over a network.
#[derive(Clone, PartialEq, Eq)]
pub struct Repo {
    text: String,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `owner/repo`
    Shorthand,
    /// `user@host:path`, which git reaches by SSH.
    ScpLike,
    /// `ssh://…`
    Ssh,
    /// `https://…`, `http://…`, `git://…`
    Other,
}

impl Repo {
    /// Returns what git clones. It may hold a password: it goes to the guest, and nowhere else.
    #[must_use]
    pub fn clone_url(&self) -> String {
        match self.form {
            Form::Shorthand => {
                let path = self.text.strip_suffix(".git").unwrap_or(&self.text);
                format!("git@github.com:{path}.git")
            }
            Form::ScpLike | Form::Ssh | Form::Other => self.text.clone(),
        }
    }

    /// Returns it as it was given, without secrets: for records, logs and people.
    #[must_use]
    pub fn masked(&self) -> Cow<'_, str> {
        Self::mask(&self.text)
    }

    /// Returns the password or token in it, which is shown to nobody.
    #[must_use]
    pub fn secret(&self) -> Option<&str> {
        secret(&self.text).map(|at| &self.text[at])
    }

    /// Tells whether git reaches it by SSH, and so needs the key of its host.
    #[must_use]
    pub const fn is_ssh(&self) -> bool {
        match self.form {
            Form::Shorthand | Form::ScpLike | Form::Ssh => true,
            Form::Other => false,
        }
    }

    /// Hides the password in any text like `https://user:password@host/path`, and a token that stands for user and
    /// password.
    #[must_use]
    pub fn mask(text: &str) -> Cow<'_, str> {
        match secret(text) {
            Some(at) => format!("{}{MASK}{}", &text[..at.start], &text[at.end..]).into(),
            None => text.into(),
        }
    }
}

/// Returns where in a URL its password is, or the token that stands for user and password.
fn secret(text: &str) -> Option<Range<usize>> {
    let begin = text.find("://")? + "://".len();
    let authority = text[begin..].split('/').next()?;
    // The last `@` ends the user, since a password may hold one.
    let (user, _host) = authority.rsplit_once('@')?;
    let end = begin + user.len();
    let at = match user.split_once(':') {
        Some((user, _password)) => begin + user.len() + 1..end,
        None if user.len() >= TOKEN => begin..end,
        None => return None,
    };
    // What was masked before has none.
    (!at.is_empty() && &text[at.clone()] != MASK).then_some(at)
}

impl fmt::Debug for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Repo").field(&self.masked()).finish()
    }
}

impl FromStr for Repo {
    type Err = ParseRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseRepoError::Empty);
        }
        if text.len() > MAX {
            return Err(ParseRepoError::TooLong);
        }
        if text.starts_with('-') {
            return Err(ParseRepoError::Hyphen);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ParseRepoError::Space);
        }
        let form = if is_shorthand(text) {
            Form::Shorthand
        } else if is_scp_like(text) {
            Form::ScpLike
        } else {
            url_form(text).ok_or(ParseRepoError::Form)?
        };
        Ok(Self { text: text.to_owned(), form })
    }
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

fn url_form(repo: &str) -> Option<Form> {
    let (scheme, rest) = repo.split_once("://")?;
    let form = match scheme {
        "ssh" => Form::Ssh,
        "https" | "http" | "git" => Form::Other,
        _ => return None,
    };
    let (authority, path) = rest.split_once('/')?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port_fits) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<TcpPort>().is_ok()),
        None => (host, true),
    };
    (port_fits && is_host(host) && !path.is_empty()).then_some(form)
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
    fn repositories_are_accepted_and_only_the_shorthand_is_expanded() {
        for (repo, clone, ssh) in [
            ("charliek/codelens", "git@github.com:charliek/codelens.git", true),
            ("a.b_c-d/e.git", "git@github.com:a.b_c-d/e.git", true),
            ("git@github.com:owner/repo.git", "git@github.com:owner/repo.git", true),
            ("https://github.com/owner/repo", "https://github.com/owner/repo", false),
            ("https://user:secret@host:8443/x", "https://user:secret@host:8443/x", false),
            ("ssh://git@host:22/path", "ssh://git@host:22/path", true),
            ("git://host/path", "git://host/path", false),
        ] {
            let parsed: Repo = repo.parse().unwrap();
            assert_eq!((parsed.clone_url().as_str(), parsed.is_ssh()), (clone, ssh), "{repo}");
        }
    }

    #[test]
    fn what_git_would_take_for_something_else_is_refused() {
        for (repo, error) in [
            ("", ParseRepoError::Empty),
            ("--upload-pack=x", ParseRepoError::Hyphen),
            ("-a/b", ParseRepoError::Hyphen),
            ("a b/c", ParseRepoError::Space),
            ("a/b\n", ParseRepoError::Space),
            ("file:///etc", ParseRepoError::Form),
            ("ext::sh -c", ParseRepoError::Space),
            ("ext::sh@x:y", ParseRepoError::Form),
            ("/etc/passwd", ParseRepoError::Form),
            ("../x", ParseRepoError::Form),
            ("a/..", ParseRepoError::Form),
            ("a/b/c", ParseRepoError::Form),
            ("a/-b", ParseRepoError::Form),
            ("git@-oProxyCommand=x:y", ParseRepoError::Form),
            ("ssh://-oProxyCommand=x/y", ParseRepoError::Form),
            ("https://host", ParseRepoError::Form),
            ("https://host:0/x", ParseRepoError::Form),
            ("justaword", ParseRepoError::Form),
        ] {
            assert_eq!(repo.parse::<Repo>(), Err(error), "{repo:?}");
        }
        assert_eq!(format!("a/{}", "b".repeat(MAX)).parse::<Repo>(), Err(ParseRepoError::TooLong));
    }

    #[test]
    fn secrets_are_not_shown() {
        for (repo, shown) in [
            ("https://u:secret@host/x", "https://u:***@host/x"),
            ("https://u:se@cret@host/x@y", "https://u:***@host/x@y"),
            ("https://u:***@host/x", "https://u:***@host/x"),
            ("https://u@host/x:y", "https://u@host/x:y"),
            ("https://github_pat_0123456789@host/x", "https://***@host/x"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git"),
            ("owner/repo", "owner/repo"),
        ] {
            let parsed: Repo = repo.parse().unwrap();
            assert_eq!(parsed.masked(), shown);
            assert_eq!(parsed.secret().is_some(), repo != shown, "{repo}");
        }
        let parsed: Repo = "https://u:se@cret@host/x".parse().unwrap();
        assert_eq!(parsed.secret(), Some("se@cret"));
        let shown = format!("{:?}", "https://u:secret@host/x".parse::<Repo>());
        assert!(!shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn nothing_that_passes_can_be_an_option_or_have_a_space(repo in "\\PC{0,40}|[a-z@:/.-]{0,30}") {
            if let Ok(parsed) = repo.parse::<Repo>() {
                for text in [repo.as_str(), &parsed.clone_url()] {
                    prop_assert!(!text.starts_with('-') && !text.contains(char::is_whitespace));
                    // What git takes for the name of a transport helper (gitremote-helpers(7)).
                    let word = text.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+.-_".contains(c));
                    prop_assert!(!word.starts_with("::"));
                }
            }
        }

        #[test]
        fn no_password_is_ever_shown(user in "[a-z]{1,8}", password in "[A-Z0-9@:]{1,30}") {
            let text = format!("https://{user}:{password}@host/x");
            prop_assert_eq!(Repo::mask(&text), format!("https://{user}:***@host/x"));
        }
    }
}
