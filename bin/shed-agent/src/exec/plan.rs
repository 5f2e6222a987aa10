//! What a request comes down to: program, arguments, environment, user and directories, all found out before a
//! process exists.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use shed_protocol::{Command, ExecRequest, ExitStatus};

use super::{
    environment::{self, Sources, Variables},
    users::{self, User},
};
use crate::{
    image::{self, WORKSPACE},
    state::State,
};

/// Exit code of a command that cannot be run for any other reason than that it is not there (POSIX sh, 2.8.2).
pub(crate) const CANNOT_RUN: i32 = 126;

/// Exit code of a command that is not there.
pub(crate) const NOT_FOUND: i32 = 127;

/// A command, ready to be started.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Path of the program.
    pub(crate) program: PathBuf,
    /// Its name as the caller wrote it.
    pub(crate) arg0: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its whole environment.
    pub(crate) variables: Variables,
    /// Who runs it.
    pub(crate) user: User,
    /// Where it starts: the first of these that the user may enter.
    pub(crate) directories: Vec<CString>,
    /// The size of its terminal, if it gets one: rows, columns.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// Makes the plan for a request. On failure the status says what the caller is told.
pub(crate) fn make(request: &ExecRequest, state: &State) -> Result<Plan, ExitStatus> {
    let cannot = |error: &dyn std::error::Error| ExitStatus::failed(CANNOT_RUN, error.to_string());
    let command = request.command().map_err(|error| cannot(&error))?;
    let image = state.image();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let user = users::resolve(&passwd, &group, &request.user, &image.user).map_err(|error| cannot(&error))?;
    let shell = shell();
    let variables = variables(&request.env, request.tty, &user, state);
    let (arg0, args) = match command {
        Command::LoginShell if shell == "/bin/bash" => (shell.to_owned(), vec!["--login".to_owned()]),
        Command::LoginShell => (shell.to_owned(), vec!["-l".to_owned()]),
        Command::Program { program, args } => (program, args),
        Command::Entrypoint { args } => image::program(&image, args).map_err(|error| cannot(&error))?,
    };
    let search = variables.get("PATH").map_or("", String::as_str);
    let program = look_up(&arg0, search)?;
    let asked = if request.working_dir.is_empty() { image::directory(&image) } else { &request.working_dir };
    let directories = directories(asked, &user.home);
    let or = |given, default| if given == 0 { default } else { given };
    let terminal = request.tty.then(|| (or(request.rows, 24), or(request.cols, 80)));
    Ok(Plan { program, arg0, args, variables, user, directories, terminal })
}

/// The guest's shell: bash, where there is one.
pub(crate) fn shell() -> &'static str {
    if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

/// The whole environment of a command of this user.
pub(crate) fn variables(requested: &[String], tty: bool, user: &User, state: &State) -> Variables {
    let sources = Sources {
        inherited: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        image: image::variables(&state.image()).collect(),
        files: environment::read_directories(),
        shed_name: state.name(),
        requested,
        tty,
        shell: shell(),
    };
    environment::build(sources, user)
}

/// Finds a program by its name in `search`, a list like PATH. A name with a slash is taken as it is.
pub(crate) fn look_up(name: &str, search: &str) -> Result<PathBuf, ExitStatus> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let mut found_other = None;
    for directory in search.split(':').filter(|directory| directory.starts_with('/')) {
        let path = Path::new(directory).join(name);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(path),
            Ok(_) => found_other = Some(path),
            Err(_) => {}
        }
    }
    Err(match found_other {
        Some(path) => ExitStatus::failed(CANNOT_RUN, format!("{}: not an executable file", path.display())),
        None => ExitStatus::failed(NOT_FOUND, format!("{name}: command not found in the guest")),
    })
}

/// Where to start, best first (spec B.3).
fn directories(asked: &str, home: &str) -> Vec<CString> {
    [asked, home, WORKSPACE, "/"].into_iter().filter_map(|path| CString::new(path).ok()).collect()
}

/// The exit code for an error of execve(2).
pub(crate) fn code_of(error: &std::io::Error) -> i32 {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => NOT_FOUND,
        _ => CANNOT_RUN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_order_and_only_programs_count() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for directory in [&a, &b] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("tool"), "").unwrap();
        }
        let search = format!("relative::{}:{}", a.display(), b.display());
        assert_eq!(look_up("tool", &search).unwrap_err().code, CANNOT_RUN);
        fs::set_permissions(b.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(look_up("tool", &search).unwrap(), b.join("tool"));
        assert_eq!(look_up("nothing", &search).unwrap_err().code, NOT_FOUND);
        assert_eq!(look_up("./tool", "").unwrap(), PathBuf::from("./tool"));
    }

    #[test]
    fn the_directory_asked_for_comes_first_and_the_root_last() {
        assert_eq!(
            directories("/srv", "/home/shed"),
            [c"/srv", c"/home/shed", c"/workspace", c"/"].map(CString::from)
        );
    }
}
