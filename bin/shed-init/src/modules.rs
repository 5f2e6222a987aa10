//! Loads the kernel modules that the initramfs lists, in its order.
//!
//! A module that fails is a warning: whatever needed it fails next, with a number of its own, and many a module is
//! for hardware that this machine does not have.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::{io::Errno, system::finit_module};

use crate::console;

/// The list: one absolute path of a plain .ko file a line, dependencies first; `#` begins a comment.
const LIST: &str = "/shed/modules.load";

/// Loads every module of the list.
pub(crate) fn load_listed() {
    let text = match fs::read_to_string(LIST) {
        Ok(text) => text,
        Err(error) => return console::warn(&format!("cannot read {LIST}: {error}")),
    };
    for path in parse_list(&text) {
        if let Err(error) = load(&path) {
            console::warn(&format!("cannot load {}: {error}", path.display()));
        }
    }
}

fn parse_list(text: &str) -> Vec<PathBuf> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn load(path: &Path) -> std::io::Result<()> {
    match finit_module(File::open(path)?, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_drops_comments() {
        let list = parse_list("# first\n/m/b.ko\n\n  /m/a.ko  # why\nrelative.ko\n");
        assert_eq!(list, [PathBuf::from("/m/b.ko"), PathBuf::from("/m/a.ko")]);
    }
}
