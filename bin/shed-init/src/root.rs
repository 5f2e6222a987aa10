//! Puts the root together: image below, the shed's disk above, an overlay of both; then enters it.
//!
//! Until the chroot no path of the image is followed, because its symbolic links would lead into the initramfs.
//! What is to appear inside is picked up before as detached mounts (open_tree(2)) and attached afterwards.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_move, move_mount, open_tree},
    process::{chdir, chroot},
};

use crate::{
    console,
    disks::DiskWatch,
    errors::{BootError, DiskRole},
    superblock::{FileSystem, probe},
};

const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
const NEW_ROOT: &str = "/newroot";

/// Directories on the shed's disk that appear in the root past the overlay: file by file, container engines need a
/// real file system for their own overlays (design §3).
const PAST_OVERLAY: [(&str, &str); 2] = [("docker", "/var/lib/docker"), ("containerd", "/var/lib/containerd")];

/// Mounts the kernel's file systems in the initramfs.
pub(crate) fn mount_kernel_file_systems() -> Result<(), BootError> {
    for (fs, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_kernel_fs(fs, Path::new(target)).map_err(|source| BootError::KernelFs { fs, target, source })?;
    }
    Ok(())
}

/// Mounts both disks and the overlay, and picks up what is to appear inside it.
pub(crate) fn assemble(watch: &DiskWatch) -> Result<Vec<Detached>, BootError> {
    mount_image(&watch.find(DiskRole::Image)?)?;
    mount_own(&watch.find(DiskRole::Own)?)?;
    make_directory(NEW_ROOT).map_err(|source| BootError::Overlay { source })?;
    // redirect_dir: directories of the image can be renamed, as programs expect of a file system.
    let options = format!("lowerdir={LOWER},upperdir={UPPER}/upper,workdir={UPPER}/work,redirect_dir=on,xino=auto");
    let options = std::ffi::CString::new(options).expect("the options hold no zero byte");
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|source| BootError::Overlay { source: source.into() })?;
    pick_up()
}

fn mount_image(device: &Path) -> Result<(), BootError> {
    let image = |source| BootError::ImageMount { device: device.to_owned(), source };
    make_directory(LOWER).map_err(image)?;
    let kind = match probe(device).map_err(image)? {
        Some(FileSystem::Ext4 { .. }) => "ext4",
        Some(FileSystem::Erofs) => "erofs",
        None => return Err(BootError::ImageUnknown { device: device.to_owned() }),
    };
    mount(device, LOWER, kind, MountFlags::RDONLY, None).map_err(|errno| image(errno.into()))
}

fn mount_own(device: &Path) -> Result<(), BootError> {
    let own = |source| BootError::OwnMount { device: device.to_owned(), source };
    make_directory(UPPER).map_err(own)?;
    match probe(device).map_err(own)? {
        Some(FileSystem::Ext4 { has_errors: false }) => {}
        Some(FileSystem::Ext4 { has_errors: true }) => return Err(BootError::OwnErrors { device: device.to_owned() }),
        Some(FileSystem::Erofs) | None => return Err(BootError::OwnUnknown { device: device.to_owned() }),
    }
    // After an error nothing more is written, so that e2fsck finds what can be saved.
    mount(device, UPPER, "ext4", MountFlags::empty(), Some(c"errors=remount-ro")).map_err(|errno| own(errno.into()))?;
    let directories = ["upper", "work"].into_iter().chain(PAST_OVERLAY.map(|(name, _)| name));
    for name in directories {
        let path = Path::new(UPPER).join(name);
        make_directory(&path).map_err(|source| BootError::OwnWrite { path: path.clone(), source })?;
    }
    Ok(())
}

/// A mount that is attached nowhere yet, and where it belongs.
#[derive(Debug)]
pub(crate) struct Detached {
    tree: OwnedFd,
    target: PathBuf,
    /// Without it the machine cannot work.
    needed: bool,
}

fn pick_up() -> Result<Vec<Detached>, BootError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = format!("/lib/modules/{release}");
    let mut wanted = vec![("/shed".to_owned(), PathBuf::from("/run/shed"), true)];
    wanted.extend(PAST_OVERLAY.map(|(name, target)| (format!("{UPPER}/{name}"), PathBuf::from(target), false)));
    if Path::new(&modules).is_dir() {
        // Where /lib is a link to usr/lib this is the same place.
        wanted.push((modules.clone(), PathBuf::from(modules), false));
    }
    let pick = |(source, target, needed): (String, PathBuf, bool)| {
        let tree = open_tree(CWD, &source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|errno| BootError::InsideMount { what: source, source: errno.into() })?;
        Ok(Detached { tree, target, needed })
    };
    wanted.into_iter().map(pick).collect()
}

/// Makes the new root the root of everything. From here on paths are the image's.
pub(crate) fn enter() -> Result<(), BootError> {
    let step = |step, result: rustix::io::Result<()>| {
        result.map_err(|errno| BootError::SwitchRoot { step, source: errno.into() })
    };
    step("chdir", chdir(NEW_ROOT))?;
    step("move mount", mount_move(".", "/"))?;
    step("chroot", chroot("."))?;
    step("chdir to /", chdir("/"))
}

/// Mounts what every root needs, and attaches what was picked up.
pub(crate) fn furnish(detached: Vec<Detached>) -> Result<(), BootError> {
    let inside = |what: &str, source| BootError::InsideMount { what: what.to_owned(), source };
    for (fs, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        mount_kernel_fs(fs, Path::new(target)).map_err(|source| inside(target, source))?;
    }
    for Detached { tree, target, needed } in detached {
        let attached = make_directory(&target).and_then(|()| {
            move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(io::Error::from)
        });
        match attached {
            Ok(()) => {}
            Err(source) if needed => return Err(inside(&target.to_string_lossy(), source)),
            Err(source) => console::warn(&format!("cannot mount {}: {source}", target.display())),
        }
    }
    Ok(())
}

fn mount_kernel_fs(fs: &str, target: &Path) -> io::Result<()> {
    let no_programs = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let (flags, options) = match fs {
        "devtmpfs" => (MountFlags::NOSUID, c"mode=0755"),
        "tmpfs" => (MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755"),
        _ => (no_programs, c""),
    };
    make_directory(target)?;
    Ok(mount(fs, target, fs, flags, Some(options))?)
}

fn make_directory(path: impl AsRef<Path>) -> io::Result<()> {
    fs::create_dir_all(path)
}
