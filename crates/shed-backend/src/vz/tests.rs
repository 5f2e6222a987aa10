//! Tests of the backend with a script as vfkit. The script is the process; what vfkit's sockets say, the test says.

use std::{convert::Infallible, os::unix::fs::PermissionsExt, sync::Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use shed_types::{GuestPort, LaunchId};
use tokio::{
    net::UnixListener,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{Disk, DiskAccess, Share, appear::appears, process};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Runs until it gets a signal, and ends well by SIGTERM. It starts no other process.
const RUNS: &str = "trap 'exit 0' TERM; exec 3<>\"$0.fifo\"; read line <&3";

struct Setup {
    dir: Utf8PathBuf,
    spec: VmSpec,
    backend: VzBackend,
    _guard: tempfile::TempDir,
}

impl Setup {
    /// A machine, in directories with spaces in their names, and a vfkit that does this.
    fn new(does: &str) -> Self {
        let guard = tempfile::tempdir().unwrap();
        let dir = Utf8Path::from_path(guard.path()).unwrap().to_owned();
        let files = dir.join("Application Support");
        fs::create_dir(&files).unwrap();
        let file = |name: &str| {
            fs::write(files.join(name), "x").unwrap();
            files.join(name)
        };
        let program = dir.join("vfkit");
        let version = "[ \"$1\" = --version ] && { echo 'vfkit version: v0.6.4'; exit; }";
        fs::write(&program, format!("#!/bin/sh\n{version}\n{does}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        shed_testkit::make_pipe(dir.join("vfkit.fifo"));
        let disk = Disk { path: file("rootfs.ext4"), serial: "shed-upper", access: DiskAccess::ReadWrite };
        let spec = VmSpec {
            shed: "api".parse().unwrap(),
            launch_id: LaunchId::generate(),
            cpus: 1.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            kernel: file("Image"),
            initrd: file("initrd.img"),
            extra_cmdline: Vec::new(),
            disks: vec![disk],
            shares: Vec::new(),
            network: None,
            console_log: files.join("console.log"),
            vmm_log: files.join("vmm.log"),
        };
        let backend = VzBackend::new(VzConfig { vfkit_path: program, ..VzConfig::new(dir.join("sockets")) });
        Self { dir, spec, backend, _guard: guard }
    }

    fn sockets(&self) -> SocketPaths {
        self.backend.sockets(&self.spec.shed)
    }

    /// What is in the directory of the sockets.
    fn left(&self) -> Vec<String> {
        let entries = self.dir.join("sockets").read_dir_utf8().unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_owned()).collect()
    }

    /// Starts the machine, and makes the sockets of a vfkit whose machine is in this state.
    async fn start(&self, state: &'static str) -> (Result<Arc<dyn Vm>, StartVmError>, Interface) {
        let sockets = self.sockets();
        make_dir(&self.dir.join("sockets")).unwrap();
        let making = async {
            // The server listens for the agent before it starts vfkit.
            appears(&sockets.words()).await.unwrap();
            let interface = Interface::new(&sockets.rest(), state);
            drop(std::os::unix::net::UnixListener::bind(sockets.port(command_line::last_port())).unwrap());
            interface
        };
        timeout(LONG, async { tokio::join!(self.backend.start(&self.spec), making) }).await.unwrap()
    }

    /// The pid of a vfkit of this launch, if one runs.
    fn runs(&self) -> Option<u32> {
        let (sockets, id) = (self.sockets(), self.spec.launch_id);
        process::find(|words| command_line::is_launch(words, &sockets, id)).unwrap().map(|id| id.pid)
    }
}

/// vfkit's REST interface, which takes every wish and fulfils none.
struct Interface {
    asked: Arc<Mutex<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

impl Interface {
    fn new(socket: &Utf8Path, state: &'static str) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let answer = move |request: Request<Incoming>| {
            let heard = Arc::clone(&heard);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                heard.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
                let answer = format!("{{\"state\":\"VirtualMachineState{state}\"}}");
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
            }
        };
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let served =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(&answer));
                // Whoever asks goes when it has its answer.
                let _gone = served.await;
            }
        });
        Self { asked, _server: AbortOnDropHandle::new(server) }
    }

    fn was_asked(&self, what: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked.contains(what))
    }
}

#[tokio::test]
async fn a_machine_is_started_adopted_by_a_later_server_and_killed() {
    let setup = Setup::new(RUNS);
    let (vm, interface) = setup.start("Running").await;
    let vm = vm.unwrap();
    assert_eq!(setup.runs(), Some(vm.identity().pid));
    assert_eq!(fs::metadata(&setup.spec.console_log).unwrap().permissions().mode() & 0o777, 0o600);
    let identity = vm.identity();
    // The server ends; its machine does not.
    drop(vm);
    assert_eq!(setup.runs(), Some(identity.pid));
    for known in [Some(&identity), None] {
        let found = setup.backend.find(&setup.spec, known).await.unwrap().unwrap();
        assert_eq!(found.identity(), identity);
        assert!(!found.has_ended());
    }
    let other = VmSpec { launch_id: LaunchId::generate(), ..setup.spec.clone() };
    assert!(setup.backend.find(&other, Some(&identity)).await.unwrap().is_none());
    let found = setup.backend.find(&setup.spec, Some(&identity)).await.unwrap().unwrap();
    found.press_power_button().await.unwrap();
    assert!(interface.was_asked("\"Stop\""));
    timeout(LONG, found.kill(Duration::ZERO)).await.unwrap().unwrap();
    assert!(found.has_ended() && setup.runs().is_none() && setup.left().is_empty(), "{:?}", setup.left());
    found.press_power_button().await.unwrap();
    found.kill(LONG).await.unwrap();
    assert!(setup.backend.find(&setup.spec, Some(&identity)).await.unwrap().is_none());
    let error = found.connect_guest(GuestPort::Exec).await.unwrap_err();
    assert!(matches!(error, crate::ConnectGuestError::Ended { .. }), "{error}");
}

#[tokio::test]
async fn a_vfkit_that_does_not_switch_off_is_killed_after_the_grace() {
    let setup = Setup::new(RUNS);
    let (vm, interface) = setup.start("Running").await;
    let (vm, grace, begun) = (vm.unwrap(), Duration::from_millis(300), Instant::now());
    timeout(LONG, vm.kill(grace)).await.unwrap().unwrap();
    assert!(interface.was_asked("\"HardStop\"") && begun.elapsed() >= grace);
    assert!(setup.runs().is_none() && setup.left().is_empty());
    assert!(!vm.has_crashed().await && !vm.was_reboot().await);
}

#[tokio::test]
async fn a_vfkit_whose_interface_is_gone_ends_by_a_signal() {
    let setup = Setup::new(RUNS);
    let (vm, interface) = setup.start("Running").await;
    drop(interface);
    let (vm, begun) = (vm.unwrap(), Instant::now());
    vm.kill(LONG).await.unwrap();
    assert!(begun.elapsed() < LONG, "it ended by SIGTERM");
    assert!(setup.runs().is_none() && setup.left().is_empty());
}

#[tokio::test]
async fn a_guest_that_says_it_reboots_and_ends_its_machine_is_to_be_started_anew() {
    let setup = Setup::new(RUNS);
    let (vm, interface) = setup.start("Running").await;
    let vm = vm.unwrap();
    let mut guest = tokio::net::UnixStream::connect(setup.sockets().words()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut guest, b"reboot\n").await.unwrap();
    let _heard = tokio::io::AsyncReadExt::read(&mut guest, &mut [0]).await.unwrap();
    drop(interface);
    vm.kill(LONG).await.unwrap();
    assert!(vm.was_reboot().await);
}

#[tokio::test]
async fn a_vfkit_that_ends_at_once_is_quoted_and_leaves_nothing() {
    let setup = Setup::new("echo 'Error: kernel must be uncompressed' >&2; exit 1");
    let error = timeout(LONG, setup.backend.start(&setup.spec)).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("kernel must be uncompressed"), "{error}");
    assert!(setup.left().is_empty(), "{:?}", setup.left());
}

#[tokio::test]
async fn a_machine_that_does_not_run_is_killed_and_its_state_named() {
    let setup = Setup::new(RUNS);
    let (vm, _interface) = setup.start("Error").await;
    let error = shed_types::error_chain(&vm.unwrap_err());
    assert!(error.contains("VirtualMachineStateError"), "{error}");
    assert!(setup.runs().is_none() && setup.left().is_empty(), "{:?}", setup.left());
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let setup = Setup::new(RUNS);
    make_dir(&setup.dir.join("sockets")).unwrap();
    let starting = setup.backend.start(&setup.spec);
    let running = async {
        while setup.runs().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        started = starting => panic!("it never runs: {started:?}"),
        () = running => {}
    }
    timeout(LONG, async {
        while setup.runs().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it was killed");
    setup.backend.remove_leftovers(&setup.spec.shed).await.unwrap();
    assert!(setup.left().is_empty());
}

#[tokio::test]
async fn what_cannot_be_expressed_is_refused_before_anything_is_made() {
    let setup = Setup::new(RUNS);
    let share =
        |source: &str| Share { tag: "workspace", source: source.into(), access: DiskAccess::ReadWrite };
    let refused = async |spec: VmSpec, word: &str| {
        let error = shed_types::error_chain(&setup.backend.start(&spec).await.unwrap_err());
        assert!(error.contains(word), "{error}");
    };
    refused(VmSpec { shares: vec![share("/web,readonly")], ..setup.spec.clone() }, "comma").await;
    refused(VmSpec { kernel: setup.dir.join("no,kernel"), ..setup.spec.clone() }, "comma").await;
    assert!(!setup.dir.join("sockets").exists() && !setup.spec.vmm_log.exists());
    refused(VmSpec { kernel: setup.dir.join("none"), ..setup.spec.clone() }, "none").await;
    let file = setup.spec.kernel.to_string();
    refused(VmSpec { shares: vec![share(&file)], ..setup.spec.clone() }, "cannot be shared").await;
    refused(VmSpec { shares: vec![share("/no/such/dir")], ..setup.spec.clone() }, "/no/such/dir").await;
    assert!(!setup.dir.join("sockets").exists() && !setup.spec.vmm_log.exists());
}

#[tokio::test]
async fn a_host_is_reported_and_an_unfit_one_is_refused_with_its_key() {
    let setup = Setup::new(RUNS);
    let report = setup.backend.check_host().await.unwrap();
    assert!(report.vmm.starts_with("vfkit 0.6.4 (/"), "{}", report.vmm);
    let config = |config: VzConfig| async move { VzBackend::new(config).check_host().await.unwrap_err() };
    let spaces = config(VzConfig::new("/Users/ann/My Sockets")).await.to_string();
    assert!(spaces.contains("/Users/ann/My Sockets") && spaces.contains("vz.socket_dir"), "{spaces}");
    let missing =
        config(VzConfig { vfkit_path: "/no/vfkit".into(), ..VzConfig::new("/s") }).await.to_string();
    assert!(missing.contains("/no/vfkit") && missing.contains("brew install vfkit"), "{missing}");
}
