//! What is left out of a tree: shell globs on relative paths, the same at both ends.
//!
//! The host asks it when it packs credentials and when it takes files back, the agent when it watches and sends them. It
//! knows names only, and whatever is below something that is left out is left out as well.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest pattern, in bytes; a real one has a few dozen.
const MAX_PATTERN: usize = 1024;

/// Says why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseExcludeError {
    #[error("a pattern must not be empty")]
    Empty,
    #[error("the pattern {0:?} begins with a slash or has `..` in it; patterns are relative to the source")]
    NotBelow(String),
    #[error("a pattern has at most {MAX_PATTERN} bytes and no control character")]
    Text,
    #[error("{pattern:?} is no shell glob: {reason}")]
    Glob { pattern: String, reason: String },
}

/// A set of patterns.
#[derive(Debug, Clone, Default)]
pub struct Excludes {
    globs: GlobSet,
}

impl Excludes {
    /// Reads patterns. `*` and `?` stay within a part of a path, `**` goes any depth, and `dir/*` means `dir` itself, too.
    ///
    /// # Errors
    /// With the first that is none.
    pub fn parse<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, ParseExcludeError> {
        let mut globs = GlobSetBuilder::new();
        let refused = |pattern: &str, error: &globset::Error| ParseExcludeError::Glob {
            pattern: pattern.to_owned(),
            reason: error.kind().to_string(),
        };
        for text in patterns {
            let text = text.as_ref();
            if text.len() > MAX_PATTERN || text.chars().any(char::is_control) {
                return Err(ParseExcludeError::Text);
            }
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                return Err(ParseExcludeError::NotBelow(text.to_owned()));
            }
            let text = text.trim_start_matches("./").trim_end_matches('/');
            if text.is_empty() || text == "." {
                return Err(ParseExcludeError::Empty);
            }
            let above = text.strip_suffix("/*").or_else(|| text.strip_suffix("/**"));
            for pattern in [Some(text), above.filter(|above| !above.is_empty())].into_iter().flatten() {
                let glob = GlobBuilder::new(pattern).literal_separator(true).build();
                let _set = globs.add(glob.map_err(|error| refused(text, &error))?);
            }
        }
        let globs = globs.build().map_err(|error| refused("all together", &error))?;
        Ok(Self { globs })
    }

    /// Tells whether this path, relative to the source, is left out. The source itself never is.
    #[must_use]
    pub fn leave_out(&self, relative: &Path) -> bool {
        !self.globs.is_empty()
            && relative
                .ancestors()
                .filter(|path| !path.as_os_str().is_empty())
                .any(|path| self.globs.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves_out(pattern: &str, path: &str) -> bool {
        Excludes::parse([pattern]).unwrap().leave_out(Path::new(path))
    }

    #[test]
    fn globs_match_relative_paths_and_what_is_below() {
        for (pattern, path, out) in [
            ("cache", "cache", true),
            ("cache", "cache/a/b", true),
            ("cache", "x/cache", false),
            ("cache/", "cache/a", true),
            ("./cache", "cache", true),
            ("cache/*", "cache", true),
            ("cache/*", "cache/a", true),
            ("cache/*", "cache/a/b", true),
            ("cache/*", "cached", false),
            ("cache/**", "cache", true),
            ("*.log", "a.log", true),
            ("*.log", ".log", true),
            ("*.log", "d/a.log", false),
            ("**/*.log", "d/e/a.log", true),
            ("**/*.log", "a.log", true),
            ("**/node_modules/*", "a/node_modules", true),
            ("a/*/c", "a/b/c/d", true),
            ("a/*/c", "a/b/b/c", false),
            ("{a,b}/x", "b/x", true),
            ("[ab]", "b", true),
            ("*", "", false),
            ("*", "anything/at/all", true),
        ] {
            assert_eq!(leaves_out(pattern, path), out, "{pattern} {path}");
        }
        assert!(!Excludes::default().leave_out(Path::new("a")));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "/", "./", "/etc/*", "../x", "a/../b", "[a", "{a", "a\nb", &"a".repeat(1025)] {
            assert!(Excludes::parse([text]).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn fuzz_exclude(text in "[a-c*?/.\\[\\]{},!\\\\]{0,12}", path in "[a-c.]{1,3}(/[a-c.]{1,3}){0,3}") {
            if let Ok(excludes) = Excludes::parse([&text]) {
                prop_assert!(!excludes.leave_out(Path::new("")));
                if excludes.leave_out(Path::new(&path)) {
                    prop_assert!(excludes.leave_out(&Path::new(&path).join("below")));
                }
            }
        }

        #[test]
        fn a_directory_goes_with_its_star(dir in "[a-c]{1,3}(/[a-c]{1,3}){0,2}", below in "[a-d.]{1,3}") {
            let excludes = Excludes::parse([format!("{dir}/*")]).unwrap();
            prop_assert!(excludes.leave_out(Path::new(&dir)));
            prop_assert!(excludes.leave_out(&Path::new(&dir).join(below)));
            let other = format!("{dir}d");
            prop_assert!(!excludes.leave_out(Path::new(&other)));
        }
    }
}
