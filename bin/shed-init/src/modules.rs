//! Loads the kernel modules that the initramfs lists, in its order, while the root is put together.
//!
//! Most of the list is not needed for that (network, vsock), so it is loaded by a thread of its own; whoever needs a
//! file system waits for it here. A module that fails is a warning: whatever needed it fails next, with a number of
//! its own, and many a module is for hardware that this machine does not have.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use rustix::{io::Errno, system::finit_module};

use crate::console;

/// The list: one absolute path of a plain .ko file a line, dependencies first; `#` begins a comment.
const LIST: &str = "/shed/modules.load";

/// The loading thread.
#[derive(Debug)]
pub(crate) struct Loading {
    /// None when the thread could not be started and everything was loaded before.
    thread: Option<JoinHandle<()>>,
    /// Gets a message after each module; ends with the list.
    progress: Receiver<()>,
}

impl Loading {
    /// Begins to load. The list is read and its files are opened by paths of the initramfs.
    pub(crate) fn start() -> Self {
        let (sender, progress) = channel();
        let paths = match fs::read_to_string(LIST) {
            Ok(text) => parse_list(&text),
            Err(error) => {
                console::warn(&format!("cannot read {LIST}: {error}"));
                Vec::new()
            }
        };
        // Opened here, because the root of this process will soon be another one.
        let files: Vec<_> = paths.into_iter().map(|path| (File::open(&path), path)).collect();
        let thread =
            thread::Builder::new().name("modules".to_owned()).spawn(move || load_all(files, &sender));
        if let Err(error) = &thread {
            console::warn(&format!("cannot load modules: {error}"));
        }
        Self { thread: thread.ok(), progress }
    }

    /// Returns when the kernel knows a file system, or when nothing more is loaded that could bring it.
    pub(crate) fn wait_for_file_system(&self, name: &str) {
        while !knows(&fs::read_to_string("/proc/filesystems").unwrap_or_default(), name) {
            if self.progress.recv().is_err() {
                return;
            }
        }
    }

    /// Returns when everything is loaded: becoming another program would end the thread.
    pub(crate) fn finish(self) {
        if let Some(thread) = self.thread {
            // A panic there has powered the machine off already.
            let _panicked = thread.join();
        }
    }
}

fn load_all(files: Vec<(io::Result<File>, PathBuf)>, progress: &Sender<()>) {
    for (file, path) in files {
        if let Err(error) = file.and_then(|file| load(&file)) {
            console::warn(&format!("cannot load {}: {error}", path.display()));
        }
        // Nobody may be waiting any more.
        let _unheard = progress.send(());
    }
}

fn load(file: &File) -> io::Result<()> {
    match finit_module(file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn parse_list(text: &str) -> Vec<PathBuf> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| Path::new(line).is_absolute())
        .map(PathBuf::from)
        .collect()
}

/// Whether the text of /proc/filesystems has a file system: lines are `nodev<TAB>name` or `<TAB>name`.
fn knows(file_systems: &str, name: &str) -> bool {
    file_systems.lines().any(|line| line.split('\t').nth(1) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_drops_comments() {
        let list = parse_list("# first\n/m/b.ko\n\n  /m/a.ko  # why\nrelative.ko\n");
        assert_eq!(list, [PathBuf::from("/m/b.ko"), PathBuf::from("/m/a.ko")]);
    }

    #[test]
    fn a_file_system_is_known_by_its_whole_name() {
        let text = "nodev\tsysfs\nnodev\toverlay\n\text4\n";
        assert!(knows(text, "ext4") && knows(text, "overlay"));
        assert!(!knows(text, "ext") && !knows(text, "nodev") && !knows("", "ext4"));
    }

    #[test]
    fn waiting_ends_with_the_list() {
        let (sender, progress) = channel();
        let loading = Loading { thread: None, progress };
        load_all(vec![(Err(io::ErrorKind::NotFound.into()), PathBuf::from("/none.ko"))], &sender);
        drop(sender);
        loading.wait_for_file_system("no such file system");
        loading.finish();
    }
}
