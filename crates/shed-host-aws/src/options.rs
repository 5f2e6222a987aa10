//! What the user decides about AWS: which of their profiles is the source, and which role a shed gets.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest session name that AWS takes, in characters (AssumeRole, RoleSessionName).
const SESSION_NAME: usize = 64;

/// The `aws:` section of extensions.yaml, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The profile whose credentials assume roles.
    pub source_profile: String,
    /// The ARN of the role of sheds that have none of their own.
    pub default_role: Option<String>,
    /// The ARNs of the roles of single sheds, by name.
    pub roles: BTreeMap<String, String>,
    /// How long credentials last; AWS takes from 15 minutes to 12 hours.
    pub session_duration: Duration,
    /// How long before their end credentials are replaced; shorter than `session_duration`.
    pub refresh_before: Duration,
    /// Where the profiles are.
    pub files: ProfileFiles,
}

impl Options {
    /// Returns the role of a shed.
    pub(crate) fn role(&self, shed: &str) -> Option<&str> {
        self.roles.get(shed).or(self.default_role.as_ref()).map(String::as_str)
    }
}

/// The two files that profiles are in. Either may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFiles {
    /// Usually `~/.aws/config`.
    pub config: PathBuf,
    /// Usually `~/.aws/credentials`.
    pub credentials: PathBuf,
}

impl ProfileFiles {
    /// Those that AWS's own tools would read: as `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE` say, else in `home`.
    #[must_use]
    pub fn of_environment(home: &Path) -> Self {
        let file = |variable, name| match env::var_os(variable).map(PathBuf::from) {
            Some(path) if path.as_os_str().is_empty() => home.join(name),
            Some(path) => {
                path.strip_prefix("~").map_or_else(|_not_in_home| path.clone(), |rest| home.join(rest))
            }
            None => home.join(name),
        };
        Self {
            config: file("AWS_CONFIG_FILE", ".aws/config"),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
        }
    }
}

/// Makes the name that AWS's own logs show for a session: `shed-<shed>-<unix time>`. What AWS takes in no name becomes `-`,
/// and the shed's name is cut so that the time stays whole.
pub(crate) fn session_name(shed: &str, unix_time: i64) -> String {
    let end = format!("-{}", unix_time.max(0));
    let taken = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let shed = shed.chars().map(|c| if taken(c) { c } else { '-' });
    let mut name: String = "shed-".chars().chain(shed).take(SESSION_NAME - end.len()).collect();
    name.push_str(&end);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_is_one_that_aws_takes() {
        assert_eq!(session_name("web", 1_790_000_000), "shed-web-1790000000");
        assert_eq!(session_name("a b/ä\n", 1), "shed-a-b----1");
        let long = session_name(&"x".repeat(4096), 1_790_000_000);
        assert_eq!(long.len(), 64);
        assert!(long.ends_with("x-1790000000"), "{long}");
        assert_eq!(session_name("", i64::MIN), "shed--0");
        assert!(session_name(&"y".repeat(99), i64::MAX).len() <= 64);
    }
}
