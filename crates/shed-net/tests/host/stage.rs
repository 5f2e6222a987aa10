//! Where a test runs: a new network namespace, other namespaces beside it, and guests that are namespaces behind a TAP.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    sync::mpsc::{self, Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    ioctl::{Setter, ioctl, opcode},
    thread::{UnshareFlags, gettid, unshare_unsafe},
};
use shed_net::{Host, Lease, LeaseIndex, NetSettings, TapOwner};
use shed_types::{ShedName, TcpPort};

/// Set in the process that runs inside of the namespace.
const INSIDE: &str = "SHED_NET_TEST_INSIDE";

/// Longest wait for what must come; hosts may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a thing that must not come is waited for, beside a thing that must.
pub(crate) const SILENCE: Duration = Duration::from_millis(1500);

/// Who runs the test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Root, of the machine or of a user namespace.
    Root,
    /// Nobody, with CAP_NET_ADMIN as a program with a capability of its file has it.
    User,
}

/// Makes a test whose body runs in a network namespace of its own.
macro_rules! in_namespace {
    ($(#[$meta:meta])* async fn $name:ident() $body:block) => {
        in_namespace!(crate::stage::As::Root, $(#[$meta])* async fn $name() $body);
    };
    ($who:expr, $(#[$meta:meta])* async fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            crate::stage::isolated($who, concat!(module_path!(), "::", stringify!($name)), async || $body);
        }
    };
}
pub(crate) use in_namespace;

pub(crate) fn isolated(who: As, path: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        if who == As::Root {
            sh("ip link set lo up");
        }
        let before = (who == As::Root).then(snapshot);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body());
        if let Some(before) = before {
            assert_eq!(snapshot(), before, "the test leaves the network as it was");
        }
        return;
    }
    let Some(mut namespace) = namespace(who) else { return };
    // The first part of the path is the name of this program.
    let (_program, test) = path.split_once("::").unwrap();
    let status = namespace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace: {status}");
}

/// Returns the beginning of a command line that runs the rest of it in a new network namespace.
fn namespace(who: As) -> Option<Command> {
    let root: &[&str] = &["--net", "--"];
    let mapped: &[&str] = &["--user", "--map-root-user", "--net", "--"];
    // Everybody may open /dev/net/tun, as usual; not everywhere where tests run.
    let device = "at=$(mktemp -d); mknod -m 666 $at/tun c 10 200; mount --bind $at/tun /dev/net/tun; rm -rf $at; exec \"$@\"";
    let user: &[&str] = &[
        "--net",
        "--mount",
        "--",
        "sh",
        "-ec",
        device,
        "sh",
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+net_admin",
        "--ambient-caps=-all,+net_admin",
    ];
    let skip = |reason: &str| std::io::stdout().write_all(format!("SKIPPED: {reason}\n").as_bytes()).unwrap();
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        skip(&format!("/dev/net/tun cannot be opened by this user: {error}"));
        return None;
    }
    let ways = match who {
        As::Root => vec![root, mapped],
        As::User => vec![user],
    };
    for way in &ways {
        let tried = Command::new("unshare").args(*way).arg("true").stderr(Stdio::null()).status();
        if tried.is_ok_and(|status| status.success()) {
            let mut command = Command::new("unshare");
            command.args(*way);
            return Some(command);
        }
    }
    skip(&format!("`unshare {}` is not permitted here", ways.last().unwrap().join(" ")));
    None
}

/// Runs a command line and returns what it prints.
pub(crate) fn sh(line: &str) -> String {
    let output =
        Command::new("sh").args(["-ec", line]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that could be left: devices, addresses, neighbours, rules.
pub(crate) fn snapshot() -> String {
    let links = sh("ip -o link | cut -d: -f2; ip -o -4 addr; ip neigh");
    format!("{links}{}", ruleset())
}

/// The rules, as text, each table in its place in the alphabet.
pub(crate) fn ruleset() -> String {
    let text = sh("nft list ruleset");
    let mut tables: Vec<&str> = text.split_inclusive("\n}\n").collect();
    tables.sort_unstable();
    tables.concat()
}

/// What the kernel says of a device, in words.
pub(crate) fn link(name: &str) -> String {
    sh(&format!("ip -d -o link show {name}"))
}

/// Waits until the bridge passes frames from and to these, which it does some time after they are opened.
pub(crate) fn forwarding(taps: &[&Lease]) {
    for lease in taps {
        let forwards = || link(lease.tap().as_str()).contains("state forwarding").then_some(());
        wait_for("the bridge to forward", forwards);
    }
}

/// Whether something is at a device's other end.
pub(crate) fn carries(name: &str) -> bool {
    let text = link(name);
    text.contains("LOWER_UP") && !text.contains("NO-CARRIER")
}

/// Settings of a server with this id.
pub(crate) fn settings_of(server: &str, protect: &[u16]) -> NetSettings {
    NetSettings::new(
        "shed-br0".parse().unwrap(),
        "172.30.0.1/24".parse().unwrap(),
        "shed-tap".parse().unwrap(),
        server.parse().unwrap(),
        protect.iter().map(|port| TcpPort::new(*port).unwrap()),
    )
    .unwrap()
}

pub(crate) fn host() -> Host {
    Host::new(settings_of("test", &[]))
}

pub(crate) fn shed(name: &str) -> ShedName {
    name.parse().unwrap()
}

pub(crate) fn lease(number: u16) -> Lease {
    Lease::of(&settings_of("test", &[]), LeaseIndex::new(number).unwrap()).unwrap()
}

/// Makes the TAPs of as many sheds, `a`, `b`, …, and returns their leases.
pub(crate) async fn sheds(host: &Host, count: u16) -> Vec<Lease> {
    let mut leases = Vec::new();
    for (number, name) in (0..count).zip('a'..) {
        let lease = lease(number);
        host.create_tap(&lease, &shed(&name.to_string()), TapOwner::this_process()).await.unwrap();
        leases.push(lease);
    }
    leases
}

/// As the kernel's `struct ifreq`.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens a TAP as a VMM does, without a header before each frame. It is made when it is not there.
pub(crate) fn open_tap(name: &str) -> std::io::Result<File> {
    const IFF_TAP_NO_PI: u16 = 0x1002;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: IFF_TAP_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which `Request` has the size and the layout of.
    unsafe { ioctl(&file, Setter::<{ opcode::write::<i32>(b'T', 202) }, Request>::new(request)) }?;
    Ok(file)
}

/// Reads a frame, if one comes in time.
pub(crate) fn read_frame(tap: &File, within: Duration) -> Option<Vec<u8>> {
    let mut ready = [PollFd::new(tap, PollFlags::IN)];
    let timeout = Timespec::try_from(within).unwrap();
    if poll(&mut ready, Some(&timeout)).unwrap() == 0 {
        return None;
    }
    let mut frame = vec![0; 65_600];
    let mut file = tap;
    let length = file.read(&mut frame).unwrap();
    frame.truncate(length);
    Some(frame)
}

type Work = Box<dyn FnOnce() + Send>;

/// Another network namespace, in which a thread waits for work.
pub(crate) struct Elsewhere {
    tid: i32,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    pub(crate) fn new() -> Self {
        let (work, orders) = mpsc::channel::<Work>();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: only this thread's network namespace changes; no memory and no descriptors are touched.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            ready.send(gettid().as_raw_nonzero().get()).unwrap();
            for work in orders {
                work();
            }
        });
        let tid = started.recv().unwrap();
        let elsewhere = Self { tid, work: Some(work), thread: Some(thread) };
        elsewhere.sh("ip link set lo up");
        elsewhere
    }

    /// Does something there.
    pub(crate) fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        let work: Work = Box::new(move || sender.send(what()).unwrap());
        self.work.as_ref().unwrap().send(work).unwrap();
        result.recv_timeout(PATIENCE * 2).unwrap()
    }

    pub(crate) fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }

    /// Lays a cable: `here` on this side, `eth0` with the address on that one.
    pub(crate) fn cable(&self, here: &str, address: &str) {
        sh(&format!("ip link add {here} type veth peer name eth0 netns {}; ip link set {here} up", self.tid));
        self.sh(&format!("ip addr add {address} dev eth0; ip link set eth0 up"));
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A guest: a namespace of its own whose only device is wired to a TAP of the host, as a VMM would.
pub(crate) struct Guest {
    pub place: Elsewhere,
    end: std::os::fd::OwnedFd,
    wire: Option<JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn boot(lease: &Lease) -> Self {
        let place = Elsewhere::new();
        let inside = place.run(|| open_tap("eth0").unwrap());
        let outside = open_tap(lease.tap().as_str()).unwrap();
        let end = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let ended = end.try_clone().unwrap();
        let wire = std::thread::spawn(move || {
            let mut frame = vec![0; 65_600];
            loop {
                let mut ready = [
                    PollFd::new(&inside, PollFlags::IN),
                    PollFd::new(&outside, PollFlags::IN),
                    PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
                ];
                poll(&mut ready, None).unwrap();
                if !ready[2].revents().is_empty() {
                    return;
                }
                let (into, out) = (!ready[1].revents().is_empty(), !ready[0].revents().is_empty());
                for (mut from, mut to, there) in [(&outside, &inside, into), (&inside, &outside, out)] {
                    // A device that is gone, or down, takes nothing.
                    if there && let Ok(length) = from.read(&mut frame) {
                        let _lost = to.write(&frame[..length]);
                    }
                }
            }
        });
        place.sh(&format!(
            "ip link set eth0 address {}; ip addr add {}/24 dev eth0; ip link set eth0 up; ip route add default via 172.30.0.1",
            lease.mac(),
            lease.address()
        ));
        Self { place, end, wire: Some(wire) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        rustix::io::write(&self.end, &1_u64.to_ne_bytes()).unwrap();
        if let Some(wire) = self.wire.take() {
            let _panicked = wire.join();
        }
    }
}

/// Waits until something is so.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::yield_now();
    }
}

/// Where the bridge is.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
