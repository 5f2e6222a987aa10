//! Takes an image out of the images directory.
//!
//! The server calls it when a user deletes an image and when it prunes. Whether an image may go is for the caller to
//! decide; here it goes, unless somebody is just replacing it. The `.lock` stays, see [`file_name::lock`].
//!
//! [`file_name::lock`]: crate::file_name::lock

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::ImageName;

use crate::ImageStore;

/// Says why an image was not removed, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RemoveImageError {
    #[error("there is no image {path}")]
    NotFound { path: Utf8PathBuf },
    #[error("{path} is being replaced or removed by somebody else")]
    Busy { path: Utf8PathBuf },
    #[error("cannot lock {path}")]
    Lock {
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

/// What a file takes, in bytes; a link takes next to nothing, whatever it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnSize {
    /// Its length.
    pub logical_bytes: u64,
    /// Its blocks on the host's disk. A shed that has a hardlink to the file keeps them.
    pub physical_bytes: u64,
}

impl ImageStore {
    /// Removes the image and the note of its origin, or nothing when its lock is held. Where the image is a symbolic
    /// link, the link goes and what it leads to stays.
    ///
    /// A crash may come at any point. The note goes first: without it the image is still whole and can be removed
    /// again, while a note without its image would speak of whatever file gets that name next.
    ///
    /// # Errors
    /// When there is no such image, it is being replaced, or the system refuses.
    pub fn remove(&self, name: &ImageName) -> Result<OwnSize, RemoveImageError> {
        let path = self.rootfs(name);
        // Looked at before the lock is taken, which makes a file that stays for ever.
        let _present = own_size(&path)?;
        let lock = self.try_lock(name);
        let lock = lock.map_err(|source| RemoveImageError::Lock { path: path.clone(), source })?;
        let Some(_lock) = lock else { return Err(RemoveImageError::Busy { path }) };
        let size = own_size(&path)?;
        let note = self.source(name);
        match fs::remove_file(&note) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RemoveImageError::Remove { path: note, source });
            }
            Ok(()) | Err(_) => {}
        }
        let removed = fs::remove_file(&path).and_then(|()| File::open(self.dir())?.sync_all());
        removed.map_err(|source| RemoveImageError::Remove { path, source })?;
        Ok(size)
    }

    /// Says what [`Self::remove`] would do, and changes nothing.
    ///
    /// # Errors
    /// As far as can be seen without trying.
    pub fn check_removal(&self, name: &ImageName) -> Result<OwnSize, RemoveImageError> {
        let path = self.rootfs(name);
        let size = own_size(&path)?;
        match self.is_locked(name) {
            Ok(false) => Ok(size),
            Ok(true) => Err(RemoveImageError::Busy { path }),
            Err(source) => Err(RemoveImageError::Lock { path, source }),
        }
    }
}

/// Returns what an image's file takes, through no link. What is neither a file nor a link is no image.
fn own_size(path: &Utf8Path) -> Result<OwnSize, RemoveImageError> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() || metadata.is_symlink() => {
            Ok(OwnSize { logical_bytes: metadata.len(), physical_bytes: metadata.blocks() * 512 })
        }
        Ok(_) => Err(RemoveImageError::NotFound { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(RemoveImageError::NotFound { path: path.to_owned() })
        }
        Err(source) => Err(RemoveImageError::Remove { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::new(Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap());
        (dir, store)
    }

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    fn files(store: &ImageStore) -> Vec<String> {
        let entries = store.dir().read_dir_utf8().unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_image_and_its_note_go_and_the_lock_and_all_others_stay() {
        let (_guard, store) = store();
        for image in ["a", "b", "a.b"] {
            fs::write(store.rootfs(&name(image)), b"1234").unwrap();
            fs::write(store.source(&name(image)), b"x").unwrap();
        }
        assert_eq!(store.remove(&name("a")).unwrap().logical_bytes, 4);
        assert_eq!(
            files(&store),
            [
                "a-rootfs.ext4.lock",
                "a.b-rootfs.ext4",
                "a.b-rootfs.ext4.source",
                "b-rootfs.ext4",
                "b-rootfs.ext4.source"
            ]
        );
        assert!(matches!(store.remove(&name("a")), Err(RemoveImageError::NotFound { .. })));
    }

    #[test]
    fn an_image_without_a_note_goes_and_one_that_is_not_there_leaves_no_lock() {
        let (_guard, store) = store();
        assert!(matches!(store.remove(&name("none")), Err(RemoveImageError::NotFound { .. })));
        assert!(matches!(store.check_removal(&name("none")), Err(RemoveImageError::NotFound { .. })));
        fs::create_dir(store.rootfs(&name("dir"))).unwrap();
        assert!(matches!(store.remove(&name("dir")), Err(RemoveImageError::NotFound { .. })));
        assert_eq!(files(&store), ["dir-rootfs.ext4"]);
        fs::write(store.rootfs(&name("a")), b"").unwrap();
        store.remove(&name("a")).unwrap();
        assert_eq!(files(&store), ["a-rootfs.ext4.lock", "dir-rootfs.ext4"]);
    }

    #[test]
    fn a_held_lock_keeps_everything() {
        let (_guard, store) = store();
        fs::write(store.rootfs(&name("a")), b"1").unwrap();
        fs::write(store.source(&name("a")), b"x").unwrap();
        let held = store.lock(&name("a")).unwrap();
        let before = files(&store);
        assert!(matches!(store.remove(&name("a")), Err(RemoveImageError::Busy { .. })));
        assert!(matches!(store.check_removal(&name("a")), Err(RemoveImageError::Busy { .. })));
        assert_eq!(files(&store), before);
        drop(held);
        store.remove(&name("a")).unwrap();
    }

    #[test]
    fn a_look_changes_nothing_and_says_what_a_removal_says() {
        let (_guard, store) = store();
        fs::write(store.rootfs(&name("a")), vec![1; 10_000]).unwrap();
        let looked = store.check_removal(&name("a")).unwrap();
        assert_eq!(files(&store), ["a-rootfs.ext4"], "not even a lock is made");
        assert_eq!(looked.logical_bytes, 10_000);
        assert_eq!(store.remove(&name("a")).unwrap(), looked);
    }

    #[test]
    fn of_a_symbolic_link_only_the_link_goes() {
        let (_guard, store) = store();
        let elsewhere = store.dir().join("elsewhere.img");
        fs::write(&elsewhere, vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink(&elsewhere, store.rootfs(&name("a"))).unwrap();
        std::os::unix::fs::symlink("/no/such/file", store.rootfs(&name("dangling"))).unwrap();
        assert!(store.remove(&name("a")).unwrap().logical_bytes < 10_000);
        store.remove(&name("dangling")).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap().len(), 10_000);
        assert_eq!(files(&store), ["a-rootfs.ext4.lock", "dangling-rootfs.ext4.lock", "elsewhere.img"]);
    }

    #[test]
    fn a_removal_that_was_killed_half_way_is_done_again() {
        let (_guard, store) = store();
        // As a kill between the two steps leaves it: the image without its note.
        fs::write(store.rootfs(&name("a")), b"1").unwrap();
        assert_eq!(store.list().unwrap()[0].source, None);
        store.remove(&name("a")).unwrap();
        // As somebody leaves it who removes only the image: a note that speaks of nothing.
        fs::write(store.source(&name("a")), b"x").unwrap();
        assert_eq!(store.list().unwrap(), []);
        assert!(matches!(store.remove(&name("a")), Err(RemoveImageError::NotFound { .. })));
    }

    #[test]
    fn of_two_removals_at_once_exactly_one_succeeds() {
        for _ in 0..50 {
            let (_guard, store) = store();
            fs::write(store.rootfs(&name("a")), b"1").unwrap();
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.remove(&name("a")))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        }
    }
}
