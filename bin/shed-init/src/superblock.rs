//! Tells file systems apart by their superblocks, before the kernel is asked to mount them.
//!
//! Layouts: kernel doc filesystems/ext4/globals.rst (super block at byte 1024, magic at 0x38, state at 0x3a) and
//! fs/erofs/erofs_fs.h (magic at byte 1024).

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// A file system that shed-init mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// ext2, ext3 or ext4; the ext4 driver mounts all three.
    Ext4 {
        /// Whether the kernel or e2fsck has noted damage that was not repaired since.
        has_errors: bool,
    },
    /// erofs.
    Erofs,
}

/// Reads the superblock of a device.
pub(crate) fn probe(device: &Path) -> io::Result<Option<FileSystem>> {
    let mut block = [0; 1024];
    File::open(device)?.read_exact_at(&mut block, 1024)?;
    Ok(recognise(&block))
}

fn recognise(block: &[u8; 1024]) -> Option<FileSystem> {
    const ERROR_FS: u16 = 0x0002;
    if block[0x38..0x3a] == 0xef53_u16.to_le_bytes() {
        let state = u16::from_le_bytes([block[0x3a], block[0x3b]]);
        Some(FileSystem::Ext4 { has_errors: state & ERROR_FS != 0 })
    } else if block[0..4] == 0xe0f5_e1e2_u32.to_le_bytes() {
        Some(FileSystem::Erofs)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_system_is_known_by_its_magic() {
        let mut block = [0; 1024];
        assert_eq!(recognise(&block), None);
        block[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        block[0x3a] = 1;
        assert_eq!(recognise(&block), Some(FileSystem::Ext4 { has_errors: false }));
        block[0x3a] = 3;
        assert_eq!(recognise(&block), Some(FileSystem::Ext4 { has_errors: true }));
        let mut block = [0; 1024];
        block[0..4].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        assert_eq!(recognise(&block), Some(FileSystem::Erofs));
    }

    #[test]
    fn a_device_that_is_too_short_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(probe(file.path()).is_err());
    }
}
