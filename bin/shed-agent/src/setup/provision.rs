//! What .shed/provision.yaml says, as pure text: hooks, variables, and how long a hook may take (spec D).
//!
//! The file comes with a repository that anybody may have written. It is read leniently where people write YAML by hand
//! (numbers are text, nothing is no value), and strictly where a mistake would run something else than was meant.

use std::{fmt, path::Path, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use shed_types::GoDuration;

/// How long a hook may take when the file says nothing (spec D).
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Bounds of what the file may say of it.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest path of a hook, in bytes (Linux, PATH_MAX).
const MAX_PATH: usize = 4096;

/// Most unknown keys that are named.
const MAX_UNKNOWN: usize = 10;

/// The file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Provision {
    pub(super) install: Option<HookPath>,
    pub(super) startup: Option<HookPath>,
    pub(super) shutdown: Option<HookPath>,
    /// Variables for all hooks; none of them is one of shed's own.
    pub(super) env: Vec<(String, String)>,
    /// How long each hook may take.
    pub(super) timeout: Duration,
}

/// Path of a script below /workspace. That no link leads it elsewhere is seen when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookPath(String);

impl HookPath {
    /// Returns the path, which is relative.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says what is wrong with the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProvisionError {
    #[error("it is no UTF-8 text")]
    NoText,
    #[error("{0}")]
    Yaml(String),
    #[error("hooks.{hook}: {path:?} {problem}; a hook is a path below /workspace, like scripts/install.sh")]
    Path { hook: &'static str, path: String, problem: &'static str },
    #[error("env: {0:?} is no name of a variable: letters, digits and _ make one, and no digit is the first")]
    Name(String),
    #[error("env: the value of {0} has a NUL, which no variable can have")]
    Value(String),
    #[error("timeout: {text:?}: {problem}")]
    Timeout { text: String, problem: String },
}

/// Reads the file; also returns what is odd in it.
pub(super) fn parse(file: &[u8]) -> Result<(Provision, Vec<String>), ProvisionError> {
    let text = std::str::from_utf8(file).map_err(|_| ProvisionError::NoText)?;
    let document = if is_empty(text) {
        Document::default()
    } else {
        serde_saphyr::from_str(text).map_err(|error| ProvisionError::Yaml(first_line(&error)))?
    };
    let mut warnings = document.warnings();
    let Document { hooks, env, timeout, .. } = document;
    let (mut variables, mut reserved) = (Vec::new(), Vec::new());
    for (name, value) in env {
        if !is_name(&name) {
            return Err(ProvisionError::Name(name));
        }
        if value.contains('\0') {
            return Err(ProvisionError::Value(name));
        }
        if name.starts_with("SHED_") {
            reserved.push(name);
        } else {
            variables.push((name, value));
        }
    }
    if let Some(first) = reserved.first() {
        let more = if reserved.len() > 1 {
            format!(" and {} more are", reserved.len() - 1)
        } else {
            " is".to_owned()
        };
        warnings.push(format!("env: {first}{more} not taken: variables that begin with SHED_ are shed's own"));
    }
    let provision = Provision {
        install: path("install", hooks.install)?,
        startup: path("startup", hooks.startup)?,
        shutdown: path("shutdown", hooks.shutdown)?,
        env: variables,
        timeout: timeout.map_or(Ok(TIMEOUT), |text| duration(&text))?,
    };
    Ok((provision, warnings))
}

/// YAML reads nothing, or nothing but comments, as null.
fn is_empty(text: &str) -> bool {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line == "---" || line.starts_with('#'))
}

/// What is wrong and where; the lines behind that quote the file, in which secrets may stand.
fn first_line(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("it is no YAML").trim().to_owned()
}

fn path(hook: &'static str, given: Option<String>) -> Result<Option<HookPath>, ProvisionError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
    let parts = || given.split('/').filter(|part| !matches!(*part, "" | "."));
    let problem = if Path::new(&given).is_absolute() {
        "is an absolute path"
    } else if given.contains('\0') || given.len() > MAX_PATH {
        "is no path"
    } else if given.split('/').any(|part| part == "..") {
        "has .. in it"
    } else if given.ends_with('/') || parts().next().is_none() {
        "is a directory"
    } else {
        return Ok(Some(HookPath(parts().collect::<Vec<_>>().join("/"))));
    };
    Err(ProvisionError::Path { hook, path: given, problem })
}

fn duration(text: &str) -> Result<Duration, ProvisionError> {
    let wrong = |problem: String| ProvisionError::Timeout { text: text.to_owned(), problem };
    let given: GoDuration = text.parse().map_err(|error| wrong(format!("{error}")))?;
    given
        .to_duration()
        .filter(|given| (MIN_TIMEOUT..=MAX_TIMEOUT).contains(given))
        .ok_or_else(|| wrong("it must be between 1s and 24h".to_owned()))
}

/// Whether a shell takes it as the name of a variable (POSIX, Base Definitions 3.216).
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The file as it is written.
#[derive(Debug, Default)]
struct Document {
    hooks: Hooks,
    env: Vec<(String, String)>,
    timeout: Option<String>,
    unknown: Vec<String>,
}

#[derive(Debug, Default)]
struct Hooks {
    install: Option<String>,
    startup: Option<String>,
    shutdown: Option<String>,
    unknown: Vec<String>,
}

impl Document {
    fn warnings(&self) -> Vec<String> {
        let hooks = self.hooks.unknown.iter().map(|key| format!("hooks.{key}"));
        let unknown: Vec<String> = self.unknown.iter().cloned().chain(hooks).collect();
        let named = unknown.iter().take(MAX_UNKNOWN);
        let mut warnings: Vec<String> =
            named.map(|key| format!("the key {key:?} means nothing here")).collect();
        if unknown.len() > MAX_UNKNOWN {
            warnings.push(format!("{} more keys mean nothing here", unknown.len() - MAX_UNKNOWN));
        }
        warnings
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with hooks, env and timeout")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Document, M::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "hooks" => document.hooks = map.next_value::<Option<Hooks>>()?.unwrap_or_default(),
                        "env" => document.env = map.next_value::<Option<Env>>()?.unwrap_or_default().0,
                        "timeout" => document.timeout = map.next_value()?,
                        _ => ignore(&mut map, &mut document.unknown, key)?,
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Hooks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Hooks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping with install, startup and shutdown")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Hooks, M::Error> {
                let mut hooks = Hooks::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "install" => hooks.install = map.next_value()?,
                        "startup" => hooks.startup = map.next_value()?,
                        "shutdown" => hooks.shutdown = map.next_value()?,
                        _ => ignore(&mut map, &mut hooks.unknown, key)?,
                    }
                }
                Ok(hooks)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn ignore<'de, M: MapAccess<'de>>(
    map: &mut M,
    unknown: &mut Vec<String>,
    key: String,
) -> Result<(), M::Error> {
    if unknown.contains(&key) {
        return Err(M::Error::custom(format!("the key {key:?} stands there twice")));
    }
    unknown.push(key);
    map.next_value::<IgnoredAny>().map(drop)
}

/// Variables in the order of the file; a name without a value is an empty one.
#[derive(Debug, Default)]
struct Env(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Env;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of variables to values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Env, M::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    entries.push((name, map.next_value::<Option<String>>()?.unwrap_or_default()));
                }
                Ok(Env(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use shed_testkit::fuzz;

    use super::*;

    fn good(text: &str) -> Provision {
        let (provision, warnings) = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(warnings.is_empty(), "{text}: {warnings:?}");
        provision
    }

    fn bad(text: &str) -> String {
        match parse(text.as_bytes()) {
            Ok(read) => panic!("{text}: {read:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn hook(path: &str) -> Option<HookPath> {
        Some(HookPath(path.to_owned()))
    }

    #[test]
    fn a_whole_file() {
        let provision = good(
            "# of a project\nhooks:\n  install: ./scripts/install.sh\n  startup: \"scripts//start up.sh\"\n  shutdown: bye\nenv:\n  PORT: 8080\n  ON: yes\n  NO: no\n  MODE: 0644\n  RATIO: 1.50\n  FLAG: true\n  EMPTY:\n  QUOTED: \"a b\"\n  LONG: |\n    two\n    lines\ntimeout: 1h30m\n",
        );
        assert_eq!(provision.install, hook("scripts/install.sh"));
        assert_eq!(provision.startup, hook("scripts/start up.sh"));
        assert_eq!(provision.shutdown, hook("bye"));
        let expected = [
            ("PORT", "8080"),
            ("ON", "yes"),
            ("NO", "no"),
            ("MODE", "0644"),
            ("RATIO", "1.50"),
            ("FLAG", "true"),
            ("EMPTY", ""),
            ("QUOTED", "a b"),
            ("LONG", "two\nlines\n"),
        ];
        assert_eq!(provision.env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(provision.timeout, Duration::from_secs(5400));
    }

    #[test]
    fn nothing_is_nothing_to_do() {
        let empty = good("");
        assert_eq!((empty.install.as_ref(), empty.timeout), (None, TIMEOUT));
        for text in [
            "# nothing\n\n",
            "---\n",
            "{}",
            "hooks:\nenv:\ntimeout:\n",
            "hooks: {}\n",
            "hooks: {install: }\n",
            "hooks: {install: ''}\n",
            "\u{feff}# bom\n",
        ] {
            assert_eq!(good(text), empty, "{text:?}");
        }
    }

    #[test]
    fn unknown_keys_are_named_and_nothing_more() {
        let text = "hook: {a: [1, {b: c}]}\nhooks: {instal: x, startup: s}\nversion: 2\n";
        let (provision, warnings) = parse(text.as_bytes()).unwrap();
        assert_eq!(provision.startup, hook("s"));
        assert_eq!(
            warnings,
            [
                "the key \"hook\" means nothing here",
                "the key \"version\" means nothing here",
                "the key \"hooks.instal\" means nothing here"
            ]
        );
        let many: String = (0..50).map(|n| format!("key{n}: 1\n")).collect();
        let (_, warnings) = parse(many.as_bytes()).unwrap();
        assert_eq!((warnings.len(), warnings[10].as_str()), (11, "40 more keys mean nothing here"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        for (text, says) in [
            ("hooks: [a]\n", "line 1"),
            ("hooks: text\n", "line 1"),
            ("- a\n", "line 1"),
            ("just text", "line 1"),
            ("hooks:\n  install: a\n  install: b\n", "line 3"),
            ("env:\n  A: 1\n  A: 2\n", "line 3"),
            ("x: 1\nx: 2\n", "x"),
            ("env: [A=1]\n", "line 1"),
            ("env: {A: {b: c}}\n", "line 1"),
            ("hooks:\n\tinstall: x\n", "line 2"),
            ("hooks: {install: [a]}\n", "line 1"),
            ("a: 1\n---\nb: 2\n", "line"),
            ("hooks: {install: /etc/passwd}\n", "hooks.install: \"/etc/passwd\" is an absolute path"),
            ("hooks: {startup: ../x}\n", "hooks.startup: \"../x\" has .. in it"),
            ("hooks: {startup: a/../../x}\n", "has .. in it"),
            ("hooks: {startup: a/}\n", "is a directory"),
            ("hooks: {startup: ./.}\n", "is a directory"),
            ("hooks: {startup: \"a\\0b\"}\n", "is no path"),
            ("env: {1A: x}\n", "\"1A\" is no name"),
            ("env: {\"A B\": x}\n", "\"A B\" is no name"),
            ("env: {\"A=B\": x}\n", "\"A=B\" is no name"),
            ("env: {\"\": x}\n", "\"\" is no name"),
            ("env: {A: \"x\\0y\"}\n", "the value of A has a NUL"),
            ("timeout: 30\n", "it has no unit"),
            ("timeout: soon\n", "\"soon\""),
            ("timeout: 0s\n", "between 1s and 24h"),
            ("timeout: -5m\n", "between 1s and 24h"),
            ("timeout: 25h\n", "between 1s and 24h"),
            ("timeout: 999999999999h\n", "it is too long"),
            ("timeout: [1h]\n", "line 1"),
        ] {
            let error = bad(text);
            assert!(error.contains(says), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(parse(b"\xff\xfe").unwrap_err(), ProvisionError::NoText);
    }

    #[test]
    fn an_error_quotes_no_other_line_of_the_file() {
        let error = bad("env:\n  TOKEN: hunter2\n  A: [\nhooks: {\n");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_sheds_own_variables_stay() {
        let (provision, warnings) = parse(b"env: {SHED_NAME: x, SHED_FOO: y, SHEDS: z}").unwrap();
        assert_eq!(provision.env, [("SHEDS".to_owned(), "z".to_owned())]);
        assert_eq!(
            warnings,
            ["env: SHED_NAME and 1 more are not taken: variables that begin with SHED_ are shed's own"]
        );
    }

    #[test]
    fn deep_and_explosive_documents_are_no_trouble() {
        let deep = format!("x: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        let maps = format!("x: {}1{}", "{a: ".repeat(30_000), "}".repeat(30_000));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 9].join(",");
            bomb += &format!("a{n}: &a{n} [{aliases}]\n");
        }
        let indented: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        for text in [deep, maps, bomb, indented] {
            // Refused or ignored; what counts is that it ends, and soon.
            let begun = std::time::Instant::now();
            let _either = parse(text.as_bytes());
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
    }

    #[test]
    fn fuzz_provision_yaml() {
        let line = "[ ]{0,4}(hooks|env|timeout|install|startup|shutdown|A|SHED_X|x|- )?:? ?[-a-z0-9/.&*!|>\"'{}\\[\\],#%@ ]{0,12}\n";
        fuzz("provision.yaml", &proptest::collection::vec(line, 0..12), |lines| {
            if let Ok((provision, _)) = parse(lines.concat().as_bytes()) {
                for path in [provision.install, provision.startup, provision.shutdown].iter().flatten() {
                    let path = path.as_str();
                    assert!(
                        !path.starts_with('/')
                            && !path.split('/').any(|part| matches!(part, "" | "." | ".."))
                    );
                }
                assert!(provision.env.iter().all(|(name, _)| is_name(name) && !name.starts_with("SHED_")));
                assert!((MIN_TIMEOUT..=MAX_TIMEOUT).contains(&provision.timeout));
            }
        });
        fuzz(
            "provision.yaml, any bytes",
            &proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            |bytes| {
                let _either = parse(&bytes);
            },
        );
    }
}
