//! Where files go in a guest: an absolute path, or one below the home directory of user `shed`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest path, in bytes (PATH_MAX of Linux, which counts a zero byte).
const MAX_PATH: usize = 4095;

/// Longest part of a path between two slashes, in bytes (NAME_MAX of Linux).
const MAX_NAME: usize = 255;

/// Says why a text is not a path in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseGuestPathError {
    #[error("a path in a shed begins with `/`, or with `~` for the home directory there")]
    Relative,
    #[error("a path in a shed has no `..` in it; write where it leads to")]
    Parent,
    #[error("a path has no zero byte in it")]
    Zero,
    #[error("a path has at most {MAX_PATH} bytes, and each part of it at most {MAX_NAME}")]
    TooLong,
}

/// A path in a guest: `/…`, `~`, or `~/…`. Without `.`, `..` and doubled slashes; whether it ends with a slash is gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

impl GuestPath {
    /// Returns the path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the absolute path in a guest with this home directory.
    #[must_use]
    pub fn below_home(&self, home: &str) -> String {
        match self.0.strip_prefix('~') {
            Some(rest) => format!("{}{rest}", home.trim_end_matches('/')),
            None => self.0.clone(),
        }
    }

    /// Returns the directory that this is in, and its name there; nothing for `/` and `~`.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/')?;
        let parent = if parent.is_empty() { "/" } else { parent };
        (!name.is_empty()).then(|| (Self(parent.to_owned()), name))
    }
}

impl FromStr for GuestPath {
    type Err = ParseGuestPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('\0') {
            return Err(ParseGuestPathError::Zero);
        }
        if text.len() > MAX_PATH {
            return Err(ParseGuestPathError::TooLong);
        }
        let (mut path, rest) = match text.strip_prefix('~') {
            Some("") => ("~".to_owned(), ""),
            Some(rest) if rest.starts_with('/') => ("~".to_owned(), rest),
            None if text.starts_with('/') => (String::new(), text),
            Some(_) | None => return Err(ParseGuestPathError::Relative),
        };
        for part in rest.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(ParseGuestPathError::Parent),
                part if part.len() > MAX_NAME => return Err(ParseGuestPathError::TooLong),
                part => {
                    path.push('/');
                    path.push_str(part);
                }
            }
        }
        Ok(Self(if path.is_empty() { "/".to_owned() } else { path }))
    }
}

impl TryFrom<String> for GuestPath {
    type Error = ParseGuestPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_kept_in_one_form() {
        for (text, kept, absolute) in [
            ("/", "/", "/"),
            ("//", "/", "/"),
            ("/a//b/./c/", "/a/b/c", "/a/b/c"),
            ("~", "~", "/home/shed"),
            ("~/", "~", "/home/shed"),
            ("~/.config/nvim/", "~/.config/nvim", "/home/shed/.config/nvim"),
            ("/a/~/b c\n", "/a/~/b c\n", "/a/~/b c\n"),
        ] {
            let path: GuestPath = text.parse().unwrap();
            assert_eq!(path.as_str(), kept, "{text:?}");
            assert_eq!(path.below_home("/home/shed"), absolute, "{text:?}");
        }
        assert_eq!("~/x".parse::<GuestPath>().unwrap().below_home("/"), "/x");
    }

    #[test]
    fn a_path_is_a_directory_and_a_name_in_it() {
        for (text, split) in [
            ("/", None),
            ("~", None),
            ("/etc", Some(("/", "etc"))),
            ("~/.gitconfig", Some(("~", ".gitconfig"))),
            ("/etc/a/b", Some(("/etc/a", "b"))),
        ] {
            let path: GuestPath = text.parse().unwrap();
            assert_eq!(path.split().as_ref().map(|(parent, name)| (parent.as_str(), *name)), split);
        }
    }

    #[test]
    fn paths_that_depend_on_something_else_are_refused() {
        use ParseGuestPathError::{Parent, Relative, TooLong, Zero};
        let (long, longer) = (format!("/{}", "a".repeat(256)), "/a".repeat(2100));
        for (text, error) in [
            ("", Relative),
            ("a", Relative),
            ("./a", Relative),
            ("~root", Relative),
            ("$HOME", Relative),
            ("/..", Parent),
            ("~/../x", Parent),
            ("/a/../b", Parent),
            ("/a\0", Zero),
            (&long, TooLong),
            (&longer, TooLong),
        ] {
            assert_eq!(text.parse::<GuestPath>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_guest_path(text in "(~|/|\\.|[a-z ]|\\PC){0,40}") {
            if let Ok(path) = text.parse::<GuestPath>() {
                prop_assert_eq!(path.as_str().parse::<GuestPath>().unwrap(), path.clone());
                prop_assert!(path.below_home("/home/shed").starts_with('/'));
            }
        }
    }
}
