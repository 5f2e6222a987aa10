//! The server's `env_file`: environment for clones and hooks (spec K.1). It is read anew for each create, start and stop,
//! so that an edit needs no restart; its values are secrets and appear in no message.

use std::{
    fs::File,
    io::{self, Read},
};

use camino::{Utf8Path, Utf8PathBuf};

use crate::context::blocking;

/// Longest file in bytes. It travels as JSON, in which a byte may take six, in one frame of at most 1 MiB.
const MAX_FILE: u64 = 128 << 10;

/// Longest line in bytes: Linux takes no string of 128 KiB or more (execve(2)).
const MAX_LINE: usize = 120 << 10;

/// Most bad lines that are named.
const MAX_NAMED: usize = 10;

/// What a file came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct EnvFile {
    /// Each `NAME=value`, every name once.
    pub env: Vec<String>,
    /// What is wrong with it, without any of its values.
    pub warnings: Vec<String>,
}

/// Reads the file, if one is configured.
pub(crate) async fn read(path: Option<&Utf8PathBuf>) -> EnvFile {
    let Some(path) = path.cloned() else { return EnvFile::default() };
    blocking(move || match read_text(&path) {
        Ok(text) => parse(&path, &text),
        Err(error) => EnvFile {
            env: Vec::new(),
            warnings: vec![format!(
                "the server's env_file {path} cannot be used, so clone and hooks go without it: {error}"
            )],
        },
    })
    .await
}

fn read_text(path: &Utf8Path) -> io::Result<String> {
    // A FIFO would keep whoever opens it.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is longer than {MAX_FILE} bytes")));
    }
    // The error of this conversion would quote nothing, but has the bytes in it.
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Reads lines of `NAME=value`. Blank lines and those that begin with `#` are passed over; a pair of quotes around the
/// value goes; the last of several lines of a name counts.
fn parse(path: &Utf8Path, text: &str) -> EnvFile {
    let mut env: Vec<(&str, &str)> = Vec::new();
    let mut bad = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match pair(line) {
            Some((name, value)) => {
                env.retain(|&(earlier, _)| earlier != name);
                env.push((name, value));
            }
            None => bad.push(index + 1),
        }
    }
    let warnings = (!bad.is_empty()).then(|| {
        let named: Vec<String> = bad.iter().take(MAX_NAMED).map(usize::to_string).collect();
        let more = if bad.len() > MAX_NAMED { " and more" } else { "" };
        let lines = if bad.len() == 1 { "line" } else { "lines" };
        format!(
            "the server's env_file {path}: {lines} {}{more} left out, not of the form NAME=value",
            named.join(", ")
        )
    });
    EnvFile {
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        warnings: warnings.into_iter().collect(),
    }
}

fn pair(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value);
    (is_name && !unquoted.contains('\0') && line.len() <= MAX_LINE).then_some((name, unquoted))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> EnvFile {
        parse("/etc/env".into(), text)
    }

    #[test]
    fn lines_are_read_as_the_specification_has_them() {
        let file = parsed(
            "# a comment\n\nA=1\r\n  B = two words \nC=\"quoted # text\"\nD='x'\nE=\nF=a=b\nG=\"half\nA=2\n_h1=\"\"\n",
        );
        assert_eq!(
            file.env,
            ["B=two words", "C=quoted # text", "D=x", "E=", "F=a=b", "G=\"half", "A=2", "_h1="]
        );
        assert_eq!(file.warnings, Vec::<String>::new());
    }

    #[test]
    fn bad_lines_are_named_by_number_and_never_quoted() {
        let file = parsed("A=1\nsecret\n=secret\n1X=secret\nX-Y=secret\nexport Z=secret\nN=se\0cret\n");
        assert_eq!(file.env, ["A=1"]);
        let [warning] = &file.warnings[..] else { panic!("{file:?}") };
        assert!(warning.contains("/etc/env: lines 2, 3, 4, 5, 6, 7 left out"), "{warning}");
        assert!(!warning.contains("secret"), "{warning}");
        let many = parsed(&"x\n".repeat(1000));
        assert!(many.warnings[0].contains("9, 10 and more left out"), "{many:?}");
        assert!(parsed(&format!("A={}", "x".repeat(MAX_LINE))).env.is_empty());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_a_warning() {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
        assert_eq!(read(None).await, EnvFile::default());
        std::fs::write(dir.join("long"), vec![b'#'; 300 << 10]).unwrap();
        std::fs::write(dir.join("bytes"), b"A=\xff\n").unwrap();
        for (name, reason) in [
            ("missing", "No such file"),
            (".", "no regular file"),
            ("long", "longer than"),
            ("bytes", "not UTF-8"),
        ] {
            let file = read(Some(&dir.join(name))).await;
            assert_eq!(file.env, Vec::<String>::new());
            assert!(file.warnings[0].contains(reason), "{name}: {file:?}");
        }
        std::fs::write(dir.join("good"), "A=1\n").unwrap();
        assert_eq!(read(Some(&dir.join("good"))).await.env, ["A=1"]);
    }

    proptest! {
        #[test]
        fn what_is_read_is_an_environment(text in "([A-Z=\"'# \n\u{0}]|\\PC){0,80}") {
            for entry in parsed(&text).env {
                let (name, _) = entry.split_once('=').unwrap();
                prop_assert!(!name.is_empty() && !entry.contains('\0'));
            }
        }
    }
}
