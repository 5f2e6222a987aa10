//! The unit that systemd runs the server by, as text.
//!
//! Machines are children of the server and outlive it, so nothing here may end with the server what it has started, or give it a
//! view of the host that the next server would not have: no PrivateTmp, ProtectHome, ProtectSystem or other mount namespace (a
//! shed's directory of the host can be anywhere, and the process that serves it outlives a restart), no NoNewPrivileges and no
//! filter that implies it (newuidmap, by which an ordinary user's shares get their ids, is set-user-ID), no ProtectKernelTunables
//! (forwarding is a sysctl), no RuntimeDirectory (it is emptied at each stop, and holds sockets of machines that run).

use camino::{Utf8Path, Utf8PathBuf};
use shed_types::BackendKind;

use super::quote::word;

/// Name of the unit.
pub const UNIT: &str = "shed-server.service";

/// First line of a unit that `install` wrote; one that begins otherwise is somebody else's.
pub(super) const MARK: &str = "# Written by `shed-server install`, which writes it anew; changes belong into `systemctl edit shed-server`.";

/// Whose manager runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The system's.
    System,
    /// The user's own, as `systemctl --user` speaks to.
    User,
}

/// What a unit is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Whose manager runs it.
    pub manager: Manager,
    /// The program.
    pub program: Utf8PathBuf,
    /// The configuration; none means that the server looks for it.
    pub config: Option<Utf8PathBuf>,
    /// The user of a system unit.
    pub user: String,
    /// Which backend runs the sheds.
    pub backend: BackendKind,
    /// What must be mounted before it starts.
    pub directories: Vec<Utf8PathBuf>,
    /// `XDG_DATA_HOME` of a user's unit, which the defaults of the configuration depend on.
    pub data_home: Option<Utf8PathBuf>,
}

/// Says why systemd could not start the program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "systemd runs no program whose path has quotes, backslashes or control characters in it: {0:?}; move shed-server, to \
     /usr/local/bin for example, and run install from there"
)]
pub struct BadProgramError(Utf8PathBuf);

impl Unit {
    /// Returns the text of the unit file.
    ///
    /// # Errors
    /// When the program has a path that systemd refuses.
    pub fn text(&self) -> Result<String, BadProgramError> {
        if self.program.as_str().chars().any(|c| c.is_control() || matches!(c, '"' | '\'' | '\\')) {
            return Err(BadProgramError(self.program.clone()));
        }
        let mut lines = vec![MARK.to_owned(), "[Unit]".to_owned()];
        lines.push("Description=Shed: virtual machines for development".to_owned());
        if self.manager == Manager::System {
            lines.push("Wants=network-online.target".to_owned());
            // Whoever loads a set of rules at boot flushes those of others first.
            lines.push(
                "After=network-online.target nftables.service firewalld.service docker.service".to_owned(),
            );
            if !self.directories.is_empty() {
                lines.push(format!("RequiresMountsFor={}", words(&self.directories)));
            }
        }
        lines.extend(["", "[Service]", "Type=notify"].map(str::to_owned));
        lines.push(self.exec_start());
        lines.push("WorkingDirectory=/".to_owned());
        if self.manager == Manager::System {
            // Even for root: otherwise there is no HOME.
            lines.push(format!("User={}", self.user));
            if self.backend == BackendKind::Firecracker && self.user != "root" {
                lines.push("AmbientCapabilities=CAP_NET_ADMIN".to_owned());
            }
        }
        if let (Manager::User, Some(data_home)) = (self.manager, &self.data_home) {
            lines.push(format!("Environment={}", word(&format!("XDG_DATA_HOME={data_home}"))));
        }
        lines.extend(SERVICE.map(str::to_owned));
        let target = match self.manager {
            Manager::System => "multi-user.target",
            Manager::User => "default.target",
        };
        lines.extend(["".to_owned(), "[Install]".to_owned(), format!("WantedBy={target}")]);
        Ok(lines.join("\n") + "\n")
    }

    /// The colon turns off `$`, which otherwise stands for variables (systemd.service(5)).
    fn exec_start(&self) -> String {
        let mut line = format!("ExecStart=:{} serve", word(self.program.as_str()));
        if let Some(config) = &self.config {
            line.push_str(" --config ");
            line.push_str(&word(config.as_str()));
        }
        line
    }
}

/// What is the same in every unit.
const SERVICE: [&str; 11] = [
    "Restart=on-failure",
    "RestartSec=2",
    "# Machines outlive the server, and the next one takes them over.",
    "KillMode=process",
    "# One that the kernel ends for lack of memory ends alone.",
    "OOMPolicy=continue",
    "# Requests in progress have half a minute; to take many sheds over may take longer.",
    "TimeoutStopSec=60",
    "TimeoutStartSec=600",
    "LimitNOFILE=524288",
    "TasksMax=infinity",
];

fn words(paths: &[Utf8PathBuf]) -> String {
    let words: Vec<String> = paths.iter().map(|path| word(path.as_str())).collect();
    words.join(" ")
}

/// Whether a unit file was written by `install`.
pub(super) fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

/// Returns where the unit belongs: the administrator's directory, or the user's (systemd.unit(5), unit file load path).
pub(super) fn path(manager: Manager, home: &Utf8Path, config_home: Option<&Utf8Path>) -> Utf8PathBuf {
    let directory = match (manager, config_home) {
        (Manager::System, _) => Utf8PathBuf::from("/etc/systemd/system"),
        (Manager::User, Some(config_home)) => config_home.join("systemd/user"),
        (Manager::User, None) => home.join(".config/systemd/user"),
    };
    directory.join(UNIT)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn unit(manager: Manager) -> Unit {
        Unit {
            manager,
            program: "/usr/local/bin/shed-server".into(),
            config: Some("/etc/shed/server.yaml".into()),
            user: "dev".to_owned(),
            backend: BackendKind::Firecracker,
            directories: vec!["/srv/shed/images".into(), "/srv/shed/in stances".into()],
            data_home: None,
        }
    }

    #[test]
    fn the_units_of_the_system_and_of_a_user() {
        insta::assert_snapshot!("system", unit(Manager::System).text().unwrap());
        insta::assert_snapshot!("user", unit(Manager::User).text().unwrap());
    }

    #[test]
    fn only_an_ordinary_user_s_firecracker_needs_the_capability() {
        let has = |unit: Unit| unit.text().unwrap().contains("AmbientCapabilities=CAP_NET_ADMIN\n");
        assert!(has(unit(Manager::System)));
        assert!(!has(Unit { user: "root".to_owned(), ..unit(Manager::System) }));
        assert!(!has(Unit { backend: BackendKind::Qemu, ..unit(Manager::System) }));
        // A user's manager has none to give.
        assert!(!has(unit(Manager::User)));
    }

    #[test]
    fn hostile_paths_stay_words_of_their_line() {
        let config = "/etc/a b/%h/$HOME/it's \"q\"\\/x\nExecStartPre=/bin/false\n[Install]".into();
        let data_home = Some("/d %i\n".into());
        let hostile = Unit { config: Some(config), data_home, ..unit(Manager::User) };
        let text = hostile.text().unwrap();
        let settings: Vec<&str> = text.lines().filter(|line| line.contains("Exec")).collect();
        assert_eq!(
            settings,
            [
                r#"ExecStart=:"/usr/local/bin/shed-server" serve --config "/etc/a b/%%h/$HOME/it's \"q\"\\/x\nExecStartPre=/bin/false\n[Install]""#
            ]
        );
        assert!(text.contains(r#"Environment="XDG_DATA_HOME=/d %%i\n""#));
    }

    #[test]
    fn programs_that_systemd_refuses_are_refused_with_what_to_do() {
        for program in ["/a'b", "/a\"b", "/a\\b", "/a\nb"] {
            let error = Unit { program: program.into(), ..unit(Manager::System) }.text().unwrap_err();
            assert!(error.to_string().contains("move shed-server"), "{error}");
        }
        assert!(Unit { program: "/a b/100%".into(), ..unit(Manager::System) }.text().is_ok());
    }

    #[test]
    fn systemd_itself_finds_nothing_to_complain_of() {
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            println!("SKIPPED: there is no systemd-analyze");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(dir.path()).unwrap();
        let program = dir.join("100% shed $server");
        std::fs::copy("/bin/true", &program).unwrap();
        for manager in [Manager::System, Manager::User] {
            let config = Some(dir.join("it's \"a\" %h\n\\config"));
            let directories = vec![dir.join("a %b"), dir.join("c")];
            let user = "root".to_owned();
            let unit = Unit { program: program.clone(), config, directories, user, ..unit(manager) };
            let path = dir.join(UNIT);
            std::fs::write(&path, unit.text().unwrap()).unwrap();
            let flag = match manager {
                Manager::System => "--system",
                Manager::User => "--user",
            };
            let verified = Command::new("systemd-analyze")
                .args(["verify", flag, "--man=no", "--recursive-errors=no", path.as_str()])
                .env("XDG_RUNTIME_DIR", dir)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&verified.stderr);
            let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("shed-server")).collect();
            assert!(about_ours.is_empty(), "{flag}: {said}");
            if manager == Manager::System && !verified.status.success() {
                println!("SKIPPED: systemd-analyze could not look at it here: {said}");
            }
        }
    }
}
