//! Puts the root together: image below, the shed's disk above, an overlay of both; then enters it.
//!
//! Until the chroot no path of the image is followed, because its symbolic links would lead into the initramfs.
//! What is to appear inside is picked up before as detached mounts (open_tree(2)) and attached afterwards.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_move, move_mount, open_tree},
    process::{chdir, chroot},
};

use crate::{
    cmdline::Cmdline,
    console,
    disks::DiskWatch,
    errors::{BootError, DiskRole},
    modules::Loading,
    superblock::{FileSystem, probe},
};

const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
const NEW_ROOT: &str = "/newroot";

/// Directories on the shed's disk that appear in the root past the overlay: file by file, container engines need a
/// real file system for their own overlays (design §3).
const PAST_OVERLAY: [(&str, &str); 2] =
    [("docker", "/var/lib/docker"), ("containerd", "/var/lib/containerd")];

/// Where the initramfs' own things appear inside. systemd takes mounts below this directory for the initramfs' and
/// does not try to unmount them while they are in use, but makes them read-only at the end (systemd: mount-setup,
/// `mount_is_extrinsic`; umount.c): that is how the shed's disk comes to a clean end below the root.
const KEPT: &str = "/run/initramfs";

/// The agent's directory, for everybody: a link into [`KEPT`].
const SHED: &str = "/run/shed";

/// Mounts the kernel's file systems in the initramfs.
pub(crate) fn mount_kernel_file_systems() -> Result<(), BootError> {
    for (fs, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_kernel_fs(fs, Path::new(target)).map_err(|source| BootError::KernelFs {
            fs,
            target,
            source,
        })?;
    }
    Ok(())
}

/// Mounts both disks and the overlay, and picks up what is to appear inside it.
pub(crate) fn assemble(
    cmdline: &Cmdline,
    watch: &DiskWatch,
    modules: &Loading,
) -> Result<Vec<Detached>, BootError> {
    let find = |role| watch.find(role, cmdline.serial(role));
    mount_image(&find(DiskRole::Image)?, modules)?;
    mount_own(&find(DiskRole::Own)?, modules)?;
    make_directory(NEW_ROOT).map_err(|source| BootError::Overlay { source })?;
    // redirect_dir: directories of the image can be renamed, as programs expect of a file system.
    let options =
        format!("lowerdir={LOWER},upperdir={UPPER}/upper,workdir={UPPER}/work,redirect_dir=on,xino=auto");
    let options = std::ffi::CString::new(options).expect("the options hold no zero byte");
    modules.wait_for_file_system("overlay");
    mount("overlay", NEW_ROOT, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(|source| BootError::Overlay { source: source.into() })?;
    pick_up()
}

fn mount_image(device: &Path, modules: &Loading) -> Result<(), BootError> {
    let image = |source| BootError::ImageMount { device: device.to_owned(), source };
    make_directory(LOWER).map_err(image)?;
    let kind = match probe(device).map_err(image)? {
        Some(FileSystem::Ext4 { .. }) => "ext4",
        Some(FileSystem::Erofs) => "erofs",
        None => return Err(BootError::ImageUnknown { device: device.to_owned() }),
    };
    modules.wait_for_file_system(kind);
    mount(device, LOWER, kind, MountFlags::RDONLY, None).map_err(|errno| image(errno.into()))
}

fn mount_own(device: &Path, modules: &Loading) -> Result<(), BootError> {
    let own = |source| BootError::OwnMount { device: device.to_owned(), source };
    make_directory(UPPER).map_err(own)?;
    match probe(device).map_err(own)? {
        Some(FileSystem::Ext4 { has_errors: false }) => {}
        Some(FileSystem::Ext4 { has_errors: true }) => {
            return Err(BootError::OwnErrors { device: device.to_owned() });
        }
        Some(FileSystem::Erofs) | None => return Err(BootError::OwnUnknown { device: device.to_owned() }),
    }
    modules.wait_for_file_system("ext4");
    // After an error nothing more is written, so that e2fsck finds what can be saved.
    mount(device, UPPER, "ext4", MountFlags::empty(), Some(c"errors=remount-ro"))
        .map_err(|errno| own(errno.into()))?;
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
    let modules = modules_directory();
    let kept = |name: &str| Path::new(KEPT).join(name);
    let mut wanted = vec![("/shed".to_owned(), kept("shed"), true), (UPPER.to_owned(), kept("disk"), false)];
    if Path::new(&modules).is_dir() {
        wanted.push((modules, kept("modules"), false));
    }
    wanted
        .extend(PAST_OVERLAY.map(|(name, target)| (format!("{UPPER}/{name}"), PathBuf::from(target), false)));
    let pick = |(source, target, needed): (String, PathBuf, bool)| {
        let tree = open_tree(CWD, &source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|errno| BootError::InsideMount { what: source, source: errno.into() })?;
        Ok(Detached { tree, target, needed })
    };
    wanted.into_iter().map(pick).collect()
}

fn modules_directory() -> String {
    format!("/lib/modules/{}", rustix::system::uname().release().to_string_lossy())
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
    // Nobody but root has any business there.
    fs::DirBuilder::new().mode(0o711).create(KEPT).map_err(|source| inside(KEPT, source))?;
    for Detached { tree, target, needed } in detached {
        let attached = make_directory(&target).and_then(|()| {
            move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(io::Error::from)
        });
        match attached {
            Ok(()) => {}
            Err(source) if needed => return Err(inside(&target.to_string_lossy(), source)),
            Err(source) => console::warn(&format!("cannot mount {}: {source}", target.display())),
        }
    }
    symlink(Path::new(KEPT).join("shed"), SHED).map_err(|source| inside(SHED, source))?;
    if let Err(error) = link_modules(Path::new("/"), &modules_directory()) {
        console::warn(&format!("cannot put the kernel's modules in place: {error}"));
    }
    Ok(())
}

/// Lets modprobe find this kernel's modules. Links of kernels that the shed was started with before are taken away;
/// a directory that the image brings for the same kernel is left.
fn link_modules(root: &Path, directory: &str) -> io::Result<()> {
    let target = Path::new(KEPT).join("modules");
    let link = root.join(directory.trim_start_matches('/'));
    let Some(parent) = link.parent() else { return Ok(()) };
    fs::create_dir_all(parent)?;
    for entry in fs::read_dir(parent)?.flatten() {
        if entry.path() != link && fs::read_link(entry.path()).is_ok_and(|to| to == target) {
            fs::remove_file(entry.path())?;
        }
    }
    // An empty one is of no use to anybody; one with modules in it cannot be removed this way.
    let _in_use = fs::remove_dir(&link);
    match symlink(&target, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_this_kernel_are_linked_and_old_links_go() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("lib/modules");
        for kernel in ["6.1", "6.2", "6.2"] {
            link_modules(root.path(), &format!("/lib/modules/{kernel}")).unwrap();
        }
        assert!(fs::symlink_metadata(modules.join("6.1")).is_err());
        assert_eq!(fs::read_link(modules.join("6.2")).unwrap(), Path::new(KEPT).join("modules"));
        fs::create_dir_all(modules.join("6.3/kernel")).unwrap();
        link_modules(root.path(), "/lib/modules/6.3").unwrap();
        assert!(fs::symlink_metadata(modules.join("6.3")).unwrap().is_dir());
    }
}
