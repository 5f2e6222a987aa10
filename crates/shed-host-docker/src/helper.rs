//! Docker's credential helpers: programs `docker-credential-NAME` that keep secrets in a keychain.
//!
//! A helper runs in a process group of its own, which ends with it, with the limit, or with whoever waits. What it writes to
//! its standard error is read by nobody: it goes to no guest and to no log.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use shed_extensions::{Secret, clean};
use shed_process::{ProcessId, WatchedProcess};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::Semaphore,
    time::timeout,
};

use crate::config::Login;

/// How long a helper may take (spec J.4).
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Most that a helper may write, in bytes; tokens of cloud registries have some kilobytes.
const OUTPUT: u64 = 64 << 10;

/// Longest name of a helper, in bytes.
const NAME: usize = 64;

/// How the word begins that helpers have for: nothing for this registry (docker-credential-helpers,
/// `errCredentialsNotFoundMessage`; some end it otherwise).
const NOT_FOUND: &str = "credentials not found";

/// Why a helper gave nothing. No text has anything that the helper wrote.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    #[error(
        "`{0}` is no name of a credential helper; correct credsStore or credHelpers in Docker's configuration of the host"
    )]
    BadName(String),
    #[error(
        "the host's Docker asks Shed itself for credentials, which asks the host's Docker; set another credsStore there"
    )]
    Loop,
    #[error("docker-credential-{0} is not on the host, or not in the PATH of shed-host-agent")]
    Missing(String),
    #[error("docker-credential-{name} could not be run")]
    NotRun { name: String, source: io::Error },
    #[error("docker-credential-{name} did not answer within {} s", limit.as_secs())]
    Slow { name: String, limit: Duration },
    #[error("docker-credential-{name} wrote more than {OUTPUT} bytes")]
    TooMuch { name: String },
    #[error("docker-credential-{name} failed ({status})")]
    Failed { name: String, status: ExitStatus },
    #[error("docker-credential-{name} wrote what is no answer of a credential helper")]
    Strange { name: String },
}

/// Most helpers that run at a time.
const AT_ONCE: usize = 8;

/// Where helpers are, how long they may take, and how many run.
#[derive(Debug)]
pub(crate) struct Helpers {
    path: Option<OsString>,
    limit: Duration,
    turns: Semaphore,
}

#[derive(Deserialize)]
struct Got {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: Secret,
}

impl Helpers {
    /// Makes one. `path` has the form of `PATH`, which it is when it is absent.
    pub(crate) fn new(path: Option<OsString>, limit: Duration) -> Self {
        Self { path, limit, turns: Semaphore::new(AT_ONCE) }
    }

    /// Asks a helper for credentials; nothing when it has none.
    pub(crate) async fn get(&self, name: &str, server: &str) -> Result<Option<Login>, HelperError> {
        let (status, output) = self.run(name, "get", server).await?;
        if !status.success() {
            // Helpers say it on the standard output; the exit code is that of every failure.
            let nothing = String::from_utf8_lossy(&output).trim().starts_with(NOT_FOUND);
            return if nothing {
                Ok(None)
            } else {
                Err(HelperError::Failed { name: name.to_owned(), status })
            };
        }
        let strange = || HelperError::Strange { name: name.to_owned() };
        let got: Got = serde_json::from_slice(&output).map_err(|_not_json| strange())?;
        if got.secret.reveal().is_empty() || got.username.contains(char::is_control) {
            return Err(strange());
        }
        Ok(Some(Login { username: got.username, secret: got.secret }))
    }

    /// Asks a helper which registries it has credentials for, each with its user.
    pub(crate) async fn list(&self, name: &str) -> Result<BTreeMap<String, String>, HelperError> {
        let (status, output) = self.run(name, "list", "").await?;
        if !status.success() {
            return Err(HelperError::Failed { name: name.to_owned(), status });
        }
        serde_json::from_slice(&output).map_err(|_not_json| HelperError::Strange { name: name.to_owned() })
    }

    /// Runs a helper to its end; the limit holds for the waiting for its turn, too.
    async fn run(
        &self,
        name: &str,
        operation: &str,
        input: &str,
    ) -> Result<(ExitStatus, Vec<u8>), HelperError> {
        let program = self.find(name)?;
        let run = async {
            let _turn = self.turns.acquire().await;
            run(&program, operation, input).await
        };
        let name = name.to_owned();
        match timeout(self.limit, run).await {
            Err(_elapsed) => Err(HelperError::Slow { name, limit: self.limit }),
            Ok(Err(source)) => Err(HelperError::NotRun { name, source }),
            Ok(Ok((_status, None))) => Err(HelperError::TooMuch { name }),
            Ok(Ok((status, Some(output)))) => Ok((status, output)),
        }
    }
    /// Finds the program of a helper. Only absolute directories of the search path count.
    fn find(&self, name: &str) -> Result<PathBuf, HelperError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > NAME || !name.chars().all(plain) {
            return Err(HelperError::BadName(clean(name, NAME)));
        }
        // Some file systems do not tell capital letters from small ones.
        if name.eq_ignore_ascii_case("shed") {
            return Err(HelperError::Loop);
        }
        let path = self.path.clone().or_else(|| env::var_os("PATH")).unwrap_or_default();
        find_in(&path, &format!("docker-credential-{name}"))
            .ok_or_else(|| HelperError::Missing(name.to_owned()))
    }
}

/// Runs a program to its end, and returns what it wrote; nothing when that is too much.
async fn run(program: &Path, operation: &str, input: &str) -> io::Result<(ExitStatus, Option<Vec<u8>>)> {
    let mut child = Command::new(program)
        .arg(operation)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    // Dropped before the child, which holds the number of the group.
    let group = Group(i32::try_from(pid).ok().and_then(Pid::from_raw));
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let write = async {
        let Some(mut stdin) = stdin else { return };
        // One that does not read its input may know the answer all the same.
        let _unread = stdin.write_all(input.as_bytes()).await;
    };
    let read = async {
        let output = read(stdout).await;
        if !matches!(&output, Ok(Some(_))) {
            group.kill();
        }
        output
    };
    let end = async {
        let end = ended(pid).await;
        // What it has left running may hold the output open.
        group.kill();
        end
    };
    let ((), output, end) = tokio::join!(write, read, end);
    end?;
    drop(group);
    Ok((child.wait().await?, output?))
}

fn find_in(path: &OsStr, file: &str) -> Option<PathBuf> {
    let places = env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(file));
    places.into_iter().find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Reads all; nothing when it is too much.
async fn read(output: Option<impl AsyncRead + Unpin>) -> io::Result<Option<Vec<u8>>> {
    let Some(output) = output else { return Ok(Some(Vec::new())) };
    let mut bytes = Vec::new();
    let read = output.take(OUTPUT + 1).read_to_end(&mut bytes).await?;
    Ok((read as u64 <= OUTPUT).then_some(bytes))
}

/// Waits until a child has ended, and leaves it to its parent, so that its number stays its own.
async fn ended(pid: u32) -> io::Result<()> {
    let Some(id) = ProcessId::of(pid)? else { return Ok(()) };
    match WatchedProcess::open(id)? {
        Some(process) => process.dead().await,
        None => Ok(()),
    }
}

/// The process group of a helper that has not been waited for yet. It ends with this.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(group) = self.0 {
            // It may have ended; then there is nothing to do.
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
