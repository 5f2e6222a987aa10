//! Hands the machine over: to the image's systemd with the agent's unit, or to the agent itself as PID 1.
//!
//! Other inits are not handed over to, because nothing would start the agent there.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cmdline::{Cmdline, Ending},
    console,
    errors::BootError,
};

/// The agent, in the initramfs' own directory.
const AGENT: &str = "/run/shed/bin/shed-agent";

/// The unit that starts the agent.
const UNIT: &str = include_str!("../../../guest/units/shed-agent.service");

const UNIT_NAME: &str = "shed-agent.service";

/// The unit that tells the host of a reboot, in a machine that ends with one.
const REBOOT_UNIT: &str = include_str!("../../../guest/units/shed-reboot.service");

const REBOOT_UNIT_NAME: &str = "shed-reboot.service";

/// Units of Shed's extensions. Nothing wants them: the agent enables those that the server names.
const EXTENSIONS: [(&str, &str); 2] = [
    ("shed-ssh-agent.service", include_str!("../../../guest/units/shed-ssh-agent.service")),
    ("shed-aws-proxy.service", include_str!("../../../guest/units/shed-aws-proxy.service")),
];

/// Units of systemd's with which a machine ends, for good.
const LAST_UNITS: [&str; 2] = ["systemd-poweroff.service", "systemd-halt.service"];

/// What such a unit does at its end, in a machine that has no power to switch off.
const RESTART_INSTEAD: &str = "[Unit]\nSuccessAction=reboot-force\n";

/// What PID 1 becomes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// A program of the image.
    Program(PathBuf),
    /// The agent.
    Agent,
}

/// Chooses what PID 1 becomes. `root` is `/`, but for tests.
pub(crate) fn choose(root: &Path, cmdline: &Cmdline) -> Result<Init, BootError> {
    if let Some(init) = &cmdline.init {
        return Ok(Init::Program(init.clone()));
    }
    for systemd in ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"] {
        if is_program(&inside(root, systemd)) {
            return Ok(Init::Program(PathBuf::from(systemd)));
        }
    }
    // A distribution may keep its systemd elsewhere; then /sbin/init leads there.
    let init = fs::canonicalize(inside(root, "/sbin/init")).unwrap_or_default();
    if init.file_name().is_some_and(|name| name == "systemd") && is_program(&init) {
        return Ok(Init::Program(PathBuf::from("/sbin/init")));
    }
    if is_program(&inside(root, AGENT)) { Ok(Init::Agent) } else { Err(BootError::NoInit) }
}

/// Puts the agent's unit and those of the extensions where systemd finds them, and what makes the machine end as it must,
/// for this boot only.
pub(crate) fn install_units(root: &Path, ending: Ending) -> io::Result<()> {
    let units = inside(root, "/run/systemd/system");
    install_unit(&units, UNIT_NAME, UNIT, "sysinit.target")?;
    for (name, unit) in EXTENSIONS {
        fs::write(units.join(name), unit)?;
    }
    match ending {
        Ending::PowerOff => {}
        Ending::Restart => {
            for unit in LAST_UNITS {
                let more = units.join(format!("{unit}.d"));
                fs::create_dir_all(&more)?;
                fs::write(more.join("shed.conf"), RESTART_INSTEAD)?;
            }
            install_unit(&units, REBOOT_UNIT_NAME, REBOOT_UNIT, "reboot.target")?;
        }
    }
    Ok(())
}

/// Writes a unit and has a target want it.
fn install_unit(units: &Path, name: &str, content: &str, wanted_by: &str) -> io::Result<()> {
    let wants = units.join(format!("{wanted_by}.wants"));
    fs::create_dir_all(&wants)?;
    fs::write(units.join(name), content)?;
    match symlink(Path::new("..").join(name), wants.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Becomes `init`. Returns only when that fails.
pub(crate) fn become_init(init: &Init) -> BootError {
    let (path, arg0, argument) = match init {
        Init::Program(path) => {
            (path.clone(), CString::new(path.as_os_str().as_bytes()).unwrap_or_default(), None)
        }
        Init::Agent => (PathBuf::from(AGENT), c"shed-agent".to_owned(), Some("pid1")),
    };
    console::adopt();
    let source = Command::new(&path)
        .arg0(std::ffi::OsStr::from_bytes(arg0.as_bytes()))
        .args(argument)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/")
        .env("TERM", "linux")
        .exec();
    BootError::Exec { init: path, source }
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_program(root: &Path, path: &str) {
        let path = inside(root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn systemd_comes_first_then_the_agent_and_never_another_init() {
        let root = tempfile::tempdir().unwrap();
        let none = Cmdline::default();
        assert!(matches!(choose(root.path(), &none), Err(BootError::NoInit)));
        put_program(root.path(), AGENT);
        put_program(root.path(), "/sbin/init");
        assert_eq!(choose(root.path(), &none).unwrap(), Init::Agent);
        put_program(root.path(), "/usr/lib/systemd/systemd");
        assert_eq!(choose(root.path(), &none).unwrap(), Init::Program("/usr/lib/systemd/systemd".into()));
        let asked = Cmdline { init: Some("/bin/sh".into()), ..Cmdline::default() };
        assert_eq!(choose(root.path(), &asked).unwrap(), Init::Program("/bin/sh".into()));
    }

    #[test]
    fn the_unit_is_wanted_and_installing_it_twice_is_fine() {
        let root = tempfile::tempdir().unwrap();
        install_units(root.path(), Ending::PowerOff).unwrap();
        install_units(root.path(), Ending::PowerOff).unwrap();
        let link = root.path().join("run/systemd/system/sysinit.target.wants/shed-agent.service");
        assert_eq!(fs::read_to_string(link).unwrap(), UNIT);
        assert!(UNIT.contains(&format!("ExecStart={AGENT} serve\n")));
        for (name, unit) in EXTENSIONS {
            let path = root.path().join("run/systemd/system").join(name);
            assert_eq!(fs::read_to_string(path).unwrap(), unit);
            assert!(unit.contains("ExecStart=@/run/shed/bin/shed-ext ") && unit.contains("\nUser=shed\n"));
        }
    }

    #[test]
    fn a_machine_that_restarts_instead_of_powering_off_has_systemd_told_so() {
        let root = tempfile::tempdir().unwrap();
        let more = root.path().join("run/systemd/system/systemd-poweroff.service.d/shed.conf");
        install_units(root.path(), Ending::PowerOff).unwrap();
        let reboot = root.path().join("run/systemd/system/reboot.target.wants/shed-reboot.service");
        assert!(!more.exists() && !reboot.exists());
        install_units(root.path(), Ending::Restart).unwrap();
        assert_eq!(fs::read_to_string(more).unwrap(), RESTART_INSTEAD);
        assert_eq!(fs::read_to_string(reboot).unwrap(), REBOOT_UNIT);
        assert!(REBOOT_UNIT.contains(&format!("ExecStart={AGENT} tell-reboot\n")));
    }
}
