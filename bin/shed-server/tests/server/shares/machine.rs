//! A machine without Firecracker: a process that looks like one, a socket that answers `CONNECT` as its vsock device does,
//! and the guest's kernel as a few messages of 9P.

use std::{
    collections::VecDeque,
    fs,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use shed_backend::{
    Backend, DiskAccess, Share, Vm, VmSpec,
    firecracker::{FirecrackerBackend, FirecrackerConfig, ShareRecord, ShareState},
    process::{self, ProcessId},
};
use shed_net::{NetSettings, ServerId};
use shed_ninep::proto::{Bytes, Data, Fid, Name, Names, Reply, Request, Tag, VERSION, bits};
use shed_types::{LaunchId, ShedName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

/// Longer than anything here takes, on a host that is ten times slower.
pub(super) const LONG: Duration = Duration::from_secs(90);

/// The only share's tag.
pub(super) const TAG: &str = "workspace";

/// Whose the shared directory is, when root runs the tests.
pub(super) const OWNER: u32 = 4321;

/// What a machine's socket does with a `CONNECT`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// Closes it, as when nobody listens in the guest.
    Close,
    /// Says what makes no sense.
    Garbage,
    /// Says nothing, and stays.
    Silence,
    /// Leads to the agent, which ends before it has taken the stream.
    DyingAgent,
}

pub(super) struct Machine {
    pub(super) dir: TempDir,
    pub(super) spec: VmSpec,
    /// Stands in for Firecracker's process.
    vmm: Child,
    /// Streams to a guest that has been told the tag, in their order.
    guests: mpsc::UnboundedReceiver<Guest>,
    listening: tokio::task::JoinHandle<()>,
}

impl Machine {
    /// One that runs, and whose share has been offered to nobody yet.
    pub(super) fn new(access: DiskAccess, answers: &[Answer]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| Utf8Path::from_path(dir.path()).unwrap().join(name);
        for name in ["s", "web"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("web/hello"), "from the host").unwrap();
        if rustix::process::geteuid().is_root() {
            for name in ["web", "web/hello"] {
                std::os::unix::fs::chown(path(name), Some(OWNER), Some(OWNER)).unwrap();
            }
        }
        let spec = VmSpec {
            shed: "api".parse().unwrap(),
            launch_id: LaunchId::generate(),
            cpus: 1.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            kernel: path("kernel"),
            initrd: path("initrd"),
            extra_cmdline: Vec::new(),
            disks: Vec::new(),
            shares: vec![Share { tag: TAG, source: path("web"), access }],
            network: None,
            console_log: path("console.log"),
            vmm_log: path("vmm.log"),
        };
        ShareRecord::beside(&spec.vmm_log, TAG).begin().unwrap();
        let vmm = Command::new("/bin/sh")
            .args(["-c", "read line", "firecracker", "--id", &spec.launch_id.to_string(), "--api-sock"])
            .arg(path("s/api.api"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, guests) = mpsc::unbounded_channel();
        let listener = UnixListener::bind(path("s/api.vsock")).unwrap();
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = answers.lock().unwrap().pop_front();
                tokio::spawn(accept(stream, answer, sender.clone()));
            }
        });
        Self { dir, spec, vmm, guests, listening }
    }

    pub(super) fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.dir.path()).unwrap().join(name)
    }

    /// The backend as a server has it that has just started.
    pub(super) fn backend(&self) -> FirecrackerBackend {
        backend(&self.path("s"))
    }

    /// The machine as a server finds it that has just started.
    pub(super) async fn found(&self) -> Arc<dyn Vm> {
        self.backend().find(&self.spec, None).await.unwrap().expect("it runs")
    }

    /// The next stream that a guest is offered.
    pub(super) async fn guest(&mut self) -> Guest {
        timeout(LONG, self.guests.recv()).await.expect("a share is offered").unwrap()
    }

    /// Whether a guest is offered a stream within this time.
    pub(super) async fn is_offered(&mut self, within: Duration) -> bool {
        timeout(within, self.guests.recv()).await.is_ok()
    }

    /// Who serves the share now.
    pub(super) fn server(&self) -> Option<ProcessId> {
        let name = format!("shed-share:{}:{}:{TAG}", self.path("s/api"), self.spec.launch_id);
        process::find(|words| words.first().is_some_and(|first| first == name.as_bytes())).unwrap()
    }

    pub(super) fn state(&self) -> ShareState {
        ShareRecord::beside(&self.spec.vmm_log, TAG).state()
    }

    /// Ends the machine's process, and nothing else.
    pub(super) fn kill(&mut self) {
        self.vmm.kill().unwrap();
        self.vmm.wait().unwrap();
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.spec.vmm_log).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.listening.abort();
        // Both fail when it has ended already.
        self.vmm.kill().ok();
        self.vmm.wait().ok();
    }
}

pub(super) fn backend(socket_dir: &Utf8Path) -> FirecrackerBackend {
    let server = ServerId::of_directory(socket_dir.as_str());
    let (bridge, network) = ("shed-br0".parse().unwrap(), "172.30.0.1/24".parse().unwrap());
    let network = NetSettings::new(bridge, network, "shed-tap".parse().unwrap(), server, []).unwrap();
    FirecrackerBackend::new(FirecrackerConfig {
        share_server: Some(env!("CARGO_BIN_EXE_shed-server").into()),
        ..FirecrackerConfig::new(socket_dir, network)
    })
}

pub(super) fn shed(name: &str) -> ShedName {
    name.parse().unwrap()
}

/// Resolves when a process has ended.
pub(super) async fn dead(id: ProcessId) {
    if let Some(watched) = process::WatchedProcess::open(id).unwrap() {
        timeout(LONG, watched.dead()).await.expect("it ends").unwrap();
    }
}

async fn accept(mut stream: UnixStream, answer: Option<Answer>, guests: mpsc::UnboundedSender<Guest>) {
    assert_eq!(read_line(&mut stream).await.as_deref(), Some("CONNECT 1030"));
    match answer {
        Some(Answer::Close) => return,
        Some(Answer::Garbage) => {
            // The other end may have gone already.
            stream.write_all(b"HELLO 7\n").await.ok();
            return;
        }
        Some(Answer::Silence) => return std::future::pending().await,
        Some(Answer::DyingAgent) | None => stream.write_all(b"OK 1073741824\n").await.unwrap(),
    }
    let Some(tag) = read_line(&mut stream).await else { return };
    let guest = Guest { stream, tag };
    match answer {
        Some(Answer::DyingAgent) => drop(guest),
        Some(Answer::Close | Answer::Garbage | Answer::Silence) | None => {
            // The test may be over.
            guests.send(guest).ok();
        }
    }
}

async fn read_line(stream: &mut UnixStream) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => return Some(String::from_utf8(line).unwrap()),
            Ok(byte) => line.push(byte),
            Err(_) => return None,
        }
    }
}

/// A guest's kernel at the end of a share's stream.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) stream: UnixStream,
    pub(super) tag: String,
}

const ROOT: Fid = Fid(0);

impl Guest {
    /// Sends a request and returns the number of the error, or what was read.
    pub(super) async fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, u32> {
        let mut out = Vec::new();
        request.put(Tag(1), &mut out);
        timeout(LONG, self.stream.write_all(&out)).await.unwrap().unwrap();
        let mut size = [0; 4];
        timeout(LONG, self.stream.read_exact(&mut size)).await.expect("an answer").unwrap();
        let mut message = vec![0; usize::try_from(u32::from_le_bytes(size)).unwrap() - 4];
        timeout(LONG, self.stream.read_exact(&mut message)).await.expect("an answer").unwrap();
        match Reply::parse(&message).unwrap().1 {
            Reply::Error { number } => Err(number),
            Reply::Read { data } => Ok(data.0.to_vec()),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) async fn mount(&mut self) {
        self.ask(&Request::Version { size: 1 << 20, version: Bytes(VERSION) }).await.unwrap();
        let (user, tree) = (Bytes(b"shed"), Bytes(b""));
        let attach = Request::Attach { fid: ROOT, authentication: Fid::NONE, user, tree, uid: 1000 };
        self.ask(&attach).await.unwrap();
    }

    pub(super) async fn read(&mut self, name: &str) -> Result<String, u32> {
        let (fid, names) = (Fid(7), Names::EMPTY);
        let mut names = names;
        names.push(Name::new(name.as_bytes()).unwrap()).unwrap();
        self.ask(&Request::Walk { fid: ROOT, new: fid, names }).await?;
        self.ask(&Request::Open { fid, flags: bits::OPEN_READ }).await?;
        let data = self.ask(&Request::Read { fid, offset: 0, count: 4096 }).await?;
        self.ask(&Request::Clunk { fid }).await?;
        Ok(String::from_utf8(data).unwrap())
    }

    pub(super) async fn write(&mut self, name: &str, text: &str) -> Result<(), u32> {
        let fid = Fid(8);
        self.ask(&Request::Walk { fid: ROOT, new: fid, names: Names::EMPTY }).await?;
        let name = Name::new(name.as_bytes()).unwrap();
        let flags = bits::OPEN_CREATE | bits::OPEN_WRITE;
        let created = self.ask(&Request::Create { fid, name, flags, mode: 0o644, gid: 1000 }).await;
        let written = match created {
            Ok(_) => self.ask(&Request::Write { fid, offset: 0, data: Data(text.as_bytes()) }).await,
            Err(number) => Err(number),
        };
        self.ask(&Request::Clunk { fid }).await?;
        written.map(|_| ())
    }

    /// Returns when the other end has closed the stream.
    pub(super) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // An error is as good an end as any.
        timeout(LONG, self.stream.read_to_end(&mut rest)).await.expect("the stream ends").ok();
    }
}
