//! Runs `nft`, which takes and gives JSON (libnftables-json(5)). What is applied in one run is applied whole or not at all.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nftables::schema::Nftables;
use rustix::{
    fs::{Access, access},
    process::{Signal, set_parent_process_death_signal},
};
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{capability, error::NftError};

/// The program's name.
const NAME: &str = "nft";

/// Where it is besides `PATH`, which names these directories for root only.
const USUAL_PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Longest run. A thousand sheds' rules take a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of what it prints goes into an error, in characters.
const OUTPUT_MAX: usize = 1000;

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds the program.
    pub(crate) fn find() -> Result<Self, NftError> {
        // Whoever starts a program that has the capability from its file also sets PATH, and could give the capability to anything.
        let path =
            if capability::from_file() { OsString::new() } else { env::var_os("PATH").unwrap_or_default() };
        let places: Vec<PathBuf> = env::split_paths(&path)
            .filter(|place| place.is_absolute())
            .chain(USUAL_PLACES.map(PathBuf::from))
            .map(|place| place.join(NAME))
            .collect();
        let is_program = |place: &&PathBuf| place.is_file() && access(*place, Access::EXEC_OK).is_ok();
        places
            .iter()
            .find(is_program)
            .map(|program| Self { program: program.clone() })
            .ok_or(NftError::Missing)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Applies commands, all or none.
    pub(crate) async fn apply(&self, commands: &Nftables<'_>) -> Result<(), NftError> {
        let input = serde_json::to_vec(commands).map_err(|source| NftError::Json { source })?;
        let _printed = self.run(&["-j", "-f", "-"], &input).await?;
        Ok(())
    }

    /// Lists something; nothing when it is not there. The answer may hold what this crate knows nothing of.
    pub(crate) async fn list(&self, what: &[&str]) -> Result<Vec<Value>, NftError> {
        let args: Vec<&str> = ["-j", "list"].into_iter().chain(what.iter().copied()).collect();
        let printed = self.run(&args, b"").await?;
        let mut document: Value =
            serde_json::from_slice(&printed).map_err(|source| NftError::Json { source })?;
        match document.get_mut("nftables").map(Value::take) {
            Some(Value::Array(objects)) => Ok(objects),
            _no_list => Ok(Vec::new()),
        }
    }

    /// Returns what it says of its version.
    pub(crate) async fn version(&self) -> Result<String, NftError> {
        let printed = self.run(&["--version"], b"").await?;
        Ok(shown(&printed))
    }

    async fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, NftError> {
        let failed = |source| NftError::Run { program: self.program.display().to_string(), source };
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // SAFETY: the closure runs between fork and exec; it makes system calls and touches no memory but its own.
        unsafe {
            command.pre_exec(|| {
                // What outlived a server that is killed could undo what the next one does.
                set_parent_process_death_signal(Some(Signal::KILL))?;
                capability::pass_on()
            });
        }
        let exchange = async {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that ends without reading says why by itself. All is read before anything is printed.
                match stdin.write_all(input).await {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            child.wait_with_output().await
        };
        let output = timeout(PATIENCE, exchange)
            .await
            .map_err(|_elapsed| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        if !output.status.success() {
            let told = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            return Err(NftError::Refused {
                program: self.program.display().to_string(),
                output: shown(told),
            });
        }
        Ok(output.stdout)
    }
}

fn shown(output: &[u8]) -> String {
    let text: String =
        String::from_utf8_lossy(output).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().chars().take(OUTPUT_MAX).collect()
}
