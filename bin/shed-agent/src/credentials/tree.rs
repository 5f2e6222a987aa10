//! Watches the targets of credentials with inotify, and says which of their files were written.
//!
//! A target may come, go and come again, so besides its own directories the nearest directory above it is watched that is
//! there. A single file is watched through its directory alone: editors and tools replace files by renaming. Links are not
//! followed. Everything here blocks for short times and is called on a thread for that.

use std::{
    collections::HashMap,
    ffi::{CStr, OsStr, OsString},
    fs,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use shed_files::{Excludes, Warnings, is_temporary, shown};

/// Directories that are watched of one credential. A user may have 8,192 by default on a small machine (inotify(7)).
const MAX_WATCHES: usize = 4096;

/// How often a target's place is looked at again when it changes while it is looked at.
const ATTEMPTS: usize = 8;

/// Room for events of one read(2): some hundred with short names.
const BUFFER: usize = 32 << 10;

/// Times that one call of [`Tree::read`] reads.
const READS: usize = 64;

/// What is watched.
#[derive(Debug)]
pub(super) struct Spec {
    /// The credential's name.
    pub(super) name: String,
    /// Absolute.
    pub(super) target: PathBuf,
    /// Whether the target is a single file.
    pub(super) file: bool,
    /// What is left out.
    pub(super) excludes: Excludes,
}

/// A file of a credential, by the credential's place in the list, that was written; no name means any of them.
pub(super) type Note = (usize, Option<String>);

/// What a watched directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The nearest directory above a target, where the next part of its path has this name.
    Above { spec: usize, name: OsString },
    /// A directory of a target, relative to it.
    Within { spec: usize, path: PathBuf },
}

impl Role {
    const fn spec(&self) -> usize {
        match self {
            Self::Above { spec, .. } | Self::Within { spec, .. } => *spec,
        }
    }
}

/// The watches.
#[derive(Debug)]
pub(super) struct Tree {
    inotify: OwnedFd,
    specs: Vec<Spec>,
    /// One directory may have several roles, and has one watch.
    roles: HashMap<i32, Vec<Role>>,
    warnings: Warnings,
    notes: Vec<Note>,
}

impl Tree {
    /// Begins to watch. What cannot be watched is a warning.
    pub(super) fn place(specs: Vec<Spec>) -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let count = specs.len();
        let mut tree =
            Self { inotify, specs, roles: HashMap::new(), warnings: Warnings::default(), notes: Vec::new() };
        (0..count).for_each(|spec| tree.arrange(spec));
        Ok(tree)
    }

    /// The credentials that are watched.
    pub(super) fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// A descriptor that can be read when there is something to [`Self::read`].
    pub(super) const fn descriptor(&self) -> &OwnedFd {
        &self.inotify
    }

    /// What could not be watched since this was asked last.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings).into_texts()
    }

    /// Reads events that are there, and returns what was written, and whether there was nothing more to read. However fast
    /// somebody writes, a call ends.
    pub(super) fn read(&mut self) -> (Vec<Note>, bool) {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        for _ in 0..READS {
            let mut events = Vec::new();
            {
                let mut reader = Reader::new(&self.inotify, &mut buffer);
                // One read: what comes meanwhile comes in the next.
                while let Ok(event) = reader.next() {
                    let name = event.file_name().map(CStr::to_owned);
                    events.push((event.wd(), event.events(), name));
                    if reader.is_buffer_empty() {
                        break;
                    }
                }
            }
            if events.is_empty() {
                return (std::mem::take(&mut self.notes), true);
            }
            for (wd, flags, name) in events {
                self.event(wd, flags, name.as_ref().map(|name| OsStr::from_bytes(name.to_bytes())));
            }
        }
        (std::mem::take(&mut self.notes), false)
    }

    /// Notes what was written, unless that was the last thing that was noted.
    fn note(&mut self, note: Note) {
        if self.notes.last() != Some(&note) {
            self.notes.push(note);
        }
    }

    fn event(&mut self, wd: i32, flags: ReadFlags, name: Option<&OsStr>) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            for spec in 0..self.specs.len() {
                self.arrange(spec);
                self.note((spec, None));
            }
            return;
        }
        let gone = flags.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF);
        let roles = if flags.contains(ReadFlags::IGNORED) {
            self.roles.remove(&wd).unwrap_or_default()
        } else {
            self.roles.get(&wd).cloned().unwrap_or_default()
        };
        for role in roles {
            match role {
                Role::Above { spec, .. } if gone => self.arrange(spec),
                Role::Above { spec, name: next } if name == Some(&next) => self.above(spec, flags),
                Role::Above { .. } => {}
                Role::Within { spec, path } => {
                    if let Some(name) = name {
                        self.within(spec, &path.join(name), flags);
                    }
                }
            }
        }
    }

    /// Something happened to the next part of a target's path, or to the single file that it is.
    fn above(&mut self, spec: usize, flags: ReadFlags) {
        let Spec { target, file, .. } = &self.specs[spec];
        let came = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        if *file && !flags.contains(ReadFlags::ISDIR) {
            let name = target.file_name().map(OsStr::to_owned).unwrap_or_default();
            self.written(spec, Path::new(&name), &target.clone(), flags);
        } else if came || flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.arrange(spec);
            if came {
                self.note((spec, None));
            }
        }
    }

    /// Something happened to what has this path in a target.
    fn within(&mut self, spec: usize, path: &Path, flags: ReadFlags) {
        if self.specs[spec].excludes.leave_out(path) {
            return;
        }
        if flags.contains(ReadFlags::ISDIR) {
            if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
                self.forget(|role| matches!(role, Role::Within { spec: of, path: at } if *of == spec && at.starts_with(path)));
            }
            if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                self.watch_below(spec, path, true);
            }
        } else {
            let full = self.specs[spec].target.join(path);
            self.written(spec, path, &full, flags);
        }
    }

    /// Notes a file, if that is what it is and it is whole.
    fn written(&mut self, spec: usize, name: &Path, full: &Path, flags: ReadFlags) {
        let name_bytes = full.file_name().map(OsStr::as_bytes).unwrap_or_default();
        // No tool gives a file such a name, and in a message each such character takes six bytes.
        let is_plain = |name: &&str| !is_temporary(name_bytes) && !name.contains(char::is_control);
        let Some(name) = name.to_str().filter(is_plain) else { return };
        let Ok(meta) = fs::symlink_metadata(full) else { return };
        // Of a file that was made only now the end of the writing is told, too; a new name of an old one is told once.
        let whole = flags.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO)
            || (flags.contains(ReadFlags::CREATE) && meta.nlink() > 1);
        if whole && meta.is_file() {
            self.note((spec, Some(name.to_owned())));
        }
    }

    /// Puts the watches of a credential where its target is now.
    fn arrange(&mut self, spec: usize) {
        for _ in 0..ATTEMPTS {
            self.forget(|role| role.spec() == spec);
            let target = self.specs[spec].target.clone();
            let Some((above, next)) = nearest(&target) else { return };
            if let Err(error) = self.watch(&above, Role::Above { spec, name: next }) {
                self.warn(spec, Path::new(""), &format!("it is not watched: {error}"));
                return;
            }
            // It may have come between the look and the watch.
            if nearest(&target).is_some_and(|(now, _)| now == above) {
                break;
            }
        }
        if !self.specs[spec].file {
            self.watch_below(spec, Path::new(""), false);
        }
    }

    /// Watches a directory of a target and all below it; notes the files there, if they are new.
    fn watch_below(&mut self, spec: usize, path: &Path, new: bool) {
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let target = &self.specs[spec].target;
            // A slash at the end would have the kernel follow a link.
            let full = if path.as_os_str().is_empty() { target.clone() } else { target.join(&path) };
            let watched = self.roles.values().flatten().filter(|role| role.spec() == spec).count();
            if watched > MAX_WATCHES {
                let why = format!("changes in it are not seen: it has more than {MAX_WATCHES} directories");
                return self.warn(spec, &path, &why);
            }
            match self.watch(&full, Role::Within { spec, path: path.clone() }) {
                Ok(()) => {}
                // It has gone again, or was never there.
                Err(Errno::NOENT) => continue,
                Err(Errno::NOTDIR) => {
                    self.warn(spec, &path, "changes in it are not seen: it is a link or a file");
                    continue;
                }
                Err(error) => {
                    self.warn(spec, &path, &format!("changes in it are not seen: {error}"));
                    continue;
                }
            }
            // After the watch: what comes from now on is told, what was there before is listed.
            for entry in fs::read_dir(&full).into_iter().flatten().flatten() {
                let below = path.join(entry.file_name());
                let Ok(kind) = entry.file_type() else { continue };
                if self.specs[spec].excludes.leave_out(&below) {
                    continue;
                }
                if kind.is_dir() {
                    pending.push(below);
                } else if new && kind.is_file() {
                    self.written(spec, &below, &full.join(entry.file_name()), ReadFlags::MOVED_TO);
                }
            }
        }
    }

    fn watch(&mut self, directory: &Path, role: Role) -> Result<(), Errno> {
        let mut flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        if matches!(role, Role::Within { .. }) {
            flags |= WatchFlags::DONT_FOLLOW;
        }
        let wd = inotify::add_watch(&self.inotify, directory, flags)?;
        let roles = self.roles.entry(wd).or_default();
        if !roles.contains(&role) {
            roles.push(role);
        }
        Ok(())
    }

    fn forget(&mut self, is_meant: impl Fn(&Role) -> bool) {
        let inotify = &self.inotify;
        self.roles.retain(|wd, roles| {
            roles.retain(|role| !is_meant(role));
            if roles.is_empty() {
                // The directory may be gone, and its watch with it.
                let _gone = inotify::remove_watch(inotify, *wd);
            }
            !roles.is_empty()
        });
    }

    fn warn(&mut self, spec: usize, path: &Path, what: &str) {
        let place = self.specs[spec].target.join(path);
        self.warnings.add(format!("{}: {what}", shown(place.as_os_str().as_bytes())));
    }
}

/// Returns the nearest directory above that is there, and the name of the next part of the path in it.
fn nearest(target: &Path) -> Option<(PathBuf, OsString)> {
    let mut path = target;
    loop {
        let (above, name) = (path.parent()?, path.file_name()?);
        if above.is_dir() {
            return Some((above.to_owned(), name.to_owned()));
        }
        path = above;
    }
}
