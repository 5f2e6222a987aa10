//! Files in the images directory that belong to no image: what conversions left that never ended (also beside an image
//! that was to be replaced), notes and locks of images that are gone (spec A.7).
//!
//! `shed-lifecycle` lists them for the report of disk usage and removes them in a prune; how old one must be is decided
//! there. Only regular files with the names of sidecars are looked at, by themselves and not through links. A lock is
//! never removed here, and nothing is removed unless the lock of its image is held.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    time::SystemTime,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ImageName;

use super::{ImageLock, ImageStore, ListImagesError, file_name};

/// What a sidecar is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SidecarKind {
    /// The unfinished file of a conversion, or the unfinished note of one: `.tmp`, or `.tmp.` and the process that makes it.
    Tmp,
    /// The note of what the image was made from.
    Source,
    /// Locked by whoever changes the image.
    Lock,
}

/// A file beside an image that is not there, or an unfinished one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// The image it would belong to.
    pub image: ImageName,
    /// What it is for.
    pub kind: SidecarKind,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// What it takes on the host's disk, in bytes.
    pub disk_bytes: u64,
    /// When it was last written to.
    pub modified: SystemTime,
    /// Device and inode: a file of the same name that was made since is another one.
    identity: (u64, u64),
}

/// What came of the removal of an orphan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanFate {
    /// It is gone, by this call.
    Removed,
    /// It was gone before.
    Vanished,
    /// Somebody holds the lock of its image.
    LockHeld,
    /// Since it was listed its image has come to be, or it was written to or replaced.
    InUse,
    /// It is a lock, which is never removed: a process that waits for it holds its inode, and would go on to work beside
    /// one that holds a new file of the same name.
    IsLock,
}

/// Says why an orphan could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveOrphanError {
    #[error("cannot lock {path}")]
    Lock {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot look at {path}")]
    Look {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove {path}")]
    Remove {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ImageStore {
    /// Lists the sidecars whose image is missing and all unfinished files, by path. A directory that does not exist holds none; files that vanish
    /// meanwhile are left out, as is all that is no regular file.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn orphans(&self) -> Result<Vec<Orphan>, ListImagesError> {
        let failed = |source| ListImagesError { path: self.dir().to_owned(), source };
        let entries = match self.dir().read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut orphans = Vec::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // A name that is no UTF-8 cannot be a sidecar's.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => return Err(failed(error)),
            };
            let Some((image, kind)) = parse(entry.file_name()) else { continue };
            // Anything of that name counts as the image, a link that leads nowhere, too: in doubt nothing is an orphan.
            if kind.belongs_to_its_image() && !is_missing(&self.rootfs(&image)).map_err(failed)? {
                continue;
            }
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            if metadata.is_file() {
                orphans.push(orphan(entry.path(), image, kind, &metadata));
            }
        }
        orphans.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(orphans)
    }

    /// Tells whether somebody holds the lock of an orphan's image. Makes no file: a lock that does not exist is held by
    /// nobody.
    ///
    /// # Errors
    /// When the lock cannot be opened or asked.
    pub fn orphan_is_locked(&self, orphan: &Orphan) -> Result<bool, RemoveOrphanError> {
        let image = &orphan.image;
        match self.try_lock_strictly(image, Create::No) {
            Ok(Locked::Yes(_)) => Ok(false),
            Ok(Locked::Held) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(RemoveOrphanError::Lock { path: self.lock_path(image), source }),
        }
    }

    /// Removes an orphan, if it is one still and is as it was when it was listed.
    ///
    /// Every converter holds the lock of its image from before it makes its first file until after the last. So while it
    /// is held here, no file of this image is being made, and what is there is nobody's. For that the lock file must
    /// exist: where it is missing nobody holds it *now*, but a converter could make and take it between a look and the
    /// removal. It is therefore made, and stays, empty, like the one of any image that ever was: the next prune finds a
    /// lock more, and no converter ever loses its file.
    ///
    /// # Errors
    /// When the lock cannot be taken for another reason than that somebody holds it, or the file cannot be removed.
    pub fn remove_orphan(&self, orphan: &Orphan) -> Result<OrphanFate, RemoveOrphanError> {
        match orphan.kind {
            SidecarKind::Lock => return Ok(OrphanFate::IsLock),
            SidecarKind::Tmp | SidecarKind::Source => {}
        }
        let locked = self.try_lock_strictly(&orphan.image, Create::Yes);
        let locked = locked
            .map_err(|source| RemoveOrphanError::Lock { path: self.lock_path(&orphan.image), source })?;
        let Locked::Yes(_lock) = locked else { return Ok(OrphanFate::LockHeld) };
        let look = |path: &Utf8Path| {
            let path = path.to_owned();
            |source| RemoveOrphanError::Look { path, source }
        };
        let rootfs = self.rootfs(&orphan.image);
        if orphan.kind.belongs_to_its_image() && !is_missing(&rootfs).map_err(look(&rootfs))? {
            return Ok(OrphanFate::InUse);
        }
        match fs::symlink_metadata(&orphan.path) {
            Ok(metadata) if !orphan.is(&metadata) => return Ok(OrphanFate::InUse),
            Ok(_same) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(OrphanFate::Vanished),
            Err(error) => return Err(look(&orphan.path)(error)),
        }
        match fs::remove_file(&orphan.path) {
            Ok(()) => Ok(OrphanFate::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(OrphanFate::Vanished),
            Err(source) => Err(RemoveOrphanError::Remove { path: orphan.path.clone(), source }),
        }
    }

    fn lock_path(&self, image: &ImageName) -> Utf8PathBuf {
        self.dir().join(file_name::lock(image))
    }

    /// Takes a lock without waiting, neither for its holder nor for anything that lies there in its place.
    fn try_lock_strictly(&self, image: &ImageName, create: Create) -> io::Result<Locked> {
        let mut options = File::options();
        options.read(true).write(true).truncate(false).create(create == Create::Yes);
        let file = super::open_lock(&mut options, &self.lock_path(image))?;
        match file.try_lock() {
            Ok(()) => Ok(Locked::Yes(ImageLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(Locked::Held),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl SidecarKind {
    /// Tells whether such a file is no orphan as long as its image is there. An unfinished one never belongs to the image
    /// that is there, but to one that was to take its place.
    const fn belongs_to_its_image(self) -> bool {
        match self {
            Self::Tmp => false,
            Self::Source | Self::Lock => true,
        }
    }
}

/// Whether a lock file that is missing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Create {
    Yes,
    No,
}

/// What came of an attempt to lock.
enum Locked {
    Yes(ImageLock),
    Held,
}

impl Orphan {
    fn is(&self, metadata: &Metadata) -> bool {
        metadata.is_file()
            && (metadata.dev(), metadata.ino()) == self.identity
            && metadata.len() == self.size_bytes
            && metadata.modified().is_ok_and(|modified| modified == self.modified)
    }
}

fn orphan(path: &Utf8Path, image: ImageName, kind: SidecarKind, metadata: &Metadata) -> Orphan {
    Orphan {
        path: path.to_owned(),
        image,
        kind,
        size_bytes: metadata.len(),
        disk_bytes: metadata.blocks() * 512,
        modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        identity: (metadata.dev(), metadata.ino()),
    }
}

fn is_missing(path: &Utf8Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Returns which image a file name is a sidecar of.
fn parse(name: &str) -> Option<(ImageName, SidecarKind)> {
    // The last one: an image's own name may hold the same letters.
    let (image, end) = name.rsplit_once(file_name::ROOTFS_END)?;
    let kind = match end {
        ".tmp" => SidecarKind::Tmp,
        ".source" => SidecarKind::Source,
        ".lock" => SidecarKind::Lock,
        _ => {
            let pid = end.strip_prefix(".source").unwrap_or(end).strip_prefix(".tmp.")?;
            let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            is_pid.then_some(SidecarKind::Tmp)?
        }
    };
    Some((image.parse().ok()?, kind))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::new(Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap());
        (dir, store)
    }

    fn put(store: &ImageStore, names: &[&str]) {
        for name in names {
            fs::write(store.dir().join(name), b"1234").unwrap();
        }
    }

    fn names(store: &ImageStore) -> Vec<String> {
        let mut names: Vec<String> =
            store.dir().read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        names.sort();
        names
    }

    fn the_orphan(store: &ImageStore, name: &str) -> Orphan {
        let path = store.dir().join(name);
        store.orphans().unwrap().into_iter().find(|orphan| orphan.path == path).expect(name)
    }

    #[test]
    fn orphans_are_the_sidecars_without_an_image_and_what_is_unfinished() {
        let (_guard, store) = store();
        put(&store, &["whole-rootfs.ext4", "whole-rootfs.ext4.source", "whole-rootfs.ext4.lock"]);
        put(&store, &["whole-rootfs.ext4.tmp", "bzImage", "notes.tmp", "gone.source", "-rootfs.ext4.tmp"]);
        put(
            &store,
            &["whole-rootfs.ext4.source.tmp.7", "b-rootfs.ext4.source.tmp.4711", "x-rootfs.ext4.source.tmp"],
        );
        put(
            &store,
            &["x-rootfs.ext4.tmp.12a", "x-rootfs.ext4.tmp.", "x-rootfs.ext4.bak", "a b-rootfs.ext4.tmp"],
        );
        put(
            &store,
            &["b-rootfs.ext4.tmp.4711", "b-rootfs.ext4.lock", "a-rootfs.ext4.source", "a-rootfs.ext4.tmp"],
        );
        let found: Vec<_> = store
            .orphans()
            .unwrap()
            .into_iter()
            .map(|orphan| (orphan.path.file_name().unwrap().to_owned(), orphan.kind, orphan.size_bytes))
            .collect();
        let expected = [
            ("a-rootfs.ext4.source", SidecarKind::Source),
            ("a-rootfs.ext4.tmp", SidecarKind::Tmp),
            ("b-rootfs.ext4.lock", SidecarKind::Lock),
            ("b-rootfs.ext4.source.tmp.4711", SidecarKind::Tmp),
            ("b-rootfs.ext4.tmp.4711", SidecarKind::Tmp),
            ("whole-rootfs.ext4.source.tmp.7", SidecarKind::Tmp),
            ("whole-rootfs.ext4.tmp", SidecarKind::Tmp),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind, 4)));
    }

    #[test]
    fn a_directory_that_is_missing_has_no_orphans() {
        let (_guard, store) = store();
        assert_eq!(ImageStore::new(store.dir().join("none")).orphans().unwrap(), []);
    }

    #[test]
    fn links_pipes_and_directories_are_no_orphans_and_a_dangling_link_is_an_image() {
        let (_guard, store) = store();
        put(&store, &["outside", "c-rootfs.ext4.source"]);
        symlink(store.dir().join("outside"), store.dir().join("a-rootfs.ext4.tmp")).unwrap();
        fs::create_dir(store.dir().join("b-rootfs.ext4.tmp")).unwrap();
        symlink("nowhere", store.dir().join("c-rootfs.ext4")).unwrap();
        shed_testkit::make_pipe(store.dir().join("d-rootfs.ext4.tmp"));
        assert_eq!(store.orphans().unwrap(), []);
    }

    #[test]
    fn an_orphan_is_removed_and_its_lock_stays() {
        let (_guard, store) = store();
        put(&store, &["a-rootfs.ext4.tmp", "a-rootfs.ext4.lock", "b-rootfs.ext4.source"]);
        for name in ["a-rootfs.ext4.tmp", "b-rootfs.ext4.source"] {
            let orphan = the_orphan(&store, name);
            assert_eq!(store.remove_orphan(&orphan).unwrap(), OrphanFate::Removed);
            assert_eq!(store.remove_orphan(&orphan).unwrap(), OrphanFate::Vanished);
        }
        assert_eq!(names(&store), ["a-rootfs.ext4.lock", "b-rootfs.ext4.lock"]);
        let lock = the_orphan(&store, "a-rootfs.ext4.lock");
        assert_eq!(store.remove_orphan(&lock).unwrap(), OrphanFate::IsLock);
        assert_eq!(names(&store).len(), 2);
    }

    #[test]
    fn what_is_locked_written_to_or_has_its_image_by_now_stays() {
        let (_guard, store) = store();
        put(&store, &["a-rootfs.ext4.tmp"]);
        let orphan = the_orphan(&store, "a-rootfs.ext4.tmp");
        let held = store.lock(&orphan.image).unwrap();
        assert!(store.orphan_is_locked(&orphan).unwrap());
        assert_eq!(store.remove_orphan(&orphan).unwrap(), OrphanFate::LockHeld);
        drop(held);
        assert!(!store.orphan_is_locked(&orphan).unwrap());

        put(&store, &["b-rootfs.ext4.source"]);
        let note = the_orphan(&store, "b-rootfs.ext4.source");
        put(&store, &["b-rootfs.ext4"]);
        assert_eq!(store.remove_orphan(&note).unwrap(), OrphanFate::InUse);
        fs::write(&orphan.path, b"somebody has begun anew").unwrap();
        assert_eq!(store.remove_orphan(&orphan).unwrap(), OrphanFate::InUse);
        assert!(orphan.path.exists());
    }

    #[test]
    fn a_look_at_a_lock_makes_none_and_a_lock_that_is_a_link_is_not_followed() {
        let (_guard, store) = store();
        put(&store, &["a-rootfs.ext4.tmp", "outside"]);
        let orphan = the_orphan(&store, "a-rootfs.ext4.tmp");
        assert!(!store.orphan_is_locked(&orphan).unwrap());
        assert_eq!(names(&store), ["a-rootfs.ext4.tmp", "outside"]);
        symlink(store.dir().join("outside"), store.lock_path(&orphan.image)).unwrap();
        let error = store.remove_orphan(&orphan).unwrap_err();
        assert!(error.to_string().starts_with("cannot lock "), "{error}");
        assert!(orphan.path.exists());
    }

    proptest! {
        #[test]
        fn a_parsed_name_is_made_of_its_parts(name in "[a-z_.]{0,8}(-rootfs\\.ext4){0,2}(\\.tmp|\\.source|\\.lock){0,2}(\\.[0-9x]{0,5})?") {
            if let Some((image, kind)) = parse(&name) {
                let end = name.strip_prefix(&file_name::rootfs(&image)).expect("it begins with its image");
                let known = match kind {
                    SidecarKind::Tmp => end.starts_with(".tmp") || end.starts_with(".source.tmp."),
                    SidecarKind::Source => end == ".source",
                    SidecarKind::Lock => end == ".lock",
                };
                prop_assert!(known, "{} {:?}", name, kind);
            }
        }
    }
}
