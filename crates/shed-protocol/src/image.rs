//! What a guest is told of the image it was made from: how the programs of that image are to be run.
//!
//! The host reads it from the image, cuts it with [`ImageConfig::bounded`] so that it fits into a message, and sends it in
//! [`crate::Identify`]. Whoever made the image chose every value, so none is trusted to make sense.

use serde::{Deserialize, Serialize};

/// Most that all variables may take in JSON, 256 KiB: more than the processes of real images get, and with everything
/// else in a message below [`crate::MAX_PAYLOAD`].
pub const MAX_ENV: usize = 256 << 10;

/// Most that entrypoint and command may take in JSON together, 128 KiB: what Linux takes as one argument of a program.
pub const MAX_COMMAND: usize = 128 << 10;

/// Longest path that Linux takes, and so the longest working directory, in bytes (`PATH_MAX`).
pub const MAX_DIRECTORY: usize = 4096;

/// Longest user and group, in bytes; each name has at most 32 (useradd(8)), ids have ten digits.
pub const MAX_USER: usize = 256;

/// How the programs of an image are to be run (OCI image specification, "Image configuration", `config`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty means nobody in particular.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Variables, each `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where programs start; empty means nowhere in particular.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

impl ImageConfig {
    /// Cuts what is too long for a message, and returns what was cut, in words.
    ///
    /// Variables go from the end. A command goes as a whole, since half of it is another command.
    #[must_use]
    pub fn bounded(mut self) -> (Self, Vec<String>) {
        let mut cut = Vec::new();
        let before = self.env.len();
        let mut room = MAX_ENV;
        let fits = self.env.iter().position(|entry| {
            let left = room.checked_sub(in_json(entry));
            room = left.unwrap_or_default();
            left.is_none()
        });
        self.env.truncate(fits.unwrap_or(before));
        if self.env.len() < before {
            cut.push(format!(
                "{} of its {before} variables, which take more than {MAX_ENV} bytes",
                before - self.env.len()
            ));
        }
        if self.entrypoint.iter().chain(&self.cmd).map(|word| in_json(word)).sum::<usize>() > MAX_COMMAND {
            self.entrypoint.clear();
            self.cmd.clear();
            cut.push(format!("its entrypoint and command, which take more than {MAX_COMMAND} bytes"));
        }
        if in_json(&self.working_dir) > MAX_DIRECTORY {
            self.working_dir.clear();
            cut.push(format!("its working directory, which takes more than {MAX_DIRECTORY} bytes"));
        }
        if in_json(&self.user) > MAX_USER {
            self.user.clear();
            cut.push(format!("its user, who takes more than {MAX_USER} bytes"));
        }
        (self, cut)
    }
}

/// Returns how many bytes a text takes as an item of a JSON array: control characters take six each.
fn in_json(text: &str) -> usize {
    let length = |c: char| match c {
        '"' | '\\' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    text.chars().map(length).sum::<usize>() + 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_json_stays_what_it_was() {
        let config = ImageConfig {
            user: "node:1000".into(),
            env: vec!["PATH=/usr/bin".into(), "A=b c".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into(), "--all".into()],
            working_dir: "/app".into(),
        };
        let golden = r#"{"user":"node:1000","env":["PATH=/usr/bin","A=b c"],"entrypoint":["/entry"],"cmd":["serve","--all"],"working_dir":"/app"}"#;
        assert_eq!(serde_json::to_string(&config).unwrap(), golden);
        assert_eq!(serde_json::from_str::<ImageConfig>(golden).unwrap(), config);
        assert_eq!(serde_json::to_string(&ImageConfig::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<ImageConfig>(r#"{"later":1}"#).unwrap(), ImageConfig::default());
    }

    #[test]
    fn what_fits_is_left_alone() {
        let config = ImageConfig { env: vec!["A=b".repeat(1000); 80], ..ImageConfig::default() };
        assert_eq!(config.clone().bounded(), (config, Vec::new()));
    }

    #[test]
    fn what_is_too_long_goes_and_is_named() {
        let config = ImageConfig {
            user: "u".repeat(1000),
            env: vec!["A=1".into(), format!("B={}", "x".repeat(MAX_ENV)), "C=3".into()],
            entrypoint: vec!["e".into()],
            cmd: vec!["\u{1}".repeat(MAX_COMMAND / 4)],
            working_dir: format!("/{}", "d".repeat(5000)),
        };
        let (config, cut) = config.bounded();
        assert_eq!(config, ImageConfig { env: vec!["A=1".into()], ..ImageConfig::default() });
        assert_eq!(cut.len(), 4, "{cut:?}");
        assert!(cut[0].starts_with("2 of its 3 variables"), "{cut:?}");
    }

    proptest! {
        #[test]
        fn the_bounded_one_fits_into_a_message(
            words in prop::collection::vec("[\\x00-\\x1fa\"é]{0,40}", 0..8),
            times in 1usize..20_000,
        ) {
            let many: Vec<String> = words.iter().map(|word| word.repeat(times / 40 + 1)).collect();
            let text = words.concat().repeat(times / 100 + 1);
            let config = ImageConfig {
                user: text.clone(),
                env: many.iter().cycle().take(many.len() * (times / 200 + 1)).cloned().collect(),
                entrypoint: many.clone(),
                cmd: many,
                working_dir: text,
            };
            let (bounded, _cut) = config.bounded();
            prop_assert!(serde_json::to_string(&bounded).unwrap().len() < crate::MAX_PAYLOAD / 2);
        }
    }
}
