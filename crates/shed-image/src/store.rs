//! The images directory: which file is what, and what is in it (spec I.2, I.3).
//!
//! The server asks it for images, kernel, initramfs and upper disks; the guest builder asks it where to put them. File
//! names exist in this file only. It fetches and converts nothing.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    time::SystemTime,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;
use shed_types::{DiskGb, ImageName};

use crate::disk::{BuildDiskError, Mke2fs, format_upper};

mod sidecars;

pub use sidecars::{Orphan, OrphanFate, RemoveOrphanError, SidecarKind};

/// Longest note of an image's origin that is read, in bytes; a reference has at most some five hundred.
const MAX_SOURCE: u64 = 4096;

/// Names of files in the images directory.
pub mod file_name {
    use shed_types::{DiskGb, ImageName};

    /// The kernel as QEMU boots it on x86-64.
    pub const BZIMAGE: &str = "bzImage";
    /// The kernel as Firecracker boots it on x86-64.
    pub const VMLINUX: &str = "vmlinux";
    /// The kernel for every VMM on arm64.
    pub const ARM64_IMAGE: &str = "Image";
    /// The initramfs with shed-init, shed-agent and the kernel's modules. It belongs to exactly one kernel.
    pub const INITRD: &str = "initrd.img";
    /// Files which only Shed itself uses and may make again at any time.
    pub const CACHE: &str = ".cache";

    pub const ROOTFS_END: &str = "-rootfs.ext4";

    /// The image's file system.
    #[must_use]
    pub fn rootfs(name: &ImageName) -> String {
        format!("{name}{ROOTFS_END}")
    }

    /// A text which says what the image was made from. Written last, so an image with it is whole.
    #[must_use]
    pub fn source(name: &ImageName) -> String {
        format!("{name}{ROOTFS_END}.source")
    }

    /// Locked by whoever replaces or removes the image. Never deleted: another process may be waiting on its inode.
    #[must_use]
    pub fn lock(name: &ImageName) -> String {
        format!("{name}{ROOTFS_END}.lock")
    }

    /// The empty disk which new sheds copy; the number after `v` changes with the way it is formatted.
    #[must_use]
    pub fn upper_template(size: DiskGb) -> String {
        format!("upper-{}g.v1.ext4", size.get())
    }

    /// Whether this is the name of an empty disk of any version.
    pub(crate) fn is_upper_template(name: &str) -> bool {
        name.starts_with("upper-") && name.ends_with(".ext4")
    }
}

/// Says why the images cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct ListImagesError {
    path: Utf8PathBuf,
    #[source]
    source: io::Error,
}

/// Says why there is no upper disk to copy.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("cannot prepare {path}")]
    Prepare {
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot format an empty disk of {size}")]
    Format {
        size: DiskGb,
        #[source]
        source: BuildDiskError,
    },
}

/// An image in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub name: ImageName,
    pub path: Utf8PathBuf,
    /// What it was made from, when that is known.
    pub source: Option<String>,
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// What it takes on the host's disk, in bytes.
    pub disk_bytes: u64,
    /// When it was last replaced.
    pub modified: SystemTime,
    /// Which file it is, under whatever names and links.
    pub file: FileId,
}

/// Which file of this host a name leads to. Names of one file, symbolic and hard links among them, have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Finds out which file a path leads to.
    ///
    /// # Errors
    /// When it leads to none, or that cannot be seen.
    pub fn of(path: &Utf8Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Held while an image is replaced or removed; dropping it lets the next one in.
#[derive(Debug)]
#[must_use = "the image is protected only while this value lives"]
pub struct ImageLock {
    _file: File,
}

/// The images directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: Utf8PathBuf,
}

impl ImageStore {
    /// Returns the store in `dir`, which need not exist.
    #[must_use]
    pub fn new(dir: impl Into<Utf8PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Returns the directory.
    #[must_use]
    pub fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Returns where the image's file system is or will be.
    #[must_use]
    pub fn rootfs(&self, name: &ImageName) -> Utf8PathBuf {
        self.dir.join(file_name::rootfs(name))
    }

    /// Returns where the note of the image's origin is or will be.
    #[must_use]
    pub fn source(&self, name: &ImageName) -> Utf8PathBuf {
        self.dir.join(file_name::source(name))
    }

    /// Returns the x86-64 kernel for QEMU.
    #[must_use]
    pub fn bzimage(&self) -> Utf8PathBuf {
        self.dir.join(file_name::BZIMAGE)
    }

    /// Returns the x86-64 kernel for Firecracker.
    #[must_use]
    pub fn vmlinux(&self) -> Utf8PathBuf {
        self.dir.join(file_name::VMLINUX)
    }

    /// Returns the arm64 kernel.
    #[must_use]
    pub fn arm64_image(&self) -> Utf8PathBuf {
        self.dir.join(file_name::ARM64_IMAGE)
    }

    /// Returns the initramfs.
    #[must_use]
    pub fn initrd(&self) -> Utf8PathBuf {
        self.dir.join(file_name::INITRD)
    }

    /// Lists the images by name, hidden ones too. A directory that does not exist holds none.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ImageRecord>, ListImagesError> {
        let failed = |source| ListImagesError { path: self.dir.clone(), source };
        let entries = match self.dir.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut images = Vec::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                // A name that is no UTF-8 cannot be an image's.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => return Err(failed(error)),
            };
            let Some(name) = entry.file_name().strip_suffix(file_name::ROOTFS_END) else { continue };
            let Ok(name) = name.parse::<ImageName>() else { continue };
            // Through links: an image may lie elsewhere. One that vanishes meanwhile is not there.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if !metadata.is_file() {
                continue;
            }
            images.push(ImageRecord {
                path: entry.path().to_owned(),
                source: self.read_source(&name),
                file: FileId::from(&metadata),
                size_bytes: metadata.len(),
                disk_bytes: metadata.blocks() * 512,
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                name,
            });
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Reads what the image was made from. A note that is not there, not readable or not a line of text says nothing.
    #[must_use]
    pub fn read_source(&self, name: &ImageName) -> Option<String> {
        let path = self.source(name);
        // A pipe of that name would be waited on for ever.
        if !path.is_file() {
            return None;
        }
        let mut text = String::new();
        let _read = File::open(path).ok()?.take(MAX_SOURCE).read_to_string(&mut text).ok()?;
        let line = text.trim();
        (!line.is_empty() && !line.chars().any(char::is_control)).then(|| line.to_owned())
    }

    /// Waits until nobody else replaces or removes the image.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn lock(&self, name: &ImageName) -> io::Result<ImageLock> {
        let file = make_lock(&self.dir.join(file_name::lock(name)))?;
        file.lock()?;
        Ok(ImageLock { _file: file })
    }

    /// Takes the image's lock, or returns `None` when it is held.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn try_lock(&self, name: &ImageName) -> io::Result<Option<ImageLock>> {
        let file = make_lock(&self.dir.join(file_name::lock(name)))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(ImageLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Tells whether somebody replaces or removes the image at this moment, without a trace.
    ///
    /// # Errors
    /// When the lock file cannot be read.
    pub fn is_locked(&self, name: &ImageName) -> io::Result<bool> {
        let path = self.dir.join(file_name::lock(name));
        let file = match open_lock(File::options().read(true), &path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Returns where an image is while it is made, beside the image; whoever holds its lock may write there.
    #[must_use]
    pub fn temporary(&self, name: &ImageName) -> Utf8PathBuf {
        self.dir.join(format!("{}.tmp.{}", file_name::rootfs(name), std::process::id()))
    }

    /// Puts a finished file in the place of the image and notes what it was made from. A crash may come at any point: the
    /// note goes first and comes last, so that it never speaks of another file.
    ///
    /// # Errors
    /// When the system refuses; the old image may be without its note then.
    pub fn install(
        &self,
        _lock: &ImageLock,
        name: &ImageName,
        new: &Utf8Path,
        source: &str,
    ) -> io::Result<()> {
        let sync = || File::open(&self.dir)?.sync_all();
        let note = self.source(name);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        sync()?;
        File::open(new)?.sync_all()?;
        fs::rename(new, self.rootfs(name))?;
        sync()?;
        let new_note = self.dir.join(format!("{}.tmp.{}", file_name::source(name), std::process::id()));
        let mut file = File::create(&new_note)?;
        file.write_all(format!("{source}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new_note, &note)?;
        sync()
    }

    /// Returns the empty disk of `size` that new sheds copy, making it when it is missing. Safe to call at the same time
    /// from several threads and processes.
    ///
    /// # Errors
    /// When it has to be made and mke2fs is missing or fails, or the disk is full.
    pub fn upper_template(&self, size: DiskGb) -> Result<Utf8PathBuf, TemplateError> {
        let cache = self.dir.join(file_name::CACHE);
        let template = cache.join(file_name::upper_template(size));
        // Put in place by rename: when it is there, it is whole.
        if template.is_file() {
            return Ok(template);
        }
        let failed = |source| TemplateError::Prepare { path: template.clone(), source };
        fs::create_dir_all(&cache).map_err(failed)?;
        let lock = make_lock(&template.with_extension("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        if template.is_file() {
            return Ok(template);
        }
        let name = file_name::upper_template(size);
        // Left by a process that was killed here; the lock is ours, so nobody writes to it.
        remove_half_made(&cache, &name).map_err(failed)?;
        let new = template.with_extension("ext4.tmp");
        let format_failed = |source| TemplateError::Format { size, source };
        let mke2fs = Mke2fs::find().map_err(format_failed)?;
        format_upper(&mke2fs, size, &new).map_err(format_failed)?;
        fs::rename(&new, &template).map_err(failed)?;
        File::open(&cache).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(template)
    }
}

impl ImageStore {
    /// Removes what processes that were killed have left of empty disks, unless somebody makes one now.
    ///
    /// # Errors
    /// When something is there and cannot be removed.
    pub fn remove_half_made_templates(&self) -> io::Result<()> {
        let cache = self.dir.join(file_name::CACHE);
        let entries = match cache.read_dir_utf8() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Some((template, _)) = entry.file_name().trim_start_matches('.').split_once(".tmp") else {
                continue;
            };
            if !file_name::is_upper_template(template) {
                continue;
            }
            let lock = make_lock(&cache.join(template).with_extension("lock"))?;
            match lock.try_lock() {
                Ok(()) => remove_half_made(&cache, template)?,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Removes what was left of making `template`. Whoever calls this holds its lock.
fn remove_half_made(cache: &Utf8Path, template: &str) -> io::Result<()> {
    for entry in cache.read_dir_utf8()? {
        let entry = entry?;
        let name = entry.file_name().trim_start_matches('.');
        if name.strip_prefix(template).is_some_and(|rest| rest.starts_with(".tmp")) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make_lock(path: &Utf8Path) -> io::Result<File> {
    open_lock(File::options().create(true).truncate(false).write(true), path)
}

/// Opens a lock file, without waiting for whatever lies there in its place: a pipe, a link.
fn open_lock(options: &mut OpenOptions, path: &Utf8Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
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

    #[test]
    fn images_are_listed_by_name_with_their_source() {
        let (_guard, store) = store();
        for image in ["devtools", "base", "_base"] {
            fs::write(store.rootfs(&name(image)), b"1234").unwrap();
        }
        fs::write(store.source(&name("base")), b"recipe:base\n").unwrap();
        for other in ["base-rootfs.ext4.tmp", "x.ext4", "a b-rootfs.ext4", "-rootfs.ext4", "bzImage"] {
            fs::write(store.dir().join(other), b"").unwrap();
        }
        fs::create_dir(store.dir().join("dir-rootfs.ext4")).unwrap();

        let images = store.list().unwrap();
        assert!(images[0].name.is_hidden() && !images[1].name.is_hidden());
        let seen: Vec<_> =
            images.iter().map(|i| (i.name.as_str(), i.source.as_deref(), i.size_bytes)).collect();
        assert_eq!(seen, [("_base", None, 4), ("base", Some("recipe:base"), 4), ("devtools", None, 4)]);
    }

    #[test]
    fn an_image_is_replaced_together_with_its_note() {
        let (_guard, store) = store();
        let base = name("base");
        for source in ["ghcr.io/a/b:v1", "ghcr.io/a/b:v2"] {
            let new = store.temporary(&base);
            fs::write(&new, source).unwrap();
            let lock = store.lock(&base).unwrap();
            store.install(&lock, &base, &new, source).unwrap();
            assert_eq!(store.read_source(&base).as_deref(), Some(source));
            assert_eq!(fs::read_to_string(store.rootfs(&base)).unwrap(), source);
        }
        let lock = store.lock(&base).unwrap();
        let missing = store.install(&lock, &base, &store.temporary(&base), "other").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert_eq!(store.read_source(&base), None, "rather no note than one of another file");
        assert_eq!(fs::read_to_string(store.rootfs(&base)).unwrap(), "ghcr.io/a/b:v2");
    }

    #[test]
    fn a_note_that_is_no_line_of_text_says_nothing() {
        let (_guard, store) = store();
        let base = name("base");
        assert_eq!(store.read_source(&base), None);
        for (content, read) in [
            (&b"ghcr.io/a/b:v1\n"[..], Some("ghcr.io/a/b:v1")),
            (b"  x  ", Some("x")),
            (b"", None),
            (b"\n", None),
            (b"a\nb", None),
            (b"\x1b[31m", None),
            (b"\xff", None),
        ] {
            fs::write(store.source(&base), content).unwrap();
            assert_eq!(store.read_source(&base).as_deref(), read, "{content:?}");
        }
        fs::remove_file(store.source(&base)).unwrap();
        fs::create_dir(store.source(&base)).unwrap();
        assert_eq!(store.read_source(&base), None);
    }

    #[test]
    fn names_of_one_file_have_one_id() {
        let (_guard, store) = store();
        let (a, b, c) = (store.rootfs(&name("a")), store.rootfs(&name("b")), store.rootfs(&name("c")));
        fs::write(&a, b"").unwrap();
        fs::hard_link(&a, &b).unwrap();
        std::os::unix::fs::symlink(&b, &c).unwrap();
        fs::write(store.rootfs(&name("d")), b"").unwrap();
        let ids: Vec<_> = store.list().unwrap().into_iter().map(|image| image.file).collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
        assert_eq!(FileId::of(&c).unwrap(), ids[0]);
    }

    #[test]
    fn a_directory_that_does_not_exist_is_empty() {
        let (_guard, store) = store();
        assert_eq!(ImageStore::new(store.dir().join("none")).list().unwrap(), []);
    }

    #[test]
    fn nobody_waits_for_what_lies_in_the_place_of_a_lock() {
        let (_guard, store) = store();
        let lock = |image: &str| store.dir().join(file_name::lock(&name(image)));
        shed_testkit::make_pipe(lock("pipe"));
        let _listener = std::os::unix::net::UnixListener::bind(lock("socket")).unwrap();
        for image in ["pipe", "socket"] {
            assert!(store.is_locked(&name(image)).is_err(), "{image}");
            assert!(store.try_lock(&name(image)).is_err(), "{image}");
        }
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let (_guard, store) = store();
        let held = store.lock(&name("base")).unwrap();
        assert!(store.try_lock(&name("base")).unwrap().is_none());
        assert!(store.is_locked(&name("base")).unwrap());
        assert!(!store.is_locked(&name("third")).unwrap());
        assert!(store.try_lock(&name("other")).unwrap().is_some());
        drop(held);
        assert!(!store.is_locked(&name("base")).unwrap());
        assert!(store.try_lock(&name("base")).unwrap().is_some());
    }

    #[test]
    fn what_a_killed_process_left_of_a_template_goes_unless_somebody_makes_one() {
        let (_guard, store) = store();
        store.remove_half_made_templates().unwrap();
        let cache = store.dir().join(".cache");
        fs::create_dir(&cache).unwrap();
        let size = DiskGb::try_from(1).unwrap();
        let name = file_name::upper_template(size);
        let left = [format!("{name}.tmp"), format!(".{name}.tmp.formatting.77"), ".other.tmp".to_owned()];
        let names = || {
            let mut names: Vec<_> =
                cache.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
            names.retain(|name| !name.ends_with(".lock"));
            names.sort();
            names
        };
        for name in &left {
            fs::write(cache.join(name), "").unwrap();
        }
        let busy = make_lock(&cache.join(&name).with_extension("lock")).unwrap();
        busy.lock().unwrap();
        store.remove_half_made_templates().unwrap();
        assert_eq!(names().len(), 3);
        drop(busy);
        store.remove_half_made_templates().unwrap();
        assert_eq!(names(), [".other.tmp"]);
        fs::write(cache.join(&left[1]), "").unwrap();
        store.upper_template(size).unwrap();
        assert_eq!(names(), [".other.tmp", &*name]);
    }

    #[test]
    fn a_template_is_made_once_even_when_many_ask() {
        let (_guard, store) = store();
        let size = DiskGb::try_from(20).unwrap();
        let paths: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| store.upper_template(size).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(paths.windows(2).all(|pair| pair[0] == pair[1]));
        let metadata = fs::metadata(&paths[0]).unwrap();
        assert_eq!(metadata.len(), 20 << 30);
        assert!(metadata.blocks() * 512 < 10_000_000, "{} blocks", metadata.blocks());
        let again = store.upper_template(size).unwrap();
        assert_eq!(fs::metadata(&again).unwrap().ino(), metadata.ino());
        let rest: Vec<_> =
            fs::read_dir(store.dir().join(".cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(rest.len(), 2, "template and lock only: {rest:?}");
    }
}
