//! The image's variables for login shells.
//!
//! Commands get them from the agent. But the /etc/profile of Debian and others sets PATH anew, and a login that the
//! agent did not start (`su -`, an SSH server of the image) gets none of them. So they stand in a piece of that profile,
//! which is read before those of the image, and is gone when the image has no variables.

use std::{collections::BTreeMap, fs, io, path::Path};

use shed_protocol::ImageConfig;

use crate::whole_file;

/// The piece of the profile, below /etc. Its name comes before those of others, so that they can add to PATH.
const FILE: &str = "profile.d/00-shed-image.sh";

/// Begins the file, and tells it from one that a user has put there.
const HEADER: &str = "# Written by shed-agent at every boot, from the config of this shed's image.\n";

/// What belongs to the user or the shell, whatever an image says.
const NOT_THE_IMAGES: [&str; 8] = ["HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_"];

/// Writes the piece, or removes it.
pub(super) fn write(etc: &Path, image: &ImageConfig) -> io::Result<()> {
    let file = etc.join(FILE);
    let text = text(image);
    // Without a profile nothing reads its pieces, and nothing sets PATH anew either.
    if text.is_empty() || !etc.join("profile").exists() {
        return remove(&file);
    }
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    whole_file::replace(&file, text.as_bytes(), 0o644)
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::read(file) {
        Ok(text) if text.starts_with(HEADER.as_bytes()) => fs::remove_file(file),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the piece; nothing when there is nothing to set.
fn text(image: &ImageConfig) -> String {
    // Of two values of one name the later one counts.
    let variables: BTreeMap<String, String> =
        super::variables(image).filter(|(name, _)| is_for_shells(name)).collect();
    let lines: String = variables.iter().map(|(name, value)| line(name, &quoted(value))).collect();
    if lines.is_empty() { lines } else { format!("{HEADER}{lines}") }
}

fn line(name: &str, value: &str) -> String {
    if name == "PATH" {
        // The profile has just replaced whatever it was.
        format!("export PATH={value}\n")
    } else {
        // What is set already was asked for with the command.
        format!("[ -n \"${{{name}+x}}\" ] || export {name}={value}\n")
    }
}

/// Whether a shell takes it as the name of a variable (POSIX, Base Definitions 3.216).
fn is_for_shells(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !NOT_THE_IMAGES.contains(&name)
}

/// Quotes a value so that a shell takes every character as it is (POSIX sh, 2.2.2).
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn image(env: &[&str]) -> ImageConfig {
        ImageConfig { env: env.iter().map(|entry| (*entry).to_owned()).collect(), ..ImageConfig::default() }
    }

    /// An /etc with a profile that does what Debian's does.
    fn etc() -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        let profile = format!(
            "PATH=/usr/bin:/bin\nexport PATH\nfor i in {0}/profile.d/*.sh; do\n  [ -r \"$i\" ] && . \"$i\"\ndone\nunset i\n",
            etc.path().display()
        );
        fs::write(etc.path().join("profile"), profile).unwrap();
        etc
    }

    fn in_shell(shell: &str, etc: &Path, given: &[(&str, &str)], script: &str) -> String {
        let output = Command::new(shell)
            .args(["-c", &format!(". {}/profile; {script}", etc.display())])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(given.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_piece_stays_what_it_is() {
        let text =
            text(&image(&["PATH=/opt/x/bin:/usr/bin", "B=it's", "A=1", "A=2", "HOME=/x", "1=2", "a-b=c"]));
        assert_eq!(
            text.strip_prefix(HEADER).unwrap(),
            "[ -n \"${A+x}\" ] || export A='2'\n[ -n \"${B+x}\" ] || export B='it'\\''s'\nexport PATH='/opt/x/bin:/usr/bin'\n"
        );
    }

    #[test]
    fn a_login_shell_has_the_images_path_and_what_was_asked_for_stays() {
        let etc = etc();
        write(etc.path(), &image(&["PATH=/opt/x/bin:/usr/bin:/bin", "A=image", "B=image"])).unwrap();
        for shell in ["sh", "bash"] {
            let seen = in_shell(shell, etc.path(), &[("A", "asked"), ("E", "")], "echo $PATH $A $B");
            assert_eq!(seen, "/opt/x/bin:/usr/bin:/bin asked image\n", "{shell}");
        }
    }

    #[test]
    fn whatever_a_value_holds_it_is_data() {
        let etc = etc();
        let mark = etc.path().join("mark");
        let touch = format!("touch {}", mark.display());
        let hostile = [
            format!("$({touch})"),
            format!("`{touch}`"),
            format!("'; {touch}; '"),
            format!("\"; {touch}; \""),
            format!("x\n{touch}\n"),
            format!("\\'; {touch} #"),
            "${HOME}\t*\u{1b}[2J é'".to_owned(),
            "'".repeat(50),
        ];
        for value in &hostile {
            write(
                etc.path(),
                &image(&[&format!("V={value}"), &format!("IFS={value}"), &format!("{value}=x")]),
            )
            .unwrap();
            for shell in ["sh", "bash"] {
                let seen = in_shell(shell, etc.path(), &[], "printf %s \"$V\"");
                assert_eq!(seen, *value, "{shell}");
                assert!(!mark.exists(), "{shell}: {value}");
            }
        }
    }

    #[test]
    fn variables_that_a_shell_keeps_to_itself_do_no_harm() {
        let etc = etc();
        let own = ["UID=5", "EUID=5", "PPID=5", "BASHOPTS=x", "SHELLOPTS=errexit", "BASH_VERSINFO=x", "A=1"];
        write(etc.path(), &image(&own)).unwrap();
        for shell in ["sh", "bash"] {
            assert_eq!(in_shell(shell, etc.path(), &[], "echo $A; false; echo on"), "1\non\n", "{shell}");
        }
    }

    #[test]
    fn it_goes_with_the_variables_and_leaves_what_is_the_users() {
        let etc = etc();
        let file = etc.path().join(FILE);
        write(etc.path(), &image(&["A=1"])).unwrap();
        assert!(file.exists());
        write(etc.path(), &image(&[])).unwrap();
        assert!(!file.exists());
        write(etc.path(), &image(&[])).unwrap();
        fs::write(&file, "mine\n").unwrap();
        write(etc.path(), &image(&["HOME=/x"])).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine\n");
        fs::remove_file(&file).unwrap();
        fs::remove_file(etc.path().join("profile")).unwrap();
        write(etc.path(), &image(&["A=1"])).unwrap();
        assert!(!file.exists(), "nothing reads it there");
    }
}
