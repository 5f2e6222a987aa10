//! `shed-server serve-share` by itself: what it refuses, what it gives up, and how it ends.

use std::{
    fs::{self, File},
    io::Read,
    net::Shutdown,
    os::{fd::OwnedFd, unix::fs::chown},
    process::{Command, Output, Stdio},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::geteuid;
use shed_backend::firecracker::{ShareRecord, ShareState};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::machine::{Guest, LONG, OWNER, TAG};

struct Setup {
    dir: TempDir,
}

impl Setup {
    fn new() -> Self {
        let setup = Self { dir: TempDir::new().unwrap() };
        fs::create_dir(setup.path("web")).unwrap();
        setup.record().begin().unwrap();
        setup
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    fn record(&self) -> ShareRecord {
        ShareRecord::beside(&self.path("vmm.log"), TAG)
    }

    fn command(&self, directory: &Utf8Path, stdin: Stdio) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shed-server"));
        command.args(["serve-share", "--tag", TAG, "--directory"]).arg(directory).arg("--record");
        command.arg(self.record().path()).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it at one end of a stream.
    async fn start(&self) -> (std::process::Child, Guest) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let child = self.command(&self.path("web"), OwnedFd::from(theirs).into()).spawn().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(ours).unwrap();
        let mut tag = vec![0; TAG.len() + 1];
        timeout(LONG, stream.read_exact(&mut tag)).await.unwrap().unwrap();
        (child, Guest { stream, tag: String::from_utf8(tag).unwrap() })
    }
}

async fn ended(child: std::process::Child) -> Output {
    timeout(LONG, tokio::task::spawn_blocking(move || child.wait_with_output()))
        .await
        .unwrap()
        .unwrap()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn it_is_no_command_for_people() {
    let help = Command::new(env!("CARGO_BIN_EXE_shed-server")).arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("serve-share"));
}

#[tokio::test]
async fn what_cannot_be_served_is_named() {
    let setup = Setup::new();
    let run = |directory: &str, stdin: Stdio| {
        let output = setup.command(&setup.path(directory), stdin).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        said(&output)
    };
    let missing = run("none", Stdio::null());
    assert!(missing.contains(setup.path("none").as_str()) && missing.contains("No such file"), "{missing}");
    let file = run("vmm.share-workspace", Stdio::null());
    assert!(file.contains("cannot serve the directory"), "{file}");
    // A file, a pipe and nothing are no streams to a guest.
    for stdin in [File::open("/dev/null").unwrap().into(), Stdio::piped(), Stdio::null()] {
        let error = run("web", stdin);
        assert!(error.contains("standard input"), "{error}");
    }
    fs::remove_file(setup.record().path()).unwrap();
    let error = run("web", Stdio::null());
    assert!(error.contains("vmm.share-workspace"), "{error}");
}

#[tokio::test]
async fn a_stream_that_ends_ends_it_mounted_or_not() {
    let setup = Setup::new();
    let (child, guest) = setup.start().await;
    assert_eq!(guest.tag, "workspace\n");
    drop(guest);
    let output = ended(child).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(setup.record().state(), ShareState::Offered);

    let (child, mut guest) = setup.start().await;
    guest.mount().await;
    assert_eq!(setup.record().state(), ShareState::Mounted);
    drop(guest);
    let output = ended(child).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(setup.record().state(), ShareState::Mounted);
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_ends_it_and_nothing_else() {
    for message in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\0", b"\x01\0\0\0x", b"GET / HTTP/1.1\r\n\r\n"] {
        let setup = Setup::new();
        let (child, mut guest) = setup.start().await;
        guest.stream.write_all(message).await.unwrap();
        guest.stream.shutdown().await.unwrap();
        guest.closed().await;
        let output = ended(child).await;
        assert_eq!(output.status.code(), Some(1), "{message:?}");
        assert!(said(&output).contains("stream broke"), "{}", said(&output));
    }
}

#[tokio::test]
async fn it_gives_up_all_that_the_owner_may_not_and_has_many_descriptors() {
    let setup = Setup::new();
    if geteuid().is_root() {
        chown(setup.path("web"), Some(OWNER), Some(OWNER + 1)).unwrap();
    }
    let (child, mut guest) = setup.start().await;
    guest.mount().await;
    // Only its owner may pass the directory that all of this is in, and that is root.
    let status = |thread: &str| {
        let mut text = String::new();
        File::open(format!("{thread}/status")).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten().collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        let text = status(thread.path().to_str().unwrap());
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{set} {text}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        if geteuid().is_root() {
            assert_eq!(field("Uid:"), vec![OWNER.to_string(); 4], "{text}");
            assert_eq!(field("Gid:"), vec![(OWNER + 1).to_string(); 4], "{text}");
            assert_eq!(field("Groups:"), Vec::<String>::new());
        }
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
    guest.write("new", "x").await.unwrap();
    guest.stream.into_std().unwrap().shutdown(Shutdown::Both).unwrap();
    assert!(ended(child).await.status.success());
}
