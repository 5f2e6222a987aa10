//! What images, sheds and left-over files take on the host's disk: `GET /api/system/df`.
//!
//! It only looks. Sheds are those whose records are on disk, so that one this server does not run counts as well;
//! nothing is written, locked or waited for. Whatever cannot be looked at becomes a note: a report that lacks something
//! and says so is worth more than none. Files that vanish meanwhile are left out.

use std::{collections::BTreeMap, io, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use shed_image::{BlobStore, FileId, ImageStore, Orphan, SidecarKind, reference_in_source};
use shed_state::{Entry, RecordStatus, ShedRecord};
use shed_types::{ImageName, ShedName, error_chain};

use crate::{
    ShedStatus, Sheds, Space,
    context::{Context, blocking},
    space::{FoundFile, files_in},
};

/// Stands in every report.
const OVERCOUNT: &str = "physical bytes may overcount: blocks that files share count once for each file, as with the hardlink \
                         of every shed to its image (image.ext4), and with clones";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRole {
    /// A shed's own disk.
    Rootfs,
    /// What a guest wrote to its console.
    ConsoleLog,
    /// A shed's record.
    Metadata,
    /// Anything else of a shed: the link to its image, the log of its VMM.
    Other,
    /// The kernel that guests boot.
    Kernel,
    /// The initramfs of guests.
    Initrd,
    /// What images were pulled, imported or built as.
    Blobs,
    /// Something beside an image that is not there.
    Orphan(SidecarKind),
}

/// A file and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUsage {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// What it takes.
    pub space: Space,
    /// What it is for.
    pub role: FileRole,
}

/// An image and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// Its name.
    pub name: ImageName,
    /// Where it is.
    pub path: Utf8PathBuf,
    /// What it was made from, when that is in a registry.
    pub reference: Option<String>,
    /// What it takes; of a symbolic link, the link alone.
    pub space: Space,
}

/// A shed and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShedUsage {
    /// Its name.
    pub name: ShedName,
    /// How it is; of one that this server does not run, what its record says.
    pub status: ShedStatus,
    /// The image it was made from: its name, or the path of its file.
    pub image: Option<String>,
    /// Its own disk; one that is missing takes nothing.
    pub rootfs: FileUsage,
    /// What its guest wrote to the console, where the backend keeps that.
    pub console_log: Option<FileUsage>,
    /// Its other files, by path.
    pub other_files: Vec<FileUsage>,
}

impl ShedUsage {
    /// Returns what all its files take.
    #[must_use]
    pub fn total(&self) -> Space {
        let named = [Some(&self.rootfs), self.console_log.as_ref()].into_iter().flatten();
        named.chain(&self.other_files).map(|file| file.space).sum()
    }
}

/// What everything takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Images by name, hidden ones too.
    pub images: Vec<ImageUsage>,
    /// The kernel, when it is there.
    pub kernel: Option<FileUsage>,
    /// The initramfs, when it is there.
    pub initrd: Option<FileUsage>,
    /// Kernels and initramfs in the images directory that this server's machines do not boot, by path.
    pub other_guest_files: Vec<FileUsage>,
    /// What images were pulled, imported or built as, all together; nothing when there is none.
    pub blobs: Option<FileUsage>,
    /// Sheds by name.
    pub sheds: Vec<ShedUsage>,
    /// Sidecars without an image, by path.
    pub orphans: Vec<FileUsage>,
    /// What a reader should know; at least one.
    pub notes: Vec<String>,
}

impl Usage {
    /// Returns what images, their blobs, kernels and initramfs take.
    #[must_use]
    pub fn images_total(&self) -> Space {
        let files = [&self.kernel, &self.initrd, &self.blobs].into_iter().flatten();
        let files = files.chain(&self.other_guest_files).map(|file| file.space);
        self.images.iter().map(|image| image.space).chain(files).sum()
    }

    /// Returns what sheds take.
    #[must_use]
    pub fn sheds_total(&self) -> Space {
        self.sheds.iter().map(ShedUsage::total).sum()
    }

    /// Returns what orphans take.
    #[must_use]
    pub fn orphans_total(&self) -> Space {
        self.orphans.iter().map(|orphan| orphan.space).sum()
    }
}

impl Sheds {
    /// Looks at what everything takes.
    ///
    /// # Cancel safety
    /// Nothing is changed, so nothing is left half done.
    pub async fn usage(&self) -> Usage {
        let statuses = self.list().into_iter().map(|view| (view.name, view.status)).collect();
        let context = Arc::clone(self.context());
        blocking(move || Survey { context: &context, notes: vec![OVERCOUNT.to_owned()] }.usage(&statuses))
            .await
    }
}

/// A look at everything, and what could not be seen.
struct Survey<'a> {
    context: &'a Context,
    notes: Vec<String>,
}

impl Survey<'_> {
    fn usage(mut self, statuses: &BTreeMap<ShedName, ShedStatus>) -> Usage {
        let settings = &self.context.settings;
        let store = ImageStore::new(settings.images_dir.clone());
        let images = self.images(&store);
        let kernel = self.guest_file(&settings.kernel, FileRole::Kernel);
        let initrd = self.guest_file(&settings.initrd, FileRole::Initrd);
        let other_guest_files = self.other_guest_files(&store);
        let blobs = self.blobs(&store);
        let sheds = self.sheds(statuses);
        let orphans = match store.orphans() {
            Ok(orphans) => orphans.iter().map(orphan_usage).collect(),
            // The list of images failed for the same reason, and the note is there.
            Err(_) => Vec::new(),
        };
        // The order of a directory is not one for readers.
        self.notes[1..].sort();
        Usage { images, kernel, initrd, other_guest_files, blobs, sheds, orphans, notes: self.notes }
    }

    fn images(&mut self, store: &ImageStore) -> Vec<ImageUsage> {
        let records = match store.list() {
            Ok(records) => records,
            Err(error) => {
                self.notes.push(format!("images and orphans are not counted: {}", error_chain(&error)));
                return Vec::new();
            }
        };
        let mut images = Vec::new();
        for record in records {
            // The list follows links, because an image may lie elsewhere; what lies there is not in this directory.
            match record.path.symlink_metadata() {
                Ok(metadata) => images.push(ImageUsage {
                    space: Space::of(&metadata),
                    name: record.name,
                    path: record.path,
                    reference: record
                        .source
                        .as_deref()
                        .and_then(reference_in_source)
                        .map(|found| found.to_string()),
                }),
                Err(error) => self.unseen(&record.path, &error),
            }
        }
        images
    }

    /// Looks at a file that the configuration names; links are followed, since it may lie anywhere.
    fn guest_file(&mut self, path: &Utf8Path, role: FileRole) -> Option<FileUsage> {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => {
                Some(FileUsage { path: path.to_owned(), space: Space::of(&metadata), role })
            }
            Ok(_other) => None,
            Err(error) => {
                self.unseen(path, &error);
                None
            }
        }
    }

    /// Looks at the guest files of other VMMs, and at those that the configuration does not name.
    fn other_guest_files(&mut self, store: &ImageStore) -> Vec<FileUsage> {
        let settings = &self.context.settings;
        let booted: Vec<_> = [&settings.kernel, &settings.initrd]
            .into_iter()
            .filter_map(|path| FileId::of(path).ok())
            .collect();
        let mut files = [
            (store.arm64_image(), FileRole::Kernel),
            (store.bzimage(), FileRole::Kernel),
            (store.initrd(), FileRole::Initrd),
            (store.vmlinux(), FileRole::Kernel),
        ]
        .to_vec();
        files.retain(|(path, _)| FileId::of(path).is_ok_and(|file| !booted.contains(&file)));
        files.into_iter().filter_map(|(path, role)| self.guest_file(&path, role)).collect()
    }

    /// Adds up the store of blobs.
    fn blobs(&mut self, store: &ImageStore) -> Option<FileUsage> {
        let dir = BlobStore::of(store).dir().to_owned();
        let mut directories = vec![dir.join("partial")];
        match directories_in(&dir.join("blobs")) {
            Ok(found) => directories.extend(found),
            Err(error) => self.unseen(&dir, &error),
        }
        let mut files = Vec::new();
        for directory in directories {
            match files_in(&directory) {
                Ok(found) => files.extend(found),
                Err(error) => self.unseen(&directory, &error),
            }
        }
        let space = files.iter().map(|file| file.space).sum();
        (!files.is_empty()).then_some(FileUsage { path: dir, space, role: FileRole::Blobs })
    }

    fn sheds(&mut self, statuses: &BTreeMap<ShedName, ShedStatus>) -> Vec<ShedUsage> {
        let entries = match self.context.instances.scan() {
            Ok(entries) => entries,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.notes.push(format!("sheds are not counted: {}", error_chain(&error)));
                Vec::new()
            }
        };
        let mut sheds = Vec::new();
        for entry in entries {
            match entry {
                Entry::Shed(record) => sheds.extend(self.shed(*record, statuses)),
                // The beginning of a create or the end of a delete.
                Entry::Husk(_) => {}
                Entry::Unreadable(shed, error) => {
                    self.notes.push(format!("shed `{shed}` is not counted: {}", error_chain(&error)));
                }
            }
        }
        sheds.sort_by(|a, b| a.name.cmp(&b.name));
        sheds
    }

    fn shed(&mut self, record: ShedRecord, statuses: &BTreeMap<ShedName, ShedStatus>) -> Option<ShedUsage> {
        let files = self.context.files(&record.name);
        let found = match files_in(&files.directory) {
            Ok(found) => found,
            Err(error) => {
                self.unseen(&files.directory, &error);
                return None;
            }
        };
        let metadata = self.context.instances.record_path(&record.name);
        let keeps_console = self.context.backend.capabilities().console_log;
        let mut rootfs =
            FileUsage { path: files.rootfs.clone(), space: Space::default(), role: FileRole::Rootfs };
        let (mut console_log, mut other_files) = (None, Vec::new());
        for FoundFile { path, space, .. } in found {
            if path == files.rootfs {
                rootfs.space = space;
            } else if keeps_console && path == files.console_log {
                console_log = Some(FileUsage { path, space, role: FileRole::ConsoleLog });
            } else {
                let role = if path == metadata { FileRole::Metadata } else { FileRole::Other };
                other_files.push(FileUsage { path, space, role });
            }
        }
        let status = statuses.get(&record.name).copied().unwrap_or_else(|| recorded(record.status));
        let image = record.image.map(|image| image.to_string());
        let image = image.or_else(|| record.image_path.map(Utf8PathBuf::into_string));
        Some(ShedUsage { name: record.name, status, image, rootfs, console_log, other_files })
    }

    fn unseen(&mut self, path: &Utf8Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.notes.push(format!("{path} is not counted: {error}"));
        }
    }
}

/// Returns the directories in a directory.
fn directories_in(directory: &Utf8Path) -> io::Result<Vec<Utf8PathBuf>> {
    let mut directories = Vec::new();
    for entry in directory.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.into_path());
        }
    }
    Ok(directories)
}

fn orphan_usage(orphan: &Orphan) -> FileUsage {
    FileUsage {
        path: orphan.path.clone(),
        space: Space { logical_bytes: orphan.size_bytes, physical_bytes: orphan.disk_bytes },
        role: FileRole::Orphan(orphan.kind),
    }
}

/// Returns the status that a record tells of.
const fn recorded(status: RecordStatus) -> ShedStatus {
    match status {
        RecordStatus::Creating | RecordStatus::Starting => ShedStatus::Starting,
        RecordStatus::Running => ShedStatus::Running,
        RecordStatus::Stopping | RecordStatus::Deleting => ShedStatus::Stopping,
        RecordStatus::Stopped => ShedStatus::Stopped,
    }
}
