//! The user whom a server runs as: found by name, and whose eyes the host is looked at with.
//!
//! `setup` and `install` call it as root. Names and groups come from `getent` and `id`, which know users of every kind that the
//! host has, not only those of /etc/passwd.

use std::{env, io, process::Command, str::FromStr, thread};

use camino::Utf8PathBuf;
use rustix::{
    fs::{Gid, Uid},
    process::geteuid,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use shed_types::error_chain;

use crate::config::{Surroundings, User};

/// Set by sudo(8): the name of whoever ran it.
const SUDO_USER: &str = "SUDO_USER";

/// Longest name of a user (limits.h: LOGIN_NAME_MAX is 256 with the NUL). Those of useradd(8) have 32 at most.
const MAX_NAME: usize = 255;

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// All groups, the own one among them.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: Utf8PathBuf,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("{0:?} is no name of a user: letters, digits, `_`, `.`, `@` and `-`, at most {MAX_NAME}")]
    Name(String),
    #[error("there is no user `{0}` on this host; `useradd` makes one")]
    Unknown(String),
    #[error("`{program}` could not be asked about user `{user}`")]
    Ask {
        program: &'static str,
        user: String,
        #[source]
        source: io::Error,
    },
    #[error("`{program}` says of user `{user}` what is not understood: {said:?}")]
    Answer { program: &'static str, user: String, said: String },
}

/// A name that a user can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName(String);

impl FromStr for UserName {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '@');
        let is_name = !text.is_empty()
            && text.len() <= MAX_NAME
            && text.chars().all(fits)
            && !text.starts_with(['-', '.'])
            // That is a number, which means another user.
            && !text.chars().all(|c| c.is_ascii_digit());
        if is_name { Ok(Self(text.to_owned())) } else { Err(AccountError::Name(text.to_owned())) }
    }
}

impl Account {
    /// Returns the one asked for, else whoever ran `sudo`, else whoever runs this.
    ///
    /// # Errors
    /// When there is no such user, or the host does not tell.
    pub fn chosen(asked: Option<&UserName>) -> Result<Self, AccountError> {
        if let Some(name) = asked {
            return Self::named(name);
        }
        let sudo = env::var(SUDO_USER).ok().and_then(|name| name.parse().ok());
        match sudo.filter(|_| geteuid().is_root()) {
            Some(name) => Self::named(&name),
            None => {
                let uid = geteuid().as_raw();
                let line = ask("getent", &["passwd", &uid.to_string()], &uid.to_string())?;
                let name = line.split(':').next().unwrap_or_default().to_owned();
                Self::named(&name.parse()?)
            }
        }
    }

    fn named(name: &UserName) -> Result<Self, AccountError> {
        let UserName(name) = name;
        let line = ask("getent", &["passwd", name], name)?;
        let groups = ask("id", &["-G", "--", name], name)?;
        Self::parse(&line, &groups).ok_or_else(|| AccountError::Answer {
            program: "getent",
            user: name.clone(),
            said: format!("{line}; groups {groups}"),
        })
    }

    /// Reads a line of passwd(5), and numbers of groups.
    fn parse(line: &str, groups: &str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let name = fields.next()?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = Utf8PathBuf::from(fields.nth(1)?);
        let groups = groups.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        home.is_absolute().then_some(Self { name, uid, gid, groups, home })
    }

    /// Whether this is root.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether this process is the user's.
    #[must_use]
    pub fn is_this_process(&self) -> bool {
        geteuid().as_raw() == self.uid
    }

    /// Returns what the defaults of this user's server depend on. For whoever runs this they are those of the process.
    ///
    /// # Errors
    /// As [`Surroundings::of_process`].
    pub fn surroundings(&self) -> Result<Surroundings, crate::config::LocateConfigError> {
        let here = Surroundings::of_process()?;
        let user = if self.is_root() { User::Root } else { User::Ordinary };
        // Those of a shell of the same user may say more, but a service has none of that.
        let data_home = here.data_home.clone().filter(|_| self.is_this_process() && !self.is_root());
        Ok(Surroundings { current_dir: here.current_dir, home: Some(self.home.clone()), data_home, user })
    }

    /// Does something as this user, in a thread that ends with it. Only root can become somebody else.
    ///
    /// # Errors
    /// When the user cannot be become.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_this_process() {
            return Ok(work());
        }
        let become_user = || -> io::Result<()> {
            let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            // These change the calling thread and no other (credentials(7)), unlike what the C library has of the same names.
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
            Ok(())
        };
        thread::scope(|scope| {
            let done = scope.spawn(|| become_user().map(|()| work())).join();
            done.unwrap_or_else(|_panic| Err(io::Error::other("the work panicked")))
        })
    }
}

/// Runs a program that knows the host's users, and returns the line it prints.
fn ask(program: &'static str, args: &[&str], user: &str) -> Result<String, AccountError> {
    let asked = Command::new(program).args(args).env("LC_ALL", "C").output();
    let output = asked.map_err(|source| AccountError::Ask { program, user: user.to_owned(), source })?;
    if !output.status.success() {
        return Err(AccountError::Unknown(user.to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Says what went wrong while something was done as a user.
pub(crate) fn not_as(account: &Account, error: &io::Error) -> String {
    format!("user {} cannot be become for it: {}", account.name, error_chain(error))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn names_are_those_that_no_program_takes_for_something_else() {
        for name in ["root", "shed", "a.b-c_d", "_apt", "x1", "dev@example.org"] {
            assert!(name.parse::<UserName>().is_ok(), "{name}");
        }
        for name in ["", "-x", ".x", "a b", "a:b", "a\nb", "1000", "%i", "a/b", "ü", &"a".repeat(256)] {
            assert!(name.parse::<UserName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_line_of_passwd_is_read_and_others_are_not() {
        let account = Account::parse("dev:x:1000:1001:Dev,,,:/home/dev:/bin/bash", "1001 27 104\n").unwrap();
        assert_eq!((account.uid, account.gid, account.groups.as_slice()), (1000, 1001, &[1001, 27, 104][..]));
        assert_eq!(account.home, "/home/dev");
        for line in ["", "dev", "dev:x:a:1:::", "dev:x:1000:1001:Dev:home:/bin/sh", "dev:x:1:1"] {
            assert_eq!(Account::parse(line, "1"), None, "{line}");
        }
    }

    #[test]
    fn whoever_runs_this_is_found_by_number() {
        let account = Account::chosen(Some(&"root".parse().unwrap())).unwrap();
        assert!(account.is_root() && account.groups.contains(&0));
        let missing = Account::chosen(Some(&"no-such-user-here".parse().unwrap())).unwrap_err();
        assert!(matches!(missing, AccountError::Unknown(_)), "{missing}");
    }

    #[test]
    fn what_is_done_as_a_user_is_done_with_that_users_rights() {
        if !geteuid().is_root() {
            println!("SKIPPED: only root can become somebody else");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
        let home = Utf8PathBuf::from("/");
        let mut account = Account { name: "x".into(), uid: 4711, gid: 4712, groups: vec![4712], home };
        assert!(account.act(|| fs::read(&secret)).unwrap().is_err());
        assert!(fs::read(&secret).is_ok(), "others are root still");
        account.groups.push(0);
        assert!(account.act(|| fs::read(&secret)).unwrap().is_ok(), "by one of the groups");
    }
}
