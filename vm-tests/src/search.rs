//! Looks for texts that must not be in a place: in a guest's disks and its file systems in memory, and among the files that
//! our programs write on the host.
//!
//! Patterns go to `grep` by its standard input, so that the search itself writes none of them anywhere.

use std::{
    fs,
    io::ErrorKind,
    process::{Command, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};

use crate::{BOOT, Cli, Stage, run};

/// Longer than a disk of some gigabytes takes on a busy host.
const LONG: std::time::Duration = std::time::Duration::from_secs(300);

/// Lists the mount points of file systems that keep their files in memory; prints the files on them that have a pattern.
/// grep's 1 means that nothing was found, its 2 that a file went away meanwhile.
const IN_MEMORY: &str = r#"
patterns=$(cat)
cut -d ' ' -f 2,3 /proc/mounts | while read -r place kind; do
  case $kind in tmpfs|ramfs|devtmpfs|rootfs|hugetlbfs|mqueue) ;; *) continue ;; esac
  printf '%s\n' "$patterns" | LC_ALL=C grep -rslazF -D skip -f - -- "$place"
done
true
"#;

/// Looks through all that a guest keeps: its disks, byte by byte and with what was deleted from them, and its file systems
/// in memory. Returns the places that have one of the texts.
///
/// # Panics
/// When a tool cannot look.
#[track_caller]
#[must_use]
pub fn found_in_guest(stage: &Stage, cli: &Cli, shed: &str, texts: &[String]) -> Vec<String> {
    cli.sh(shed, "sync");
    let mut found = Vec::new();
    let dir = stage.instance_dir().join(shed);
    let disks = dir.read_dir_utf8().expect("the shed's directory").flatten();
    let disks: Vec<Utf8PathBuf> =
        disks.map(|entry| entry.path().to_owned()).filter(|path| path.extension() == Some("ext4")).collect();
    assert!(!disks.is_empty(), "{shed} has no disk in {dir}");
    found.extend(disks.into_iter().filter(|disk| has(disk, texts)).map(Utf8PathBuf::into_string));
    let words = ["exec", "-u", "root", shed, "--", "sh", "-c", IN_MEMORY];
    let seen = run(&mut cli.command(&words), texts.join("\n").as_bytes(), BOOT).ok();
    found.extend(seen.out().lines().map(str::to_owned));
    found
}

/// Looks through all regular files below a directory but those that `ignored` names, and returns the ones that have one of
/// the texts.
///
/// # Panics
/// When a tool cannot look.
#[track_caller]
#[must_use]
pub fn found_below(dir: &Utf8Path, ignored: &[Utf8PathBuf], texts: &[String]) -> Vec<Utf8PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        if ignored.contains(&path) {
            continue;
        }
        // Programs that run make and remove files meanwhile.
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => panic!("cannot look at {path}: {error}"),
        };
        if kind.is_dir() {
            open.extend(
                path.read_dir_utf8().into_iter().flatten().flatten().map(camino::Utf8DirEntry::into_path),
            );
        } else if kind.is_file() && has(&path, texts) {
            found.push(path);
        }
    }
    found
}

/// Whether a file has one of the texts. Zeros end lines here, so that holes of disks are skipped instead of read.
#[track_caller]
fn has(file: &Utf8Path, texts: &[String]) -> bool {
    assert!(!texts.is_empty(), "there is nothing to look for");
    let mut grep = Command::new("grep");
    grep.args(["-q", "-azF", "-f", "-", "--", file.as_str()]).env("LC_ALL", "C").stdout(Stdio::null());
    let done = run(&mut grep, texts.join("\n").as_bytes(), LONG);
    match done.code {
        0 => true,
        1 => false,
        _ if !file.exists() => false,
        code => panic!("grep cannot look into {file}: {code} {}", done.err()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_is_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        let disk = dir.join("sub/disk");
        let file = fs::File::create(&disk).unwrap();
        file.set_len(1 << 32).unwrap();
        let texts = ["planted/text+1".to_owned(), "another-one".to_owned()];
        assert!(found_below(dir, &[], &texts).is_empty());
        std::os::unix::fs::FileExt::write_all_at(&file, b"\xff\x00a planted/text+1 b\n", 3 << 30).unwrap();
        assert_eq!(found_below(dir, &[], &texts), std::slice::from_ref(&disk));
        assert!(found_below(dir, &[disk], &texts).is_empty());
    }
}
