//! Puts into a jail what its machine needs, and returns the machine as it is in there.
//!
//! Files are hard links: a guest's disk is the same file in the jail and outside of it, with the same serial number. Those that
//! the machine only reads stay whose they are; those that it writes to become its user's for as long as the jail is there, and
//! nobody else's, and the link in the jail is the record of it by which they are taken back.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{Mode, fchmod};
use shed_net::TapOwner;

use super::{Jail, make};
use crate::{Disk, DiskAccess, VmSpec, launch::open_log};

/// Permissions of files that are lent: for their owner alone.
pub(super) const LENT: Mode = Mode::RUSR.union(Mode::WUSR);

/// Permissions of copies that are the machine's to read. Nobody else comes as far as to the jail's root directory.
const READ: u32 = 0o444;

/// The file for metrics in a jail.
const METRICS: &str = "metrics.json";

/// What went wrong with which file.
type Failed = (Utf8PathBuf, io::Error);

/// Makes the jail, with everything but Firecracker's configuration and program. `metrics` is the file for its metrics. Blocks.
///
/// # Errors
/// When something cannot be put into it; says which. What is there by then goes by [`Jail::remove`].
pub(in super::super) fn furnish(
    jail: &Jail,
    spec: &VmSpec,
    metrics: &Utf8Path,
    owner: TapOwner,
) -> Result<VmSpec, Failed> {
    let root = jail.root();
    make(jail, owner).map_err(|error| (root.clone(), error))?;
    let room = Room { root: &root, owner };
    let disks = spec.disks.iter().enumerate().map(|(number, disk)| {
        let name = format!("disk{number}");
        let path = match disk.access {
            DiskAccess::ReadOnly => room.show(&disk.path, &name),
            DiskAccess::ReadWrite => room.lend(&disk.path, &name),
        };
        Ok(Disk { path: path?, serial: disk.serial, access: disk.access })
    });
    let disks = disks.collect::<Result<Vec<_>, Failed>>()?;
    // Otherwise nothing would be there to be lent.
    open_log(&spec.vmm_log).map_err(|error| (spec.vmm_log.clone(), error))?;
    let _metrics = room.lend(metrics, METRICS)?;
    let inside = VmSpec {
        kernel: room.show_or_copy(&spec.kernel, "kernel")?,
        initrd: room.show_or_copy(&spec.initrd, "initrd")?,
        disks,
        vmm_log: room.lend(&spec.vmm_log, "vmm.log")?,
        ..spec.clone()
    };
    Ok(inside)
}

/// A jail's root directory while nobody else can reach it.
struct Room<'a> {
    root: &'a Utf8Path,
    owner: TapOwner,
}

impl Room<'_> {
    /// Lets the machine read and write a file.
    fn lend(&self, path: &Utf8Path, name: &str) -> Result<Utf8PathBuf, Failed> {
        let failed = |error| (path.to_owned(), error);
        let link = self.link(path, name).map_err(failed)?;
        let lent = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(link).map_err(failed)?;
        fchown(&lent, Some(self.owner.uid), Some(self.owner.gid)).map_err(failed)?;
        fchmod(&lent, LENT).map_err(|error| failed(error.into()))?;
        Ok(inside(name))
    }

    /// Lets the machine read a file that everybody may read.
    fn show(&self, path: &Utf8Path, name: &str) -> Result<Utf8PathBuf, Failed> {
        let failed = |error| (path.to_owned(), error);
        if !is_for_everybody(path).map_err(failed)? {
            let advice = "a jailed machine may not read it: it must be readable for everybody (`chmod o+r`), or \
                          firecracker.jailer be `never`";
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, advice)));
        }
        self.link(path, name).map_err(failed)?;
        Ok(inside(name))
    }

    /// The same, where a copy is as good as the file.
    fn show_or_copy(&self, path: &Utf8Path, name: &str) -> Result<Utf8PathBuf, Failed> {
        let failed = |error| (path.to_owned(), error);
        if is_for_everybody(path).map_err(failed)? && self.link(path, name).is_ok() {
            return Ok(inside(name));
        }
        let mut from = File::open(path).map_err(failed)?;
        let mut copy = self.create(name).map_err(failed)?;
        io::copy(&mut from, &mut copy).map_err(failed)?;
        Ok(inside(name))
    }

    fn link(&self, path: &Utf8Path, name: &str) -> io::Result<Utf8PathBuf> {
        // A hard link to a symbolic link would lead nowhere in the jail.
        let (path, link) = (path.canonicalize_utf8()?, self.root.join(name));
        match fs::hard_link(&path, &link) {
            Ok(()) => Ok(link),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(io::Error::new(
                io::ErrorKind::CrossesDevices,
                format!(
                    "it is on another file system than the jail {}; put firecracker.jail_dir on the same one, or set \
                     firecracker.jailer to `never`",
                    self.root
                ),
            )),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let file = File::options().write(true).create_new(true).mode(READ).open(self.root.join(name))?;
        // The process may be one that makes files for itself alone.
        fchmod(&file, Mode::from_raw_mode(READ))?;
        Ok(file)
    }
}

impl Jail {
    /// The file with Firecracker's configuration in a jail.
    const CONFIG: &str = "config.json";

    /// Writes Firecracker's configuration into a jail that is furnished, and returns its path in there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(in super::super) fn write_config(&self, text: &str) -> io::Result<Utf8PathBuf> {
        let root = self.root();
        let room = Room { root: &root, owner: TapOwner::this_process() };
        room.create(Self::CONFIG)?.write_all(text.as_bytes())?;
        Ok(inside(Self::CONFIG))
    }

    /// Returns the jailer's arguments up to those that are Firecracker's own.
    ///
    /// Without `--cgroup` and with cgroups of the first version, its default, it touches no cgroup at all (its src/env.rs).
    pub(in super::super) fn arguments(&self, firecracker: &Utf8Path, owner: TapOwner) -> Vec<String> {
        let pairs: [(&str, String); 5] = [
            ("--id", self.launch_id.to_string()),
            ("--exec-file", firecracker.to_string()),
            ("--uid", owner.uid.to_string()),
            ("--gid", owner.gid.to_string()),
            ("--chroot-base-dir", self.of_shed.to_string()),
        ];
        let own = pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        own.chain(["--".to_owned()]).collect()
    }
}

/// Returns where a machine finds the file for its metrics.
pub(in super::super) fn metrics_inside() -> Utf8PathBuf {
    inside(METRICS)
}

/// Returns where a file of the jail's root directory is for its machine.
fn inside(name: &str) -> Utf8PathBuf {
    Utf8Path::new("/").join(name)
}

fn is_for_everybody(path: &Utf8Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.mode() & Mode::ROTH.bits() != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::geteuid;

    use super::{
        super::{super::machine, Jails, sockets_inside},
        *,
    };
    use crate::firecracker::Seccomp;

    const OWNER: TapOwner = TapOwner { uid: 70_006, gid: 70_006 };

    const PROGRAM: &str = "firecracker";

    fn put(path: Utf8PathBuf, mode: u32) -> Utf8PathBuf {
        fs::write(&path, path.as_str()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A machine whose files are in a directory; its initramfs is nobody else's to read.
    fn spec(dir: &Utf8Path) -> VmSpec {
        let disk = |path, serial, access| Disk { path, serial, access };
        VmSpec {
            shed: "api".parse().unwrap(),
            launch_id: "7c0ebd4e-98a4-4e5b-9b0f-2c40b6a1fd43".parse().unwrap(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 4096.try_into().unwrap(),
            kernel: dir.join("vmlinux"),
            initrd: dir.join("initrd.img"),
            extra_cmdline: Vec::new(),
            disks: vec![
                disk(dir.join("image.ext4"), "shed-image", DiskAccess::ReadOnly),
                disk(dir.join("rootfs.ext4"), "shed-upper", DiskAccess::ReadWrite),
            ],
            shares: Vec::new(),
            network: None,
            console_log: dir.join("console.log"),
            vmm_log: dir.join("vmm.log"),
        }
    }

    #[test]
    fn a_jailed_machines_command_line_is_recognised_before_and_after_the_jailer() {
        let spec = spec(Utf8Path::new("/sheds/api"));
        let jail = Jails::new(Utf8Path::new("/jails"), &"a".parse().unwrap()).jail(
            &spec.shed,
            spec.launch_id,
            PROGRAM,
        );
        let sockets = sockets_inside(&spec.shed);
        let own = machine::arguments_but_id(&spec, &sockets, "/config.json".into(), Seccomp::Own);
        let args: Vec<String> =
            jail.arguments(Utf8Path::new("/opt/firecracker"), OWNER).into_iter().chain(own.clone()).collect();
        insta::assert_snapshot!(args.join("\n"));
        // As the jailer's src/env.rs has it.
        let id = spec.launch_id.to_string();
        let after = ["/firecracker", "--id", &id, "--start-time-us", "1", "--start-time-cpu-us", "2"];
        let after: Vec<String> = after
            .into_iter()
            .map(str::to_owned)
            .chain(["--parent-cpu-time-us".to_owned(), "3".to_owned()])
            .chain(own)
            .collect();
        for words in [args, after] {
            let words: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
            assert!(machine::is_launch(&words, &sockets, spec.launch_id));
            assert!(!machine::is_launch(&words, &sockets, shed_types::LaunchId::generate()));
            assert!(!machine::is_launch(&words, &sockets_inside(&"web".parse().unwrap()), spec.launch_id));
        }
    }

    #[test]
    fn a_machine_gets_what_it_needs_and_keeps_nothing() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let spec = spec(dir);
        let metrics = put(dir.join("firecracker-metrics.json"), 0o644);
        put(dir.join("kernel-6"), 0o644);
        std::os::unix::fs::symlink("kernel-6", &spec.kernel).unwrap();
        for (path, mode) in
            [(&spec.initrd, 0o600), (&spec.disks[0].path, 0o600), (&spec.disks[1].path, 0o600)]
        {
            put(path.clone(), mode);
        }
        let jails = Jails::new(&dir.join("jails"), &"..".parse().unwrap());
        let jail = jails.jail(&spec.shed, spec.launch_id, PROGRAM);

        let (path, error) = furnish(&jail, &spec, &metrics, OWNER).unwrap_err();
        assert!(path == spec.disks[0].path && error.to_string().contains("chmod o+r"), "{path}: {error}");
        jail.remove().unwrap();
        let mut elsewhere = spec.clone();
        elsewhere.disks[0].path = "/proc/version".into();
        let (_, error) = furnish(&jail, &elsewhere, &metrics, OWNER).unwrap_err();
        assert!(error.to_string().contains("firecracker.jail_dir"), "{error}");
        jail.remove().unwrap();

        put(spec.disks[0].path.clone(), 0o644);
        let serials =
            || spec.disks.iter().map(|disk| machine::serial_of(&disk.path).unwrap()).collect::<Vec<_>>();
        let outside = serials();
        let within = furnish(&jail, &spec, &metrics, OWNER).unwrap();
        let config = jail.write_config("{}").unwrap();
        let place = |path: &Utf8Path| jail.root().join(path.strip_prefix("/").unwrap());
        let meta = |path: &Utf8Path| fs::symlink_metadata(place(path)).unwrap();
        for (path, what) in [
            (&within.disks[0].path, "the image"),
            (&within.kernel, "the kernel"),
            (&within.initrd, "the copy of the initramfs"),
            (&config, "the configuration"),
        ] {
            let meta = meta(path);
            assert!(meta.is_file() && meta.uid() == 0 && meta.mode() & 0o444 == 0o444, "{what}: {meta:?}");
        }
        for path in [&within.disks[1].path, &within.vmm_log, &super::inside(METRICS)] {
            let meta = meta(path);
            assert_eq!((meta.uid(), meta.mode() & 0o7777, meta.nlink()), (OWNER.uid, 0o600, 2), "{path}");
        }
        let within_serials = within.disks.iter().map(|disk| machine::serial_of(&place(&disk.path)).unwrap());
        assert_eq!(within_serials.collect::<Vec<_>>(), outside);
        assert_eq!(fs::metadata(jail.root()).unwrap().uid(), OWNER.uid);

        // The links are the record: whoever finds them gives everything back, whatever became of the rest.
        jails.remove(&spec.shed).unwrap();
        for path in [&spec.disks[1].path, &spec.vmm_log, &metrics, &spec.disks[0].path] {
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.uid(), meta.nlink()), (0, 1), "{path}");
        }
        assert_eq!(fs::metadata(&spec.disks[0].path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_to_string(&spec.disks[1].path).unwrap(), spec.disks[1].path.as_str());
        assert_eq!(fs::read_dir(dir.join("jails/server-..")).unwrap().count(), 0);
    }
}
