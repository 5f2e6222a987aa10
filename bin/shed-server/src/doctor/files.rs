//! Files and directories: kernel and initramfs, where sheds, images and sockets are, and how much space is left for them.

use std::{io, os::unix::fs::MetadataExt};

use camino::Utf8Path;
use rustix::fs::{Access, access, statvfs};
use shed_types::{BackendKind, Finding};

use crate::{config::CommonSection, report::Report};

/// Free space below which a warning is given, in GiB: an image that is pulled takes twice its size for a while, and the
/// larger ones have about four.
const LOW_SPACE: u64 = 10;

const GIB: u64 = 1 << 30;

/// Looks at a file that every guest boots with.
pub(super) fn guest_file(item: &'static str, path: &Utf8Path, kind: BackendKind) -> Finding {
    if path.is_file() {
        return Finding::pass(item, path.as_str());
    }
    let remedy =
        format!("build it with `./x build`, or say where it is with {kind}.images_dir in server.yaml");
    Finding::fail(item, format!("{path} is missing")).remedy(remedy)
}

/// Looks at the directories that the server writes to.
pub(super) fn check_directories(section: &CommonSection, report: &mut Report) {
    for (item, path) in [
        ("images", &section.images_dir),
        ("instances", &section.instance_dir),
        ("sockets", &section.socket_dir),
    ] {
        report.add(match writable(path) {
            Ok(Place::There) => Finding::pass(item, path.as_str()),
            Ok(Place::WillBeMade) => Finding::pass(item, format!("{path} (will be made)")),
            Err(problem) => Finding::fail(item, problem)
                .remedy("let the server's user own it, or choose another in server.yaml"),
        });
    }
    report.add(one_file_system(&section.images_dir, &section.instance_dir));
    report.add(free_space(&section.instance_dir));
}

/// A directory that can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    There,
    WillBeMade,
}

/// Looks whether a directory can be written to, or made.
///
/// # Errors
/// When it cannot; what is in the way.
pub(super) fn writable(path: &Utf8Path) -> Result<Place, String> {
    let there = nearest(path);
    if !there.is_dir() {
        return Err(format!("{there} is no directory"));
    }
    match access(there.as_std_path(), Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if there == path => Ok(Place::There),
        Ok(()) => Ok(Place::WillBeMade),
        Err(error) => Err(format!("{there} cannot be written to: {error}")),
    }
}

/// Returns the path, or what is there of those above it.
fn nearest(path: &Utf8Path) -> &Utf8Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Utf8Path::new("/"))
}

/// A shed has a hard link to its image, and its disk is cloned from one beside it.
fn one_file_system(images: &Utf8Path, instances: &Utf8Path) -> Finding {
    const ITEM: &str = "file system";
    let device = |path: &Utf8Path| -> io::Result<u64> { Ok(nearest(path).metadata()?.dev()) };
    match (device(images), device(instances)) {
        (Ok(one), Ok(other)) if one == other => Finding::pass(ITEM, "images and instances are on the same one"),
        (Ok(_), Ok(_)) => Finding::warn(ITEM, format!("{images} and {instances} are on different ones"))
            .remedy("move one of them (images_dir, instance_dir), or each shed has a copy of its image instead of a link to it"),
        (Err(error), _) | (_, Err(error)) => Finding::warn(ITEM, format!("it cannot be looked at: {error}")),
    }
}

fn free_space(instances: &Utf8Path) -> Finding {
    const ITEM: &str = "free space";
    let there = nearest(instances);
    match statvfs(there.as_std_path()) {
        Ok(found) => judge_space(found.f_bavail.saturating_mul(found.f_frsize), instances),
        Err(error) => Finding::warn(ITEM, format!("that of {there} is not known: {error}")),
    }
}

fn judge_space(bytes: u64, instances: &Utf8Path) -> Finding {
    const ITEM: &str = "free space";
    let text = format!("{} GiB for {instances}", bytes / GIB);
    if bytes >= LOW_SPACE * GIB {
        return Finding::pass(ITEM, text);
    }
    Finding::warn(ITEM, format!("{text}, less than {LOW_SPACE}"))
        .remedy("`shed system df` shows what takes it, `shed system prune` frees some")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shed_types::Verdict;

    #[test]
    fn little_space_is_a_warning() {
        assert_eq!(judge_space(10 * GIB, "/i".into()).verdict, Verdict::Pass);
        let low = judge_space(10 * GIB - 1, "/i".into());
        assert_eq!((low.verdict, low.text.as_str()), (Verdict::Warn, "9 GiB for /i, less than 10"));
    }

    #[test]
    fn a_directory_is_there_or_will_be_made_or_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        assert_eq!(writable(dir), Ok(Place::There));
        assert_eq!(writable(&dir.join("a/b")), Ok(Place::WillBeMade));
        std::fs::write(dir.join("file"), "").unwrap();
        assert!(writable(&dir.join("file/b")).unwrap_err().contains("is no directory"));
    }
}
