use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use shed_protocol::{
    Envelope, ExecRequest, ExitStatus, Frame, FrameCodec, FrameKind, HelloReply, HelloRequest, PowerOff,
    SYSTEM_HELLO, SYSTEM_POWER_OFF,
};
use tokio::time::timeout;
use tokio_util::codec::Framed;

use super::*;
use crate::{
    Disk,
    conformance::{self, BackendHarness},
};

const SOON: Duration = Duration::from_secs(10);

struct Harness {
    world: FakeWorld,
    dir: tempfile::TempDir,
}

impl Harness {
    fn new() -> Self {
        Self { world: FakeWorld::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str) -> Utf8PathBuf {
        let path = Utf8PathBuf::from_path_buf(self.dir.path().join(name)).unwrap();
        std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        path
    }

    async fn started(&self, name: &str) -> (ShedName, Arc<dyn Vm>) {
        let shed: ShedName = name.parse().unwrap();
        let vm = self.world.backend().start(&self.spec(&shed)).await.unwrap();
        (shed, vm)
    }
}

impl BackendHarness for Harness {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.world.backend())
    }

    fn spec(&self, shed: &ShedName) -> VmSpec {
        VmSpec {
            shed: shed.clone(),
            launch_id: LaunchId::generate(),
            cpus: 2.try_into().unwrap(),
            memory_mb: 512.try_into().unwrap(),
            kernel: self.file("kernel"),
            initrd: self.file("initrd"),
            extra_cmdline: Vec::new(),
            disks: vec![Disk {
                path: self.file(&format!("{shed}.ext4")),
                serial: "shed-root",
                access: DiskAccess::ReadWrite,
            }],
            console_log: self.file(&format!("{shed}.console")),
            shares: Vec::new(),
            network: None,
            vmm_log: self.file(&format!("{shed}.vmm")),
        }
    }

    fn spec_without_disk(&self, shed: &ShedName) -> VmSpec {
        let mut spec = self.spec(shed);
        std::fs::remove_file(&spec.disks[0].path).unwrap();
        spec.disks.truncate(1);
        spec
    }

    fn kill_from_outside(&self, identity: &VmIdentity) {
        let machine = self.world.host().machines.get(&identity.launch_id).cloned();
        machine.expect("it runs").end();
        // A server that watches removes the sockets; the fake's do not watch.
        self.world.host().sockets.clear();
    }

    fn leftovers(&self) -> Vec<String> {
        let running = self.world.running().into_iter().map(|shed| format!("machine of {shed}"));
        running.chain(self.world.sockets().into_iter().map(|shed| format!("socket of {shed}"))).collect()
    }

    fn boot_time(&self) -> Duration {
        SOON
    }
}

async fn connect(vm: &Arc<dyn Vm>, port: GuestPort) -> Framed<GuestStream, FrameCodec> {
    let stream = timeout(SOON, vm.connect_guest(port)).await.unwrap().unwrap();
    Framed::new(stream, FrameCodec)
}

#[tokio::test]
async fn the_fake_keeps_every_promise_of_a_backend() {
    let failed = conformance::run(&Harness::new()).await.err().unwrap_or_default();
    assert!(failed.is_empty(), "{}", failed.iter().map(|failed| format!("\n{failed}")).collect::<String>());
}

#[tokio::test(start_paused = true)]
async fn the_suite_notices_a_backend_that_leaves_a_machine_behind() {
    let harness = Harness::new();
    harness.world.set_faults_of_others(Faults { kill: KillFault::StillRunning, ..Faults::default() });
    let failed = conformance::run(&harness).await.unwrap_err();
    let kill = failed.iter().find(|failed| failed.to_string().contains("killing is idempotent"));
    assert!(kill.is_some(), "{failed:?}");
}

#[tokio::test]
async fn commands_have_output_and_exit_codes() {
    let harness = Harness::new();
    let (_, vm) = harness.started("api").await;
    for (cmd, input, output, code) in [
        (vec!["echo", "a", "b"], "", "a b\n", 0),
        (vec!["cat"], "some input", "some input", 0),
        (vec!["sh", "-c", "exit 7"], "", "", 7),
        (vec!["nonsense"], "", "", 127),
    ] {
        let mut frames = connect(&vm, GuestPort::Exec).await;
        let request =
            ExecRequest { cmd: cmd.iter().map(ToString::to_string).collect(), ..ExecRequest::default() };
        frames.send(Frame::json(FrameKind::ExecRequest, &request)).await.unwrap();
        if !input.is_empty() {
            frames.send(Frame::new(FrameKind::Data, Bytes::from(input))).await.unwrap();
            frames.send(Frame::empty(FrameKind::StdinEof)).await.unwrap();
        }
        let mut seen = Vec::new();
        let status: ExitStatus = loop {
            let frame = timeout(SOON, frames.next()).await.unwrap().unwrap().unwrap();
            match frame.kind {
                FrameKind::Data => seen.extend_from_slice(&frame.payload),
                FrameKind::ExitStatus => break frame.parse().unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((String::from_utf8(seen).unwrap().as_str(), status.code), (output, code), "{cmd:?}");
    }
    vm.kill(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_guest_says_hello_and_powers_off_when_told() {
    let harness = Harness::new();
    let (shed, vm) = harness.started("api").await;
    let mut frames = connect(&vm, GuestPort::Messages).await;
    let hello = HelloRequest { generation: 1, version: "test".into(), features: [].into() };
    for (namespace, request) in [
        (SYSTEM_HELLO, Envelope::request(SYSTEM_HELLO, &hello)),
        (SYSTEM_POWER_OFF, Envelope::request(SYSTEM_POWER_OFF, &PowerOff {})),
    ] {
        frames.send(Frame::json(FrameKind::Message, &request)).await.unwrap();
        let reply: Envelope = loop {
            let envelope: Envelope =
                timeout(SOON, frames.next()).await.unwrap().unwrap().unwrap().parse().unwrap();
            if envelope.in_reply_to == Some(request.id) {
                break envelope;
            }
        };
        if namespace == SYSTEM_HELLO {
            let reply: HelloReply = reply.parse().unwrap();
            assert_eq!(reply.boot_id, vm.identity().launch_id.to_string());
        }
    }
    timeout(SOON, vm.ended()).await.unwrap();
    assert_eq!(harness.world.running(), []);
    assert_eq!(harness.world.sockets(), [shed], "nobody has cleaned up yet");
    vm.kill(Duration::ZERO).await.unwrap();
    assert_eq!(harness.world.sockets(), []);
}

#[tokio::test(start_paused = true)]
async fn boot_faults_look_as_they_do_on_a_real_guest() {
    let harness = Harness::new();
    let shed: ShedName = "api".parse().unwrap();
    let boot = |boot| harness.world.set_faults(&shed, Faults { boot, ..Faults::default() });

    boot(BootFault::Never);
    let (_, vm) = harness.started("api").await;
    timeout(Duration::from_secs(3600), vm.connect_guest(GuestPort::Health)).await.unwrap_err();
    vm.kill(Duration::ZERO).await.unwrap();

    boot(BootFault::Dies(Duration::from_secs(5)));
    let (_, vm) = harness.started("api").await;
    let error = vm.connect_guest(GuestPort::Health).await.unwrap_err();
    assert!(matches!(error, ConnectGuestError::Ended { .. }), "{error}");
    let console = std::fs::read_to_string(harness.file("api.console")).unwrap();
    assert!(console.contains("Kernel panic"), "{console}");

    boot(BootFault::Slow(Duration::from_secs(5)));
    let (_, vm) = harness.started("api").await;
    let began = tokio::time::Instant::now();
    vm.connect_guest(GuestPort::Health).await.unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn power_off_faults_differ_in_who_is_ignored() {
    let harness = Harness::new();
    let shed: ShedName = "api".parse().unwrap();
    let ended_after_button = async |power_off| {
        harness.world.set_faults(&shed, Faults { power_off, ..Faults::default() });
        let (_, vm) = harness.started("api").await;
        vm.press_power_button().await.unwrap();
        let ended = timeout(Duration::from_secs(60), vm.ended()).await.is_ok();
        vm.kill(Duration::ZERO).await.unwrap();
        ended
    };
    assert!(ended_after_button(PowerOffFault::None).await);
    assert!(ended_after_button(PowerOffFault::Slow(Duration::from_secs(30))).await);
    assert!(ended_after_button(PowerOffFault::IgnoredByAgent).await);
    assert!(!ended_after_button(PowerOffFault::Ignored).await);
}

#[tokio::test]
async fn an_agent_that_goes_away_takes_its_streams_along_and_can_come_back() {
    let harness = Harness::new();
    let (shed, vm) = harness.started("api").await;
    let mut frames = connect(&vm, GuestPort::Health).await;
    harness.world.set_agent_up(&shed, false);
    assert!(timeout(SOON, frames.next()).await.unwrap().is_none());
    harness.world.set_agent_up(&shed, true);
    connect(&vm, GuestPort::Health).await;
    assert_eq!(harness.world.starts(&shed), 1);
}
