//! Puts right what an image may lack: the user, its directories, machine id, host names, name resolution, sudo.
//!
//! Called after the chroot, so the image's links lead nowhere else. Each step is done only when it is lacking, writes
//! whole files, and a step that fails is a warning: the shed is of use without it.

mod accounts;
mod files;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink},
    path::Path,
};

use crate::console;

/// Who runs commands in a shed.
const USER: &str = "shed";

/// Applies every step below `root`, which is `/` but for tests.
pub(crate) fn apply(root: &Path) {
    let report = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            console::warn(&format!("cannot put right {what}: {error}"));
        }
    };
    report("the user", ensure_user(root));
    if let Some(ids) = user_ids(root) {
        report("the home directory", ensure_home(root, ids));
        report("/workspace", ensure_owned(&root.join("workspace"), ids));
        report("/var/log/shed", ensure_owned(&root.join("var/log/shed"), ids));
    }
    report("/etc/machine-id", ensure_machine_id(root));
    report("/etc/hosts", ensure_hosts(root));
    report("/etc/resolv.conf", ensure_resolv_conf(root));
    report("sudo", ensure_sudo(root));
}

fn ensure_user(root: &Path) -> io::Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(&etc)?;
    let read = |name: &str| fs::read_to_string(etc.join(name)).ok();
    let shell = if root.join("bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let old = accounts::Files {
        passwd: read("passwd").unwrap_or_default(),
        group: read("group").unwrap_or_default(),
        shadow: read("shadow"),
        gshadow: read("gshadow"),
    };
    let new = old.with_user(USER, shell);
    // passwd comes last: it is what the next boot looks at.
    if let Some(text) = new.shadow.filter(|text| Some(text) != old.shadow.as_ref()) {
        files::replace(&etc.join("shadow"), text.as_bytes(), 0o640)?;
    }
    if let Some(text) = new.gshadow.filter(|text| Some(text) != old.gshadow.as_ref()) {
        files::replace(&etc.join("gshadow"), text.as_bytes(), 0o640)?;
    }
    if new.group != old.group {
        files::replace(&etc.join("group"), new.group.as_bytes(), 0o644)?;
    }
    if new.passwd != old.passwd {
        files::replace(&etc.join("passwd"), new.passwd.as_bytes(), 0o644)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Ids {
    uid: u32,
    gid: u32,
}

fn user_ids(root: &Path) -> Option<Ids> {
    let passwd = fs::read_to_string(root.join("etc/passwd")).ok()?;
    let (uid, gid) = accounts::ids_of(&passwd, USER)?;
    Some(Ids { uid, gid })
}

fn ensure_home(root: &Path, ids: Ids) -> io::Result<()> {
    let passwd = fs::read_to_string(root.join("etc/passwd"))?;
    let Some(home) = accounts::home_of(&passwd, USER) else { return Ok(()) };
    let home = root.join(home.trim_start_matches('/'));
    if home.exists() {
        return Ok(());
    }
    if let Some(parent) = home.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::DirBuilder::new().mode(0o755).create(&home)?;
    for entry in fs::read_dir(root.join("etc/skel")).into_iter().flatten().flatten() {
        if entry.file_type()?.is_file() {
            let copy = home.join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            chown(&copy, Some(ids.uid), Some(ids.gid))?;
        }
    }
    chown(&home, Some(ids.uid), Some(ids.gid))
}

/// Makes a directory that belongs to the user. One that is there and belongs to root is handed over; what is in it is
/// left alone.
fn ensure_owned(path: &Path, ids: Ids) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_dir() || meta.uid() == ids.uid => return Ok(()),
        Ok(meta) if meta.uid() != 0 => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        }
        Err(error) => return Err(error),
    }
    lchown(path, Some(ids.uid), Some(ids.gid))
}

/// Gives the machine an id of its own. Without one systemd takes the boot for the very first and asks questions.
fn ensure_machine_id(root: &Path) -> io::Result<()> {
    let path = root.join("etc/machine-id");
    let old = fs::read_to_string(&path).unwrap_or_default();
    if !matches!(old.trim(), "" | "uninitialized") {
        return Ok(());
    }
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    // A version 4 UUID, as machine-id(5) wants it.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    files::replace(&path, format!("{digits}\n").as_bytes(), 0o444)
}

fn ensure_hosts(root: &Path) -> io::Result<()> {
    let path = root.join("etc/hosts");
    let old = fs::read_to_string(&path).unwrap_or_default();
    let knows_localhost = old.lines().any(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        words.next() == Some("127.0.0.1") && words.any(|word| word == "localhost")
    });
    if knows_localhost {
        return Ok(());
    }
    let new = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{old}");
    files::replace(&path, new.as_bytes(), 0o644)
}

/// Only where there is nothing at all, not even a dangling link: systemd-resolved serves when the image has it.
/// Without it the agent writes the file when the host tells it the name servers.
fn ensure_resolv_conf(root: &Path) -> io::Result<()> {
    let path = root.join("etc/resolv.conf");
    let resolved = root.join("usr/lib/systemd/systemd-resolved");
    if fs::symlink_metadata(&path).is_ok() || !resolved.exists() {
        return Ok(());
    }
    symlink("../run/systemd/resolve/stub-resolv.conf", path)
}

fn ensure_sudo(root: &Path) -> io::Result<()> {
    let directory = root.join("etc/sudoers.d");
    let path = directory.join("90-shed");
    if !root.join("usr/bin/sudo").exists() || path.exists() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o750).create(&directory)?;
    files::replace(&path, format!("{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n").as_bytes(), 0o440)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in a directory, sorted.
    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn an_empty_image_gets_everything_and_a_second_run_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        apply(path);
        let passwd = fs::read_to_string(path.join("etc/passwd")).unwrap();
        assert!(passwd.contains("shed:x:1000:1000:"), "{passwd}");
        let id = fs::read_to_string(path.join("etc/machine-id")).unwrap();
        assert_eq!((id.len(), id.trim().len()), (33, 32));
        assert!(fs::read_to_string(path.join("etc/hosts")).unwrap().contains("127.0.0.1 localhost"));
        assert_eq!(names(&path.join("etc")), ["group", "hosts", "machine-id", "passwd"]);
        if is_root() {
            assert_eq!(fs::metadata(path.join("workspace")).unwrap().uid(), 1000);
            assert_eq!(fs::metadata(path.join("home/shed")).unwrap().uid(), 1000);
        }
        let inode = |name: &str| fs::metadata(path.join(name)).unwrap().ino();
        let before: Vec<u64> = ["etc/passwd", "etc/machine-id", "etc/hosts"].map(inode).to_vec();
        apply(path);
        assert_eq!(before, ["etc/passwd", "etc/machine-id", "etc/hosts"].map(inode).to_vec());
    }

    #[test]
    fn what_an_image_has_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let own = [
            ("passwd", "root:x:0:0::/root:/bin/sh\nshed:x:77:78::/srv/shed:/bin/zsh\n"),
            ("machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("hosts", "127.0.0.1\tlocalhost me\n"),
        ];
        for (name, text) in own {
            fs::write(etc.join(name), text).unwrap();
        }
        symlink("/nowhere", etc.join("resolv.conf")).unwrap();
        apply(root.path());
        for (name, text) in own {
            assert_eq!(fs::read_to_string(etc.join(name)).unwrap(), text);
        }
        assert_eq!(fs::read_link(etc.join("resolv.conf")).unwrap(), Path::new("/nowhere"));
        assert!(root.path().join("srv/shed").is_dir());
    }

    #[test]
    fn an_unset_machine_id_is_set() {
        for unset in ["", "\n", "uninitialized\n"] {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("etc")).unwrap();
            fs::write(root.path().join("etc/machine-id"), unset).unwrap();
            ensure_machine_id(root.path()).unwrap();
            let id = fs::read_to_string(root.path().join("etc/machine-id")).unwrap();
            assert!(id.trim().len() == 32 && id.trim().bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn sudo_is_opened_only_where_it_exists() {
        let root = tempfile::tempdir().unwrap();
        ensure_sudo(root.path()).unwrap();
        assert!(!root.path().join("etc").exists());
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/sudo"), "").unwrap();
        ensure_sudo(root.path()).unwrap();
        let drop_in = root.path().join("etc/sudoers.d/90-shed");
        assert_eq!(fs::metadata(&drop_in).unwrap().permissions().mode() & 0o777, 0o440);
    }

    #[test]
    fn resolved_gets_its_link() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib/systemd")).unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(root.path().join("usr/lib/systemd/systemd-resolved"), "").unwrap();
        ensure_resolv_conf(root.path()).unwrap();
        assert!(fs::symlink_metadata(root.path().join("etc/resolv.conf")).unwrap().is_symlink());
    }
}
