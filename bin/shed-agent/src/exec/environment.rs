//! The environment of a command (spec B.3).
//!
//! Later sources win over earlier ones: defaults, the agent's own environment, the image's variables,
//! /etc/environment.d, the shed's own variables, the request. HOME, USER and LOGNAME are the target user's whatever anybody says.

use std::{collections::BTreeMap, fs, path::Path};

use super::users::User;
use crate::image::WORKSPACE;

/// Where commands are looked for when nobody says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories with files of variables, as environment.d(5) has them; later ones win.
const DIRECTORIES: [&str; 2] = ["/run/environment.d", "/etc/environment.d"];

/// Longest file of variables that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Variables by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// What the environment is made of.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The agent's own environment.
    pub(crate) inherited: Variables,
    /// The image's.
    pub(crate) image: Vec<(String, String)>,
    /// What [`read_directories`] found, weakest first.
    pub(crate) files: Vec<(String, String)>,
    /// The shed's name, once known.
    pub(crate) shed_name: Option<String>,
    /// The request's entries, each `NAME=value`.
    pub(crate) requested: &'a [String],
    /// Whether the command has a terminal.
    pub(crate) tty: bool,
    /// Value of SHELL when nobody sets it.
    pub(crate) shell: &'static str,
}

/// Puts the environment together.
pub(crate) fn build(sources: Sources<'_>, user: &User) -> Variables {
    let mut variables = sources.inherited;
    variables.retain(|name, _| !is_agents_alone(name));
    variables.extend(sources.image);
    variables.extend(sources.files);
    if let Some(name) = sources.shed_name {
        variables.insert("SHED_NAME".to_owned(), name);
    }
    variables.insert("SHED_WORKSPACE".to_owned(), WORKSPACE.to_owned());
    for entry in sources.requested {
        if let Some((name, value)) = entry.split_once('=') {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    variables.insert("HOME".to_owned(), user.home.clone());
    variables.insert("USER".to_owned(), user.name.clone());
    variables.insert("LOGNAME".to_owned(), user.name.clone());
    let mut default = |name: &str, value: &str| {
        variables.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    default("PATH", DEFAULT_PATH);
    default("SHELL", sources.shell);
    default("LANG", "C.UTF-8");
    if sources.tty {
        default("TERM", "xterm-256color");
    }
    variables
}

/// Variables that systemd gives to the agent's service and that would mislead a command.
fn is_agents_alone(name: &str) -> bool {
    const EXACT: [&str; 11] = [
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "NOTIFY_SOCKET",
        "SYSTEMD_EXEC_PID",
        "MEMORY_PRESSURE_WATCH",
        "MEMORY_PRESSURE_WRITE",
        "PATH",
        "SHELL",
        "TERM",
        "MAINPID",
        "MANAGERPID",
    ];
    EXACT.contains(&name) || name.starts_with("LISTEN_") || name.starts_with("WATCHDOG_")
}

/// Reads every `*.conf` of the environment directories, files in the order of their names.
pub(crate) fn read_directories() -> Vec<(String, String)> {
    DIRECTORIES.iter().flat_map(|directory| read_directory(Path::new(directory))).collect()
}

fn read_directory(directory: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .flat_map(|text| parse(&String::from_utf8_lossy(&text)))
        .collect()
}

/// Lines `NAME=value`; `#` and `;` begin comments, quotes around the value are dropped. Anything else is ignored.
fn parse(text: &str) -> Vec<(String, String)> {
    let entry = |line: &str| {
        let (name, value) = line.trim().split_once('=')?;
        let name = name.trim_end();
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        (good && !value.contains('\0')).then(|| (name.to_owned(), unquote(value.trim()).to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

fn unquote(value: &str) -> &str {
    ['"', '\''].iter().find_map(|&q| value.strip_prefix(q)?.strip_suffix(q)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User { name: "shed".into(), uid: 1000, gid: 1000, groups: vec![1000], home: "/home/shed".into() }
    }

    fn sources(requested: &[String]) -> Sources<'_> {
        Sources {
            inherited: Variables::new(),
            image: Vec::new(),
            files: Vec::new(),
            shed_name: Some("demo".into()),
            requested,
            tty: false,
            shell: "/bin/bash",
        }
    }

    #[test]
    fn an_empty_request_gets_the_defaults() {
        let variables = build(sources(&[]), &user());
        let expected = [
            ("HOME", "/home/shed"),
            ("LANG", "C.UTF-8"),
            ("LOGNAME", "shed"),
            ("PATH", DEFAULT_PATH),
            ("SHED_NAME", "demo"),
            ("SHED_WORKSPACE", "/workspace"),
            ("SHELL", "/bin/bash"),
            ("USER", "shed"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(build(Sources { tty: true, ..sources(&[]) }, &user())["TERM"], "xterm-256color");
    }

    #[test]
    fn the_request_wins_but_not_over_the_user() {
        let requested = ["A=req=uest", "PATH=/p", "HOME=/else", "EMPTY=", "TERM=dumb"].map(str::to_owned);
        let mut given = sources(&requested);
        given.files = vec![("A".into(), "file".into()), ("B".into(), "file".into())];
        given.inherited =
            [("B", "own"), ("C", "own"), ("LISTEN_FDS", "3"), ("INVOCATION_ID", "x"), ("TERM", "linux")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let variables = build(given, &user());
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!((get("A"), get("B"), get("C")), (Some("req=uest"), Some("file"), Some("own")));
        assert_eq!((get("PATH"), get("HOME"), get("EMPTY")), (Some("/p"), Some("/home/shed"), Some("")));
        assert_eq!((get("LISTEN_FDS"), get("INVOCATION_ID"), get("TERM")), (None, None, Some("dumb")));
    }

    #[test]
    fn the_image_is_weaker_than_all_but_the_agent_and_the_defaults() {
        let requested = ["R=request".to_owned()];
        let mut given = sources(&requested);
        let image =
            ["PATH=/image", "F=image", "R=image", "C=image", "HOME=/x", "USER=x", "SHED_NAME=x", "SHELL=/s"];
        given.image =
            image.iter().filter_map(|e| e.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect();
        given.files = vec![("F".into(), "file".into())];
        given.inherited = [("PATH", "own"), ("C", "own")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let variables = build(given, &user());
        let seen: Vec<_> = ["PATH", "F", "R", "C", "HOME", "USER", "SHED_NAME", "SHELL"]
            .map(|name| variables[name].as_str())
            .into();
        assert_eq!(seen, ["/image", "file", "request", "image", "/home/shed", "shed", "demo", "/s"]);
    }

    #[test]
    fn files_are_read_in_order_and_nonsense_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("20-b.conf"), "X=second\n").unwrap();
        let first = "# comment\n; comment\nX=first\n Q = \"two words\"\nS='a\"b'\nH=a#b\n1BAD=x\nno equals\n=x\nD\"=1\n";
        fs::write(dir.path().join("10-a.conf"), first).unwrap();
        fs::write(dir.path().join("30-c.txt"), "X=third\n").unwrap();
        fs::create_dir(dir.path().join("40-d.conf")).unwrap();
        let found = read_directory(dir.path());
        let expected = [("X", "first"), ("Q", "two words"), ("S", "a\"b"), ("H", "a#b"), ("X", "second")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(read_directory(Path::new("/does/not/exist")).is_empty());
    }
}
