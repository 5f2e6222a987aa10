//! Clones a repository into the empty workspace, as the user (spec D.1).
//!
//! Git asks nobody for anything: there is no terminal and no input. A clone that fails leaves the workspace as it was. The
//! password of a URL goes to git, which keeps it in .git/config as it always does; it is in nothing that is shown or kept
//! here.

use std::{
    ffi::CString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use shed_protocol::{CloneRequest, Step, StepEnd};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{
    as_user::as_user,
    known_hosts,
    mask::{Masker, masked_url},
    run::{Program, Run, failure},
    session,
};
use crate::exec::{
    environment::Variables,
    plan::{self, Plan},
    spawn::{Apart, start_apart},
};

/// How long a clone may take when the host sets no limit.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// How long small work on files may take, and the removal of what a clone has left.
const FILES: Duration = Duration::from_secs(30);
const REMOVAL: Duration = Duration::from_secs(5 * 60);

/// How long git may take to say what it has configured or cloned, and how much of that is read.
const ANSWER: Duration = Duration::from_secs(30);
const MAX_ANSWER: u64 = 4 << 20;

/// Longest URL, in bytes.
const MAX_URL: usize = 4096;

/// Without a terminal ssh asks nobody; with these it says at once why it cannot go on.
const SSH: &str = "ssh -o BatchMode=yes -o ConnectTimeout=30";

/// What would have git work somewhere else than here.
const NOT_GITS: [&str; 5] =
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"];

/// Whether git may be given this: a URL of a kind that comes over a network, or `user@host:path`. The host has looked
/// before; nothing else should ever become a clone all the same.
pub(super) fn is_url(url: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if url.is_empty() || url.len() > MAX_URL || url.starts_with('-') || url.contains(odd) {
        return false;
    }
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let scheme = scheme.to_ascii_lowercase();
            matches!(scheme.as_str(), "https" | "http" | "ssh" | "git")
                && !rest.is_empty()
                && !rest.starts_with(['-', '/'])
        }
        None => is_scp(url),
    }
}

/// `user@host:path`; `ext::…` and its like are other transports of git's.
fn is_scp(url: &str) -> bool {
    let Some((host, path)) = url.split_once(':') else { return false };
    let Some((user, host)) = host.split_once('@') else { return false };
    let plain = |text: &str| !text.is_empty() && !text.starts_with('-') && !text.contains('/');
    plain(user) && plain(host) && !path.is_empty() && !path.starts_with(':')
}

fn is_ssh(url: &str) -> bool {
    match url.split_once("://") {
        Some((scheme, _)) => scheme.eq_ignore_ascii_case("ssh"),
        None => true,
    }
}

impl Run {
    /// Clones; on failure nothing of it is left.
    pub(super) async fn clone(&self, request: &CloneRequest) -> StepEnd {
        self.began(Step::Clone);
        let shown = masked_url(&request.url);
        match self.occupants().await {
            Ok(None) => {}
            Ok(Some(name)) => {
                let what = self.workspace().display();
                let message = format!("cannot clone {shown}: {what} is not empty, {name:?} is there");
                return StepEnd::Failed(failure(&message));
            }
            Err(error) => {
                let what = self.workspace().display();
                return StepEnd::Failed(failure(&format!("cannot clone {shown} into {what}: {error}")));
            }
        }
        let variables = self.git_variables();
        let search = variables.get("PATH").map_or("", String::as_str);
        let Ok(git) = plan::look_up("git", search) else {
            let message = format!("cannot clone {shown}: there is no git in this shed's image");
            return StepEnd::Failed(failure(&message));
        };
        let mut git = Git { git, variables };
        if is_ssh(&request.url) {
            self.know_hosts(&request.known_hosts).await;
            self.choose_ssh(&mut git).await;
        }
        let what = format!("the clone of {shown}");
        let program = Program {
            step: Step::Clone,
            what: &what,
            plan: self.git_plan(&git, &["clone", "--progress", "--", &request.url, "."]),
            limit: self.request.limit_ms.map_or(LIMIT, Duration::from_millis),
            masker: Masker::of_url(&request.url),
        };
        match self.program(program).await {
            Ok(()) => StepEnd::Done,
            Err(failure) => {
                if let Err(error) = self.remove_clone(&git).await {
                    self.warn(Step::Clone, &format!("what it has left is not removed: {error}"));
                }
                StepEnd::Failed(failure)
            }
        }
    }

    /// What is in the workspace already, if anything is.
    async fn occupants(&self) -> io::Result<Option<String>> {
        let place = self.workspace().to_owned();
        let look = move || {
            let first = fs::read_dir(place)?.next().transpose()?;
            Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        };
        as_user(&self.user, FILES, look).await.map_err(io::Error::other)?
    }

    async fn know_hosts(&self, lines: &[String]) {
        let (home, lines) = (PathBuf::from(&self.user.home), lines.to_vec());
        let added = as_user(&self.user, FILES, move || known_hosts::add(&home, &lines)).await;
        if let Err(error) = added.map_err(io::Error::other).and_then(|added| added) {
            self.warn(Step::Clone, &format!("known hosts are not written to ~/.ssh/known_hosts: {error}"));
        }
    }

    /// Sees that ssh asks nothing, unless somebody has said which ssh it is to be.
    async fn choose_ssh(&self, git: &mut Git) {
        if git.variables.contains_key("GIT_SSH_COMMAND") || git.variables.contains_key("GIT_SSH") {
            return;
        }
        let configured = self.git_says(git, &["config", "--get", "core.sshCommand"]).await;
        if configured.trim_ascii().is_empty() {
            git.variables.insert("GIT_SSH_COMMAND".to_owned(), SSH.to_owned());
        }
    }

    fn git_variables(&self) -> Variables {
        let mut variables = plan::variables(&self.request.env, false, &self.user, &self.state);
        variables.retain(|name, _| !NOT_GITS.contains(&name.as_str()));
        for entry in self.own_variables() {
            if let Some((name, value)) = entry.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        variables.insert("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned());
        variables
    }

    fn git_plan(&self, git: &Git, args: &[&str]) -> Plan {
        Plan {
            program: git.git.clone(),
            arg0: "git".to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            variables: git.variables.clone(),
            user: self.user.clone(),
            directories: CString::new(self.workspace().as_os_str().as_encoded_bytes()).into_iter().collect(),
            terminal: None,
        }
    }

    /// Removes what the clone has made, and nothing that somebody else has put there meanwhile. Git itself removes it when
    /// it can, but not when it was killed, nor what it has checked out.
    async fn remove_clone(&self, git: &Git) -> io::Result<()> {
        let listed = self.git_says(git, &["ls-tree", "-z", "--name-only", "HEAD"]).await;
        let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut paths: Vec<PathBuf> = names.filter_map(|name| below(self.workspace(), name)).collect();
        paths.push(self.workspace().join(".git"));
        let remove = move || {
            paths.iter().try_for_each(|path| match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
                Ok(_) => fs::remove_file(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            })
        };
        as_user(&self.user, REMOVAL, remove).await.map_err(io::Error::other)?
    }

    /// What git prints; nothing when it fails.
    async fn git_says(&self, git: &Git, args: &[&str]) -> Vec<u8> {
        let mut said = Vec::new();
        // A directory above is none of ours.
        let mut git = git.clone();
        git.variables.insert("GIT_CEILING_DIRECTORIES".to_owned(), parent_of(self.workspace()));
        let Ok(Apart { mut child, leader, output }) = start_apart(self.git_plan(&git, args)).await else {
            return said;
        };
        let mut output = output.take(MAX_ANSWER);
        let answered = timeout(ANSWER, async {
            let read = output.read_to_end(&mut said).await.is_ok();
            read && child.wait().await.is_ok_and(|status| status.success())
        })
        .await;
        match answered {
            Ok(true) => said,
            Ok(false) | Err(_) => {
                tokio::join!(session::end(leader), async {
                    let _code = child.wait().await;
                });
                Vec::new()
            }
        }
    }
}

/// Git, and the environment it runs in.
#[derive(Debug, Clone)]
struct Git {
    git: PathBuf,
    variables: Variables,
}

fn parent_of(path: &Path) -> String {
    path.parent().unwrap_or(Path::new("/")).display().to_string()
}

/// The path of an entry of the workspace; nothing when it is none.
fn below(workspace: &Path, name: &[u8]) -> Option<PathBuf> {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let plain = !name.contains(&b'/') && !matches!(name, b"." | b"..");
    plain.then(|| workspace.join(OsStr::from_bytes(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_over_a_network_is_a_url() {
        for good in [
            "https://host/a",
            "http://me:pw@host:8080/a.git",
            "ssh://git@host:22/a",
            "git://127.0.0.1:9418/a",
            "git@github.com:owner/repo.git",
            "me@host:~/x",
        ] {
            assert!(is_url(good), "{good}");
        }
        for bad in [
            "",
            "-u",
            "--upload-pack=x",
            "/srv/repo",
            "repo",
            "host:path",
            "file:///etc",
            "FILE:///etc",
            "ext::sh -c x",
            "ext::sh",
            "fd::3",
            "me@-oProxyCommand=x:y",
            "-me@host:y",
            "me@host::y",
            "ssh://-oProxyCommand=x/y",
            "https://",
            "https:///x",
            "https://a b",
            "https://a\nb",
            "https://a\0b",
            &"a".repeat(5000),
        ] {
            assert!(!is_url(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_entries_of_the_workspace_are_removed() {
        let place = Path::new("/workspace");
        assert_eq!(below(place, b"a b").unwrap(), Path::new("/workspace/a b"));
        for bad in [&b"."[..], b"..", b"/etc", b"a/b"] {
            assert_eq!(below(place, bad), None);
        }
    }
}
