//! The program that builds from a Dockerfile: buildah, podman or docker, and how each is asked.
//!
//! [`Tool::find`] takes the first that is there; what each is told is made by pure functions, and [`Running`] runs it with
//! its output shown as it comes. Nothing here needs root; whether a tool does is its own affair.

use std::{collections::VecDeque, ffi::OsString, path::Path, process::Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    sync::mpsc,
};

use super::watch::Watch;
use crate::{
    command_error::{CommandError, Kind},
    progress::Task,
};

/// Lines of output that are kept for an error and for what they say about its cause.
const KEPT_LINES: usize = 100;

/// Longest line that is shown at once, in bytes.
const MAX_LINE: usize = 4096;

/// What tools write when this machine does not let them run containers the way they want to, as inside of a container. The
/// first two are buildah's, the third is that of a user namespace that is not allowed.
const NO_CONTAINERS: [&str; 3] =
    ["error running container: from", "did not get container create message", "Error during unshare("];

/// What tools write when the file system of their storage has no overlays.
const NO_OVERLAY: [&str; 2] = ["'overlay' is not supported over", "kernel does not support overlay fs"];

/// A program that builds from a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Needs no daemon and no root.
    Buildah,
    /// The same, and more.
    Podman,
    /// A client of a daemon.
    Docker,
}

/// How a tool lets the commands of a Dockerfile run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// As it thinks best.
    Own,
    /// By chroot only, where containers cannot be had. Only of buildah and podman.
    Chroot,
}

/// What is to be built.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    pub(crate) dockerfile: &'a Utf8Path,
    pub(crate) context: &'a Utf8Path,
    pub(crate) target: Option<&'a str>,
    pub(crate) build_args: &'a [String],
    /// What the tool is to call the result; nothing when the name is none for it.
    pub(crate) tag: Option<&'a str>,
    /// Where the tool writes the id of the result.
    pub(crate) id_file: &'a Utf8Path,
}

impl Tool {
    /// In the order in which they are looked for (spec of `image build -f`).
    pub(crate) const ALL: [Self; 3] = [Self::Buildah, Self::Podman, Self::Docker];

    /// Finds the first one on PATH.
    pub(crate) fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let dirs: Vec<_> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
        let is_there = |tool: &Self| dirs.iter().any(|dir| is_program(&dir.join(tool.name())));
        Self::ALL.into_iter().find(is_there)
    }

    /// Returns its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// Returns whether it can do without containers.
    pub(crate) const fn knows_chroot(self) -> bool {
        match self {
            Self::Buildah | Self::Podman => true,
            Self::Docker => false,
        }
    }

    /// Returns what it is asked to build.
    pub(crate) fn build(self, build: &Build<'_>, isolation: Isolation) -> Vec<OsString> {
        let pair = |flag: &str, value: &str| [flag.into(), value.into()];
        let mut words: Vec<OsString> = vec!["build".into()];
        match (self, isolation) {
            (Self::Buildah | Self::Podman, Isolation::Own) => {}
            (Self::Buildah | Self::Podman, Isolation::Chroot) => words.extend(pair("--isolation", "chroot")),
            (Self::Docker, Isolation::Own | Isolation::Chroot) => {}
        }
        match self {
            Self::Buildah | Self::Podman => {
                words.push("--layers".into());
                words.extend(pair("--format", "oci"));
            }
            Self::Docker => {}
        }
        words.extend(pair("--iidfile", build.id_file.as_str()));
        words.extend(pair("-f", build.dockerfile.as_str()));
        words.extend(build.tag.map(|tag| pair("-t", tag)).into_iter().flatten());
        words.extend(build.target.map(|target| pair("--target", target)).into_iter().flatten());
        words.extend(build.build_args.iter().flat_map(|arg| pair("--build-arg", arg)));
        words.extend(["--".into(), build.context.as_str().into()]);
        words
    }

    /// Returns what it is asked to write an image to `out` of the working directory, as a layout or an archive.
    pub(crate) fn export(self, id: &str, out: &str) -> Vec<OsString> {
        let oci = format!("oci:{out}");
        let words = match self {
            Self::Buildah => vec!["push", "-q", "--format", "oci", id, &oci],
            Self::Podman => vec!["save", "-q", "--format", "oci-dir", "-o", out, id],
            Self::Docker => vec!["save", "-o", out, id],
        };
        words.into_iter().map(Into::into).collect()
    }

    /// Returns what it is asked to take in an image from `from` of the working directory: a layout, or an archive for
    /// docker. It answers with the image's id.
    pub(crate) fn load(self, from: &str) -> Vec<OsString> {
        let oci = format!("oci:{from}");
        let words = match self {
            Self::Buildah | Self::Podman => vec!["pull", "-q", &oci],
            Self::Docker => vec!["load", "-q", "-i", from],
        };
        words.into_iter().map(Into::into).collect()
    }

    /// Returns what it is asked to give an image a name, and to take one away.
    pub(crate) fn tag(self, id: &str, name: &str) -> Vec<OsString> {
        ["tag", id, name].map(Into::into).into()
    }

    /// Returns what it is asked to take a name away from an image that has others.
    pub(crate) fn untag(self, name: &str) -> Vec<OsString> {
        ["rmi", name].map(Into::into).into()
    }

    /// Returns the image's id in the answer to [`Tool::load`].
    pub(crate) fn loaded(self, answer: &str) -> Option<&str> {
        let last = answer.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        match self {
            Self::Buildah | Self::Podman => Some(last),
            Self::Docker => last.split_once(": ").map(|(_, id)| id),
        }
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A tool, where it runs and who watches.
pub(crate) struct Running<'a> {
    pub(crate) tool: Tool,
    pub(crate) directory: &'a Utf8Path,
    pub(crate) task: &'a Task<'a>,
    pub(crate) watch: &'a Watch,
}

/// Why a tool did not do what it was asked.
#[derive(Debug)]
pub(crate) struct ToolFailed {
    /// For the user.
    pub(crate) error: CommandError,
    /// Whether it can have no containers here.
    pub(crate) no_containers: bool,
}

impl Running<'_> {
    /// Runs the tool with these arguments, and returns what it wrote to stdout last. All it writes is shown, but for the
    /// answers of those that are asked for one.
    pub(crate) async fn run(&self, arguments: &[OsString], shown: Shown) -> Result<String, ToolFailed> {
        let name = self.tool.name();
        let failed = |reason: String| CommandError::new(Kind::Failed, reason);
        let plain = |error| ToolFailed { error, no_containers: false };
        let mut child = Command::new(name)
            .args(arguments)
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| plain(failed(format!("could not start {name}")).caused_by(error)))?;
        let (tell, mut lines) = mpsc::channel(16);
        let out = child.stdout.take().map(|out| tokio::spawn(read_lines(out, Stream::Out, tell.clone())));
        let err = child.stderr.take().map(|err| tokio::spawn(read_lines(err, Stream::Err, tell)));
        let (mut tail, mut answer) = (VecDeque::new(), VecDeque::new());
        let mut asked_to_end = false;
        // Ends when both streams have ended, which a process that the tool has left behind may hold up: then it ends with
        // the tool.
        let mut ended = None;
        loop {
            tokio::select! {
                biased;
                () = self.watch.cancelled(), if !asked_to_end => {
                    asked_to_end = true;
                    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                        // It may have ended at this moment.
                        let _ended = kill_process(pid, Signal::TERM);
                    }
                }
                line = lines.recv() => match line {
                    None => break,
                    Some((stream, line)) => {
                        if shown == Shown::All || stream == Stream::Err {
                            self.task.remark(&line);
                        }
                        if stream == Stream::Out {
                            keep(&mut answer, line.clone());
                        }
                        keep(&mut tail, line);
                    }
                },
                status = child.wait(), if ended.is_none() => ended = Some(status),
            }
        }
        drop((out, err));
        let status = match ended {
            Some(status) => status,
            None => child.wait().await,
        };
        let status =
            status.map_err(|error| plain(failed(format!("could not wait for {name}")).caused_by(error)))?;
        if status.success() {
            return Ok(Vec::from(answer).join("\n"));
        }
        let tail = Vec::from(tail).join("\n");
        let has = |texts: &[&str]| texts.iter().any(|text| tail.contains(text));
        let how = status.code().map_or_else(|| format!("{status}"), |code| format!("exit code {code}"));
        let mut error = failed(format!("{name} failed with {how}"));
        if let Some(last) = tail.lines().rev().find(|line| !line.trim().is_empty()) {
            error = error.caused_by(last.trim().to_owned());
        }
        if has(&NO_OVERLAY) {
            error = error.hinted(format!(
                "the file system below {name}'s storage has no overlays; let it copy instead: STORAGE_DRIVER=vfs shed image build ..."
            ));
        }
        Err(ToolFailed { error, no_containers: has(&NO_CONTAINERS) })
    }
}

/// What of a tool's output is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All of it.
    All,
    /// Not its answer, which is for this program.
    Errors,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

fn keep(lines: &mut VecDeque<String>, line: String) {
    if lines.len() == KEPT_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// Sends what comes line by line; long lines in pieces, and the last one as it is.
async fn read_lines(mut from: impl AsyncRead + Unpin, stream: Stream, to: mpsc::Sender<(Stream, String)>) {
    let mut buffer = Vec::new();
    let mut piece = [0; MAX_LINE];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        buffer.extend_from_slice(&piece[..count]);
        while let Some(end) =
            buffer.iter().position(|&byte| byte == b'\n').or((buffer.len() >= MAX_LINE).then_some(MAX_LINE))
        {
            let mut line: Vec<u8> = buffer.drain(..end).collect();
            if buffer.first() == Some(&b'\n') {
                buffer.remove(0);
            }
            // A line that was written over, as moving progress is, counts as it was last.
            while line.last() == Some(&b'\r') {
                line.pop();
            }
            let last = line.rsplit(|&byte| byte == b'\r').next().unwrap_or_default();
            if to.send((stream, String::from_utf8_lossy(last).into_owned())).await.is_err() {
                return;
            }
        }
    }
    if !buffer.is_empty() {
        // Who does not listen any more needs nothing.
        let _gone = to.send((stream, String::from_utf8_lossy(&buffer).into_owned())).await;
    }
}

/// Reads the id that a tool has written to its file.
///
/// # Errors
/// When there is none.
pub(crate) fn read_id(tool: Tool, file: &Utf8PathBuf) -> Result<String, CommandError> {
    let failed = || CommandError::new(Kind::Failed, format!("{} did not say what it has built", tool.name()));
    let text = std::fs::read_to_string(file).map_err(|error| failed().caused_by(error))?;
    let id = text.trim();
    let good = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
    if good { Ok(id.to_owned()) } else { Err(failed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: Vec<OsString>) -> String {
        words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_tool_is_asked_in_its_own_words() {
        let build_args = ["A=b c".to_owned()];
        let build = Build {
            dockerfile: "/c/Dockerfile".into(),
            context: "/c".into(),
            target: Some("last"),
            build_args: &build_args,
            tag: Some("localhost/shed/web"),
            id_file: "/s/id".into(),
        };
        let rest =
            "--iidfile /s/id -f /c/Dockerfile -t localhost/shed/web --target last --build-arg A=b c -- /c";
        for tool in [Tool::Buildah, Tool::Podman] {
            assert_eq!(
                words(tool.build(&build, Isolation::Own)),
                format!("build --layers --format oci {rest}")
            );
            let chroot = words(tool.build(&build, Isolation::Chroot));
            assert_eq!(chroot, format!("build --isolation chroot --layers --format oci {rest}"));
        }
        assert_eq!(words(Tool::Docker.build(&build, Isolation::Own)), format!("build {rest}"));
        assert_eq!(words(Tool::Buildah.export("ab", "out")), "push -q --format oci ab oci:out");
        assert_eq!(words(Tool::Podman.export("ab", "out")), "save -q --format oci-dir -o out ab");
        assert_eq!(words(Tool::Docker.export("ab", "out")), "save -o out ab");
        assert_eq!(words(Tool::Buildah.load("in")), "pull -q oci:in");
        assert_eq!(words(Tool::Docker.load("in")), "load -q -i in");
    }

    #[test]
    fn the_id_of_what_was_taken_in_is_the_last_of_the_answer() {
        assert_eq!(Tool::Buildah.loaded("warning\nabc\n"), Some("abc"));
        assert_eq!(Tool::Docker.loaded("Loaded image ID: sha256:abc\n"), Some("sha256:abc"));
        assert_eq!(Tool::Docker.loaded("Loaded image: a/b:c\n"), Some("a/b:c"));
        assert_eq!((Tool::Docker.loaded("\n"), Tool::Docker.loaded("what")), (None, None));
    }

    #[tokio::test]
    async fn output_comes_in_lines_however_it_is_cut() {
        let (tell, mut lines) = mpsc::channel(100);
        let long = "x".repeat(MAX_LINE + 7);
        let text = format!("one\r\n\n10%\r20%\r100%\n{long}\nlast");
        read_lines(text.as_bytes(), Stream::Err, tell).await;
        let mut seen = Vec::new();
        while let Some((_, line)) = lines.recv().await {
            seen.push(line);
        }
        assert_eq!(seen[..3], ["one", "", "100%"]);
        assert_eq!(seen[3..].concat(), format!("{long}last"));
    }

    #[test]
    fn an_id_is_one_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(dir.path()).unwrap().join("id");
        assert!(read_id(Tool::Buildah, &file).is_err());
        for (text, id) in [("sha256:ab\n", Some("sha256:ab")), ("", None), ("--all", None), ("a b", None)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_id(Tool::Buildah, &file).ok().as_deref(), id, "{text:?}");
        }
    }
}
