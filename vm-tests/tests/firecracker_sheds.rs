//! Whole sheds on the real Firecracker: the server with its client, in an L1, which is a machine with KVM on this host.
//! Skipped when there is no Firecracker.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use vm_tests::{
    BOOT, Cli, Expect, L1, Promises, SHORT, Server, Stage, Watched, is_alive, kill_process, machine_of,
    wait_for,
};

const SHED: &str = "first";
const OTHER: &str = "second";

/// The host, as guests see it.
const HOST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// Bytes that go into a guest and out again.
const BULK: usize = 20_000_000;

/// Connections into one guest at once; the longest answer has a megabyte.
const TUNNELS: usize = 20;

/// How many sheds are made at once.
const MANY: usize = 5;

/// What the L1 is searched for when a test has ended, besides interfaces, rules, mounts and processes.
const WATCHED: Watched<'static> = Watched {
    dirs: &["/tmp", "/run/shed", "/run/netns", "/srv/jailer", "/var/lib/shed"],
    cgroups: &["system.slice", "firecracker"],
};

/// Runs a test of this program in an L1 of its own, which must be as before when it has ended.
#[track_caller]
fn in_an_l1(test: &str) {
    let Some(l1) = L1::boot() else { return };
    let before = l1.inventory(&WATCHED);
    l1.run_inside(test, BOOT * 15);
    l1.assert_nothing_beyond(&before, &WATCHED);
    l1.finish();
}

fn boot_id(cli: &Cli, shed: &str) -> String {
    cli.sh(shed, "cat /proc/sys/kernel/random/boot_id")
}

/// Serves one connection on the host's address in the guests' network: answers `ping` with `pong`.
fn answer_one(host: Ipv4Addr) -> (u16, thread::JoinHandle<[u8; 5]>) {
    let listener = TcpListener::bind((host, 0)).expect("the bridge has its address");
    let port = listener.local_addr().unwrap().port();
    let service = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(b"pong\n").unwrap();
        line
    });
    (port, service)
}

/// What a user does with a shed works on Firecracker as on every other backend.
#[test]
fn a_shed_on_firecracker_is_a_shed() {
    if !L1::is_here() {
        return in_an_l1("a_shed_on_firecracker_is_a_shed");
    }
    let stage = Stage::new().expect("the L1 has the parts");
    let mut server = Some(stage.serve());
    let cli = stage.cli();
    let mut promises = Promises::new();
    let http = server.as_ref().unwrap().http();

    promises.keep("a create says where the shed is and what runs it", || {
        cli.create(SHED, &["--cpus", "1", "--memory", "512"]);
        let shed = http.shed(SHED);
        assert_eq!(shed["backend"], "firecracker", "{shed}");
        assert_eq!(shed["status"], "running", "{shed}");
        assert_eq!(shed["ip_address"], "172.30.0.2", "{shed}");
        assert_eq!(
            cli.sh(SHED, "nproc; hostname; cat /proc/cmdline | grep -c shed.link=vsock"),
            "1\nfirst\n1"
        );
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    promises.keep("commands have their exit codes and their own streams", || {
        let done = cli.exec(SHED, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!((done.code, done.out().as_str(), done.err().trim_end()), (7, "out", "err"));
    });
    promises.keep("bytes arrive as they are, both ways", || {
        let bytes: Vec<u8> = (0..BULK).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let done = cli.exec_with(SHED, &["cat"], &bytes).ok();
        assert_eq!(Sha256::digest(&done.stdout), Sha256::digest(&bytes));
    });
    promises.keep("the console is kept", || {
        let log = cli.run(&["logs", "--console", SHED]).ok().out();
        assert!(log.contains("shed-init: root assembled"), "{log}");
        assert!(fs::metadata(stage.shed_file(SHED, "console.log")).unwrap().len() > 0);
    });
    promises.keep("a port of the guest is reached through the server", || {
        cli.start_service(
            SHED,
            "echo",
            "my $s = listen_on('127.0.0.1', 7001); ready(); \
             while (1) { my $c = take($s); say($c, 'got ' . read_all($c)); close $c; }",
        );
        let mut tunnel = http.tunnel(SHED, 7001).unwrap_or_else(|reply| panic!("{}", reply.text()));
        tunnel.write_all(b"question").unwrap();
        tunnel.shut().unwrap();
        assert_eq!(tunnel.rest().unwrap(), b"got question");
    });
    promises.keep("many connections to the guest at once are whole, each to its last byte", || {
        cli.start_service(
            SHED,
            "many",
            "my $s = listen_on('127.0.0.1', 7003); ready(); $SIG{CHLD} = 'IGNORE'; \
             while (1) { my $c = take($s); next if fork(); \
                 my $n = read_all($c); say($c, 'y' x $n); close $c; exit 0; }",
        );
        thread::scope(|scope| {
            let asked = (0..TUNNELS).map(|index| {
                let http = &http;
                scope.spawn(move || {
                    let mut tunnel =
                        http.tunnel(SHED, 7003).unwrap_or_else(|reply| panic!("{}", reply.text()));
                    tunnel.write_all((index * 50_000).to_string().as_bytes()).unwrap();
                    tunnel.shut().unwrap();
                    let answer = tunnel.rest().unwrap();
                    assert!(answer.len() == index * 50_000 && answer.iter().all(|byte| *byte == b'y'));
                })
            });
            let asked: Vec<_> = asked.collect();
            asked.into_iter().for_each(|asked| asked.join().expect("a whole answer"));
        });
    });
    promises.keep("what was written and synced is there after stop and start, at the same address", || {
        cli.sh(SHED, "echo one > /workspace/one; sync");
        let before = boot_id(&cli, SHED);
        cli.run(&["stop", SHED]).ok();
        stage.assert_only(&[Expect::Stopped(SHED)]);
        assert_eq!(taps(), Vec::<String>::new());
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/one"), "one");
        assert_ne!(boot_id(&cli, SHED), before);
        assert_eq!(http.shed(SHED)["ip_address"], "172.30.0.2");
    });
    promises.keep("a reboot from inside is a reboot: another machine, the same files and address", || {
        for (user, command) in [("shed", &["sudo", "-n", "systemctl", "reboot"][..]), ("root", &["reboot"])] {
            cli.sh(SHED, &format!("echo {user} > /workspace/before"));
            let before = (boot_id(&cli, SHED), machine_of(&stage, SHED).pid);
            let _cut_off = cli.run(&[&["exec", "-u", user, SHED, "--"], command].concat());
            // Nobody runs a command meanwhile: that would start a shed that has stopped.
            wait_for("the shed to run in another machine", BOOT, || {
                let shed = http.shed(SHED);
                assert_ne!(shed["status"], "stopped", "{shed}");
                let pid = shed["pid"].as_u64();
                (shed["status"] == "running" && pid != Some(u64::from(before.1))).then_some(())
            });
            assert_ne!(boot_id(&cli, SHED), before.0);
            assert_eq!(
                cli.sh(SHED, "cat /workspace/one /workspace/before; hostname"),
                format!("one\n{user}\n{SHED}")
            );
            assert_eq!(http.shed(SHED)["ip_address"], "172.30.0.2");
            stage.assert_only(&[Expect::Running(SHED)]);
            assert_eq!(taps().len(), 1);
        }
    });
    promises.keep("a power-off from inside reads as stopped, also after a reboot", || {
        let _cut_off = cli.exec(SHED, &["sudo", "-n", "systemctl", "poweroff"]);
        wait_for("the shed to read stopped", BOOT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        cli.run(&["start", SHED]).ok();
    });
    promises.keep("what Firecracker counted of the machine that ended is among the server's metrics", || {
        wait_for("bytes that were read", SHORT, || {
            let metrics = http.request("GET", "/metrics", "", None).text();
            let sample = metrics
                .lines()
                .find_map(|line| line.strip_prefix("shed_vmm_disk_bytes_total{direction=\"read\"} "))?;
            (sample.parse::<f64>().expect("a number") > 1e6).then_some(())
        });
    });
    promises.keep("a machine and what runs in it outlive the server, and the next one has them", || {
        cli.sh(SHED, "tmux new-session -d -s work");
        let before = (boot_id(&cli, SHED), machine_of(&stage, SHED).pid);
        server.take().unwrap().crash();
        assert!(is_alive(before.1));
        server = Some(stage.serve());
        let shed = server.as_ref().unwrap().http().shed(SHED);
        assert_eq!((&shed["status"], shed["pid"].as_u64()), (&"running".into(), Some(u64::from(before.1))));
        assert_eq!((boot_id(&cli, SHED), machine_of(&stage, SHED).pid), before);
        cli.exec(SHED, &["tmux", "has-session", "-t", "work"]).ok();
        assert!(server.take().unwrap().terminate() < SHORT);
        server = Some(stage.serve());
        assert_eq!((boot_id(&cli, SHED), machine_of(&stage, SHED).pid), before);
        stage.assert_only(&[Expect::Running(SHED)]);
    });
    let http = server.as_ref().unwrap().http();
    promises.keep("a killed VMM is noticed, leaves nothing, and the shed starts again", || {
        cli.sh(SHED, "echo two > /workspace/two; sync");
        kill_process(machine_of(&stage, SHED).pid, Signal::KILL);
        wait_for("the shed to read stopped", SHORT, || (http.status(SHED) == "stopped").then_some(()));
        stage.assert_only(&[Expect::Stopped(SHED)]);
        wait_for("its TAP to be gone", SHORT, || taps().is_empty().then_some(()));
        cli.run(&["start", SHED]).ok();
        assert_eq!(cli.sh(SHED, "cat /workspace/one /workspace/two"), "one\ntwo");
    });
    promises.keep("a delete leaves nothing", || {
        cli.delete(SHED);
        stage.assert_only(&[]);
        assert_eq!(taps(), Vec::<String>::new());
    });
    drop::<Option<Server>>(server);
    promises.finish();
}

/// Sheds have a network among themselves, with their host and beyond it, and no way to the server's API.
#[test]
fn sheds_on_firecracker_have_a_network() {
    if !L1::is_here() {
        return in_an_l1("sheds_on_firecracker_have_a_network");
    }
    let mut stage = Stage::new().expect("the L1 has the parts");
    stage.configure(vm_tests::Config { listen: Some("0.0.0.0"), ..vm_tests::Config::default() });
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    for shed in [SHED, OTHER] {
        cli.create(shed, &["--cpus", "1", "--memory", "512"]);
    }
    let address = |shed: &str| http.shed(shed)["ip_address"].as_str().expect("an address").to_owned();
    let (first, second) = (address(SHED), address(OTHER));

    promises.keep("each has an address, a route and a name server from the first command on", || {
        assert_ne!(first, second);
        for (shed, own) in [(SHED, &first), (OTHER, &second)] {
            let seen = cli.sh(shed, "ip -4 -o addr; ip -4 route; cat /etc/resolv.conf");
            assert!(seen.contains(&format!("{own}/24")), "{seen}");
            assert!(seen.contains(&format!("default via {HOST}")), "{seen}");
            assert!(seen.contains("nameserver"), "{seen}");
        }
    });
    promises.keep("a guest reaches a service on its host", || {
        let (port, service) = answer_one(HOST);
        let script = format!("exec 3<>/dev/tcp/{HOST}/{port}; echo ping >&3; head -n 1 <&3");
        assert_eq!(cli.exec(SHED, &["bash", "-c", &script]).ok().out(), "pong");
        assert_eq!(&service.join().unwrap(), b"ping\n");
    });
    promises.keep("two sheds reach each other, and their host reaches them", || {
        let service = "my $s = listen_on('0.0.0.0', 7002); ready(); \
             while (1) { my $c = take($s); say($c, 'here'); close $c; }";
        cli.start_service(OTHER, "here", service);
        let script = format!("cat </dev/tcp/{second}/7002");
        assert_eq!(cli.exec(SHED, &["bash", "-c", &script]).ok().out(), "here");
        let mut heard = String::new();
        let mut stream = std::net::TcpStream::connect((second.as_str(), 7002)).unwrap();
        stream.set_read_timeout(Some(SHORT)).unwrap();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "here");
    });
    promises.keep("a guest reaches what is beyond its host", || {
        // The router of the L1's own network, which knows nothing of the guests': the host's address stands for theirs.
        cli.run(&["exec", "-u", "root", SHED, "--", "ping", "-c", "1", "-W", "20", "10.0.2.2"]).ok();
    });
    promises.keep("no guest commands the server, which listens on every address", || {
        for (port, of) in [(server.port(), "HTTP"), (server.ssh_port(), "SSH")] {
            for host in [HOST.to_string(), "10.0.2.15".to_owned()] {
                let script = format!("timeout 20 bash -c 'cat </dev/tcp/{host}/{port}' 2>/dev/null | wc -c");
                assert_eq!(cli.exec(SHED, &["bash", "-c", &script]).ok().out(), "0", "{of} on {host}");
            }
        }
        assert_eq!(http.names(), [SHED, OTHER]);
    });
    promises.keep("nobody takes the address of another", || {
        let script = format!(
            "ip addr add {second}/24 dev eth0; \
             timeout 20 bash -c 'exec 3<>/dev/tcp/{HOST}/{port}' && echo through; ip addr del {second}/24 dev eth0",
            port = server.port()
        );
        let done = cli.run(&["exec", "-u", "root", SHED, "--", "bash", "-c", &script]);
        assert!(!done.out().contains("through"), "{}", done.out());
        assert_eq!(cli.sh(OTHER, "echo still here"), "still here");
    });
    promises.keep("a stopped shed keeps its address, and a new one gets another", || {
        cli.run(&["stop", SHED]).ok();
        cli.create("third", &["--cpus", "1", "--memory", "512"]);
        assert_ne!(address("third"), first);
        cli.delete("third");
        cli.run(&["start", SHED]).ok();
        assert_eq!(address(SHED), first);
    });
    promises.keep("nothing of it stays with the last shed gone", || {
        for shed in [SHED, OTHER] {
            cli.delete(shed);
        }
        stage.assert_only(&[]);
        let links = fs::read_dir("/sys/class/net").unwrap().flatten();
        let ours: Vec<_> = links.map(|link| link.file_name()).collect();
        assert!(!ours.iter().any(|name| name.to_string_lossy().starts_with("shed-")), "{ours:?}");
    });
    promises.finish();
}

/// Five creates at once are five sheds, each with an address of its own, and five deletes leave nothing.
#[test]
fn five_sheds_on_firecracker_at_once() {
    if !L1::is_here() {
        return in_an_l1("five_sheds_on_firecracker_at_once");
    }
    let stage = Stage::new().expect("the L1 has the parts");
    let server = stage.serve();
    let (cli, http) = (stage.cli(), server.http());
    let mut promises = Promises::new();
    let names: Vec<String> = (0..MANY).map(|number| format!("many-{number}")).collect();
    promises.keep("all come up", || {
        let creates: Vec<_> =
            names.iter().map(|name| cli.spawn(&["create", name, "--cpus", "1", "--memory", "384"])).collect();
        for create in creates {
            create.wait(BOOT * 5).ok();
        }
        let mut addresses: Vec<_> =
            names.iter().map(|name| http.shed(name)["ip_address"].to_string()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), MANY, "{addresses:?}");
        for name in &names {
            // What they still start they start all at once, on one processor that is emulated.
            cli.wait_for_exec(name, BOOT * 2);
            assert_eq!(cli.sh(name, "hostname"), *name);
        }
        let expected: Vec<_> = names.iter().map(|name| Expect::Running(name)).collect();
        stage.assert_only(&expected);
        assert_eq!(taps().len(), MANY);
    });
    promises.keep("a server that was killed finds all of them again", || {
        server.crash();
        let server = stage.serve();
        for name in &names {
            assert_eq!(server.http().status(name), "running");
            cli.wait_for_exec(name, BOOT * 2);
            assert_eq!(cli.sh(name, "hostname"), *name);
        }
        for name in &names {
            cli.delete(name);
        }
        stage.assert_only(&[]);
        assert_eq!(taps(), Vec::<String>::new());
        assert!(server.terminate() < Duration::from_secs(30));
    });
    promises.finish();
}

/// Returns the TAPs that there are.
fn taps() -> Vec<String> {
    let links = fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = links.map(|link| link.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("shed-tap")).collect()
}
