//! What `include` of a path takes: shell globs for paths relative to the source, and where below it they can match at all.
//!
//! A source may be a home directory with millions of files of which one is wanted, so a directory is only read when a
//! pattern can match below it. Where that is hard to tell, it can.

use std::path::Path;

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use shed_files::Choice;

/// The patterns of one path.
#[derive(Debug, Clone)]
pub(crate) struct Include {
    globs: GlobSet,
    /// The parts of each pattern.
    ways: Vec<Vec<Part>>,
}

/// What a pattern says of the names of one level.
#[derive(Debug, Clone)]
enum Part {
    Name(GlobMatcher),
    /// From here on it may match at any depth, and nothing follows.
    Anywhere,
}

impl Include {
    /// Reads patterns.
    ///
    /// # Errors
    /// The index of a pattern that is none, and what is wrong with it; no index when they are too much together.
    pub(super) fn new(patterns: &[String]) -> Result<Self, (Option<usize>, String)> {
        let mut globs = GlobSetBuilder::new();
        let mut ways = Vec::new();
        for (at, pattern) in patterns.iter().enumerate() {
            let relative = pattern.strip_prefix("./").unwrap_or(pattern);
            if relative.is_empty() || relative.starts_with('/') {
                return Err((Some(at), "write a pattern for paths relative to the source".to_owned()));
            }
            let relative = relative.strip_suffix('/').unwrap_or(relative);
            globs.add(glob(relative).map_err(|error| (Some(at), error.kind().to_string()))?);
            ways.push(way(relative));
        }
        let globs = globs.build().map_err(|error| (None, error.to_string()))?;
        Ok(Self { globs, ways })
    }

    /// Returns what is to be done with this path, which is relative to the source.
    pub(super) fn choice(&self, path: &Path) -> Choice {
        if self.globs.is_match(path) {
            Choice::Take
        } else if self.ways.iter().any(|way| leads_below(way, path)) {
            Choice::Within
        } else {
            Choice::Leave
        }
    }
}

fn glob(pattern: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

fn way(pattern: &str) -> Vec<Part> {
    let mut way = Vec::new();
    for part in pattern.split('/') {
        // A part that is no pattern was cut out of one like `{a,b/c}`.
        match glob(part) {
            Ok(glob) if !part.contains("**") && !takes_slash(part) => {
                way.push(Part::Name(glob.compile_matcher()));
            }
            Ok(_) | Err(_) => {
                way.push(Part::Anywhere);
                break;
            }
        }
    }
    way
}

/// Whether a class in this part may match a slash, and so the part more than one level: `[!a]` or `[+-9]` do.
fn takes_slash(part: &str) -> bool {
    let chars: Vec<char> = part.chars().collect();
    let range =
        |three: &[char]| matches!(three, [from, '-', to] if ('\0'..='/').contains(from) && *to >= '/');
    part.contains("[!") || part.contains("[^") || (part.contains('[') && chars.windows(3).any(range))
}

/// Whether something below this directory can match.
fn leads_below(way: &[Part], directory: &Path) -> bool {
    let mut parts = way.iter();
    for name in directory {
        match parts.next() {
            None => return false,
            Some(Part::Anywhere) => return true,
            Some(Part::Name(glob)) if !glob.is_match(name) => return false,
            Some(Part::Name(_)) => {}
        }
    }
    parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn include(patterns: &[&str]) -> Include {
        Include::new(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn only_where_a_pattern_can_match_is_looked_into() {
        let home = include(&[".gitconfig", ".config/*/init.lua", "./lua/**/x", "src/*.[ch]"]);
        for (path, choice) in [
            ("", Choice::Within),
            (".gitconfig", Choice::Take),
            (".cache", Choice::Leave),
            (".config", Choice::Within),
            (".config/nvim", Choice::Within),
            (".config/nvim/init.lua", Choice::Take),
            (".config/nvim/lua", Choice::Leave),
            ("lua", Choice::Within),
            ("lua/a/b/c", Choice::Within),
            ("lua/a/b/x", Choice::Take),
            ("src", Choice::Within),
            ("src/a.c", Choice::Take),
            ("src/deep", Choice::Leave),
        ] {
            assert_eq!(home.choice(Path::new(path)), choice, "{path}");
        }
    }

    #[test]
    fn nothing_that_matches_is_hidden_by_a_directory_that_does_not() {
        for (pattern, path) in [
            ("{a,b/c}", "b/c"),
            ("{x,a/{b,c}/d}/e", "a/c/d/e"),
            ("a[!b]c", "a/c"),
            ("a[^b]c/d", "a/c/d"),
            ("a[+-9]c", "a/c"),
            ("a[x/]c", "a/c"),
            ("**/x", "a/b/x"),
            ("a/**", "a/b/c"),
            ("*/b/?", "a/b/c"),
            ("{a,b}/c", "b/c"),
            (r"\a/\*", "a/*"),
            ("d/", "d"),
        ] {
            let include = include(&[pattern]);
            let path = Path::new(path);
            assert_eq!(include.choice(path), Choice::Take, "{pattern}");
            for above in path.ancestors().skip(1) {
                assert_ne!(include.choice(above), Choice::Leave, "{pattern}: {}", above.display());
            }
        }
    }
}
