//! moto on loopback, which stands in for AWS's STS: it assumes roles and knows by an access key who was given it.
//!
//! Guests reach it at [`FROM_GUEST`]. It takes every secret for right, so nothing here says that a signature is good; AWS's
//! own clients make it, and which access key they use is what tests look at.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use camino::Utf8PathBuf;

use crate::{Cli, FROM_GUEST, PythonEnv, Stage, free_port, process::search, run, wait_for_listener};

/// Where AWS's clients are in a guest.
pub const PACKAGES: &str = "/tmp/aws-clients";

/// The role that sheds may have. moto has no other account.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/shed";

/// Long enough for tens of megabytes and thousands of files on an emulated disk.
const LONG: std::time::Duration = std::time::Duration::from_secs(300);

/// A server that answers as STS does.
#[derive(Debug)]
pub struct Sts {
    child: Child,
    port: u16,
    log: Utf8PathBuf,
}

impl Sts {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come to listen.
    #[track_caller]
    #[must_use]
    pub fn start(stage: &Stage) -> Self {
        let (port, log) = (free_port(), stage.dir().join("sts.log"));
        let file = File::create(&log).expect("a log");
        let mut command = PythonEnv::of_extensions(stage).command("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let sts = Self { child: command.spawn().expect("moto_server can be run"), port, log };
        wait_for_listener(port);
        sts
    }

    /// Its URL on this host.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its URL in a guest.
    #[must_use]
    pub fn url_in_guest(&self) -> String {
        format!("http://{FROM_GUEST}:{}", self.port)
    }

    /// How many requests it has answered.
    ///
    /// # Panics
    /// When its log cannot be read.
    #[must_use]
    pub fn answered(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).expect("the log of STS");
        log.lines().filter(|line| line.contains("\"POST / HTTP/1.1\"")).count()
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Puts `aws` and boto3 into a guest, at [`PACKAGES`].
///
/// # Panics
/// When they are not on this host, or the guest does not take them.
#[track_caller]
pub fn bring_aws_clients(stage: &Stage, cli: &Cli, shed: &str) {
    let archive = stage.dir().join("aws-clients.tar.gz");
    let tar = search("tar").expect("tar is on this host");
    let mut pack = Command::new(tar);
    // boto3's own data of every other service is a hundred megabytes; `aws` wants to know what services there are.
    pack.args(["-C", crate::python::guest_packages().as_str(), "--exclude=__pycache__", "--wildcards", "--anchored"]);
    pack.args(["--exclude=./botocore/data/[a-r]*/*", "--exclude=./botocore/data/s[a-su-z]*/*"]);
    pack.args(["--exclude=./botocore/data/[t-z]*/*", "--exclude=./awscli/botocore/data/*/*/e[nx]*"]);
    pack.args(["--exclude=./awscli/examples", "-czf", archive.as_str(), "."]);
    run(&mut pack, b"", LONG).ok();
    let bytes = std::fs::read(&archive).expect("the archive");
    let unpack = format!("mkdir -p {PACKAGES} && tar -C {PACKAGES} -xzf -");
    run(&mut cli.exec_command(shed, &["sh", "-c", &unpack]), &bytes, LONG).ok();
    std::fs::remove_file(&archive).expect("the archive can be removed");
}
